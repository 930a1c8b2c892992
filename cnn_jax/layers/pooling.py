"""Max and average pooling that keep the last, incomplete window of an odd-sized map."""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn

# Each is a function of its own in a traced program, under its name, by which `cnn_jax.reporting.layers` knows it.
_traced_by_name = functools.partial(jax.jit, static_argnames=("window_px", "stride", "padding"))


@_traced_by_name
def max_pool(x, window_px: int = 2, stride: int | None = None, padding: str | int = "SAME"):
    """The largest value of each window of `[batch, height, width, channels]`; sizes are divided by `stride`, rounded up.

    "SAME": a window that sticks out over an edge takes the values inside: at the bottom and right where windows don't overlap, else
    as TensorFlow divides it between both sides. "VALID": only whole windows count. A number: so many places outside, on every side,
    hold minus infinity. Where windows don't overlap (stride as large as the window, the default) this is a chain of comparisons,
    whose gradient a CPU computes faster than the select-and-scatter that XLA makes of `reduce_window`. Of equal largest values
    the first takes the gradient.
    """
    stride = stride or window_px
    if stride != window_px or padding not in ("SAME", "VALID"):
        return nn.max_pool(x, (window_px, window_px), (stride, stride), padding=_sides(padding))
    if padding == "VALID":
        x = x[:, : x.shape[1] // window_px * window_px, : x.shape[2] // window_px * window_px]
    windows = _windows(x, window_px, jnp.finfo(x.dtype).min)
    # The gradient of `max` looks for the largest value again, by equality. A compiler that computes x twice, rounding differently,
    # leaves nothing equal, and the gradient is NaN.
    largest = windows[:, :, 0, :, 0]
    for position in range(1, window_px**2):
        value = windows[:, :, position // window_px, :, position % window_px]
        largest = jnp.where((largest >= value) | jnp.isnan(largest), largest, value)
    return largest


@_traced_by_name
def average_pool(x, window_px: int = 2, stride: int | None = None, padding: str | int = "SAME"):
    """The mean of each window of `[batch, height, width, channels]`; sizes are divided by `stride`, rounded up.

    With padding "VALID" only whole windows count. A window that sticks out over an edge averages only the values inside.
    """
    stride = stride or window_px
    means = nn.avg_pool(x, (window_px, window_px), (stride, stride), padding=_sides(padding), count_include_pad=False)
    return means.astype(x.dtype)  # Flax divides by float32 counts


def _sides(padding):
    return padding if isinstance(padding, str) else ((padding, padding), (padding, padding))


def _windows(x, size, fill):
    """`[batch, rows, size, columns, size, channels]` from a map padded at its bottom and right."""
    batch, height, width, channels = x.shape
    x = jnp.pad(x, ((0, 0), (0, -height % size), (0, -width % size), (0, 0)), constant_values=fill)
    return x.reshape(batch, x.shape[1] // size, size, x.shape[2] // size, size, channels)
