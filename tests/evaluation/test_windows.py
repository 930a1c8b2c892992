"""Evaluation windows: every pixel counted once, inside the scene, with its context."""

import itertools

import numpy as np
import pytest

from cnn_jax.data.pipeline import DecodedScenes
from cnn_jax.data.scenes import IGNORED, Scene
from cnn_jax.evaluation.windows import Span, WindowSource, counted_part, needed_px, spans


@pytest.mark.parametrize(
    ("window", "context"),
    [(1, 0), (2, 0), (5, 2), (6, 0), (7, 3), (8, 3), (9, 2), (64, 0), (64, 20), (65, 32)],
)
def test_spans_count_every_pixel_once_with_context_inside_the_scene(window, context):
    for length in [*range(1, 4 * window), 719, 2149, 3000]:
        result = spans(length, window, context)
        counted = np.zeros(length, int)
        for span in result:
            counted[span.first : span.last] += 1
            assert span.start <= span.first < span.last <= span.start + window
            assert span.start >= 0
            assert length < window or span.start + window <= length, "the model would see padding"
            assert span.first == 0 or span.first - span.start >= context
            assert span.last == length or span.start + window - span.last >= context
        np.testing.assert_array_equal(counted, 1)
        assert (result[0].first, result[-1].last) == (0, length)
        assert all(a.start < b.start and a.last == b.first for a, b in itertools.pairwise(result))


def test_no_fewer_windows_would_do():
    """With n windows of which neighbours share two contexts, no more than window + (n - 1)(window -
    2 context) is covered."""
    for window, context in ((8, 3), (64, 20), (5, 0)):
        for length in range(window, 20 * window):
            fewer = len(spans(length, window, context)) - 1
            assert fewer == 0 or window + (fewer - 1) * (window - 2 * context) < length


def test_spans_by_hand():
    assert spans(5, 8, 2) == [Span(0, 0, 5)]
    assert spans(8, 8, 2) == [Span(0, 0, 8)]
    assert spans(12, 8, 2) == [Span(0, 0, 6), Span(4, 6, 12)]
    assert spans(16, 8, 0) == [Span(0, 0, 8), Span(8, 8, 16)]
    assert spans(20, 8, 1) == [Span(0, 0, 7), Span(6, 7, 13), Span(12, 13, 20)]


@pytest.fixture(scope="module")
def source():
    """Windows of 8x10 with context 2 over scenes that are larger, smaller and mixed, and what the
    scenes hold."""
    rng = np.random.default_rng(0)
    held = [
        (rng.integers(0, 256, (*s, 3), np.uint8), rng.integers(0, 5, s).astype(np.uint8))
        for s in [(19, 23), (5, 7), (8, 31)]
    ]
    held[0][1][3:5] = IGNORED
    scenes = [
        Scene(str(i), *mask.shape, lambda pair=(image, mask): pair)
        for i, (image, mask) in enumerate(held)
    ]
    return WindowSource(DecodedScenes(scenes, 1e9), (8, 10), 2), held


def test_windows_hold_the_scene_and_count_each_labelled_pixel_once(source):
    source, held = source
    counted = [np.zeros(mask.shape, int) for _, mask in held]
    for number, (index, vertical, horizontal) in enumerate(source.windows):
        window, (image, mask) = source[number], held[index]
        assert window["image"].shape == (8, 10, 3)
        assert window["scene"] == index
        rows, columns = (
            slice(vertical.start, vertical.start + 8),
            slice(horizontal.start, horizontal.start + 10),
        )
        seen = image[rows, columns]
        np.testing.assert_array_equal(window["image"][: seen.shape[0], : seen.shape[1]], seen)
        expected = np.full((8, 10), IGNORED, np.uint8)
        part = counted_part(vertical, horizontal)
        expected[part] = mask[vertical.first : vertical.last, horizontal.first : horizontal.last]
        np.testing.assert_array_equal(window["mask"], expected)
        counted[index][vertical.first : vertical.last, horizontal.first : horizontal.last] += 1
    for counts in counted:
        np.testing.assert_array_equal(counts, 1)
    labels = np.concatenate([source[number]["mask"].ravel() for number in range(len(source))])
    np.testing.assert_array_equal(
        np.bincount(labels[labels != IGNORED], minlength=5),
        sum(np.bincount(mask[mask != IGNORED], minlength=5) for _, mask in held),
    )


def test_windows_are_no_larger_than_the_largest_scene_needs(source):
    _, held = source
    scenes = [Scene("", *mask.shape, lambda: None) for _, mask in held[1:]]
    assert WindowSource(DecodedScenes(scenes, 0), (100, 20), 2).window_px == (32, 20)


def test_a_window_that_is_cut_down_has_a_side_that_networks_halve():
    assert [needed_px(length, 512) for length in (1, 32, 33, 475, 512, 513)] == [
        *(32, 32, 64, 480),
        *(512, 512),
    ]
    assert needed_px(475, 300) == 300
