"""Max and average pooling that keep the last, incomplete window of an odd-sized map."""

import functools
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
    outside, on every side, hold minus infinity. "END": the first window begins at the edge, and a
    last one sticks out at the bottom or right where whole ones leave something (PyTorch's
    `ceil_mode`). Of equal largest values the first takes the gradient.
    """
    stride = stride or window_px
    sides = _sides(padding)
    if padding == "END":
        sides = tuple((0, -(size - window_px) % stride) for size in x.shape[1:3])
    elif stride == window_px and padding == "SAME":
        sides = tuple((0, -size % window_px) for size in x.shape[1:3])
    return max_of_windows(x, window_px, stride, sides)


def average_pool(
    x: jax.Array,
    window_px: int = 2,
    stride: int | None = None,
    padding: str | int = "SAME",
    *,
    count_padding: bool = False,
) -> jax.Array:
    """The mean of each window of `[batch, height, width, channels]`; sizes are divided by `stride`,
    rounded up.

    With padding "VALID" only whole windows count. A window that sticks out over an edge averages
    only the values inside; with `count_padding` zeros outside count too.
    """
    stride = stride or window_px
    means = nn.avg_pool(
        x,
        (window_px, window_px),
        (stride, stride),
        padding=_sides(padding),
        count_include_pad=count_padding,
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


@functools.partial(
    jax.jit, static_argnames=("height_px", "width_px")
)  # by its name the table of layers knows it
def adaptive_average_pool(x: jax.Array, height_px: int, width_px: int) -> jax.Array:
    """The mean of `height_px` by `width_px` areas that divide a map `[batch, height, width,
    channels]` of any size, float32; neighbouring areas overlap where they don't divide it evenly.

    An area reaches from floor(i n / m) to ceil((i + 1) n / m), as in PyTorch.
    """

    def shares(size, areas):  # in operations of JAX, since a size may be a symbol in an export
        area = jnp.arange(areas)[:, None]
        first, last = area * size // areas, -(-(area + 1) * size // areas)
        place = jnp.arange(size)[None]
        inside = (first <= place) & (place < last)
        return inside.astype(jnp.float32) / (last - first).astype(jnp.float32)

    rows, columns = shares(x.shape[1], height_px), shares(x.shape[2], width_px)
    return jnp.einsum(
        "ph,bhwc,qw->bpqc", rows, x.astype(jnp.float32), columns, precision=lax.Precision.HIGHEST
    )


def _sides(padding: str | int) -> Any:
    return padding if isinstance(padding, str) else ((padding, padding), (padding, padding))
