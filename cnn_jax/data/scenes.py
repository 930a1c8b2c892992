"""What a set of aerial scenes is, whether drawn by the generator or read from a folder."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

IGNORED = 255
"""The label of pixels that count in no loss and no metric: ignored colours, padding, what a
rotation uncovers."""


def nothing_of(dtype: Any) -> int:
    """What masks of a type hold where nothing counts: `IGNORED`; of signed types, which hold
    numbers of objects, -1."""
    return -1 if np.dtype(dtype).kind == "i" else IGNORED


SPLITS = ("train", "validation", "test")


def in_train_too(files: Mapping[str, Collection[Any]]) -> list[str]:
    """A sentence for each other split that has images of training, by the digests of their files
    in each split."""
    shared = {split: len({*files["train"]} & {*files[split]}) for split in SPLITS[1:]}
    return [
        f"{count:,} images of {split} are images of train too: part them."
        for split, count in shared.items()
        if count
    ]


def without_training(what: str, classes: Sequence[str], counts: Sequence[int], mend: str) -> list:
    """A sentence on the classes of which training has nothing, where there are some.

    Args:
        what: an "image", or an "object".
        classes: their names.
        counts: how many of each class are trained on.
        mend: what to do.
    """
    absent = [name for name, count in zip(classes, counts, strict=True) if not count]
    if not absent:
        return []
    which = ", ".join(absent[:5]) + (f" or {len(absent) - 5} more" if absent[5:] else "")
    return [f"no training {what} is of {which}, which can't be learnt: {mend}."]


def alike(classes: Sequence[str]) -> list[str]:
    """A sentence for classes whose names differ in capitals alone, as people type one name."""
    seen: dict[str, str] = {}
    return [
        f"the classes {other} and {name} differ in capitals alone: if they are one, name them"
        " alike."
        for name in classes
        if (other := seen.setdefault(name.casefold(), name)) != name
    ]


@dataclass(frozen=True)
class SceneClass:
    """A class that is scored: its name as in the data set, and the sRGB colour (0 to 255) that
    pictures show it in."""

    name: str
    color: tuple[int, int, int]


@dataclass(frozen=True)
class Scene:
    """One photograph with its mask, not decoded yet.

    `read` returns `(image, mask)`: `[height, width, channels]` of the type that its file stores,
    and uint8 `[height, width]` with class indices or `IGNORED`. It raises `InputError` for a file
    that can't be used. `height_px` and `width_px` are known without decoding.
    """

    name: str
    height_px: int
    width_px: int
    read: Callable[[], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class SceneSet:
    """Scenes by split, as a model sees them.

    Attributes:
        classes: in index order.
        splits: "train", "validation" and "test"; each may be empty.
        fingerprint: a hexadecimal digest that changes when any image, mask, class or split does.
        channels: of every image.
        dtype: of every image: "uint8", "uint16", "float32", ...
        greatest: the value of an image that becomes 1.
        description: of the folder, as a record holds it; None where there is none.
        notes: sentences about what the folder holds that people should know.
        uncertain: of the scenes read so far, how many pixels of each mask a threshold or a distance
            decided though they lie near the border between two classes; filled by `Scene.read`.
    """

    classes: tuple[SceneClass, ...]
    splits: Mapping[str, tuple[Scene, ...]]
    fingerprint: str
    channels: int = 3
    dtype: str = "uint8"
    greatest: float = 255.0
    description: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()
    uncertain: dict[str, int] = field(default_factory=dict)
