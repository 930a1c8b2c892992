"""Calibration by hand, against NumPy in float64, and on labels that are drawn from the
probabilities themselves."""

import itertools
import math

import jax
import numpy as np
import pytest

from cnn_jax.data.scenes import IGNORED
from cnn_jax.evaluation.calibration import calibration_counts, expected_calibration_error

counts_of = jax.jit(calibration_counts, static_argnames="bins")


@pytest.fixture(scope="module")
def example():
    """Logits [2, 30, 40, 4], and labels drawn from their softmax, some ignored."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (2, 30, 40, 4)).astype(np.float32)
    cumulative = np.cumsum(np.asarray(jax.nn.softmax(logits)), -1)
    labels = np.minimum((rng.random((2, 30, 40, 1)) > cumulative).sum(-1), 3)
    return logits, np.where(rng.random(labels.shape) < 0.2, IGNORED, labels).astype(np.int32)


def test_by_hand():
    """Confidences 0.9 (right), just below 0.8 (wrong), 0.55 (right) and one that is ignored, in
    five bins."""
    probabilities = np.array([[[[0.9, 0.1], [0.2, 0.8 - 1e-6], [0.55, 0.45], [0.7, 0.3]]]])
    counts = counts_of(np.log(probabilities), np.array([[[0, 0, 0, IGNORED]]]), bins=5)
    np.testing.assert_array_equal(counts["count"], [[0, 0, 1, 1, 1]])
    np.testing.assert_array_equal(counts["correct"], [[0, 0, 1, 0, 1]])
    np.testing.assert_allclose(counts["confidence"], [[0, 0, 0.55, 0.8, 0.9]], rtol=1e-5)
    row = {key: value[0] for key, value in counts.items()}
    assert expected_calibration_error(**row) == pytest.approx((0.1 + 0.8 + 0.45) / 3, rel=1e-5)


def test_is_numpys_in_float64(example):
    logits, labels = example
    counts = counts_of(logits, labels)
    assert {key: value.dtype for key, value in counts.items()} == {
        "count": "int32",
        "confidence": "float32",
        "correct": "int32",
    }
    for image in range(2):
        kept = labels[image] != IGNORED
        exact = np.exp(logits[image][kept].astype(np.float64))
        probabilities = exact / exact.sum(-1, keepdims=True)
        confidence, right = probabilities.max(-1), probabilities.argmax(-1) == labels[image][kept]
        edges = np.linspace(0, 1, 16)
        weights = {"count": None, "confidence": confidence, "correct": right.astype(float)}
        error = 0.0
        for key, values in weights.items():
            expected = np.histogram(confidence, edges, weights=values)[0]
            np.testing.assert_allclose(counts[key][image], expected, rtol=1e-5, atol=1e-5)
        for low, high in itertools.pairwise(edges):
            inside = (confidence > low) & (confidence <= high)
            if inside.any():
                error += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
        row = {key: value[image] for key, value in counts.items()}
        assert expected_calibration_error(**row) == pytest.approx(error, rel=1e-5)


def test_labels_drawn_from_the_probabilities_are_calibrated_and_sharper_logits_are_not(example):
    logits, labels = example
    error = [
        expected_calibration_error(
            **{
                key: np.asarray(value).sum(0)
                for key, value in counts_of(logits * f, labels).items()
            }
        )
        for f in (1, 4)
    ]
    assert error[0] < 0.03  # of chance, with 1,900 pixels
    assert error[1] > 0.15


def test_certainty_is_in_the_last_bin_and_a_tie_of_all_in_its_own():
    logits = np.array([[[[1e4, -1e4], [0, 0]]]], np.float32)
    counts = counts_of(logits, np.array([[[1, 0]]]), bins=4)
    np.testing.assert_array_equal(counts["count"], [[0, 1, 0, 1]])
    np.testing.assert_allclose(counts["confidence"], [[0, 0.5, 0, 1]])
    np.testing.assert_array_equal(counts["correct"], [[0, 1, 0, 0]])


def test_one_logit_is_that_of_the_second_of_two_classes(example):
    logits, labels = example
    labels = np.where(labels == IGNORED, IGNORED, labels % 2)
    one = logits[..., :1]
    two = np.concatenate([np.zeros_like(one), one], -1)
    for a, b in zip(counts_of(one, labels).values(), counts_of(two, labels).values(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_nothing_counted_has_no_error(example):
    logits, labels = example
    counts = counts_of(logits, np.full_like(labels, IGNORED))
    assert not any(np.any(value) for value in counts.values())
    assert math.isnan(
        expected_calibration_error(**{key: value[0] for key, value in counts.items()})
    )


def test_counts_of_a_large_window_are_whole_numbers():
    """600 x 700 pixels, half of them right, all of one confidence, whose sum float32 keeps."""
    logits = np.broadcast_to(np.log(np.float32([0.9, 0.1])), (1, 600, 700, 2))
    labels = np.broadcast_to(np.arange(700) % 2, (1, 600, 700))
    counts = counts_of(logits, labels)
    assert int(counts["count"].sum()) == 420_000
    assert int(counts["correct"].sum()) == 210_000
    assert float(counts["confidence"].sum()) == pytest.approx(378_000, rel=1e-5)
