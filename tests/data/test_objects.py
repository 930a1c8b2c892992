"""Objects from their files to a training crop: what a map, a table and a moved box say agree."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from cnn_jax.configuration.schema import AugmentationConfig, ObjectDataConfig
from cnn_jax.data import annotations, augmentation, objects, synthetic
from cnn_jax.data.object_scenes import open_objects
from cnn_jax.data.object_source import ObjectSource
from cnn_jax.data.objects import AnnotatedImage, Annotation
from cnn_jax.data.pipeline import DecodedScenes, RegionSource, training_batches
from cnn_jax.data.town.layers import BUILDING, ROAD
from cnn_jax.errors import InputError

SHARED = Path(__file__).parents[2].parent / "shared" / "data"

needs_shared = pytest.mark.skipif(
    not SHARED.is_dir(), reason="shared/data is not beside this repository"
)

PLAIN = {
    f.name: 0.0 for f in dataclasses.fields(AugmentationConfig) if f.name.endswith("_probability")
}
CONFIG = ObjectDataConfig(scene_px=(96, 128), scene_counts=(2, 1, 1), crop_px=(64, 64))


def test_synthetic_objects_are_the_scene_taken_apart():
    image, every = synthetic.draw_objects((5, 6), 128, 160)
    same, classes = synthetic.draw_scene((5, 6), 128, 160)
    np.testing.assert_array_equal(image, same)
    numbers = objects.number_map(AnnotatedImage("a", 128, 160, every))
    buildings = [i for i, one in enumerate(every, 1) if one.label == 0 and not one.crowd]
    assert (classes[np.isin(numbers, buildings)] == BUILDING).all()
    cars = [i for i, one in enumerate(every, 1) if one.label == 1 and not one.crowd]
    assert cars
    assert (classes[np.isin(numbers, cars)] == ROAD).all()
    assert (numbers[classes == BUILDING] != 0).all()


def test_smaller_objects_lie_on_top_and_crowds_below():
    image = AnnotatedImage(
        "a", 6, 6, (Annotation(0, (1, 1, 3, 3)), Annotation(0, (0, 0, 5, 5)),
                    Annotation(0, (0, 0, 2, 6), crowd=True)))  # fmt: skip
    assert objects.number_map(image).tolist() == [
        [2, 2, 2, 2, 2, 0],
        [2, 1, 1, 2, 2, 0],
        [2, 1, 1, 2, 2, 0],
        [2, 2, 2, 2, 2, 0],
        [2, 2, 2, 2, 2, 0],
        [-1, -1, 0, 0, 0, 0],
    ]


def source(config=CONFIG, augment=None, seed=0):
    found = open_objects(config)
    scenes = DecodedScenes([one.scene for one in found.splits["train"]], 1e9)
    augment = augment or AugmentationConfig(**PLAIN)
    region = augmentation.region_px(config.crop_px, augment)
    region = tuple(map(min, region, scenes.largest_px))
    windows = augmentation.Windows(seed, config.crop_px, augment)
    regions = RegionSource(scenes, config.crop_px, region, windows)
    return ObjectSource(regions, found.splits["train"])


def augmented(augment, crop_px):
    """`batch -> (images, numbers, boxes)` of crops, compiled: each operation by itself would be
    compiled, too."""

    @jax.jit
    def crops(batch):
        keys = augmentation.example_keys(0, batch["position"])
        images, numbers = augmentation.augment_examples(keys, batch, augment, crop_px, 255.0)
        return (
            images,
            numbers,
            augmentation.moved_boxes(keys, batch["boxes"], batch, augment, crop_px),
        )

    return lambda batch: jax.device_get(crops(batch))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"flip_horizontal_probability": 1.0, "quarter_turn_probability": 1.0},
        {"flip_vertical_probability": 1.0, "scale_probability": 1.0, "scale_range": (1.0, 2.0)},
        {"scale_probability": 1.0, "scale_range": (0.5, 1.0)},
    ],
)
def test_boxes_go_with_the_pixels(changes):
    augment = AugmentationConfig(**PLAIN | changes)
    batch = training_batches(source(augment=augment), seed=0, batch_size=12)[3]
    numbers, boxes = augmented(augment, CONFIG.crop_px)(batch)[1:]
    exact = "scale_range" not in changes
    compared = 0
    for example in range(12):
        for row in np.flatnonzero(batch["labels"][example] >= 0):
            seen = numbers[example] == row + 1
            left, top, right, bottom = boxes[example, row]
            inside = min(left, top) >= 0 and max(right, bottom) <= 64
            if inside:
                # Pixels of a zoomed mask are its nearest ones: a slanted end may be missed.
                theirs = np.array(objects.of_mask(seen, 0).box)
                slack = 0.001 if exact else 1 if min(right - left, bottom - top) > 12 else 3
                np.testing.assert_allclose(theirs, boxes[example, row], atol=slack)
                compared += 1
            elif seen.any():
                at = objects.of_mask(seen, 0).box
                assert at[0] >= left - 1
                assert at[2] <= right + 1
    assert compared >= 5


def test_crowds_fill_no_row_and_count_nowhere():
    """Each whole scene as one region."""
    config = dataclasses.replace(CONFIG, crop_px=CONFIG.scene_px)
    made, found = source(config), open_objects(config).splits["train"]
    crowds = 0
    for key, scene in enumerate(found):
        batch, image = made[key], scene.objects()
        alone = [one for one in image.objects if not one.crowd]
        assert sorted(batch["labels"][batch["labels"] >= 0]) == sorted(o.label for o in alone)
        nowhere = objects.number_map(image) == objects.NOWHERE
        assert np.array_equal(batch["mask"] == objects.NOWHERE, nowhere)
        crowds += len(image.objects) - len(alone)
    assert crowds


def test_what_the_host_reads_is_what_the_device_would_see():
    augment = AugmentationConfig(
        **PLAIN | {"scale_probability": 1.0, "quarter_turn_probability": 0.5}
    )
    parts = source(augment=augment)
    whole = source(augment=augment)
    whole.regions.windows = None
    results = []
    for each in (parts, whole):
        batch = training_batches(each, seed=0, batch_size=2)[1]
        results.append(augmented(augment, (64, 64))(batch)[:2])
    jax.tree.map(np.testing.assert_array_equal, *results)


def test_splits_of_an_own_set(tmp_path):
    (tmp_path / "images").mkdir()
    images = []
    for number in range(10):
        name = f"{number}.png"
        grey = number == 3
        shape = (20, 30) if grey else (20, 30, 3)
        Image.fromarray(np.full(shape, number, np.uint8)).save(tmp_path / "images" / name)
        images.append(AnnotatedImage(name, 20, 30, (Annotation(number % 2, (1, 2, 9, 8)),)))
    given = objects.AnnotationSet(("a", "b"), tuple(images))
    annotations.write(given, "coco", tmp_path / "all.json")
    config = ObjectDataConfig(source="coco", directory=str(tmp_path), annotations=("all.json",))
    found = open_objects(config)
    assert {split: len(of) for split, of in found.splits.items()} == {
        "train": 7,
        "validation": 1,
        "test": 2,
    }
    names = [scene.scene.name for of in found.splits.values() for scene in of]
    assert sorted(names) == sorted(image.name for image in images)
    assert open_objects(config).fingerprint == found.fingerprint
    for scene in (s for of in found.splits.values() for s in of):
        image, numbers = scene.scene.read()
        assert image.shape == (20, 30, 3)
        assert numbers.max() == 1
    moved = dataclasses.replace(images[0], objects=(Annotation(0, (1, 2, 9, 9)),))
    (tmp_path / "all.json").unlink()
    given = dataclasses.replace(given, images=(moved, *images[1:]))
    annotations.write(given, "coco", tmp_path / "all.json")
    assert open_objects(config).fingerprint != found.fingerprint
    (tmp_path / "images" / "4.png").unlink()
    with pytest.raises(InputError, match=r"4\.png is missing"):
        open_objects(config)


def test_classes_without_a_training_object_are_told(tmp_path):
    """A crowd alone teaches nothing; nor do objects of the test."""
    one, crowd = Annotation(0, (1, 2, 9, 8)), Annotation(2, (1, 2, 9, 8), crowd=True)
    (tmp_path / "images").mkdir()
    for split, every in (
        ("train", (one, crowd)),
        ("test", (one, dataclasses.replace(one, label=1))),
    ):
        Image.fromarray(np.full((20, 30), len(split), np.uint8)).save(
            tmp_path / f"images/{split}.png"
        )
        image = AnnotatedImage(f"{split}.png", 20, 30, every)
        given = objects.AnnotationSet(("car", "tree", "people"), (image,))
        annotations.write(given, "coco", tmp_path / f"{split}.json")
    config = ObjectDataConfig(
        source="coco",
        directory=str(tmp_path),
        annotations=("train.json", "test.json"),
        held_out=(0, 0),
    )
    [note] = open_objects(config).notes
    assert note.startswith("no training object is of tree, people, which can't be learnt: ")


def test_images_that_no_annotations_list_are_told(tmp_path):
    """What a tool writes no file for was left out without a word, though YOLO's is background."""
    config = write_coco(tmp_path)
    (tmp_path / "images/more").mkdir(parents=True)
    for name in ("a.jpg", "b.JPG", "more/ñ.png", "._a.jpg"):
        Image.fromarray(np.zeros((32, 64), np.uint8)).save(tmp_path / "images" / name, "PNG")
    [note] = open_objects(config).notes
    assert note.startswith(f"images of {tmp_path / 'images'} that no annotations list are left out")
    assert note.endswith(": 1 in the folder itself, 1 in more.")
    (tmp_path / "images/masks").mkdir()
    Image.fromarray(np.ones((32, 64), np.uint8)).save(tmp_path / "images/masks/a.png")
    masks = dataclasses.replace(config, source="index_masks", annotations=("images/masks",))
    assert open_objects(masks).notes == (note,)


