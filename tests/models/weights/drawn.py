"""Weights that need no file: every tensor's values follow from its name and shape, with PyTorch
and without."""

import zlib
from collections.abc import Mapping

import numpy as np


def tensor(name: str, shape: tuple[int, ...], scales: Mapping[str, float] = {}) -> np.ndarray:
    """Values of the tensor of that name: He-like kernels; scales, offsets and statistics that are
    random too, so that none can be left out unnoticed.

    `scales` has the mean square of what each norm sees, by the norm's name: its statistics are as
    large. Without, values grow from block to block, and a sigmoid of large ones makes other logits
    of what float32 rounds away: PyTorch's of SE-ResNet-50 are 5e-3 from those in float64.
    """
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    kind = name.rpartition(".")[2]
    if kind == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    if len(shape) > 1:
        fan_in = float(np.prod(shape[1:]))
        return rng.standard_normal(shape, np.float32) * np.float32((2 / fan_in) ** 0.5)
    scale = np.float32(scales.get(name.rpartition(".")[0], 1.0))
    if kind == "running_var":
        return scale * rng.uniform(0.5, 1.5, shape).astype(np.float32)
    if kind == "weight":
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    value = (0.1 * rng.standard_normal(shape, np.float32)).astype(np.float32)
    return np.sqrt(scale) * value if kind == "running_mean" else value


def images(px: int, channels: int = 3) -> np.ndarray:
    """One image float32 `[1, px, px, channels]`, with values about 0."""
    return np.random.default_rng(px).standard_normal((1, px, px, channels), np.float32)
