"""Blended windows: weights sum to 1 everywhere, a constant stays one, what sees one pixel at a time
gives what it gives without windows, and no more than one row of windows lies in memory."""

import functools
import itertools
import tracemalloc
from concurrent.futures import Future

import numpy as np
import pytest

from cnn_jax.inference.windows import BLENDS, axis, blended, reflected, steps

SIZES = [(1, 1), (5, 70), (33, 64), (64, 200), (65, 66), (131, 97), (300, 257)]


def run(image, predict, window=(64, 64), overlap=(16, 16), blend="gaussian", batch_size=3):
    """The whole result for an image in memory."""
    rows, columns = (
        axis(length, size, shared, blend)
        for length, size, shared in zip(image.shape[:2], window, overlap, strict=True)
    )
    asked, whole, below = [], [], 0

    def read(first, last):
        asked.append((first, last))
        return image[first:last]

    for first, part in blended(read, predict, rows, columns, batch_size):
        assert first == below
        below += len(part)
        whole.append(part.copy())
    assert below == len(image)
    assert asked[0][0] == 0
    assert asked[-1][1] == len(image)
    assert all(a[1] == b[0] for a, b in itertools.pairwise(asked)), "rows are read once, in order"
    return np.concatenate(whole)


def pointwise(windows):
    """A network of 1x1 convolutions with a softmax."""
    kernel = np.random.default_rng(1).normal(size=(3, 8)).astype(np.float32)
    second = np.random.default_rng(2).normal(size=(8, 4)).astype(np.float32)
    logits = np.maximum(windows.astype(np.float32) / 255 @ kernel, 0) @ second
    exponents = np.exp(logits - logits.max(-1, keepdims=True))
    return exponents / exponents.sum(-1, keepdims=True)


@pytest.mark.parametrize("blend", BLENDS)
@pytest.mark.parametrize(("window", "overlap"), [(64, 16), (64, 32), (48, 0), (37, 11)])
def test_weights_are_above_0_where_windows_blend_and_sum_to_1(blend, window, overlap):
    for length in [*range(1, 200), 719, 2149]:
        found = axis(length, window, overlap, blend)
        total = np.zeros(length)
        for start, weights in zip(found.starts, found.weights, strict=True):
            assert (weights >= 0).all() if blend == "none" else (weights > 0).all()
            at = np.arange(start, start + found.window_px)
            inside = (at >= 0) & (at < length)
            total[at[inside]] += weights[inside]
            if len(found.starts) > 1:
                assert start >= -overlap
                assert start + found.window_px <= length + overlap
        np.testing.assert_allclose(total, 1, atol=1e-6)
        for a, b in itertools.pairwise(found.starts):
            assert 0 < b - a <= found.window_px - overlap


def test_places_beyond_the_border_are_mirrored():
    assert reflected(-3, 8, 5).tolist() == [3, 2, 1, 0, 1, 2, 3, 4, 3, 2, 1]
    assert reflected(-1, 3, 1).tolist() == [0, 0, 0, 0]
    np.testing.assert_array_equal(
        reflected(-20, 27, 7), np.pad(np.arange(7), (20, 20), mode="reflect")
    )


