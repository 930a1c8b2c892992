"""Mean and standard deviation of each channel: as configured, or of the training data."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from cnn_jax.data.scenes import IGNORED
from cnn_jax.errors import InputError

COUNTED_PX = 2**22
"""Pixels counted at once: while they are, each takes eight bytes a channel."""


@dataclass(frozen=True)
class Moments:
    """So many pixels, of each channel the sums of their values and of the squares (exact for
    integers of up to 16 bits, float64 for other types), and the greatest value of all."""

    pixels: int
    sums: tuple[float, ...]
    squares: tuple[float, ...]
    greatest: float = 0

    @classmethod
    def none(cls, channels: int) -> "Moments":
        """Those of no pixels."""
        return cls(0, (0,) * channels, (0,) * channels)

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(
            self.pixels + other.pixels,
            tuple(a + b for a, b in zip(self.sums, other.sums, strict=True)),
            tuple(a + b for a, b in zip(self.squares, other.squares, strict=True)),
            max(self.greatest, other.greatest),
        )

    def statistics(self, greatest: float = 1.0) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel, where `greatest` is 1; of no pixels, 0."""
        n = max(self.pixels, 1)
        mean = tuple(total / n / greatest for total in self.sums)
        # In whole numbers, where sums are whole: differences of large floats would lose all.
        spread = (n * s - t * t for s, t in zip(self.squares, self.sums, strict=True))
        return mean, tuple(max(of, 0) ** 0.5 / n / greatest for of in spread)


def moments(image: np.ndarray, mask: np.ndarray | None = None) -> Moments:
    """The moments of an image `[..., width, channels]`; with its mask uint8 `[..., width]`, of the
    pixels alone that aren't `IGNORED`."""
    channels = image.shape[-1]
    pixels = image.reshape(-1, channels)
    valid = None if mask is None else mask.reshape(-1) != IGNORED
    exact = image.dtype.kind in "iu" and image.dtype.itemsize <= 2
    total = Moments.none(channels)
    for start in range(0, len(pixels), COUNTED_PX):
        part = pixels[start : start + COUNTED_PX]
        part = part if valid is None else part[valid[start : start + COUNTED_PX]]
        part = part.astype(np.int64 if exact else np.float64)
        sums, squares = part.sum(0), np.einsum("pc,pc->c", part, part)
        greatest = part.max(initial=0).item()
        total += Moments(len(part), tuple(sums.tolist()), tuple(squares.tolist()), greatest)
    return total


def normalization(
    config: Any, channels: int, greatest: float, train: Sequence
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation, one each a channel, where `greatest` is 1.

    Args:
        config: the `data` section: `mean` and `std` are one number for all channels, one a channel,
            or "auto": of the training data. A channel that never varies has a deviation of 1 then.
        channels: of an image.
        greatest: the value that becomes 1.
        train: `(image, mask or label)` by index; threads take them where "auto" is asked for.

    Raises:
        InputError: there are other numbers of values than channels.
    """
    mean, std = config.mean, config.std
    for name, values in (("mean", mean), ("std", std)):
        if values != "auto" and len(values) not in (1, channels):
            # Weights that a network begins with bring values for red, green and blue.
            grey = channels == 1 and len(values) == 3 and hasattr(config, "channels")
            mend = " (for a network of coloured images --data.channels 3)" if grey else ""
            raise InputError(
                f"data.{name} has {len(values)} values, but the images of {config.source} have"
                f" {channels} channels; give one, or one a channel{mend}."
            )
    if "auto" in (mean, std):
        found = sum(_of_each(train), Moments.none(channels))
        of_data = found.statistics(greatest)
        mean = of_data[0] if mean == "auto" else mean
        std = tuple(value or 1.0 for value in of_data[1]) if std == "auto" else std
    return tuple(mean) * (channels // len(mean)), tuple(std) * (channels // len(std))


def _of_each(train):
    """The moments of every example, in order."""

    def one(index):
        image, label = train[index]
        return moments(image, label if isinstance(label, np.ndarray) else None)

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        yield from threads.map(one, range(len(train)))
