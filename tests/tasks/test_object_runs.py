"""Runs of detection and instances, whole: trained, evaluated, recorded, resumed, pictured, and used
to predict annotations that an annotator goes on from."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import traverse_util
from PIL import Image
from safetensors.numpy import load_file

import cnn_jax
from cnn_jax import tasks
from cnn_jax.commands.annotations import main as convert
from cnn_jax.commands.compare import main as compare
from cnn_jax.commands.page import main as page
from cnn_jax.commands.predict import main as predict
from cnn_jax.configuration.schema import AugmentationConfig
from cnn_jax.data import annotations, objects, synthetic
from cnn_jax.data.objects import AnnotatedImage, Annotation, AnnotationSet
from cnn_jax.data.town.layers import OBJECTS
from cnn_jax.errors import InputError
from cnn_jax.inference import initial, object_prediction
from cnn_jax.records.run_record import read as read_record
from cnn_jax.reporting.table import summary_table
from cnn_jax.run import train_and_evaluate
from cnn_jax.tasks.network import head, initial_state
from cnn_jax.training import loop
from cnn_jax.training.groups import make_groups
from experiments import detect, instances
from tests.inference.test_imported import of_pytorch

PICTURES = {
    "learning_curves.png",
    "gallery.png",
    "heat_maps.png",
    "precision_recall.png",
    "ap_by_size.png",
    "counts.csv",
}


def short(make, **training):
    """The smoke configuration, shorter."""
    config = make()
    config.training.steps, config.training.validate_every_steps = 2, 2
    for name, value in training.items():
        setattr(config.training, name, value)
    tasks.check(config)
    return config


@pytest.fixture(
    scope="module", params=["instances", pytest.param("detect", marks=pytest.mark.long)]
)
def finished(request, tmp_path_factory):
    """(configuration, folder, summary) of a short run."""
    module = {"instances": instances, "detect": detect}[request.param]
    config = short(module.smoke)
    folder = tmp_path_factory.mktemp(request.param) / "run"
    return config, folder, train_and_evaluate(config, folder)


def test_its_record_is_whole(finished):
    config, folder, summary = finished
    kinds = ("box", "mask") if config.task == "instances" else ("box",)
    for kind in kinds:
        for name in ("ap", "ap50", "ap75", "ap_small", "ar", "ar1"):
            assert f"test/{kind}_{name}" in summary
        assert f"test/class_{kind}_ap50/car" in summary
    assert summary["test/count_error"] >= 0
    assert summary["test/objects"] > 0
    assert ("test/pq" in summary) == (config.task == "instances")
    assert {path.name for path in (folder / "figures").iterdir()} >= PICTURES
    assert "box AP50" in summary_table(summary)
    rows = (folder / "figures" / "counts.csv").read_text().splitlines()
    assert len(rows) == 1 + 2 * len(OBJECTS) * config.data.scene_counts[2] / 2


def test_it_is_loaded_and_predicts(finished, tmp_path, capsys):
    _, folder, _ = finished
    run = cnn_jax.load(folder)
    image, _ = synthetic.draw_objects((9, 9), 100, 210)
    with pytest.raises(InputError, match="whose objects can't be averaged: predict with one run"):
        cnn_jax.ensemble([run, run])
    found = run.predict(image)
    assert set(found.counts()) == {"building", "car"}
    assert found.overlay(image).shape == image.shape
    for index, one in enumerate(found.objects[:3]):
        assert 0 <= one.score <= 1
        assert found.mask(index).shape == (100, 210)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    Image.fromarray(image).save(pictures / "a.png")
    out = tmp_path / "out"
    arguments = [str(folder), str(pictures), "--output", str(out), "--least-score", "0"]
    assert predict([*arguments, "--overlay"]) == 0
    given = annotations.read("coco", out / "predictions.json")
    assert given.classes == ("building", "car")
    assert [image.name for image in given.images] == ["a.png"]
    assert (out / "a_objects.png").is_file()
    assert predict(arguments) == 2
    assert "exists: give --overwrite" in capsys.readouterr().err
    for flags in (["--region", "0", "0", "9", "9"], ["--polygons"]):
        assert predict([*arguments, *flags]) == 2
        assert f"{flags[0]} is for segmenters" in capsys.readouterr().err
    assert json.loads((out / "counts.json").read_text()).keys() == {"a.png"}
    for name in ("counts.json", "a_objects.png"):  # somebody's own, of the same name
        other = tmp_path / f"of {name}"
        other.mkdir()
        (other / name).write_text("mine")
        elsewhere = [*arguments[:3], str(other), "--overlay"]
        assert predict(elsewhere) == 2
        assert f"{name} exists: give --overwrite" in capsys.readouterr().err
        assert [path.name for path in other.iterdir()] == [name]
        assert (other / name).read_text() == "mine"
    elsewhere = [*arguments[:3], str(tmp_path / "more"), "--format", "labelme"]
    assert predict(elsewhere) == 0
    assert (tmp_path / "more" / "labelme" / "a.json").is_file()
    capsys.readouterr()
    poorer = [*arguments[:3], str(tmp_path / "poorer"), "--format", "voc", *arguments[-2:]]
    assert predict(poorer) == 0  # nothing is damaged
    printed = capsys.readouterr()
    assert "objects: scores are left out" in printed.out
    assert printed.err == ""


def test_what_is_found_is_kept_when_a_prediction_is_interrupted(
    finished, tmp_path, monkeypatch, capsys
):
    """And what people corrected since is not replaced."""
    _, folder, _ = finished
    (tmp_path / "in").mkdir()
    for seed, name in enumerate("abc"):
        image, _ = synthetic.draw_objects((9, seed), 64, 80)
        Image.fromarray(image).save(tmp_path / f"in/{name}.png")
    asked, compute = [], object_prediction.predict

    def killed(*arguments):
        asked.append(1)
        if len(asked) == limit:
            raise ZeroDivisionError
        return compute(*arguments)

    monkeypatch.setattr(object_prediction, "predict", killed)
    flags = [str(folder), str(tmp_path / "in"), "--least-score", "0.01", "--overlay"]
    flags += ["--format", "labelme", "--output"]
    out, whole, limit = tmp_path / "out", tmp_path / "whole", 3
    with pytest.raises(ZeroDivisionError):
        predict([*flags, str(out)])
    assert predict([*flags, str(out)]) == 2
    asked.clear()
    assert predict([*flags, str(out), "--resume"]) == 0
    assert len(asked) == 1
    limit = 0
    assert predict([*flags, str(whole)]) == 0
    files = sorted(p.relative_to(whole) for p in whole.rglob("*") if p.is_file())
    assert len(files) == 3 + 3 + 2
    for file in files:
        if file.name != ".answers.jsonl":
            assert (out / file).read_bytes() == (whole / file).read_bytes()
    (out / "labelme/a.json").write_text("corrected")
    assert predict([*flags, str(out), "--resume"]) == 0
    shutil.copy(tmp_path / "in/a.png", tmp_path / "in/d.png")
    capsys.readouterr()
    assert predict([*flags, str(out), "--resume"]) == 2
    assert f"labelme exists, without {tmp_path / 'in/d.png'}" in capsys.readouterr().err
    assert (out / "labelme/a.json").read_text() == "corrected"
    assert predict([*flags, str(out), "--resume", "--runs", str(folder)]) == 2
    assert predict([*flags[:3], "0.5", *flags[4:], str(out), "--resume"]) == 2
    assert "holds predictions with another least_score" in capsys.readouterr().err


def test_pictures_that_a_tag_turns_are_told_of(finished, tmp_path, capsys):
    """Their objects are those of the pixels as stored."""
    _, folder, _ = finished
    image, _ = synthetic.draw_objects((9, 9), 100, 120)
    tag = Image.Exif()
    tag[0x0112] = 6
    (tmp_path / "in").mkdir()
    Image.fromarray(image).save(tmp_path / "in/a.png")
    Image.fromarray(image).save(tmp_path / "in/b.png", exif=tag)
    words = [str(folder), str(tmp_path / "in"), "--output", str(tmp_path / "out")]
    assert predict([*words, "--least-score", "0"]) == 0
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    assert len(notes) == 1
    assert notes[0].startswith("note: 1 pictures have an EXIF orientation")
    assert notes[0].endswith(f"the first: {tmp_path / 'in/b.png'}")
    plain, turned = annotations.read("coco", tmp_path / "out/predictions.json").images
    assert [(o.box, o.score) for o in plain.objects] == [(o.box, o.score) for o in turned.objects]
    assert (turned.height_px, turned.width_px) == (100, 120)


def test_grey_pictures_are_predicted_as_they_are_learnt_from(finished, tmp_path, capsys):
    """Their one channel thrice, beside coloured ones; and --bands makes a grey one of another."""
    _, folder, _ = finished
    image, _ = synthetic.draw_objects((9, 9), 100, 210)
    grey = image[..., :1]
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    Image.fromarray(grey[..., 0]).save(pictures / "grey.png")
    Image.fromarray(image).save(pictures / "coloured.png")
    run = cnn_jax.load(folder)
    arguments = [str(folder), str(pictures), "--output", str(tmp_path / "out")]
    assert predict([*arguments, "--least-score", "0"]) == 0
    found = annotations.read("coco", tmp_path / "out" / "predictions.json")
    of_name = {Path(one.name).stem: [o.box for o in one.objects] for one in found.images}
    wanted = run.predict(np.repeat(grey, 3, axis=-1))
    assert of_name["grey"] == [one.box for one in wanted.objects]
    assert [one.box for one in run.predict(pictures / "grey.png").objects] == of_name["grey"]
    (pictures / "grey.png").unlink()
    assert predict([*arguments, "--least-score", "0", "--overwrite", "--bands", *"111"]) == 0
    [found] = annotations.read("coco", tmp_path / "out" / "predictions.json").images
    assert [one.box for one in found.objects] == of_name["grey"]
    capsys.readouterr()
    for flags in (("--region", *"0055"), ("--polygons",), ("--uncertainty",), ("--cog",)):
        assert predict([*arguments, "--overwrite", *flags]) == 2
        told = capsys.readouterr().err
        kind = run.config.task
        assert told == (
            f"error: {flags[0]} is for segmenters, and the run is of {kind}: leave it out.\n"
        )


def test_its_record_holds_each_image(finished, tmp_path):
    config, folder, summary = finished
    record = read_record(folder)
    assert record.objects is not None
    assert len(record.objects.names) == summary["test/images"]
    assert set(record.objects.counted) == set(
        ("box", "mask") if config.task == "instances" else ("box",)
    )
    assert record.picture(0, "image").is_file()
    (tmp_path / "comparison").mkdir()
    assert compare([str(folder), "--output", str(tmp_path / "comparison")]) == 0
    assert '<svg class="objects" ' in (tmp_path / "comparison" / "index.html").read_text("utf-8")
    assert page([str(folder), "--output", str(tmp_path / "page.html")]) == 0
    assert '"objects": {"least_score"' in (tmp_path / "page.html").read_text("utf-8")


@pytest.mark.long
def test_predict_correct_train_again(finished, tmp_path, monkeypatch):
    """The loop of docs/objects.md: what an annotator corrected becomes the data of a second round,
    which goes on from the weights of the first."""
    config, folder, _ = finished
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    truths = []
    for number in range(3):
        image, every = synthetic.draw_objects((number, 3), 96, 128)
        Image.fromarray(image).save(tmp_path / "images" / f"{number}.png")
        truths.append(AnnotatedImage(f"{number}.png", 96, 128, every))
    assert predict([str(folder), "images", "--output", "OUT", "--format", "labelme"]) == 0
    assert len(list(Path("OUT/labelme").glob("*.json"))) == 3
    shutil.rmtree("OUT/labelme")  # corrected: as if the annotator knew the truth
    annotations.write(AnnotationSet(tuple(OBJECTS), tuple(truths)), "labelme", Path("OUT/labelme"))
    words = ["convert", "OUT/labelme", "corrected.json", "--read", "labelme", "--write", "coco"]
    assert convert(words) == 0
    again = short({"instances": instances, "detection": detect}[config.task].smoke)
    again.data = dataclasses.replace(
        again.data,
        source="coco",
        directory=str(tmp_path),
        annotations=("corrected.json",),
        held_out=(0.0, 0.34),
        faulty="ignore",
    )
    again.initial = str(folder)
    tasks.check(again)
    opened, given = initial.opened(again)
    summary = train_and_evaluate(again, tmp_path / "round2")
    assert summary["test/images"] == 1
    assert cnn_jax.load("round2").config.initial_digest == opened.initial_digest
    learner = tasks.of(config.task).learner(opened, cnn_jax.load("round2").info)
    begun = initial_state(learner, given).variables
    jax.tree.map(np.testing.assert_array_equal, begun, cnn_jax.load(folder).variables)


@pytest.mark.long
def test_what_is_interrupted_resumes_to_the_same_bits(finished, tmp_path):
    config, _, _ = finished
    longer = short({"instances": instances, "detection": detect}[config.task].smoke, steps=4)
    whole = train_and_evaluate(longer, tmp_path / "whole")
    stopped = []
    original = loop.train

    def stop_early(state, step, batches_from, *arguments, **keywords):
        def batches(start):
            for number, batch in enumerate(batches_from(start), start):
                if number == 3 and not stopped:
                    stopped.append(number)
                    raise KeyboardInterrupt
                yield batch

        return original(state, step, batches, *arguments, **keywords)

    loop.train = stop_early
    try:
        with pytest.raises(KeyboardInterrupt):
            train_and_evaluate(longer, tmp_path / "parts")
    finally:
        loop.train = original
    parts = train_and_evaluate(longer, tmp_path / "parts")
    left = {k: v for k, v in parts.items() if k.startswith(("test/", "validation/"))}
    assert left == {k: whole[k] for k in left}
    ours = [cnn_jax.load(tmp_path / name).variables for name in ("whole", "parts")]
    jax.tree.map(np.testing.assert_array_equal, *ours)


# ---- a network learns what it is shown


def write_shapes(folder, count=10):
    """Ten images of discs and boxes of two classes, some of which touch."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    images = []
    for number in range(count):
        picture = rng.normal(60, 10, (64, 64, 3))
        numbers = np.zeros((64, 64), np.int32)
        labels = {}
        y, x = np.mgrid[:64, :64]
        for index in range(1, 6):
            at, size = rng.integers(8, 56, 2), rng.integers(5, 11)
            disc = (y - at[0]) ** 2 + (x - at[1]) ** 2 <= size**2
            box = (abs(y - at[0]) <= size) & (abs(x - at[1]) <= 0.7 * size)
            label = index % 2
            where = (disc, box)[label]
            if numbers[where].any():
                continue
            numbers[where] = index
            labels[index] = label
            picture[where] = ((200, 80, 60), (70, 120, 210))[label]
        name = f"{number}.png"
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(folder / "images" / name)
        images.append(AnnotatedImage(name, 64, 64, objects.of_map(numbers, labels)))
    given = AnnotationSet(("disc", "box"), tuple(images))
    annotations.write(given, "coco", folder / "all.json")
    return given


