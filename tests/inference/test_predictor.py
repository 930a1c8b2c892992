"""From a run's folder to predictions: arrays, files, lists and generators; exported weights; runs
averaged."""

import functools
import itertools
import json
import pickle
import shutil
import threading

import jax
import numpy as np
import pytest
from PIL import Image

import cnn_jax
from cnn_jax.commands import evaluate, export
from cnn_jax.errors import InputError
from cnn_jax.inference.prediction import Prediction
from cnn_jax.inference.predictor import Run
from cnn_jax.inference.windows import blended

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def run(reference):
    """The reference run, whose windows are 64x64 px."""
    return cnn_jax.load(reference[0])


@pytest.fixture(scope="module")
def image():
    """Larger than a window both ways."""
    return np.random.default_rng(0).integers(0, 256, (100, 131, 3), np.uint8)


def test_a_picture_of_a_windows_size_gives_what_the_model_gives(run, image):
    crop = image[:64, :64]
    prediction = run.predict(crop)
    apply = jax.jit(functools.partial(run.model.apply, train=False))
    logits = apply(run.variables, run.normalize(crop[None]))[0]
    np.testing.assert_allclose(prediction.probabilities, jax.nn.softmax(logits), atol=1e-5)
    np.testing.assert_array_equal(prediction.classes, np.asarray(logits).argmax(-1))


def test_probabilities_of_a_scene_sum_to_1(run, image):
    prediction = run.predict(image)
    assert prediction.probabilities.shape == (100, 131, len(run.info.classes))
    assert prediction.probabilities.dtype == np.float32
    np.testing.assert_allclose(prediction.probabilities.sum(-1), 1, atol=1e-5)
    assert prediction.classes.dtype == np.uint8
    assert prediction.overlay(image).shape == image.shape
    np.testing.assert_allclose(prediction.confidence, prediction.probabilities.max(-1))
    assert (prediction.entropy >= 0).all()
    assert prediction._repr_png_().startswith(b"\x89PNG")


def test_on_a_cpu_threads_compute_each_window_once(run, image, monkeypatch):
    down, across = run.axes(*image.shape[:2])
    windows, threads, probabilities = [], set(), Run.probabilities

    def seen(self, images):
        windows.append(images.tobytes())
        threads.add(threading.get_ident())
        return probabilities(self, images)

    monkeypatch.setattr(Run, "probabilities", seen)
    found = run.predict(image).probabilities
    assert len(windows) == len(set(windows)) == len(down.starts) * len(across.starts)
    assert len(threads) > 1
    parts = blended(lambda a, b: image[a:b], run.probabilities, down, across, 1)
    alone = np.concatenate([part.copy() for _, part in parts])
    np.testing.assert_array_equal(found, alone)


def test_what_goes_wrong_in_a_thread_is_raised(run, image, monkeypatch):
    calls = itertools.count()

    def broken(self, images):
        if next(calls) == 3:
            raise MemoryError
        return np.zeros((*images.shape[:3], 6), np.float32)

    monkeypatch.setattr(Run, "probabilities", broken)
    with pytest.raises(MemoryError):
        run.predict(image)


def test_a_path_a_list_and_a_generator_give_the_same(run, image, tmp_path):
    Image.fromarray(image).save(tmp_path / "image.png")
    whole = run.predict(image).probabilities
    path = tmp_path / "image.png"
    listed = run.predict([path, str(path), image])
    assert isinstance(listed, list)
    lazy = run.predict(part for part in (image, path))
    assert not isinstance(lazy, list)
    for prediction in (*listed, *lazy, run.predict(path)):
        np.testing.assert_array_equal(prediction.probabilities, whole)


def test_where_a_files_picture_holds_nothing_is_told(run, image, tmp_path):
    alpha = np.full(image.shape[:2], 255, np.uint8)
    alpha[:7], alpha[20, 3] = 0, 0
    Image.fromarray(np.dstack([image, alpha])).save(tmp_path / "a.png")
    found, plain = run.predict(tmp_path / "a.png"), run.predict(image)
    assert plain.void is None
    np.testing.assert_array_equal(found.void, alpha == 0)
    np.testing.assert_array_equal(found.probabilities, plain.probabilities)
    seen = alpha[..., None] > 0
    np.testing.assert_array_equal(found.colored(), plain.colored() * seen)
    np.testing.assert_array_equal(found.overlay(image), np.where(seen, plain.overlay(image), image))