@pytest.mark.parametrize(
    ("file_name", "images", "mend"),
    [
        ("images/a.jpg", "images", "give {folder} as the folder of the images"),
        ("a.JPG", "images", "call it a.jpg, which is there"),
        ("a", "images", "call it a.jpg, which is there"),
    ],
)
def test_an_image_that_lies_elsewhere_is_found_by_the_sentence(file_name, images, mend, tmp_path):
    config = dataclasses.replace(write_coco(tmp_path, file_name=file_name), images=(images,))
    (tmp_path / "images").mkdir()
    Image.fromarray(np.zeros((32, 64), np.uint8)).save(tmp_path / "images" / "a.jpg")
    with pytest.raises(InputError) as caught:
        open_objects(config)
    assert f"is missing, and has annotations: add it, or {mend.format(folder=tmp_path)}" in str(
        caught.value
    )


def test_boxes_as_shares_are_no_boxes_in_pixels(tmp_path):
    """They were trained on, each smaller than a pixel."""
    config = write_coco(tmp_path)
    content = json.loads((tmp_path / "all.json").read_text())
    content["annotations"][0]["bbox"] = [0.25, 0.1, 0.5, 0.9]
    (tmp_path / "all.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"all of its 1 boxes within the first pixel, as shares"):
        open_objects(config)


def test_images_that_are_trained_on_and_tested_are_told(tmp_path):
    config = write_coco(tmp_path)
    (tmp_path / "images").mkdir()
    Image.fromarray(np.zeros((32, 64), np.uint8)).save(tmp_path / "images" / "a.jpg")
    assert open_objects(config).notes == ()
    same = dataclasses.replace(config, annotations=("all.json", "all.json"))
    assert open_objects(same).notes == ("1 images of test are images of train too: part them.",)


def test_the_home_folder_may_be_called_by_its_sign(tmp_path, monkeypatch):
    config = write_coco(tmp_path)
    (tmp_path / "images").mkdir()
    Image.fromarray(np.zeros((32, 64), np.uint8)).save(tmp_path / "images" / "a.jpg")
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    at_home = dataclasses.replace(config, directory=f"~/{tmp_path.name}")
    assert open_objects(at_home).fingerprint == open_objects(config).fingerprint


def test_images_of_jpeg_2000_may_end_either_way(tmp_path):
    for name in ("a.jp2", "b.j2k"):
        Image.fromarray(np.zeros((32, 64), np.uint8)).save(tmp_path / name)
        (tmp_path / name).with_suffix(".txt").write_text("0 0.5 0.5 0.25 0.5\n")
    found = annotations.read("yolo", tmp_path, tmp_path)
    assert [image.name for image in found.images] == ["a.jp2", "b.j2k"]


def write_coco(folder, **image):
    """One image and one object, as a COCO file has them."""
    head = {"id": 1, "file_name": "a.jpg", "height": 32, "width": 64} | image
    one = {"id": 1, "image_id": head["id"], "category_id": 1, "bbox": [4, 6, 16, 8]}
    content = {"images": [head], "annotations": [one], "categories": [{"id": 1, "name": "car"}]}
    (folder / "all.json").write_text(json.dumps(content))
    return ObjectDataConfig(
        source="coco",
        directory=str(folder),
        annotations=("all.json",),
        images=("images",),
        held_out=(0, 0),
    )


@pytest.mark.parametrize(
    ("given", "images", "field"),
    [
        (("a", "b", "c"), ("x", "y"), "images has 2"),
        ((), (), "images has 0"),
        (("a",) * 4, ("x",), "annotations has 4"),
    ],
)
def test_folders_of_images_that_no_annotations_have_are_told(tmp_path, given, images, field):
    config = dataclasses.replace(write_coco(tmp_path), annotations=given, images=images)
    with pytest.raises(InputError, match=rf"data\.{field} values: give"):
        open_objects(config)


@pytest.mark.parametrize("name", ["../a.jpg", "{folder}/a.jpg", "images/../../a.jpg", "a\0.jpg"])
def test_images_outside_their_folder_are_not_opened(tmp_path, name):
    (tmp_path / "images").mkdir()
    Image.new("RGB", (64, 32)).save(tmp_path / "a.jpg")
    config = write_coco(tmp_path, file_name=name.format(folder=tmp_path))
    with pytest.raises(InputError, match=r"\.jpg', which isn't named by where it lies within"):
        open_objects(config)


@pytest.mark.parametrize("size", [{"height": 64, "width": 32}, {"height": 31}, {"width": 128}])
def test_images_of_another_size_than_their_annotations_are_refused(tmp_path, size):
    (tmp_path / "images").mkdir()
    Image.new("RGB", (64, 32)).save(tmp_path / "images" / "a.jpg")
    with pytest.raises(InputError, match=r"a\.jpg is 64 x 32 px, and its annotations are of "):
        open_objects(write_coco(tmp_path, **size))


@pytest.mark.parametrize("orientation", [3, 6])
def test_images_that_a_tag_turns_are_refused(tmp_path, orientation):
    tag = Image.Exif()
    tag[0x0112] = orientation
    (tmp_path / "images").mkdir()
    Image.new("RGB", (64, 32)).save(tmp_path / "images" / "a.jpg", exif=tag)
    Image.new("L", (64, 32), 1).save(tmp_path / "a.png", exif=tag)
    shown = {"height": 64, "width": 32} if orientation == 6 else {}
    with pytest.raises(InputError, match=rf"a\.jpg has the EXIF orientation {orientation}, so"):
        open_objects(write_coco(tmp_path, **shown))
    if orientation == 6:  # a size that only the stored pixels have
        [one] = open_objects(write_coco(tmp_path)).splits["train"]
        assert (one.scene.height_px, one.scene.width_px) == (32, 64)
    with pytest.raises(InputError, match=r"a\.png has the EXIF orientation"):
        annotations.read("index_masks", tmp_path / "a.png")


@needs_shared
def test_penn_fudan_is_drawn_within_its_places():
    found = open_objects(
        ObjectDataConfig(source="penn_fudan", directory=str(SHARED / "penn_fudan"))
    )
    sizes = {split: len(of) for split, of in found.splits.items()}
    assert sizes == {"train": 108, "validation": 12, "test": 50}
    places = [scene.scene.name.startswith("Penn") for scene in found.splits["test"]]
    assert sum(places) == 28  # of 96 in 170
    every = [one for of in found.splits.values() for scene in of for one in scene.objects().objects]
    assert len(every) == 423


@needs_shared
def test_coco_as_published():
    config = ObjectDataConfig(
        source="coco",
        directory=str(SHARED / "coco_mini"),
        annotations=(
            "annotations/instances_train2017.json",
            "annotations/instances_val2017.json",
        ),
        images=("train2017", "val2017"),
    )
    found = open_objects(config)
    assert len(found.classes) == 80
    assert found.category_ids[11] == 13
    every = [one for of in found.splits.values() for scene in of for one in scene.objects().objects]
    assert len(every) == 739 + 624
    assert sum(one.crowd for one in every) == 13
    assert found.channels == 3