@pytest.mark.long
@pytest.mark.parametrize("task", ["detect", "fcos", "instances"])
def test_ten_images_are_learnt_by_heart(tmp_path, task):
    write_shapes(tmp_path)
    config = (instances if task == "instances" else detect).smoke()
    config.data = dataclasses.replace(
        config.data,
        source="coco",
        directory=str(tmp_path),
        annotations=("all.json", "all.json", "all.json"),
        crop_px=(64, 64),
    )
    config.augmentation = AugmentationConfig(
        **{
            field.name: 0.0
            for field in dataclasses.fields(AugmentationConfig)
            if field.name.endswith("_probability")
        }
    )
    config.evaluation.window_px = (64, 64)
    config.training.steps = config.training.validate_every_steps = 400
    config.training.batch_size, config.training.log_every_steps = 5, 100
    config.optimizer.learning_rate, config.optimizer.warmup_steps = 3e-3, 20
    if task == "instances":
        config.model = tasks.model_config("unet", base_width=8, depth=3)
    elif task == "fcos":
        config.model = tasks.model_config(
            "fcos", encoder="resnet20", fpn_width=32, head_depth=1, strides=(2, 4), further=1
        )
    else:
        config.model = tasks.model_config(
            "centernet", encoder="resnet20", neck_width=16, head_width=32, stride=2
        )
    tasks.check(config)
    summary = train_and_evaluate(config, tmp_path / "run")
    assert summary["test/box_ap50"] >= 0.95
    if task == "instances":
        assert summary["test/mask_ap50"] >= 0.95


