"""Objects in scenes of any size: found window by window, joined where windows cut them.

Neighbouring windows overlap. Where two of them saw the same object, what both saw of it lies in
their overlap, and agrees there: by that, parts are known to be of one object, however many windows
it reaches across. If one window saw it whole, its answer is taken; else the parts are united.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cnn_jax.data import objects
from cnn_jax.data.objects import Annotation, Box

SAME_IOU = 0.5
"""Parts agree in the overlap of their windows from this IoU on."""

WITHIN = 0.8
"""A box that its window cut belongs to another that covers this share of it there: what is seen of
an object has a smaller box than the object."""

RIM_PX = 2
"""What ends so near to a window's edge was cut by it."""


@dataclass(frozen=True)
class Seen:
    """An object as a window saw it.

    Attributes:
        label: its class.
        score: from 0 to 1.
        box: in px of the scene.
        mask: its pixels within the whole pixels of `box`, bool [rows, columns]; None of a detector.
        window: number of the window, row and column.
    """

    label: int
    score: float
    box: Box
    mask: np.ndarray | None = None
    window: tuple[int, int] = (0, 0)

    @property
    def corner_px(self) -> tuple[int, int]:
        """First row and column of the mask."""
        return int(self.box[1]), int(self.box[0])


@dataclass(frozen=True)
class Grid:
    """Windows over a scene.

    Attributes:
        height_px: of the scene.
        width_px: of the scene.
        window_px: height and width of a window; a smaller scene is padded below and on the right.
        rows: where rows of windows begin.
        columns: where columns begin.
    """

    height_px: int
    width_px: int
    window_px: tuple[int, int]
    rows: tuple[int, ...]
    columns: tuple[int, ...]

    def rectangle(self, window: tuple[int, int]) -> Box:
        """What a window sees of the scene, as a box."""
        top, left = self.rows[window[0]], self.columns[window[1]]
        bottom = min(top + self.window_px[0], self.height_px)
        right = min(left + self.window_px[1], self.width_px)
        return left, top, right, bottom


def grid(height_px: int, width_px: int, window_px: tuple[int, int], overlap_px: int) -> Grid:
    """Evenly spaced windows that overlap by `overlap_px` at least and cover a scene."""

    def starts(length, window):
        if length <= window:
            return (0,)
        count = 1 + -(-(length - window) // max(window - overlap_px, 1))
        return tuple(i * (length - window) // (count - 1) for i in range(count))

    rows, columns = starts(height_px, window_px[0]), starts(width_px, window_px[1])
    return Grid(height_px, width_px, window_px, rows, columns)


def windows_of(
    places: Grid, read: Callable[[int, int], np.ndarray]
) -> Iterator[tuple[tuple[int, int], np.ndarray]]:
    """Each window's number and pixels `[height, width, channels]`, row by row of windows; edges are
    repeated beyond a small scene.

    Args:
        places: of the windows.
        read: `(first row, last row) -> pixels [rows, width, channels]`; each row is asked for once,
            in order.
    """
    height, width = places.window_px
    band, first = None, 0
    for row, top in enumerate(places.rows):
        bottom = min(top + height, places.height_px)
        if band is None:
            band = read(top, bottom)
        else:  # what the row of windows above saw too is kept
            band = np.concatenate([band[top - first :], read(first + len(band), bottom)])
        first = top
        for column, left in enumerate(places.columns):
            part = band[:, left : left + width]
            down, right = height - part.shape[0], width - part.shape[1]
            if down or right:
                part = np.pad(part, ((0, down), (0, right), (0, 0)), mode="edge")
            yield (row, column), part


def find(
    places: Grid,
    read: Callable[[int, int], np.ndarray],
    see: Callable[[np.ndarray], Sequence[Sequence[Seen]]],
    batch_size: int,
    check: Callable[[], None] = lambda: None,
) -> list[Annotation]:
    """The objects of a scene, best first.

    Args:
        places: of the windows.
        read: as `windows_of` takes it.
        see: images `[batch, height, width, channels]` -> of each, what lies in it, in px of the
            window.
        batch_size: windows at once.
        check: called between batches; may raise to stop.
    """
    seen: dict[tuple[int, int], list[Seen]] = {}
    waiting: list[tuple[tuple[int, int], np.ndarray]] = []

    def look():
        check()
        for (window, _), every in zip(waiting, see(np.stack([w for _, w in waiting])), strict=True):
            placed = (_placed(one, places, window) for one in every)
            seen[window] = [one for one in placed if one is not None]
        waiting.clear()

    for one in windows_of(places, read):
        waiting.append(one)
        if len(waiting) == batch_size:
            look()
    if waiting:
        look()
    found = [annotation(one, places) for one in joined(seen, places)]
    return sorted(found, key=lambda one: -(one.score or 0.0))


def _placed(one: Seen, places: Grid, window: tuple[int, int]) -> Seen | None:
    """What a window saw, in the scene; None where it lies in the padding."""
    left, top, right, bottom = places.rectangle(window)
    box = (
        max(one.box[0] + left, left),
        max(one.box[1] + top, top),
        min(one.box[2] + left, right),
        min(one.box[3] + top, bottom),
    )
    if box[2] - box[0] <= 0 or box[3] - box[1] <= 0:
        return None
    mask = one.mask
    if mask is not None:
        mask = mask[: int(bottom - top - one.box[1]), : int(right - left - one.box[0])]
        if not mask.any():
            return None
    return Seen(one.label, one.score, box, mask, window)


def joined(seen: dict[tuple[int, int], list[Seen]], places: Grid) -> list[Seen]:
    """Objects, each once, of what all windows saw."""
    every = [one for window in sorted(seen) for one in seen[window]]
    first = {}
    count = 0
    for window in sorted(seen):
        first[window] = count
        count += len(seen[window])
    parent = list(range(count))

    def root(i):
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for window in sorted(seen):
        row, column = window
        for down, right in ((0, 1), (1, -1), (1, 0), (1, 1)):
            other = row + down, column + right
            if other not in seen:
                continue
            for i, j in _same(seen[window], seen[other], places):
                a, b = root(first[window] + i), root(first[other] + j)
                parent[max(a, b)] = min(a, b)
    groups: dict[int, list[Seen]] = {}
    for index, one in enumerate(every):
        groups.setdefault(root(index), []).append(one)
    return [_one_of(group, places) for group in groups.values()]


def _shared(places, one, other) -> Box:
    a, b = places.rectangle(one), places.rectangle(other)
    return max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])


