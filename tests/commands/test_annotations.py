"""`cnn-jax annotations convert` and `inspect-data` of objects, as a user types them."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from cnn_jax.commands import annotations, inspect_data
from cnn_jax.data import annotations as formats
from cnn_jax.data.annotations import coco
from cnn_jax.data.objects import AnnotatedImage, Annotation, AnnotationSet

TWO = (Annotation(0, (2, 3, 9, 8), id=5), Annotation(1, (10, 3, 19, 8), id=6))


def write(folder, every=TWO, name="a.png"):
    (folder / "images").mkdir(exist_ok=True)
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(folder / "images" / name)
    images = (AnnotatedImage(name, 20, 30, tuple(every)),)
    coco.write(AnnotationSet(("cat", "dog"), images), folder / "all.json")


def test_convert_says_what_is_lost(tmp_path, capsys):
    write(tmp_path, (*TWO, Annotation(0, (1.5, 2, 9, 8), crowd=True, score=0.5)))
    given = ["convert", str(tmp_path / "all.json"), str(tmp_path / "out")]
    assert annotations.main([*given, "--read", "coco", "--write", "voc"]) == 0
    said = capsys.readouterr().out
    assert "1 images, 3 objects, 2 classes" in said
    assert "lost: 1 objects: scores are left out" in said
    assert "lost: 1 objects: corners are rounded to whole pixels" in said
    back = ["convert", str(tmp_path / "out"), str(tmp_path / "b.json")]
    assert annotations.main([*back, "--read", "voc", "--write", "coco"]) == 0
    content = json.loads((tmp_path / "b.json").read_text())
    assert [one["bbox"] for one in content["annotations"]][:2] == [[2, 3, 7, 5], [10, 3, 9, 5]]
    assert annotations.main([*back, "--read", "voc", "--write", "coco"]) == 2
    assert "b.json exists" in capsys.readouterr().err


def test_convert_is_told_what_it_lacks(tmp_path, capsys):
    write(tmp_path)
    source = str(tmp_path / "all.json")
    for words, sentence in (
        (["convert", source], "annotations takes: convert SOURCE OUTPUT"),
        (["convert", source, "b"], "--read is missing"),
        (["convert", source, "b", "--read", "coco"], "--write is missing"),
        (["convert", source, "b", "--read", "coco", "--write", "vocc"], "did you mean voc"),
        (["convert", source, "b", "--read", "coca", "--write", "voc"], "did you mean coco"),
        (["convert", "nowhere", "b", "--read", "coco", "--write", "voc"], "can't be read"),
    ):
        assert annotations.main(words) == 2
        assert sentence in capsys.readouterr().err
    content = json.loads((tmp_path / "all.json").read_text())
    content["annotations"][0]["bbox"] = [90, 3, 5, 5]
    (tmp_path / "all.json").write_text(json.dumps(content))
    words = ["convert", source, str(tmp_path / "b.json"), "--read", "coco", "--write", "coco"]
    assert annotations.main(words) == 2
    assert "annotation 5 has a box outside its image" in capsys.readouterr().err
    assert annotations.main([*words, "--faulty", "ignore"]) == 0
    assert "left out: " in capsys.readouterr().out


@pytest.mark.parametrize("form", ["coco", "labelme", "cvat", "voc"])
def test_images_of_another_size_than_the_annotations_say(tmp_path, capsys, form):
    write(tmp_path)
    here = tmp_path / "given" / "annotations"
    here.parent.mkdir()
    said = AnnotationSet(("cat", "dog"), (AnnotatedImage("a.png", 20, 30, TWO),))
    formats.write(said, form, here)
    words = ["convert", str(here), str(tmp_path / "out"), "--read", form, "--write", "yolo"]
    with_images = [*words, "--images", str(tmp_path / "images")]
    assert annotations.main(with_images) == 0
    shares = np.loadtxt(tmp_path / "out/labels/a.txt")[:, 1:]
    np.testing.assert_allclose(shares[0], [5.5 / 30, 5.5 / 20, 7 / 30, 5 / 20])
    shutil.rmtree(tmp_path / "out")
    turned = Image.Exif()
    turned[0x0112] = 6
    picture, file = Image.new("RGB", (60, 40)), tmp_path / "images" / "a.png"
    for other, exif, sentence in (
        (picture, Image.Exif(), "a.png is 60 x 40 px, and its annotations are of 30 x 20: give"),
        (picture.resize((20, 30)), turned, "a.png has the EXIF orientation 6, so where its obj"),
    ):
        other.save(file, exif=exif)
        assert annotations.main(with_images) == 2
        assert sentence in capsys.readouterr().err
        beside = here if here.is_dir() else here.parent
        shutil.copy(file, beside)
        assert annotations.main(words) == 2
        assert sentence in capsys.readouterr().err
        (beside / "a.png").unlink()
    file.unlink()
    assert annotations.main(with_images) == 2
    assert "a.png is missing, and has annotations: add it" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert annotations.main(words) == 0


def test_inspect_data_counts_objects_and_finds_faults(tmp_path, capsys):
    twice = Annotation(0, (2, 3, 9, 8), id=9)
    write(tmp_path, (*TWO, twice, Annotation(1, (0, 0, 30, 20), crowd=True, id=10)))
    content = json.loads((tmp_path / "all.json").read_text())
    content["annotations"].append({**content["annotations"][0], "id": 11, "bbox": [90, 3, 5, 5]})
    content["annotations"].append(
        {**content["annotations"][0], "id": 12, "segmentation": [[1, 2, 3, 4]]}
    )
    content["images"].append({"id": 77, "file_name": "b.png", "height": 20, "width": 30})
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "images" / "b.png")
    (tmp_path / "all.json").write_text(json.dumps(content))
    sheet = tmp_path / "sheet.png"
    words = ["--config", "coco", "--data.directory", str(tmp_path), "--output", str(sheet)]
    words += ["--data.annotations", "all.json", "all.json", "all.json"]
    assert inspect_data.main(words) == 0
    said = capsys.readouterr().out
    assert "images: 2 train, 2 validation, 2 test" in said
    line = next(line for line in said.splitlines() if line.startswith("cat"))
    assert line.split()[1:6] == ["2", "/", "0", "/", "0"]
    assert next(s for s in said.splitlines() if s.startswith("images without")).split()[-1] == "1"
    assert "annotation 11 has a box outside its image" in said
    assert "annotation 12 has a polygon of 4 numbers" in said
    assert "a.png: cat 5 and 9 have nearly the same box" in said
    for split in ("validation", "test"):
        assert f"images of {split} are images of train too: part them." in said
    with Image.open(sheet) as drawn:
        assert drawn.size[0] > 300


def test_inspect_data_decodes_every_image_with_objects(tmp_path, capsys):
    """More of them than its sheet shows, of which two are cut short."""
    write(tmp_path)
    noise = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    names = [f"{number}.png" for number in range(40)]
    for name in names:
        Image.fromarray(noise).save(tmp_path / "images" / name)
    images = tuple(AnnotatedImage(name, 20, 30, TWO) for name in names)
    (tmp_path / "all.json").unlink()
    formats.write(AnnotationSet(("cat", "dog"), images), "coco", tmp_path / "all.json")
    sheet = tmp_path / "sheet.png"
    words = ["--config", "coco", "--data.directory", str(tmp_path), "--output", str(sheet)]
    words += ["--data.annotations", "all.json"]
    assert inspect_data.main(words) == 0
    assert "can't be decoded" not in capsys.readouterr().out
    sheet.unlink()
    for cut, count in ((names[6:8], 2), (names, 40)):
        for name in cut:
            file = tmp_path / "images" / name
            file.write_bytes(file.read_bytes()[:900])
        assert inspect_data.main(words) == 2
        printed = capsys.readouterr()
        assert printed.out.count("can't be decoded (") == count
        assert all(f"images/{name} can't be decoded (" in printed.out for name in cut)
        assert f"{count} images can't be decoded, listed above" in printed.err
        assert sheet.exists() == (count == 2)
        sheet.unlink(missing_ok=True)
