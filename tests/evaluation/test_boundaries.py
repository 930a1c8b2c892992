"""Boundary IoU by hand, and against distance transforms and erosions one class at a time."""

import numpy as np
import pytest
from scipy import ndimage

from cnn_jax.data.scenes import IGNORED
from cnn_jax.evaluation.boundaries import (
    boundary,
    boundary_counts,
    boundary_iou,
    default_distance_px,
)


@pytest.fixture(scope="module")
def example():
    """Two masks [60, 70] of blobs of four classes, the first with ignored pixels."""
    rng = np.random.default_rng(0)
    truth, prediction = (
        ndimage.gaussian_filter(rng.normal(size=(4, 60, 70)), (0, 4, 4)).argmax(0).astype(np.uint8)
        for _ in range(2)
    )
    prediction = np.where(rng.random(truth.shape) < 0.05, prediction, truth)
    truth[20:30, 10:40] = IGNORED
    truth[rng.random(truth.shape) < 0.02] = IGNORED
    return truth, prediction


def test_by_hand():
    """A column of class 1 at the right of six of class 0: two columns of 0 and the one of 1 are
    within two pixels."""
    mask = np.zeros((3, 7), np.uint8)
    mask[:, 6] = 1
    np.testing.assert_array_equal(boundary(mask, 2), [[0, 0, 0, 0, 1, 1, 1]] * 3)
    prediction = np.zeros_like(mask)
    prediction[:, 5:] = 1
    np.testing.assert_array_equal(boundary_counts(mask, prediction, 3, 2), [[3, 9], [3, 6], [0, 0]])
    np.testing.assert_array_equal(boundary_iou([[3, 9], [3, 6], [0, 0]]), [1 / 3, 1 / 2, np.nan])


def test_distance_is_the_greater_of_both_axes():
    mask = np.zeros((9, 9), np.uint8)
    mask[4, 4] = 1
    expected = np.zeros((9, 9), bool)
    expected[2:7, 2:7] = True
    np.testing.assert_array_equal(boundary(mask, 2), expected)


def test_the_edge_of_the_image_and_ignored_pixels_make_no_boundary():
    mask = np.full((9, 9), 3, np.uint8)
    mask[2:4, 5] = IGNORED
    assert not boundary(mask, 2).any()
    other = np.where(mask == IGNORED, IGNORED, 0).astype(np.uint8)
    assert not boundary(other, 2).any()
    counts = boundary_counts(mask, np.where(mask == IGNORED, np.uint8(1), mask), 4, 2)
    np.testing.assert_array_equal(counts, 0)


@pytest.mark.parametrize("distance_px", [1, 3, 8])
def test_is_the_distance_transform_of_each_class(example, distance_px):
    """Beyond ignored pixels too: distances are measured through them."""
    for mask in example:
        expected = np.zeros(mask.shape, bool)
        for k in range(4):
            others = (mask != k) & (mask != IGNORED)
            expected |= (mask == k) & (
                ndimage.distance_transform_cdt(~others, "chessboard") <= distance_px
            )
        np.testing.assert_array_equal(boundary(mask, distance_px), expected)


@pytest.mark.parametrize("distance_px", [1, 4])
def test_counts_are_those_of_repeated_erosions(example, distance_px):
    """Without ignored pixels, a class's boundary region is what 3 x 3 erosions take away, as in the
    paper."""
    truth, prediction = (np.where(mask == IGNORED, 0, mask).astype(np.uint8) for mask in example)
    square = np.ones((3, 3))
    got = boundary_counts(truth, prediction, 5, distance_px)
    assert got.dtype == np.int64
    for k in range(5):
        a, b = (
            (mask == k) & ~ndimage.binary_erosion(mask == k, square, distance_px, border_value=1)
            for mask in (truth, prediction)
        )
        np.testing.assert_array_equal(got[k], [(a & b).sum(), (a | b).sum()])


def test_what_is_predicted_where_the_truth_is_ignored_makes_no_difference(example):
    truth, prediction = example
    changed = np.where(truth == IGNORED, 3 - prediction, prediction)
    np.testing.assert_array_equal(
        boundary_counts(truth, changed, 4, 3), boundary_counts(truth, prediction, 4, 3)
    )


def test_a_perfect_prediction_and_a_wide_band(example):
    """A band wider than the scene is the whole scene, and Boundary IoU is IoU."""
    truth, prediction = example
    np.testing.assert_array_equal(boundary_iou(boundary_counts(truth, truth, 4)), 1)
    kept = truth != IGNORED
    counts = boundary_counts(truth, prediction, 4, 80)
    for k in range(4):
        a, b = (truth == k) & kept, (prediction == k) & kept
        np.testing.assert_array_equal(counts[k], [(a & b).sum(), (a | b).sum()])


def test_default_distance_is_two_percent_of_the_diagonal():
    assert default_distance_px(3000, 4000) == 100
    assert default_distance_px(8, 8) == 1
    truth = np.zeros((300, 400), np.uint8)
    truth[:, 200:] = 1
    np.testing.assert_array_equal(boundary_counts(truth, truth, 2), [[3000, 3000]] * 2)
