"""Max and average pooling that keep the last, incomplete window of an odd-sized map."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from cnn_jax.layers.operations import max_of_windows


def max_pool(
    x: jax.Array, window_px: int = 2, stride: int | None = None, padding: str | int = "SAME"
) -> jax.Array:
    """The largest value of each window of `[batch, height, width, channels]`; sizes are divided by
    `stride`, rounded up.

    "SAME": a window that sticks out over an edge takes the values inside: at the bottom and right
    where windows don't overlap (the default: `stride` is the window's side), else as TensorFlow
    divides it between both sides. "VALID": only whole windows count. A number: so many places
    outside, on every side, hold minus infinity. Of equal largest values the first takes the
    gradient.
    """
    stride = stride or window_px
    sides = _sides(padding)
    if stride == window_px and padding == "SAME":
        sides = tuple((0, -size % window_px) for size in x.shape[1:3])
    return max_of_windows(x, window_px, stride, sides)


def average_pool(
    x: jax.Array, window_px: int = 2, stride: int | None = None, padding: str | int = "SAME"
) -> jax.Array:
    """The mean of each window of `[batch, height, width, channels]`; sizes are divided by `stride`,
    rounded up.

    With padding "VALID" only whole windows count. A window that sticks out over an edge averages
    only the values inside.
    """
    stride = stride or window_px
    means = nn.avg_pool(
        x,
        (window_px, window_px),
        (stride, stride),
        padding=_sides(padding),
        count_include_pad=False,
    )
    return means.astype(x.dtype)  # Flax divides by float32 counts


def global_average_pool(x: jax.Array, *, keepdims: bool = False) -> jax.Array:
    """The mean of each channel of `[batch, height, width, channels]`, float32 `[batch, channels]`;
    `[batch, 1, 1, channels]` with `keepdims`."""
    if x.dtype != jnp.float32:
        # XLA of jaxlib 0.12 fuses the mean with a residual block in bfloat16, and computes NaN on
        # CPUs.
        x = lax.optimization_barrier(x)
    return x.mean((1, 2), dtype=jnp.float32, keepdims=keepdims)


def _sides(padding: str | int) -> Any:
    return padding if isinstance(padding, str) else ((padding, padding), (padding, padding))
