"""The synthetic scenes: reproducible, complete, and not to be solved by colour alone."""

import dataclasses

import numpy as np
import pytest

from cnn_jax.configuration.schema import DataConfig
from cnn_jax.data import synthetic
from cnn_jax.data.synthetic import CLASSES, draw_scene, generate
from cnn_jax.data.town import ground
from cnn_jax.data.town.layers import BUILDING
from cnn_jax.errors import InputError


@pytest.fixture(scope="module")
def pictures():
    """The first scenes of each split of the default set, read once: split -> [(image, mask)]."""
    scenes = generate(DataConfig())
    return {split: [scene.read() for scene in scenes.splits[split][:4]] for split in scenes.splits}


def test_a_scene_is_a_photograph_and_its_mask():
    image, mask = draw_scene(3, 96, 160)
    assert image.shape == (96, 160, 3)
    assert image.dtype == np.uint8
    assert mask.shape == (96, 160)
    assert mask.dtype == np.uint8
    assert mask.max() < len(CLASSES)
    assert image.std() > 20


def test_same_seed_same_bytes():
    for first, second in zip(draw_scene((1, 2), 96, 160), draw_scene((1, 2), 96, 160), strict=True):
        np.testing.assert_array_equal(first, second)


def test_other_seed_other_scene():
    (image, mask), (other_image, other_mask) = (
        draw_scene((1, 2), 96, 160),
        draw_scene((1, 3), 96, 160),
    )
    assert (image != other_image).mean() > 0.9
    assert (mask != other_mask).mean() > 0.3


@pytest.mark.parametrize("size", [(32, 32), (33, 57), (32, 301), (257, 41), (300, 500)])
def test_any_size(size):
    for seed in range(6 if max(size) < 100 else 2):
        image, mask = draw_scene(seed, *size)
        assert image.shape == (*size, 3)
        assert mask.shape == size


def test_too_small_a_scene_is_refused():
    with pytest.raises(InputError, match="scene_px"):
        draw_scene(0, 31, 64)
    with pytest.raises(InputError, match="scene_px"):
        generate(DataConfig(scene_px=(64, 16)))


@pytest.mark.parametrize("name", ["test_groups", "validation_groups"])
def test_groups_are_refused(name):
    with pytest.raises(InputError, match=f"^data.{name} names group '8', .* leave it empty"):
        generate(DataConfig(**{name: ("8", "9")}))


def test_a_folder_that_is_not_read_is_told():
    assert not generate(DataConfig()).notes
    (note,) = generate(DataConfig(directory="photographs")).notes
    assert "photographs in data.directory is not read" in note
    assert "data.source" in note


@pytest.mark.parametrize("counts", [(1, -1, 1), (1, 1)])
def test_impossible_counts_are_refused(counts):
    with pytest.raises(InputError, match="scene_counts"):
        generate(DataConfig(scene_counts=counts))


def test_the_set_has_the_scenes_asked_for():
    scenes = generate(DataConfig(scene_px=(48, 80), scene_counts=(3, 0, 2)))
    assert {split: len(members) for split, members in scenes.splits.items()} == {
        "train": 3,
        "validation": 0,
        "test": 2,
    }
    assert len({scene.name for members in scenes.splits.values() for scene in members}) == 5
    for scene in scenes.splits["train"]:
        image, mask = scene.read()
        assert image.shape[:2] == mask.shape == (scene.height_px, scene.width_px) == (48, 80)


def test_reading_is_lazy_and_repeatable(monkeypatch):
    drawn = []
    draw = synthetic.draw_scene
    synthetic._probe()
    monkeypatch.setattr(synthetic, "draw_scene", lambda *of: drawn.append(of) or draw(*of))
    scenes = generate(DataConfig(scene_px=(64, 64)))
    assert not drawn
    scene = scenes.splits["test"][1]
    first, second = scene.read(), scene.read()
    assert len(drawn) == 2
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])


def test_splits_share_no_scene():
    scenes = generate(DataConfig(scene_px=(40, 40), scene_counts=(8, 8, 8)))
    images = [scene.read()[0].tobytes() for members in scenes.splits.values() for scene in members]
    assert len(set(images)) == len(images)


def test_more_scenes_leave_the_first_ones_as_they_were():
    few = generate(DataConfig(scene_px=(40, 40), scene_counts=(1, 1, 1)))
    many = generate(DataConfig(scene_px=(40, 40), scene_counts=(5, 3, 2)))
    for split in few.splits:
        np.testing.assert_array_equal(
            few.splits[split][0].read()[0], many.splits[split][0].read()[0]
        )


def test_the_fingerprint_changes_with_whatever_changes_the_data(monkeypatch):
    config = DataConfig()
    fingerprint = generate(config).fingerprint
    assert generate(DataConfig()).fingerprint == fingerprint
    assert generate(dataclasses.replace(config, crop_px=(32, 32))).fingerprint == fingerprint
    others = [
        generate(dataclasses.replace(config, scene_px=(288, 513))).fingerprint,
        generate(dataclasses.replace(config, scene_counts=(24, 5, 7))).fingerprint,
    ]
    monkeypatch.setattr(synthetic, "GENERATOR_VERSION", "another")
    others.append(generate(config).fingerprint)
    monkeypatch.undo()
    monkeypatch.setattr(synthetic, "_probe", lambda: "other pixels")
    others.append(generate(config).fingerprint)
    assert len({fingerprint, *others}) == 5


def test_the_probe_follows_a_changed_pixel(monkeypatch):
    before = synthetic._probe()
    monkeypatch.setattr(ground, "PAINT", ground.PAINT * 0.9)
    assert synthetic._probe.__wrapped__() != before


def test_every_class_is_common_in_every_split(pictures):
    for split, members in pictures.items():
        counts = np.bincount(
            np.concatenate([mask.ravel() for _, mask in members]), minlength=len(CLASSES)
        )
        assert counts.min() / counts.sum() > 0.04, (split, counts)


def test_colour_alone_does_not_solve_it(pictures):
    """A pixel belongs to the class that is commonest in training at its colour, in bins of 16
    levels: the best of its kind."""

    def cells(image):
        red, green, blue = np.moveaxis(image.astype(int) // 16, -1, 0)
        return (red * 16 + green) * 16 + blue

    votes = np.zeros((16**3, len(CLASSES)))
    for image, mask in pictures["train"]:
        np.add.at(votes, (cells(image), mask), 1)
    confusion = np.zeros((len(CLASSES), len(CLASSES)))
    for image, mask in pictures["test"]:
        np.add.at(confusion, (mask, votes.argmax(1)[cells(image)]), 1)
    hits = np.diag(confusion)
    assert 0.15 < (hits / (confusion.sum(0) + confusion.sum(1) - hits)).mean() < 0.65


def test_edges_of_roofs_lie_where_the_mask_says(pictures):
    """The image changes more across the border of a building than one pixel inside or outside of
    it."""
    across, beside = [], []
    for image, mask in pictures["test"]:
        steps = np.abs(np.diff(image.astype(float).mean(-1), axis=1))
        border = (mask[:, 1:] == BUILDING) != (mask[:, :-1] == BUILDING)
        border[:, :2] = border[:, -2:] = False
        across.append(steps[border].mean())
        beside += [steps[np.roll(border, shift, axis=1)].mean() for shift in (-2, 2)]
    assert np.mean(across) > 2 * np.mean(beside)


def test_class_colours_differ_in_grey():
    luma = sorted(np.dot(known.color, (0.299, 0.587, 0.114)) for known in CLASSES)
    assert np.diff(luma).min() > 30
