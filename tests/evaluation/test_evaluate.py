"""Whole scenes through windows: every pixel predicted and counted once, whatever the batch and the
window."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from cnn_jax.configuration.schema import EvaluationConfig
from cnn_jax.data import augmentation
from cnn_jax.data.pipeline import DecodedScenes
from cnn_jax.data.scenes import IGNORED, Scene
from cnn_jax.errors import InputError
from cnn_jax.evaluation.boundaries import boundary_counts
from cnn_jax.evaluation.evaluate import SceneEvaluator, make_window_step, window_results
from cnn_jax.tasks.segmentation import SegmentationEvaluator
from cnn_jax.training.losses import cross_entropy

CLASSES = 4


class HostDevices:
    """Batches stay where they are."""

    count = 1

    @staticmethod
    def share(size):
        return slice(0, size)

    @staticmethod
    def place(batch):
        return batch


class ReadsRed:
    """A model whose prediction is the red value modulo the classes; with the red values a counter,
    it depends on the place."""

    @staticmethod
    def apply(variables, images, *, train):
        assert train is False
        red = jnp.round(images[..., 0] * 255).astype(jnp.int32)
        return jax.nn.one_hot(red % CLASSES, CLASSES) * variables["scale"]


VARIABLES = {"scale": jnp.float32(3.0)}


@pytest.fixture(scope="module")
def window_step():
    """Compiled once for each window size."""
    return jax.jit(make_window_step(ReadsRed, cross_entropy, augmentation.scaled, CLASSES))


def make_scenes(sizes, ignored=True, seed=0):
    rng = np.random.default_rng(seed)
    held = []
    for height, width in sizes:
        image = rng.integers(0, 256, (height, width, 3), np.uint8)
        mask = rng.integers(0, CLASSES - 1, (height, width)).astype(np.uint8)
        if ignored:
            mask[rng.random(mask.shape) < 0.1] = IGNORED
        held.append((image, mask))
    scenes = [
        Scene(str(i), *mask.shape, lambda pair=(image, mask): pair)
        for i, (image, mask) in enumerate(held)
    ]
    return DecodedScenes(scenes, 1e9), held


def evaluator(
    scenes, window_step, window_px=(8, 10), context_px=2, batch_size=8, devices=HostDevices
):
    config = EvaluationConfig(window_px=window_px, context_px=context_px, batch_size=batch_size)
    return SceneEvaluator(scenes, window_step, devices, config, CLASSES)


def expected_confusion(image, mask):
    kept = mask != IGNORED
    return confusion_matrix(mask[kept], image[..., 0][kept] % CLASSES, labels=range(CLASSES))


SIZES = [(19, 23), (5, 7), (8, 31), (30, 9)]


@pytest.mark.parametrize("batch_size", [1, 3, 8, 100])
def test_evaluation_counts_every_labelled_pixel_once(window_step, batch_size):
    scenes, held = make_scenes(SIZES)
    result = evaluator(scenes, window_step, batch_size=batch_size).evaluate(VARIABLES)
    assert result.confusion.dtype == np.int64
    for matrix, (image, mask) in zip(result.confusion, held, strict=True):
        np.testing.assert_array_equal(matrix, expected_confusion(image, mask))
    np.testing.assert_array_equal(result.total, sum(expected_confusion(*pair) for pair in held))


def test_loss_is_the_mean_over_all_counted_pixels(window_step):
    scenes, held = make_scenes(SIZES)
    result = evaluator(scenes, window_step).evaluate(VARIABLES)
    right = np.concatenate(
        [((image[..., 0] % CLASSES) == mask)[mask != IGNORED] for image, mask in held]
    )
    normaliser = np.log(np.exp(3) + CLASSES - 1)
    assert result.loss == pytest.approx(
        np.where(right, normaliser - 3, normaliser).mean(), rel=1e-5
    )


def test_thirteen_windows_in_batches_of_eight_count_thirteen(window_step):
    """The last batch is filled up with windows that count nothing."""
    scenes, _ = make_scenes([(8, 10)] * 13, ignored=False)
    measured = evaluator(scenes, window_step, batch_size=8)
    assert len(measured.source) == 13
    result = measured.evaluate(VARIABLES)
    np.testing.assert_array_equal(result.confusion.sum((1, 2)), 80)
    calls = []
    measured.evaluate(VARIABLES, check=lambda: calls.append(1))
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("window_px", "context_px"), [((8, 10), 2), ((8, 10), 0), ((5, 64), 1), ((64, 64), 20)]
)
def test_prediction_is_stitched_exactly(window_step, window_px, context_px):
    scenes, held = make_scenes(SIZES)
    measured = evaluator(scenes, window_step, window_px, context_px, batch_size=3)
    for index, (image, _) in enumerate(held):
        prediction = measured.predict(VARIABLES, index)
        assert prediction.dtype == np.uint8
        np.testing.assert_array_equal(prediction, image[..., 0] % CLASSES)


class SeesItsWindow:
    """A model that predicts how near a pixel lies to its window's rim, as a network near the edge
    of its view would go wrong."""

    @staticmethod
    def apply(variables, images, *, train):
        _, height, width, _ = images.shape
        rows, columns = jnp.arange(height), jnp.arange(width)
        rim = jnp.minimum(
            jnp.minimum(rows, height - 1 - rows)[:, None],
            jnp.minimum(columns, width - 1 - columns)[None],
        )
        return jnp.broadcast_to(
            jax.nn.one_hot(jnp.minimum(rim, CLASSES - 1), CLASSES), (*images.shape[:3], CLASSES)
        )


def test_no_pixel_inside_a_scene_is_predicted_from_a_windows_rim():
    scenes, _ = make_scenes([(19, 23)])
    step = jax.jit(make_window_step(SeesItsWindow, cross_entropy, augmentation.scaled, CLASSES))
    prediction = evaluator(scenes, step, (9, 11), context_px=3).predict({}, 0)
    assert (prediction[3:-3, 3:-3] == 3).all()
    assert (prediction[0] == 0).all()


def test_evaluation_counts_what_the_pictures_show(window_step):
    scenes, held = make_scenes(SIZES, seed=4)
    measured = evaluator(scenes, window_step)
    confusion = measured.evaluate(VARIABLES).confusion
    for index, (_, mask) in enumerate(held):
        kept = mask != IGNORED
        prediction = measured.predict(VARIABLES, index)
        np.testing.assert_array_equal(
            confusion[index], confusion_matrix(mask[kept], prediction[kept], labels=range(CLASSES))
        )


def test_sums_go_beyond_32_bits():
    """A step that finds 2^31 - 1 pixels in each of five windows."""
    scenes, _ = make_scenes([(8, 50)])
    big = np.full((CLASSES, CLASSES), 2**31 - 1, np.int32)

    def step(variables, batch):
        size = len(batch["image"])
        bins = dict.fromkeys(("count", "confidence", "correct"), np.ones((size, 15)))
        return {
            "confusion": np.stack([big] * size),
            "loss_sum": np.ones(size),
            "loss_count": np.ones(size),
            **bins,
        }

    measured = evaluator(scenes, step, (8, 10), context_px=0, batch_size=2)
    assert len(measured.source) == 5
    np.testing.assert_array_equal(measured.evaluate({}).total, 5 * (2**31 - 1))


def test_batches_are_rounded_up_to_the_devices(window_step):
    scenes, held = make_scenes(SIZES)
    three = types.SimpleNamespace(
        count=3, place=lambda batch: batch, share=lambda size: slice(0, size)
    )
    measured = evaluator(scenes, window_step, batch_size=4, devices=three)
    assert measured.batch_size == 6
    np.testing.assert_array_equal(
        measured.evaluate(VARIABLES).total, sum(expected_confusion(*pair) for pair in held)
    )


def test_scenes_without_a_label_have_no_loss(window_step):
    scenes, held = make_scenes([(8, 10)])
    held[0][1][:] = IGNORED
    result = evaluator(scenes, window_step).evaluate(VARIABLES)
    assert result.total.sum() == 0
    assert result.loss is None


@pytest.mark.parametrize("empty", [0, 3])
def test_scenes_without_a_label_make_no_interval(window_step, empty):
    """One labelled scene has none, and empty scenes beside it change nothing."""
    scenes, held = make_scenes([(8, 10)] * (1 + empty), ignored=False)
    for _, mask in held[1:]:
        mask[:] = IGNORED
    learner = types.SimpleNamespace(
        names=list("abcd")[:CLASSES],
        config=types.SimpleNamespace(evaluation=EvaluationConfig(window_px=(8, 10), context_px=2)),
        window_step=lambda devices: window_step,
    )
    report = SegmentationEvaluator(learner, scenes, "test", HostDevices).report(VARIABLES)
    assert report.figures["test/scenes"] == 1 + empty
    assert report.figures["test/miou_interval"] is None


def test_a_check_may_stop_the_evaluation_between_batches(window_step):
    class Stop(Exception):
        pass

    def check():
        calls.append(1)
        if len(calls) == 2:
            raise Stop

    calls = []
    scenes, _ = make_scenes(SIZES)
    with pytest.raises(Stop):
        evaluator(scenes, window_step, batch_size=1).evaluate(VARIABLES, check)
    assert len(calls) == 2


def test_a_scene_that_cannot_be_read_is_an_input_error(window_step):
    def read():
        raise InputError("tile.jpg can't be decoded.")

    scenes = DecodedScenes([Scene("tile", 8, 10, read)], 1e9)
    with pytest.raises(InputError, match=r"tile\.jpg"):
        evaluator(scenes, window_step).evaluate(VARIABLES)


def test_whole_predictions_and_boundaries_come_scene_by_scene(window_step):
    scenes, held = make_scenes(SIZES)
    seen = []
    result = evaluator(scenes, window_step, batch_size=3).evaluate(
        VARIABLES, whole=lambda index, prediction: seen.append((index, prediction))
    )
    assert [index for index, _ in seen] == [0, 1, 2, 3]
    for (_, prediction), counts, (image, mask) in zip(seen, result.boundary, held, strict=True):
        np.testing.assert_array_equal(prediction, image[..., 0] % CLASSES)
        np.testing.assert_array_equal(counts, boundary_counts(mask, prediction, CLASSES))
    assert evaluator(scenes, window_step).evaluate(VARIABLES).boundary is None


def test_calibration_counts_every_labelled_pixel_once(window_step):
    """Every pixel is predicted with the same confidence, so that all fall into one bin."""
    scenes, held = make_scenes(SIZES)
    calibration = evaluator(scenes, window_step, batch_size=3).evaluate(VARIABLES).calibration
    pixels = sum(int((mask != IGNORED).sum()) for _, mask in held)
    right = sum(
        int(((image[..., 0] % CLASSES) == mask)[mask != IGNORED].sum()) for image, mask in held
    )
    confidence = np.exp(3) / (np.exp(3) + CLASSES - 1)
    held_by = int(np.flatnonzero(calibration["count"])[0])
    assert held_by == int(np.ceil(confidence * 15)) - 1
    assert (calibration["count"][held_by], calibration["correct"][held_by]) == (pixels, right)
    assert calibration["count"].sum() == pixels
    assert calibration["confidence"][held_by] == pytest.approx(pixels * confidence, rel=1e-5)


def test_one_logit_predicts_two_classes():
    """Above zero the second class; loss, confusion and calibration are those of two logits, 0 and
    it."""
    rng = np.random.default_rng(0)
    logit = rng.normal(0, 2, (2, 5, 6, 1)).astype(np.float32)
    masks = rng.integers(0, 2, (2, 5, 6)).astype(np.uint8)
    masks[0, 0] = IGNORED
    both = np.concatenate([np.zeros_like(logit), logit], axis=-1)
    one, two = (window_results(logits, masks, cross_entropy, 2) for logits in (logit, both))
    np.testing.assert_array_equal(one["prediction"], logit[..., 0] > 0)
    assert one.keys() == two.keys()
    for key in one:
        np.testing.assert_allclose(one[key], two[key], rtol=1e-5)


class Weighs:
    """A network of one product: logits are the normalised channels times a matrix."""

    @staticmethod
    def apply(variables, images, *, train):
        assert train is False
        return images @ variables["matrix"]


@pytest.mark.parametrize(
    ("dtype", "high", "greatest"),
    [("uint8", 256, None), ("uint16", 65536, None), ("uint16", 4096, 4095.0), ("float32", 9, None)],
)
def test_the_normalisation_reaches_the_network(dtype, high, greatest):
    """Far from the identity, other for each of four channels, and held to NumPy from the stored
    values on: predictions, confusion, loss."""
    random = np.random.default_rng(5)
    mean, std = (0.4, 7.0, -3.0, 0.25), (0.02, 3.0, 0.5, 11.0)
    matrix = random.normal(size=(4, CLASSES)).astype(np.float32)
    held = []
    for size in ((30, 41), (17, 23)):
        image = random.uniform(0, high, (*size, 4)).astype(dtype)
        held.append((image, random.integers(0, CLASSES, size).astype(np.uint8)))
    scenes = DecodedScenes(
        [
            Scene(str(i), *mask.shape, lambda pair=(image, mask): pair)
            for i, (image, mask) in enumerate(held)
        ],
        1e9,
    )
    step = make_window_step(
        Weighs,
        cross_entropy,
        lambda images: augmentation.normalize(augmentation.scaled(images, greatest), mean, std),
        CLASSES,
    )
    config = EvaluationConfig(window_px=(16, 20), context_px=2, batch_size=3)
    evaluator = SceneEvaluator(scenes, jax.jit(step), HostDevices, config, CLASSES)
    evaluation = evaluator.evaluate({"matrix": jnp.asarray(matrix)})
    scale = greatest or {"uint8": 255, "uint16": 65535, "float32": 1}[dtype]
    losses = []
    for number, (image, mask) in enumerate(held):
        logits = ((image.astype(np.float64) / scale - mean) / std) @ matrix.astype(np.float64)
        logits -= logits.max(-1, keepdims=True)
        of_label = np.take_along_axis(logits, mask[..., None].astype(int), -1)[..., 0]
        losses.append((np.log(np.exp(logits).sum(-1)) - of_label).ravel())
        expected = confusion_matrix(mask.ravel(), logits.argmax(-1).ravel(), labels=range(CLASSES))
        assert np.abs(evaluation.confusion[number] - expected).sum() <= 2  # ties to rounding
    assert evaluation.loss == pytest.approx(np.concatenate(losses).mean(), rel=1e-4)
