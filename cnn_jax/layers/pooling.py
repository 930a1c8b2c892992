"""Max and average pooling that keep the last, incomplete window of an odd-sized map."""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from cnn_jax.layers.taps import taps

# Each is a function of its own in a traced program, under its name, by which
# `cnn_jax.analysis.layer_table` knows it.
_traced_by_name = functools.partial(jax.jit, static_argnames=("window_px", "stride", "padding"))

SMALL = 5
"""Side of the largest windows, in px, whose places a CPU compares one by one where they overlap."""


@_traced_by_name
def max_pool(x, window_px: int = 2, stride: int | None = None, padding: str | int = "SAME"):
    """The largest value of each window of `[batch, height, width, channels]`; sizes are divided by
    `stride`, rounded up.

    "SAME": a window that sticks out over an edge takes the values inside: at the bottom and right
    where windows don't overlap, else
    as TensorFlow divides it between both sides. "VALID": only whole windows count. A number: so
    many places outside, on every side, hold minus infinity. Of equal largest values the first takes
    the gradient.

    Where the stride is the window's side (the default) this is a chain of comparisons, whose
    gradient a CPU computes faster than the select-and-scatter that XLA makes of `reduce_window`.
    With other strides, or a number as padding, it is so on a CPU for windows up to `SMALL`, and
    there is a first derivative in reverse mode only.
    """
    stride = stride or window_px
    if stride != window_px or padding not in ("SAME", "VALID"):
        sides = _sides(padding)
        if isinstance(sides, str):
            sides = tuple(
                lax.padtype_to_pads(x.shape[1:3], (window_px, window_px), (stride, stride), sides)
            )
        return (_compared if window_px <= SMALL else _reduced)(x, window_px, stride, sides)
    if padding == "VALID":
        x = x[:, : x.shape[1] // window_px * window_px, : x.shape[2] // window_px * window_px]
    windows = _windows(x, window_px, jnp.finfo(x.dtype).min)
    # The gradient of `max` looks for the largest value again, by equality. A compiler that computes
    # x twice, rounding differently, leaves nothing equal, and the gradient is NaN.
    largest = windows[:, :, 0, :, 0]
    for position in range(1, window_px**2):
        value = windows[:, :, position // window_px, :, position % window_px]
        largest = jnp.where(_stays(largest, value), largest, value)
    return largest


@_traced_by_name
def average_pool(x, window_px: int = 2, stride: int | None = None, padding: str | int = "SAME"):
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


def _reduced(x, window_px, stride, sides):
    """By XLA's `reduce_window`."""
    return nn.max_pool(x, (window_px, window_px), (stride, stride), padding=sides)


def _places(x, window_px, stride, sides):
    """What stands at each place of the windows, minus infinity outside: `window_px`² maps of the
    result's size."""
    x = lax.pad(
        x, jnp.array(-jnp.inf, x.dtype), [(0, 0, 0), *((*both, 0) for both in sides), (0, 0, 0)]
    )
    return taps(lax.optimization_barrier(x), (window_px, window_px), stride)


def _stays(largest, value):
    """Where what was the largest so far is so still: the first of equal values, and NaN."""
    return (largest >= value) | jnp.isnan(largest)


def _largest(maps):
    """(at each place the largest of several maps, the number of the first that is as large)."""
    largest, which = maps[0], jnp.zeros(maps[0].shape, jnp.uint8)
    for number, one in enumerate(maps[1:], 1):
        kept = _stays(largest, one)
        largest, which = (
            jnp.where(kept, largest, one),
            jnp.where(kept, which, number).astype(jnp.uint8),
        )
    return largest, which


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _compared(x, window_px, stride, sides):
    """By comparisons on a CPU, else by `reduce_window`."""
    return lax.platform_dependent(
        x,
        cpu=lambda x: _largest(_places(x, window_px, stride, sides))[0],
        default=lambda x: _reduced(x, window_px, stride, sides),
    )


def _compared_forward(x, window_px, stride, sides):
    return _compared(x, window_px, stride, sides), x


def _compared_backward(window_px, stride, sides, x, gradient):
    def scattered(x, gradient):
        return jax.vjp(lambda x: _reduced(x, window_px, stride, sides), x)[1](gradient)[0]

    def gathered(x, gradient):
        """Each value of the map gathers from the windows that it stands in. The values of one row
        and column of every `stride` stand in windows at the same places, so that each such part of
        the map is a sum of whole maps."""
        which = _largest(_places(x, window_px, stride, sides))[1]
        reach = (window_px - 1) // stride  # windows further up or left that a value may stand in
        sizes = [
            -(-(size + low) // stride) for size, (low, _) in zip(x.shape[1:3], sides, strict=True)
        ]
        around = [
            (0, 0, 0),
            *(
                (reach, max(need - has, 0), 0)
                for need, has in zip(sizes, which.shape[1:3], strict=True)
            ),
            (0, 0, 0),
        ]
        which = lax.pad(which, jnp.uint8(window_px**2), around)
        gradient = lax.pad(gradient, jnp.zeros((), gradient.dtype), around)
        which, gradient = lax.optimization_barrier((which, gradient))

        def part(row, column):
            total = jnp.zeros((x.shape[0], *sizes, x.shape[3]), jnp.float32)
            for down in range(row, window_px, stride):
                for right in range(column, window_px, stride):
                    place = [reach - down // stride, reach - right // stride]
                    here = (
                        slice(None),
                        *(
                            slice(start, start + size)
                            for start, size in zip(place, sizes, strict=True)
                        ),
                    )
                    total += jnp.where(which[here] == down * window_px + right, gradient[here], 0)
            return total.astype(x.dtype)

        parts = jnp.stack(
            [
                jnp.stack([part(row, column) for column in range(stride)], 3)
                for row in range(stride)
            ],
            2,
        )
        whole = parts.reshape(x.shape[0], sizes[0] * stride, sizes[1] * stride, x.shape[3])
        (top, _), (left, _) = sides
        return whole[:, top : top + x.shape[1], left : left + x.shape[2]]

    return (lax.platform_dependent(x, gradient, cpu=gathered, default=scattered),)


_compared.defvjp(_compared_forward, _compared_backward)


def _sides(padding):
    return padding if isinstance(padding, str) else ((padding, padding), (padding, padding))


def _windows(x, size, fill):
    """`[batch, rows, size, columns, size, channels]` from a map padded at its bottom and right."""
    batch, height, width, channels = x.shape
    x = jnp.pad(x, ((0, 0), (0, -height % size), (0, -width % size), (0, 0)), constant_values=fill)
    return x.reshape(batch, x.shape[1] // size, size, x.shape[2] // size, size, channels)
