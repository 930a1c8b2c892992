"""Test scenes kept one by one: which, at what size, in whose colours."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from cnn_jax.data.pipeline import DecodedScenes
from cnn_jax.data.scenes import IGNORED, Scene
from cnn_jax.records import scene_record

CLASSES = [
    SimpleNamespace(name="tierra", color=(10, 200, 30)),
    SimpleNamespace(name="niño", color=(250, 20, 40)),
]


@pytest.mark.parametrize(("scenes", "expected"), [(1, [0]), (3, [0, 1, 2]), (12, list(range(12)))])
def test_few_scenes_are_all_shown(scenes, expected):
    assert scene_record.shown(scenes) == expected


def test_of_many_scenes_twelve_are_shown_from_first_to_last():
    chosen = scene_record.shown(500)
    assert (len(chosen), chosen[0], chosen[-1]) == (12, 0, 499)
    assert set(np.diff(chosen)) <= {45, 46}


def test_thumbnails_keep_proportions_and_never_mix_classes():
    mask = np.where(np.indices((900, 450)).sum(0) % 2, 7, 3).astype(np.uint8)
    small = scene_record.thumbnail(mask)
    assert small.shape == (360, 180)
    assert set(np.unique(small)) <= {3, 7}
    assert scene_record.thumbnail(np.zeros((20, 30, 3), np.uint8)).shape == (20, 30, 3)


def test_what_is_written_can_be_read(tmp_path):
    rng = np.random.default_rng(0)
    held = [
        (rng.integers(0, 255, (8, 12, 3), np.uint8), rng.integers(0, 2, (8, 12)).astype(np.uint8))
        for _ in range(2)
    ]
    held[1][1][0] = IGNORED
    scenes = DecodedScenes(
        [Scene(f"día {i}", 8, 12, lambda pair=pair: pair) for i, pair in enumerate(held)], 1e9
    )
    evaluation = SimpleNamespace(
        confusion=np.arange(8).reshape(2, 2, 2), boundary=np.arange(8).reshape(2, 2, 2)
    )
    predictions = {index: np.ones((8, 12), np.uint8) for index in (0, 1)}
    for _ in range(2):  # a second evaluation takes the place of the first
        scene_record.write(tmp_path, scenes, evaluation, CLASSES, predictions)
    content = json.loads((tmp_path / "scenes.json").read_text(encoding="utf-8"))
    assert (content["classes"], content["colors"]) == (["tierra", "niño"], ["#0AC81E", "#FA1428"])
    assert content["scenes"][1] == {
        "name": "día 1",
        "height_px": 8,
        "width_px": 12,
        "confusion": [[4, 5], [6, 7]],
        "boundary": [[4, 5], [6, 7]],
    }
    expected = np.full((8, 12, 3), CLASSES[1].color)
    expected[0] = 0  # ignored
    with Image.open(tmp_path / "scenes" / "001-truth.png") as truth:
        np.testing.assert_array_equal(np.asarray(truth), held[1][1])
    with Image.open(tmp_path / "scenes" / "001-prediction.png") as prediction:
        np.testing.assert_array_equal(np.asarray(prediction.convert("RGB")), expected)
    with Image.open(tmp_path / "scenes" / "000-image.jpg") as image:
        assert image.size == (12, 8)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scenes", "scenes.json"]
