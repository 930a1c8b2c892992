"""Windows over scenes of any size, blended: they overlap, and each pixel is the weighted mean of
the windows that see it.

Along one axis a scene longer than a window is reflected at both borders by half the overlap, so
that its first and last pixels are no window's rim, and windows are spread over it evenly. A scene
that fits in a window gets one, reflected to the size `needed_px`. The weights of a
window are the product of two vectors, one an axis, and each vector is divided by the sum over all
windows beforehand: so the weights of every pixel sum to 1, and nothing is divided afterwards.
A network that sees one pixel at a time therefore gives what it gives without windows.

Rows go in and rows come out. Between them lie the rows of one row of windows, and their sums.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cnn_jax.errors import InputError
from cnn_jax.evaluation.windows import needed_px

BLENDS = ("gaussian", "linear", "uniform", "none")


@dataclass(frozen=True)
class Axis:
    """Windows along one axis of a scene.

    Attributes:
        length_px: of the scene.
        window_px: of each window.
        starts: of the windows, ascending; below 0 where a window begins in the reflection.
        weights: float32 `[windows, window_px]`; over all windows those of a pixel sum to 1.
    """

    length_px: int
    window_px: int
    starts: tuple[int, ...]
    weights: np.ndarray


def axis(length_px: int, window_px: int, overlap_px: int, blend: str = "gaussian") -> Axis:
    """Windows along one axis.

    Args:
        length_px: of the scene.
        window_px: of a window.
        overlap_px: what neighbouring windows share at least, below `window_px`.
        blend: "gaussian" (a deviation of an eighth of the window), "linear" (from the middle to
            the rim), "uniform", or "none": each pixel is that of the window whose middle is
            nearest.

    Raises:
        InputError: there is no such blend.
    """
    if blend not in BLENDS:
        raise InputError(f"blend is {blend!r}; it must be one of {', '.join(BLENDS)}.")
    if length_px <= window_px:
        window_px = needed_px(length_px, window_px)
        return Axis(length_px, window_px, (0,), np.ones((1, window_px), np.float32))
    border = overlap_px // 2
    beyond = length_px + 2 * border - window_px
    steps = -(-beyond // (window_px - overlap_px))
    starts = tuple(i * beyond // steps - border for i in range(steps + 1))
    at = np.arange(window_px) - (window_px - 1) / 2
    if blend == "none":
        middles = np.array(starts)[:, None] + (window_px - 1) / 2
        nearest = np.abs(np.arange(-border, length_px + border) - middles).argmin(0)
        weights = [
            nearest[start + border :][:window_px] == number for number, start in enumerate(starts)
        ]
        return Axis(length_px, window_px, starts, np.array(weights, np.float32))
    profile = {
        "gaussian": np.exp(-0.5 * (at / (window_px / 8)) ** 2),
        "linear": window_px / 2 - np.abs(at),
        "uniform": np.ones(window_px),
    }[blend]
    total = np.zeros(length_px + 2 * border)
    for start in starts:
        total[start + border :][:window_px] += profile
    weights = [profile / total[start + border :][:window_px] for start in starts]
    return Axis(length_px, window_px, starts, np.array(weights, np.float32))


def steps(windows: Axis) -> Axis:
    """The same windows, weighted by how much their weight changes from each pixel to the next. What
    `blended` sums up by these is how far neighbouring pixels lie apart because windows change,
    whatever the image shows there: 0 in one window, and where the windows agree.

    What a window says of the pixel before its first is unknown; it is taken to agree there. With
    "uniform", whose windows begin with their full weight, that is where the steps are."""
    changes = np.diff(windows.weights, axis=1, append=np.float32(0))
    places = np.add.outer(windows.starts, np.arange(windows.window_px)) - windows.starts[0]
    total = np.zeros(places.max() + 1, np.float32)
    np.add.at(total, places, changes)
    return replace(windows, weights=changes - windows.weights * total[places])


def reflected(first: int, last: int, length: int) -> np.ndarray:
    """The places within a scene that the places from `first` to `last` show, int `[last - first]`:
    beyond the border what lies as far before it, again and again."""
    period = max(2 * (length - 1), 1)
    at = np.arange(first, last) % period
    return np.minimum(at, period - at) if length > 1 else np.zeros(last - first, int)


def blended(
    read: Callable[[int, int], np.ndarray],
    predict: Callable[[np.ndarray], Any],
    rows: Axis,
    columns: Axis,
    batch_size: int = 2,
    first_row: int = 0,
    ahead: int = 1,
) -> Iterator[tuple[int, np.ndarray]]:
    """What a network says of a scene, from top to bottom.

    Args:
        read: `(first row, last row) -> pixels [rows, width, channels]`. Each row is asked for once,
            in order, from that on which the first window begins.
        predict: `windows [batch, height, width, channels] -> [batch, height, width, classes]`,
            which may be an array of JAX that is still being computed, or a future.
        rows: the windows from top to bottom.
        columns: those from left to right.
        batch_size: windows at once. The last batch of a row is filled up with copies.
        first_row: where the answer begins.
        ahead: so many batches are begun before the result of the first is asked for, so that
            devices don't wait.

    Yields:
        (number of its first row, float32 `[rows, width, classes]`), which the next turn overwrites.
    """
    height, width, size = rows.length_px, columns.length_px, rows.window_px
    across = [reflected(start, start + columns.window_px, width) for start in columns.starts]
    seen: deque[np.ndarray] = deque()  # the rows from `top` on
    needed = [i for i, start in enumerate(rows.starts) if start + size > first_row]
    done = max(rows.starts[needed[0]], 0)
    # From `done` on rows are summed; what lies above `first_row` lacks windows and is dropped.
    top = below = int(reflected(rows.starts[needed[0]], done + size, height).min())
    sums: Any = None
    for number in needed:
        start = rows.starts[number]
        down = reflected(start, start + size, height)
        if (end := int(down.max()) + 1) > below:
            seen.append(read(below, end))
            below = end
        while seen and top + len(seen[0]) <= down.min():
            top += len(seen.popleft())
        band = np.concatenate(seen) if len(seen) > 1 else seen[0]
        # Of the scene's first rows some are seen through the reflection alone.
        inside = slice(max(start, 0), min(start + size, height))
        kept = slice(inside.start - start, inside.stop - start)
        for places, found in _row_of_windows(band, down - top, across, predict, batch_size, ahead):
            if sums is None:
                sums = np.zeros((size, width, found.shape[-1]), np.float32)
            begin = columns.starts[places]
            left, right = max(begin, 0), min(begin + columns.window_px, width)
            shown = slice(left - begin, right - begin)
            weights = np.multiply.outer(rows.weights[number, kept], columns.weights[places, shown])
            sums[inside.start - done : inside.stop - done, left:right] += (
                found[kept, shown] * weights[..., None]
            )
        last = number + 1 == len(rows.starts)
        ready = height - done if last else max(rows.starts[number + 1], 0) - done
        if not ready:
            continue
        if done + ready > first_row:
            dropped = max(first_row - done, 0)
            yield done + dropped, sums[dropped:ready]
        done += ready
        for first in range(0, size, ready):  # piece by piece: at once it would be copied whole
            rest = sums[first + ready : first + 2 * ready]
            sums[first : first + len(rest)] = rest
            sums[first + len(rest) : first + ready] = 0


def _row_of_windows(band, down, across, predict, batch_size, ahead):
    """Yields (number of the window in its row, its result on the host)."""
    waiting: deque[tuple[list[int], Any]] = deque()

    def oldest():
        numbers, found = waiting.popleft()
        found = found.result() if isinstance(found, Future) else found
        return zip(numbers, np.asarray(found), strict=False)

    for first in range(0, len(across), batch_size):
        numbers = list(range(first, min(first + batch_size, len(across))))
        padded = numbers + numbers[-1:] * (min(batch_size, len(across)) - len(numbers))
        found = predict(np.stack([band[np.ix_(down, across[i])] for i in padded]))
        waiting.append((numbers, found))
        if len(waiting) > ahead:
            yield from oldest()
    while waiting:
        yield from oldest()