SHARED = Path(__file__).parents[2].parent / "shared" / "data"


@pytest.mark.long
@pytest.mark.skipif(not SHARED.is_dir(), reason="shared/data is not beside this repository")
@pytest.mark.parametrize("task", ["detect", "instances"])
def test_coco_as_published_trains_and_evaluates(tmp_path, task):
    """All 80 categories, gaps in their ids, crowds, grey photographs."""
    made = {"detect": detect, "instances": instances}[task]
    config, smoke = made.coco(), made.smoke()
    config.data.directory = str(SHARED / "coco_mini")
    config.model, config.training = smoke.model, smoke.training
    config.data.crop_px, config.data.held_out = (128, 128), (0.05, 0.0)
    config.training.steps = config.training.validate_every_steps = 2
    config.optimizer.warmup_steps = 1
    tasks.check(config)
    summary = train_and_evaluate(config, tmp_path / "run")
    assert summary["test/images"] == 79
    assert summary["test/objects"] > 580
    assert summary["test/box_ap"] >= 0
    assert (tmp_path / "run" / "figures" / "gallery.png").is_file()


# ---- what can't be


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"source": "cocoa"}, "no source of objects: did you mean coco"),
        ({"source": "coco"}, "data.directory is empty"),
        ({"source": "coco", "directory": "nowhere"}, "data.directory nowhere is no folder"),
        ({"held_out": (0.5, 0.6)}, "leaves nothing to train on"),
    ],
)
def test_data_that_cannot_be_opened(changes, sentence):
    config = detect.smoke()
    config.data = dataclasses.replace(config.data, **changes)

    def opened():
        tasks.check(config)
        tasks.of("detection").dataset(config)

    with pytest.raises(InputError, match=sentence):
        opened()