def test_turned_pictures_are_predicted_alike_when_augmented(run, image):
    square = image[:64, :64]
    upright = run.predict(square, augment=True).probabilities
    for turned, back in (
        (np.rot90(square), lambda found: np.rot90(found, -1)),
        (square[::-1], lambda found: found[::-1]),
    ):
        found = back(run.predict(np.ascontiguousarray(turned), augment=True).probabilities)
        np.testing.assert_allclose(found, upright, atol=1e-5)
    assert np.abs(upright - run.predict(square).probabilities).max() > 1e-3


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((64, 64, 4), np.uint8), "[64, 64, 4]"),
        (np.zeros((64, 64, 3), np.uint16), "uint16"),
        (np.zeros((64, 64), np.uint8), "[64, 64]"),
    ],
)
def test_other_channels_and_types_are_refused(run, array, words):
    with pytest.raises(InputError, match="takes uint8") as refused:
        run.predict(array)
    assert words in str(refused.value)


def test_an_image_without_pixels_and_a_blend_that_is_none_are_refused(run, image):
    for empty in (image[:0], image[:, :0]):
        with pytest.raises(InputError, match="which is no pixel"):
            run.predict(empty)
    with pytest.raises(InputError, match="blend is 'gauss'; it must be one of gaussian, linear"):
        run.predict(image, blend="gauss")


def test_a_path_that_leads_nowhere_is_not_called_a_damaged_file(run, image, tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"nothing\.png can't be decoded \(No such file"):
        run.predict(tmp_path / "nothing.png")
    with pytest.raises(InputError, match=r"can't be decoded \(Is a directory\): check"):
        run.predict(tmp_path)
    (tmp_path / "a.vrt").write_text(
        '<VRTDataset><SourceFilename relativeToVRT="1">gone.tif</SourceFilename></VRTDataset>'
    )
    with pytest.raises(InputError, match=r"a\.vrt can't be decoded \(.*gone\.tif: No such file"):
        run.predict(tmp_path / "a.vrt")
    Image.fromarray(image).save(tmp_path / "image.png")
    monkeypatch.setenv("HOME", str(tmp_path))
    found = run.predict("~/image.png").probabilities
    np.testing.assert_array_equal(found, run.predict(image).probabilities)


# ---- weights


@pytest.fixture
def bare(reference, tmp_path):
    """The folder of the reference run without its checkpoints."""
    return shutil.copytree(
        reference[0], tmp_path / "bare", ignore=shutil.ignore_patterns("checkpoints")
    )


def test_exported_weights_stand_in_for_checkpoints(reference, run, image, bare, capsys):
    before = sorted(path.name for path in reference[0].iterdir())
    assert export.main([str(reference[0]), "--output", str(bare / "weights.safetensors")]) == 0
    assert "arrays" in capsys.readouterr().out
    assert sorted(path.name for path in reference[0].iterdir()) == before
    loaded = cnn_jax.load(bare)
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, run.variables)
    np.testing.assert_array_equal(
        loaded.predict(image).probabilities, run.predict(image).probabilities
    )


def test_weights_of_16_bits_are_computed_with_as_32(reference, run, image, bare):
    for name, flags in (("whole", []), ("weights", ["--float16"])):
        path = bare / f"{name}.safetensors"
        assert export.main([str(reference[0]), "--output", str(path), *flags]) == 0
    sizes = [(bare / f"{name}.safetensors").stat().st_size for name in ("weights", "whole")]
    assert sizes[0] < 0.7 * sizes[1]
    loaded = cnn_jax.load(bare)
    assert {leaf.dtype for leaf in jax.tree.leaves(loaded.variables)} == {np.dtype(np.float32)}
    difference = loaded.predict(image).probabilities - run.predict(image).probabilities
    assert 0 < np.abs(difference).max() < 0.01


def test_weights_of_16_bits_are_held_to_figures_of_their_own(reference, bare, capsys):
    path = str(bare / "weights.safetensors")
    assert export.main([str(reference[0]), "--output", path, "--float16"]) == 0
    beside = bare / evaluate.OF_HALF
    evaluate.main([str(bare), "--output", str(beside)])
    assert "and the record's figures of 32" in capsys.readouterr().out
    assert evaluate.main([str(bare)]) == 0
    out = capsys.readouterr().out
    assert "as the figures in" in out
    assert "figures equal the record" in out
    assert evaluate.main([str(bare), "--split", "validation"]) in (0, 1)
    assert "and the record's figures of 32" in capsys.readouterr().out
    held = json.loads(beside.read_text())
    held["figures"]["test/miou"] += 0.01
    beside.write_text(json.dumps(held))
    assert evaluate.main([str(bare)]) == 1