def _same(ours: Sequence[Seen], theirs: Sequence[Seen], places: Grid) -> list[tuple[int, int]]:
    """Pairs of places whose parts within the overlap of two windows agree."""
    if not ours or not theirs:
        return []
    shared = _shared(places, ours[0].window, theirs[0].window)
    if shared[2] <= shared[0] or shared[3] <= shared[1]:
        return []
    a, b = (np.array([one.box for one in of]) for of in (ours, theirs))
    low, high = np.array(shared[:2] * 2), np.array(shared[2:] * 2)
    a, b = np.clip(a, low, high), np.clip(b, low, high)
    ious = box_ious(a, b)
    same_label = np.array([o.label for o in ours])[:, None] == np.array([t.label for t in theirs])
    if ours[0].mask is not None:
        close = np.argwhere((ious > 0) & same_label).tolist()
        return [(i, j) for i, j in close if _mask_iou(ours[i], theirs[j], shared) >= SAME_IOU]
    areas = [np.prod(x[:, 2:] - x[:, :2], axis=-1) for x in (a, b)]
    both = ious * (areas[0][:, None] + areas[1]) / (1 + ious)
    cut = [np.array([_is_cut(one, places) for one in of]) for of in (ours, theirs)]
    within = (both >= WITHIN * areas[0][:, None]) & cut[0][:, None]
    within |= (both >= WITHIN * areas[1]) & cut[1]
    same = (ious >= SAME_IOU) | (within & (ious > 0))
    return [(i, j) for i, j in np.argwhere(same & same_label).tolist()]


def box_ious(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """IoUs `[n, m]` of boxes `[n, 4]` and `[m, 4]`; 0 of boxes without area."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    both = np.prod(np.clip(high - low, 0, None), axis=-1)
    areas = [np.prod(np.clip(x[:, 2:] - x[:, :2], 0, None), axis=-1) for x in (a, b)]
    union = areas[0][:, None] + areas[1][None] - both
    return np.where(both > 0, both / np.maximum(union, 1e-12), 0.0)


def _mask_iou(one: Seen, other: Seen, shared: Box) -> float:
    """Of the pixels of two masks within a box."""
    left, top, right, bottom = (int(at) for at in shared)
    a, b = (_within(of, left, top, right, bottom) for of in (one, other))
    both, either = int((a & b).sum()), int((a | b).sum())
    return both / either if either else 0.0


def _within(one: Seen, left, top, right, bottom) -> np.ndarray:
    """An object's mask within a rectangle, bool [bottom - top, right - left]."""
    assert one.mask is not None
    whole = np.zeros((bottom - top, right - left), bool)
    row, column = one.corner_px
    height, width = one.mask.shape
    first_row, first_column = max(row, top), max(column, left)
    last_row, last_column = min(row + height, bottom), min(column + width, right)
    if last_row > first_row and last_column > first_column:
        whole[first_row - top : last_row - top, first_column - left : last_column - left] = (
            one.mask[first_row - row : last_row - row, first_column - column : last_column - column]
        )
    return whole


def _one_of(group: Sequence[Seen], places: Grid) -> Seen:
    """What a group of parts comes to."""
    best = max(group, key=lambda one: one.score)
    if len(group) == 1:
        return best
    whole = [one for one in group if not _is_cut(one, places)]
    if whole:
        chosen = max(whole, key=lambda one: one.score)
        return Seen(chosen.label, best.score, chosen.box, chosen.mask, chosen.window)
    boxes = np.array([one.box for one in group])
    left, top, right, bottom = (*boxes[:, :2].min(0).tolist(), *boxes[:, 2:].max(0).tolist())
    mask = None
    if best.mask is not None:
        edges = int(left), int(top), int(right), int(bottom)
        mask = np.logical_or.reduce([_within(one, *edges) for one in group])
    return Seen(best.label, best.score, (left, top, right, bottom), mask, best.window)


def _is_cut(one: Seen, places: Grid) -> bool:
    """Whether an object reaches an edge of its window inside the scene."""
    left, top, right, bottom = places.rectangle(one.window)
    return (
        (left > 0 and one.box[0] < left + RIM_PX)
        or (top > 0 and one.box[1] < top + RIM_PX)
        or (right < places.width_px and one.box[2] > right - RIM_PX)
        or (bottom < places.height_px and one.box[3] > bottom - RIM_PX)
    )


def annotation(one: Seen, places: Grid) -> Annotation:
    """An object as annotations hold it."""
    shape: Any = None
    if one.mask is not None:
        size = places.height_px, places.width_px
        shape = objects.placed_runs(one.mask, *one.corner_px, *size)
    return Annotation(one.label, one.box, shape, score=one.score)