def test_a_set_without_objects_is_refused(tmp_path):
    write_shapes(tmp_path, count=3)
    content = json.loads((tmp_path / "all.json").read_text())
    content["annotations"] = []
    (tmp_path / "all.json").write_text(json.dumps(content))
    config = detect.smoke()
    config.data = dataclasses.replace(
        config.data,
        source="coco",
        directory=str(tmp_path),
        annotations=("all.json", "all.json", "all.json"),
    )
    with pytest.raises(InputError, match="no image of the train split"):
        tasks.of("detection").dataset(config)


def test_instances_of_boxes_alone_are_told(tmp_path, capsys):
    write_shapes(tmp_path, count=3)
    content = json.loads((tmp_path / "all.json").read_text())
    for one in content["annotations"][1:]:
        one["segmentation"] = []
    (tmp_path / "all.json").write_text(json.dumps(content))
    for task, told in (("instances", True), ("detection", False)):
        config: Any = {"detection": detect, "instances": instances}[task].smoke()
        config.data = dataclasses.replace(
            config.data,
            source="coco",
            directory=str(tmp_path),
            annotations=("all.json",),
            held_out=(0.34, 0.34),
        )
        tasks.of(task).dataset(config)
        said = f"note: {len(content['annotations']) - 1} objects have a box and no mask: they are"
        assert (said in capsys.readouterr().out) == told


