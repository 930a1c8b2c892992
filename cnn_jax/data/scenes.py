"""What a set of aerial scenes is, whether drawn by the generator or read from a folder."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

IGNORED = 255
"""The label of pixels that count in no loss and no metric: ignored colours, padding, what a
rotation uncovers."""

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class SceneClass:
    """A class that is scored: its name as in the data set, and the sRGB colour (0 to 255) that
    pictures show it in."""

    name: str
    color: tuple[int, int, int]


@dataclass(frozen=True)
class Scene:
    """One photograph with its mask, not decoded yet.

    `read` returns `(image, mask)`: uint8 [height, width, 3] in sRGB, and uint8 [height, width] with
    class indices or `IGNORED`. It raises `InputError` for a file that can't be used. `height_px`
    and `width_px` are known without decoding.
    """

    name: str
    height_px: int
    width_px: int
    read: Callable[[], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class SceneSet:
    """Scenes by split ("train", "validation", "test"; a split may be empty), the classes in index
    order, and a fingerprint.

    The fingerprint is a hexadecimal digest that changes when any image, mask, class or split does.
    """

    classes: tuple[SceneClass, ...]
    splits: Mapping[str, tuple[Scene, ...]]
    fingerprint: str