def test_damaged_and_foreign_weights_are_refused(run, bare):
    from cnn_jax.records import weights

    path = bare / weights.NAME
    with pytest.raises(InputError, match=r"neither the checkpoint .* nor weights\.safetensors"):
        cnn_jax.load(bare)
    weights.write(path, run.variables, digest=run.digest, step=12)
    data = bytearray(path.read_bytes())
    data[-3] ^= 16
    path.write_bytes(data)
    with pytest.raises(InputError, match="not what was exported"):
        cnn_jax.load(bare)
    path.write_bytes(data[:-100])
    with pytest.raises(InputError, match="can't be read"):
        cnn_jax.load(bare)
    weights.write(path, run.variables, digest="0" * 16, step=12)
    with pytest.raises(InputError, match="another run"):
        cnn_jax.load(bare)
    less = {**run.variables, "params": dict(list(run.variables["params"].items())[1:])}
    weights.write(path, less, digest=run.digest, step=12)
    with pytest.raises(InputError, match="missing there"):
        cnn_jax.load(bare)
    big = jax.tree.map(lambda leaf: np.asarray(leaf) * 0 + 1e6, run.variables)
    with pytest.raises(InputError, match="beyond float16"):
        weights.write(path, big, digest=run.digest, step=12, half=True)


# ---- ensembles


def other(run, **changes):
    """The run with its weights changed, or with another info."""
    import dataclasses

    variables = jax.tree.map(lambda leaf: leaf * 1.1, run.variables)
    return dataclasses.replace(
        run, variables=variables, info=dataclasses.replace(run.info, **changes)
    )


def test_an_ensemble_averages_probabilities(run, image):
    second = other(run)
    found = cnn_jax.ensemble([run, second]).predict(image).probabilities
    expected = (run.predict(image).probabilities + second.predict(image).probabilities) / 2
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.abs(found - run.predict(image).probabilities).max() > 1e-3


def test_a_run_and_its_configuration_can_be_pickled(run, image):
    expected = run.predict(image).probabilities  # and so is compiled
    for changed in (run, other(run)):
        found = pickle.loads(pickle.dumps(changed))
        assert found.config == run.config
        jax.tree.map(np.testing.assert_array_equal, found.variables, changed.variables)
    both = pickle.loads(pickle.dumps(cnn_jax.ensemble([run, run])))
    np.testing.assert_array_equal(both.predict(image).probabilities, expected)


def test_a_run_is_shown_without_its_weights(run):
    assert "variables" not in repr(run)
    assert "variables" not in repr(cnn_jax.ensemble([run]))


def test_runs_that_differ_are_not_averaged(run):
    names = tuple(reversed(run.info.classes))
    for changes, word in (
        ({"classes": names}, "differ in classes"),
        ({"channels": 4}, "differ in channels"),
        ({"dtype": "uint16"}, "differ in dtype"),
        ({"description": {"bands": [3, 2, 1]}}, r"differ in bands \(\(1, 2, 3\), \(3, 2, 1\)\)"),
    ):
        with pytest.raises(InputError, match=word):
            cnn_jax.ensemble([run, other(run, **changes)])
    cnn_jax.ensemble([run, other(run, description={"bands": [1, 2, 3]})])
    with pytest.raises(InputError, match="no runs"):
        cnn_jax.ensemble([])
    for folder in (run.folder, str(run.folder)):
        with pytest.raises(InputError, match=r"is one: give a list\."):
            cnn_jax.ensemble(folder)


def test_a_classifiers_best_classes():
    prediction = Prediction(np.array([0.1, 0.6, 0.3], np.float32), ("a", "b", "c"))
    assert [name for name, _ in prediction.top(2)] == ["b", "c"]
    assert prediction.classes == 1
    assert prediction._repr_png_() is None
    with pytest.raises(ValueError, match="this one is of an image"):
        prediction.colored()


@pytest.mark.parametrize(("dtype", "high"), [(np.uint16, 60000), (np.float32, 0.4)])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_an_overlay_is_over_what_can_be_seen_of_any_image(dtype, high, channels):
    """From nothing to the greatest value is from black to white, (200, 100, 50) half over it."""
    probabilities = np.stack([np.zeros((2, 40)), np.ones((2, 40))], -1).astype(np.float32)
    prediction = Prediction(probabilities, ("a", "b"), ((0, 0, 0), (200, 100, 50)))
    image = np.zeros((2, 40, channels), dtype)
    image[:, 20:] = high
    found = prediction.overlay(image)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found[:, :20], np.full((2, 20, 3), (100, 50, 25)))
    np.testing.assert_array_equal(found[:, 20:], np.full((2, 20, 3), (228, 178, 152)))
    for other in (image[:1], image[..., 0]):
        with pytest.raises(ValueError, match=r"this answer is of one of \[2, 40\] px"):
            prediction.overlay(other)


def test_a_segmenters_answer_has_no_best_classes():
    prediction = Prediction(np.full((4, 6, 2), 0.5, np.float32), ("a", "b"))
    with pytest.raises(ValueError, match="this one is of pixels"):
        prediction.top()