def test_annotations_are_held_to_their_images(tmp_path):
    given = write_shapes(tmp_path, count=2)
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / "images" / "1.png")
    config = detect.smoke()
    config.data = dataclasses.replace(
        config.data,
        source="coco",
        directory=str(tmp_path),
        annotations=("all.json", "all.json", "all.json"),
    )
    with pytest.raises(InputError, match=r"1\.png is 9 x 9 px, and its"):
        tasks.of("detection").dataset(config)
    assert given.images[0].objects[0] != Annotation(0, (0, 0, 1, 1))


# ---- given weights


@pytest.mark.parametrize("task", ["detection", "instances"])
def test_a_network_begins_with_the_encoder_of_a_published_file(tmp_path, task):
    file = of_pytorch("resnet20", tmp_path / "resnet20.safetensors")
    config: Any = {"detection": detect, "instances": instances}[task].smoke()
    if task == "instances":
        config.model = tasks.model_config("encoder_unet", encoder="resnet20", decoder_widths=(8,))
    config.initial, config.initial_part = str(file), "encoder"
    config.optimizer.frozen = ("encoder",)
    tasks.check(config)
    config, given = initial.opened(config)
    assert config.model.conventions == "akamaster"
    assert config.data.mean == pytest.approx((0.485, 0.456, 0.406))
    learner = tasks.of(task).learner(config, tasks.of(task).dataset(config).info)
    assert learner.info.mean == config.data.mean
    variables = initial_state(learner, given).variables
    place = ("segmenter", "encoder") if task == "instances" else ("encoder",)
    kernels = {
        "/".join(path[1:]): np.asarray(leaf)
        for path, leaf in traverse_util.flatten_dict(variables).items()
        if path[1 : 1 + len(place)] == place and path[-1] == "kernel"
    }
    stored = load_file(file)
    assert len(kernels) == sum(
        name.startswith(("conv1", "layer")) for name in stored if stored[name].ndim == 4
    )
    for wanted in (stored["conv1.weight"], stored["layer3.0.conv1.weight"]):
        assert any(np.array_equal(k, wanted.transpose(2, 3, 1, 0)) for k in kernels.values())
    groups = make_groups(config.optimizer, variables, head(learner))
    frozen = {path for path, thaws in groups.thaws.items() if thaws}
    assert frozen == {path for path in groups.thaws if path[: len(place)] == place}


@pytest.mark.long
def test_an_encoder_that_is_frozen_stays_as_given(tmp_path):
    file = of_pytorch("resnet20", tmp_path / "resnet20.safetensors")
    config = short(detect.smoke)
    config.initial, config.optimizer.frozen = str(file), ("encoder",)
    train_and_evaluate(config, tmp_path / "run")
    run = cnn_jax.load(tmp_path / "run")
    _, given = initial.opened(run.config)
    before = initial_state(run.learner, given).variables
    same = jax.tree.map(lambda a, b: bool((a == b).all()), before, run.variables)
    assert all(jax.tree.leaves([tree["encoder"] for tree in same.values() if "encoder" in tree]))
    assert not any(jax.tree.leaves(same["params"]["heat_head"]))