@pytest.mark.parametrize("ahead", [0, 1, 2, 7])
def test_results_may_come_later_and_in_any_order(ahead):
    image = np.random.default_rng(0).integers(0, 256, (131, 297, 3), np.uint8)
    rows, columns, begun = axis(131, 64, 16), axis(297, 64, 16), []

    def predict(windows):
        """Does nothing until the result is waited for, and then what was begun last first."""
        one = Future()
        begun.append((one, windows))
        one.result = functools.partial(finish, one)
        return one

    def finish(one):
        assert len(begun) <= ahead + 1
        while begun:
            other, windows = begun.pop()
            other.set_result(pointwise(windows))
        return Future.result(one)

    parts = blended(lambda a, b: image[a:b], predict, rows, columns, 1, ahead=ahead)
    found = np.concatenate([part.copy() for _, part in parts])
    np.testing.assert_allclose(found, pointwise(image), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("blend", BLENDS)
@pytest.mark.parametrize("size", SIZES)
def test_a_constant_stays_constant(size, blend):
    def constant(windows):
        return np.full((*windows.shape[:3], 2), (0.3, 0.7), np.float32)

    found = run(np.zeros((*size, 3), np.uint8), constant, blend=blend)
    np.testing.assert_allclose(found[..., 0], 0.3, rtol=1e-6)
    np.testing.assert_allclose(found[..., 1], 0.7, rtol=1e-6)


@pytest.mark.parametrize("blend", BLENDS)
@pytest.mark.parametrize("size", SIZES)
def test_a_network_without_context_gives_what_it_gives_without_windows(size, blend):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    found = run(image, pointwise, (64, 48), (16, 20), blend)
    np.testing.assert_allclose(found, pointwise(image), rtol=1e-5, atol=1e-7)


def test_a_seam_between_windows_is_blended_away():
    """A network that says nothing of the image, but of where in its window a pixel lies."""
    ramp = np.linspace(0, 1, 64, dtype=np.float32)

    def predict(windows):
        shown = np.broadcast_to(ramp[None, None, :, None], (*windows.shape[:3], 1))
        return np.concatenate([shown, 1 - shown], -1)

    image = np.zeros((64, 300, 3), np.uint8)
    steps = {b: np.abs(np.diff(run(image, predict, blend=b)[..., 0])).max() for b in BLENDS}
    assert steps["uniform"] > 0.3
    assert steps["gaussian"] < steps["uniform"] / 3
    assert steps["linear"] < steps["uniform"] / 3


@pytest.mark.parametrize("blend", ["none", "gaussian", "linear"])
def test_steps_are_those_of_windows_that_see_nothing_but_their_number(blend):
    """Each window says one number: neighbours differ only because windows change."""
    image = np.zeros((64, 300, 3), np.uint8)
    numbers = np.random.default_rng(0).random(99, np.float32)

    def result(change):
        columns, said = axis(300, 64, 16, blend), iter(numbers)

        def predict(windows):
            return np.full((*windows.shape[:3], 1), next(said), np.float32)

        parts = blended(
            lambda a, b: image[a:b],
            predict,
            axis(64, 64, 16, blend),
            steps(columns) if change else columns,
            1,
        )
        return np.concatenate([part.copy() for _, part in parts])[..., 0]

    expected, found = np.diff(result(False), axis=1), result(True)[:, :-1]
    begins = [start - 1 for start in axis(300, 64, 16, blend).starts if start > 0]
    known = np.delete(np.arange(299), begins)  # what a window says before its first pixel is not
    np.testing.assert_allclose(found[:, known], expected[:, known], atol=1e-6)
    assert np.abs(found).max() > 0


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("blend", BLENDS)
def test_windows_that_agree_make_no_steps(size, blend):
    rows, columns = axis(size[0], 64, 16, blend), axis(size[1], 64, 16, blend)
    for down, across in ((rows, steps(columns)), (steps(rows), columns)):
        parts = blended(
            lambda a, b: np.zeros((b - a, size[1], 3), np.uint8),
            lambda windows: np.full((*windows.shape[:3], 1), 0.9, np.float32),
            down,
            across,
        )
        assert max(np.abs(part).max() for _, part in parts) < 1e-6


@pytest.mark.parametrize("length", [720, 1479, 2149, 20_000])
def test_a_step_between_windows_is_divided_among_many_pixels(length):
    """Where two windows disagree by 1, neighbouring pixels differ by no more than a weight does: 1
    without blending, less than a tenth with it."""
    steps = {}
    for blend in BLENDS:
        windows = axis(length, 512, 128, blend)
        weights = np.zeros((len(windows.starts), length + 128))
        for row, start, own in zip(weights, windows.starts, windows.weights, strict=True):
            row[start + 64 :][:512] = own
        steps[blend] = np.abs(np.diff(weights[:, 64:-64])).max()
    assert steps["none"] == 1
    assert steps["gaussian"] < 0.03
    assert steps["linear"] < 0.1


def test_the_answer_may_begin_anywhere():
    image = np.random.default_rng(0).integers(0, 256, (300, 70, 3), np.uint8)
    rows, columns = axis(300, 64, 16), axis(70, 64, 16)

    def read(first, last):
        return image[first:last]

    for begin in (0, 1, 31, 100, 236, 299):
        found = [
            (first, part.copy())
            for first, part in blended(read, pointwise, rows, columns, first_row=begin)
        ]
        assert found[0][0] == begin
        found = np.concatenate([part for _, part in found])
        np.testing.assert_allclose(found, pointwise(image[begin:]), rtol=1e-5, atol=1e-7)


def test_memory_is_that_of_one_row_of_windows():
    """Twelve times as many rows take no more."""
    peaks = []
    for height in (600, 7200):
        rows, columns = axis(height, 64, 16), axis(2000, 64, 16)

        def read(first, last):
            return np.zeros((last - first, 2000, 3), np.uint8)

        def predict(windows):
            return np.full((*windows.shape[:3], 4), 0.25, np.float32)

        tracemalloc.start()
        for _ in blended(read, predict, rows, columns):
            pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]
    assert peaks[1] < 1.6 * 64 * 2000 * (4 * 4 + 3 * 4)
