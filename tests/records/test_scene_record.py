"""Test scenes kept one by one: which, at what size, in whose colours."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from cnn_jax.data.pipeline import DecodedScenes
from cnn_jax.data.scenes import IGNORED, Scene
from cnn_jax.records import scene_record
from tests.records.pictures import missing_pictures

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


def study_of(tmp_path, runs=2):
    """The folder of a study: runs beside each other, each with its scenes written."""
    held = (np.full((8, 12, 3), 90, np.uint8), np.zeros((8, 12), np.uint8))
    scenes = DecodedScenes([Scene("one", 8, 12, lambda: held)], 1e9)
    evaluation = SimpleNamespace(
        confusion=np.eye(2, dtype=np.int64)[None], boundary=np.ones((1, 2, 2), np.int64)
    )
    for number in range(runs):
        folder = tmp_path / f"run{number}"
        folder.mkdir()
        shared = scene_record.shared_folder(tmp_path, FINGERPRINT)
        predictions = {0: np.full((8, 12), number, np.uint8)}
        scene_record.write(folder, scenes, evaluation, CLASSES, predictions, shared)
    return tmp_path


FINGERPRINT = "0123456789abcdef0123"


def test_runs_of_a_study_keep_photographs_and_truths_once(tmp_path):
    study = study_of(tmp_path)
    pictures = sorted(p.relative_to(study).as_posix() for p in study.rglob("*.??g"))
    assert pictures == [
        "run0/scenes/000-prediction.png",
        "run1/scenes/000-prediction.png",
        "scenes/0123456789abcdef/000-image.jpg",
        "scenes/0123456789abcdef/000-truth.png",
    ]
    for run in ("run0", "run1"):
        assert missing_pictures(study / run, FINGERPRINT, 1) == []
        truth = scene_record.picture_path(study / run, FINGERPRINT, 0, "truth")
        assert truth == study / pictures[3]
    assert not list(study.rglob("*.partial"))


def test_missing_pictures_are_named(tmp_path):
    study = study_of(tmp_path)
    run = study / "run0"
    (run / "scenes" / "000-prediction.png").unlink()
    assert missing_pictures(run, FINGERPRINT, 1) == ["000-prediction.png"]
    other_data = "f" * 20
    assert missing_pictures(run, other_data, 1) == [
        "000-image.jpg",
        "000-truth.png",
        "000-prediction.png",
    ]
    run.rename(tmp_path / "moved")
    (tmp_path / "moved").rename(tmp_path / "run0")
    alone = tmp_path / "alone" / "run"
    alone.parent.mkdir()
    run.rename(alone)
    assert len(missing_pictures(alone, FINGERPRINT, 1)) == 3
    assert scene_record.read(alone).names == ("one",)


@pytest.mark.parametrize("fingerprint", ["../../etc", "", "/", "..", "a/b"])
def test_a_fingerprint_leads_to_no_other_folder(tmp_path, fingerprint):
    (tmp_path / "run").mkdir()
    path = scene_record.picture_path(tmp_path / "run", fingerprint, 0, "image")
    assert path == tmp_path / "run" / "scenes" / "000-image.jpg"


def test_files_of_others_in_the_folder_of_pictures_stay(tmp_path):
    own = tmp_path / "run0" / "scenes"
    study_of(tmp_path)
    (own / "notes.txt").write_text("mine")
    shutil.rmtree(tmp_path / "run1")
    held = scene_record.read(tmp_path / "run0")
    (tmp_path / "run0" / "scenes.json").unlink()
    assert held.sizes_px == ((8, 12),)
    assert scene_record.read(tmp_path / "run0") is None
    assert (own / "notes.txt").read_text() == "mine"


def test_another_study_of_the_same_data_has_the_photographs(tmp_path):
    """But no predictions, and not those of other data."""
    held = scene_record.shared_folder(tmp_path / "before", FINGERPRINT)
    held.mkdir(parents=True)
    for name in ("000-image.jpg", "000-truth.png", "000-prediction.png"):
        (held / name).write_bytes(b"")
    run = tmp_path / "after" / "unet-seed0"
    assert missing_pictures(run, FINGERPRINT, 1) == ["000-prediction.png"]
    assert scene_record.picture_path(run, FINGERPRINT, 0, "image") == held / "000-image.jpg"
    assert len(missing_pictures(run, FINGERPRINT[::-1], 1)) == 3
    assert len(missing_pictures(run, "*", 1)) == 3
