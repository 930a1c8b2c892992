"""Windows that cover a scene so that every pixel is counted exactly once."""

import itertools
from dataclasses import dataclass

import numpy as np

from cnn_jax.data.pipeline import DecodedScenes, cut
from cnn_jax.data.scenes import IGNORED

MULTIPLE_PX = 32
"""What a window smaller than asked for is rounded up to. Strided convolutions pad images of even
and of odd sizes differently, and so what they see would lie elsewhere than in training; and scenes
of many sizes share few compiled programs."""


@dataclass(frozen=True)
class Span:
    """Along one axis: what a window sees, `start` to `start + size`, and what it counts, `first` to
    `last` (half-open)."""

    start: int
    first: int
    last: int


def needed_px(length_px: int, window_px: int) -> int:
    """The side of a window for a scene that may be smaller."""
    return min(window_px, -(-length_px // MULTIPLE_PX) * MULTIPLE_PX)


def window_for(size_px: tuple[int, int], window_px: tuple[int, int]) -> tuple[int, int]:
    """Height and width of a window for a scene of that size: `needed_px` of both."""
    return needed_px(size_px[0], window_px[0]), needed_px(size_px[1], window_px[1])


def spans(length_px: int, window_px: int, context_px: int) -> list[Span]:
    """Windows along one axis of a scene.

    Windows lie inside the scene, so that the model sees real pixels instead of padding, and each
    counts what is nearer to its middle than to its neighbour's: at least `context_px` from its rim,
    except at the scene's own edge. A scene shorter than the window gets one window, padded at its
    end.
    """
    if length_px <= window_px:
        return [Span(0, 0, length_px)]
    count = 1 + -(-(length_px - window_px) // (window_px - 2 * context_px))
    starts = [i * (length_px - window_px) // (count - 1) for i in range(count)]
    edges = [0, *((a + window_px + b) // 2 for a, b in itertools.pairwise(starts)), length_px]
    return [
        Span(start, first, last)
        for start, first, last in zip(starts, edges, edges[1:], strict=False)
    ]


class WindowSource:
    """Random access to the evaluation windows of scenes, scene by scene.

    An element holds `image` [height, width, channels] as stored, `mask` uint8 [height, width] with
    `IGNORED` where the window doesn't count, and `scene` int32. A window of `windows[k]` is (scene
    index, vertical Span, horizontal Span). Windows are no larger than the largest scene needs,
    see `needed_px`.
    """

    def __init__(self, scenes: DecodedScenes, window_px: tuple[int, int], context_px: int) -> None:
        self.scenes = scenes
        self.window_px = window_for(scenes.largest_px, window_px)
        self.windows = [
            (index, vertical, horizontal)
            for index, scene in enumerate(scenes.scenes)
            for vertical in spans(scene.height_px, self.window_px[0], context_px)
            for horizontal in spans(scene.width_px, self.window_px[1], context_px)
        ]

    def __len__(self):
        return len(self.windows)

    def __getitem__(self, record_key):
        index, vertical, horizontal = self.windows[record_key]
        window = cut(*self.scenes[index], vertical.start, horizontal.start, self.window_px)
        counted = np.full(self.window_px, IGNORED, np.uint8)
        part = counted_part(vertical, horizontal)
        counted[part] = window["mask"][part]
        return {"image": window["image"], "mask": counted, "scene": np.int32(index)}


def counted_part(vertical: Span, horizontal: Span) -> tuple[slice, slice]:
    """The slices of a window that it counts."""
    rows, columns = (slice(s.first - s.start, s.last - s.start) for s in (vertical, horizontal))
    return rows, columns
