"""Figures of merit by hand and against scikit-learn: absent classes, ignored pixels, counts beyond
32 bits."""

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    confusion_matrix,
    f1_score,
    jaccard_score,
)

from cnn_jax.data.scenes import IGNORED
from cnn_jax.evaluation import metrics

NAMES = ["building", "land", "road", "water"]


@pytest.fixture(scope="module")
def example():
    """Labels and predictions [3, 17, 23] of four classes, some ignored; class 1 is never true,
    class 3 neither true nor guessed."""
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 2, IGNORED], (3, 17, 23), p=[0.5, 0.3, 0.2])
    predictions = np.where(
        rng.random(labels.shape) < 0.6, labels % IGNORED, rng.integers(0, 3, labels.shape)
    )
    return labels, predictions


@pytest.fixture(scope="module")
def matrix(example):
    """Their confusion matrix, by scikit-learn."""
    labels, predictions = (x[example[0] != IGNORED] for x in example)
    return confusion_matrix(labels, predictions, labels=range(4)).astype(np.int64)


@pytest.mark.parametrize("kind", [np.uint8, np.int32])
def test_confusion_of_each_image_is_scikit_learns(example, kind):
    labels, predictions = example
    got = metrics.confusion(labels.astype(kind), predictions.astype(kind), 4)
    assert got.dtype == np.int32
    for matrix, truth, guess in zip(got, labels, predictions, strict=True):
        kept = truth != IGNORED
        np.testing.assert_array_equal(
            matrix, confusion_matrix(truth[kept], guess[kept], labels=range(4))
        )


def test_rows_are_the_truth_and_ignored_pixels_are_not_counted():
    labels, predictions = np.array([[[0, 0, 1, IGNORED]]]), np.array([[[1, 1, 1, 0]]])
    np.testing.assert_array_equal(metrics.confusion(labels, predictions, 2), [[[0, 2], [0, 1]]])


def test_confusion_counts_more_pixels_than_float32_and_int8_hold():
    """300 x 1,000 pixels of one class; sums in 8 bits would stop at 127."""
    labels = np.ones((1, 300, 1000), np.uint8)
    np.testing.assert_array_equal(metrics.confusion(labels, labels, 2), [[[0, 0], [0, 300_000]]])


def test_figures_by_hand():
    """Truth 3 + 5 pixels of two classes: 2 and 4 are right, 1 and 1 go wrong; the third class does
    not occur."""
    matrix = np.array([[2, 1, 0], [1, 4, 0], [0, 0, 0]])
    np.testing.assert_allclose(metrics.iou(matrix), [2 / 4, 4 / 6, np.nan])
    np.testing.assert_allclose(metrics.dice(matrix), [4 / 6, 8 / 10, np.nan])
    np.testing.assert_allclose(metrics.class_accuracy(matrix), [2 / 3, 4 / 5, np.nan])
    assert metrics.pixel_accuracy(matrix) == 6 / 8
    assert metrics.miou(matrix) == pytest.approx((2 / 4 + 4 / 6) / 2)
    assert metrics.frequency_weighted_iou(matrix) == pytest.approx(3 / 8 * 2 / 4 + 5 / 8 * 4 / 6)


def test_a_class_that_is_only_guessed_counts_as_zero_and_one_that_does_not_occur_not_at_all():
    matrix = np.array([[3, 1, 0], [0, 0, 0], [0, 0, 0]])
    np.testing.assert_allclose(metrics.iou(matrix), [3 / 4, 0, np.nan])
    assert metrics.miou(matrix) == pytest.approx(3 / 8)
    np.testing.assert_allclose(metrics.class_accuracy(matrix), [3 / 4, np.nan, np.nan])


def test_figures_are_scikit_learns(example, matrix):
    labels, predictions = (x[example[0] != IGNORED] for x in example)
    present = [0, 1, 2]
    values = metrics.scores(matrix, NAMES, "test")
    per_class = {
        "iou": jaccard_score(labels, predictions, labels=present, average=None),
        "dice": f1_score(labels, predictions, labels=present, average=None),
    }
    for kind, expected in per_class.items():
        for k in present:
            assert values[f"test/{kind}/{NAMES[k]}"] == pytest.approx(expected[k])
        assert values[f"test/{kind}/water"] is None
    assert values["test/miou"] == pytest.approx(per_class["iou"].mean())
    assert values["test/mean_dice"] == pytest.approx(per_class["dice"].mean())
    assert values["test/pixel_accuracy"] == pytest.approx(accuracy_score(labels, predictions))
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        assert values["test/mean_class_accuracy"] == pytest.approx(
            balanced_accuracy_score(labels, predictions)
        )
    weighted = jaccard_score(labels, predictions, labels=[0, 2], average="weighted")
    assert values["test/frequency_weighted_iou"] == pytest.approx(weighted)


def test_scores_are_named_by_split_and_class_and_hold_plain_numbers(matrix):
    values = metrics.scores(matrix, NAMES, "validation")
    summaries = {
        "miou",
        "frequency_weighted_iou",
        "mean_dice",
        "pixel_accuracy",
        "mean_class_accuracy",
    }
    each = {f"{kind}/{name}" for kind in ("iou", "dice", "class_accuracy") for name in NAMES}
    assert set(values) == {f"validation/{key}" for key in summaries | each}
    assert all(value is None or type(value) is float for value in values.values())


def test_without_a_counted_pixel_no_figure_exists():
    values = metrics.scores(np.zeros((4, 4), np.int64), NAMES, "test")
    assert set(values.values()) == {None}


def test_counts_beyond_32_bits_are_exact():
    big = 2**40
    matrix = np.array([[3 * big + 1, big], [0, 1]], np.int64)
    assert metrics.pixel_accuracy(matrix) == pytest.approx((3 * big + 2) / (4 * big + 2), rel=1e-15)
    np.testing.assert_allclose(
        metrics.iou(matrix), [(3 * big + 1) / (4 * big + 1), 1 / (big + 1)], rtol=1e-15
    )


@pytest.mark.parametrize(
    "figure",
    [
        metrics.iou,
        metrics.miou,
        metrics.dice,
        metrics.class_accuracy,
        metrics.pixel_accuracy,
        metrics.frequency_weighted_iou,
    ],
)
@pytest.mark.parametrize("count", [1, 2, 4])
def test_the_matrices_of_a_batch_are_refused_before_they_are_added_up(figure, count):
    """Of as many images as classes, and of one, they would broadcast to a figure of nothing."""
    labels = np.arange(count * 12).reshape(count, 3, 4) % 4
    matrices = metrics.confusion(labels, labels[:, ::-1], 4)
    with pytest.raises(ValueError, match=rf"is \[{count}, 4, 4\]: add up those of"):
        figure(matrices)
    figure(matrices.sum(0))


def test_counts_in_32_bits_on_the_device_dont_overflow():
    matrix = jnp.array([[2**30 + 1, 2**30], [2**30, 2**30 + 1]], jnp.int32)
    np.testing.assert_allclose(metrics.iou(matrix), 2 * [1 / 3], rtol=1e-6)
    np.testing.assert_allclose(metrics.dice(matrix), 2 * [1 / 2], rtol=1e-6)
    assert metrics.pixel_accuracy(matrix) == pytest.approx(1 / 2)
