"""What makes training steps, and the finding of objects, fast on a CPU; in force only while they
are traced.

XLA for CPUs computes some convolutions, their gradients and the gradients of poolings many times
slower than they need to be. Within `fast_on_cpu` layers compute the same, to rounding, by other
operations. Convolutions and overlapping poolings then have a first derivative in reverse mode only.
"""

import contextlib
import functools
import math
from collections.abc import Iterator, Sequence
from functools import reduce
from operator import add
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from cnn_jax.layers import operations
from cnn_jax.layers.normalization import keeps_statistics

FEW = 8
"""Channels below which the gradient of a 3x3 kernel is left to XLA."""

ONE_BAND, BAND = 2**20, 2**18
"""Values of a convolution's two maps up to which the gradient of a 3x3 kernel is one product; and
of a band, where it is a sum."""

SMALL = 5
"""Side of the largest windows, in px, whose places are compared one by one where they overlap."""


@contextlib.contextmanager
def fast_on_cpu() -> Iterator[None]:
    """While this is entered, what is traced computes as a CPU trains fastest.

    It changes Flax's `nn.Conv`, its `nn.BatchNorm` in training, and the functions of
    `cnn_jax.layers.operations`. Variables stay the same; what was traced or compiled before, or is
    afterwards, is not touched. May be entered again within itself.

    Example:
        with fast_on_cpu():
            compiled = jax.jit(step).lower(state, batch).compile()
    """

    with (
        nn.intercept_methods(_fast_modules),
        operations.replaced(convolve=convolve, joined=joined, max_of_windows=max_of_windows),
    ):
        yield


def _fast_modules(call, args, kwargs, context):
    """An interceptor of Flax's convolution and BatchNorm."""
    module = context.module
    if context.method_name == "__call__":
        if isinstance(module, nn.Conv) and module.conv_general_dilated is None:
            # The field by which Flax lets a module compute with another function; modules are
            # frozen once they are made.
            object.__setattr__(module, "conv_general_dilated", convolve)
            try:
                return call(*args, **kwargs)
            finally:
                object.__setattr__(module, "conv_general_dilated", None)
        if isinstance(module, nn.BatchNorm) and not module.is_initializing():
            averaged = (args[1:] or (kwargs.get("use_running_average"),))[0]
            averaged = module.use_running_average if averaged is None else averaged
            plain = (module.axis, module.use_bias, module.axis_index_groups) == (-1, True, None)
            trained = averaged is False and not keeps_statistics(module)
            if plain and trained and kwargs.get("mask") is None:
                return _batch_norm(module, args[0] if args else kwargs["x"])
    return call(*args, **kwargs)


def _batch_norm(module, x):
    """`nn.BatchNorm` in training, as one multiplication and one addition a value.

    Flax's subtracts the mean from the map before it scales; its gradient then sums over the map
    three times and writes it twice. Here mean and variance become one factor and one addend a
    channel, whose gradient takes two sums and one pass. Both take the variance as the mean of
    squares less the square of the mean, and so lose digits where a mean is far larger than its
    deviation (at thirty deviations four are left of a gradient, with Flax's too).
    """
    channels = x.shape[-1:]
    dtype = module.dtype or jnp.promote_types(x.dtype, jnp.float32)
    running_mean = module.variable("batch_stats", "mean", jnp.zeros, channels, jnp.float32)
    running_variance = module.variable("batch_stats", "var", jnp.ones, channels, jnp.float32)
    x = x.astype(jnp.float32)
    places = tuple(range(x.ndim - 1))
    moments = jnp.stack([x.mean(places), jnp.square(x).mean(places)])
    if module.axis_name is not None:
        moments = lax.pmean(moments, module.axis_name)
    mean, variance = moments[0], jnp.maximum(moments[1] - jnp.square(moments[0]), 0)
    keep = module.momentum
    running_mean.value = keep * running_mean.value + (1 - keep) * mean
    running_variance.value = keep * running_variance.value + (1 - keep) * variance
    factor = lax.rsqrt(variance + module.epsilon)
    if module.use_scale:
        factor *= module.param("scale", module.scale_init, channels, module.param_dtype)
    bias = module.param("bias", module.bias_init, channels, module.param_dtype)
    return (x * factor + (bias - mean * factor)).astype(dtype)


# ---- convolution

_plain = functools.partial(lax.conv_general_dilated, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def convolve(
    x: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    padding: Any,
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = ("NHWC", "HWIO", "NHWC"),
    feature_group_count: int = 1,
    precision: Any = None,
) -> jax.Array:
    """What `lax.conv_general_dilated` computes of maps `[batch, height, width, channels]`.

    Three kinds of kernel are computed otherwise. With a 1x1 kernel `[1, 1, channels, features]` and
    without padding the result and both gradients are the matrix products that they are, up to 20
    times as fast as the convolutions that XLA makes of them. So are those of a 3x3 kernel with
    stride 1 and SAME padding on maps of few places; on others the kernel's gradient is a product,
    or a sum of some (`_to_kernel`). A kernel `[height, width, 1, channels]` for each channel by
    itself is a sum of shifted products. Others are left to XLA.
    """
    size, groups = kernel.shape[:2], feature_group_count
    if x.ndim == 4 and set(lhs_dilation or (1,)) == {1} and precision is None:
        rates = tuple(rhs_dilation or (1, 1))
        sides = padding
        if isinstance(padding, str):
            reaches = [(length - 1) * rate + 1 for length, rate in zip(size, rates, strict=True)]
            sides = lax.padtype_to_pads(x.shape[1:3], reaches, strides, padding)
        sides = tuple((low, high) for low, high in sides)
        if groups == 1 and size == (1, 1) and not any(map(sum, sides)):
            return _pointwise(x, kernel, tuple(strides))
        if groups == 1 and size == (3, 3) and {*strides, *rates, *sum(sides, ())} == {1}:
            return (_spatial_of_few_places if _has_few_places(x, kernel) else _spatial)(x, kernel)
        alike = strides[0] == strides[1] and rates[0] == rates[1]
        if alike and groups == x.shape[-1] == kernel.shape[-1] > 1:
            return _depthwise(x, kernel, strides[0], rates[0], sides)
    return lax.conv_general_dilated(
        x,
        kernel,
        strides,
        padding,
        lhs_dilation,
        rhs_dilation,
        dimension_numbers,
        feature_group_count,
        precision=precision,
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _pointwise(x, kernel, strides):
    """With a 1x1 kernel, and without padding."""
    return lax.dot_general(
        _every(lax.optimization_barrier(x), strides), kernel[0, 0], (((3,), (0,)), ((), ()))
    )


def _pointwise_forward(x, kernel, strides):
    return _pointwise(x, kernel, strides), (x, kernel)


def _pointwise_backward(strides, inputs, gradient):
    # Behind the barrier lie the maps as they are in memory: XLA else computes what leads to them
    # once more for each product.
    x, kernel = inputs
    x, gradient = lax.optimization_barrier((x, gradient))
    to_x = lax.dot_general(gradient, kernel[0, 0], (((3,), (1,)), ((), ())))
    (to_x,) = jax.linear_transpose(lambda x: _every(x, strides), x)(to_x)
    x = _every(x, strides)
    # Twice as fast with the narrower map first. The barrier keeps XLA from turning the product
    # round again.
    if x.shape[-1] <= gradient.shape[-1]:
        return to_x, _over_places(x, gradient)[None, None]
    return to_x, lax.optimization_barrier(_over_places(gradient, x)).T[None, None]


_pointwise.defvjp(_pointwise_forward, _pointwise_backward)


def _every(x, strides):
    """The places of a map where a kernel that moves by `strides` stands."""
    return x[:, :: strides[0], :: strides[1]]


def _has_few_places(x, kernel):
    """Whether a map has at most two places for each feature that results: its neighbourhoods are
    then small beside the kernel, which XLA would turn round and transpose for the gradient, and
    read again for every few places (2 to 5 times the time of products).
    """
    return math.prod(x.shape[:3]) <= 2 * kernel.shape[-1]


@jax.custom_vjp
def _spatial_of_few_places(x, kernel):
    """With a 3x3 kernel, stride 1 and SAME padding, as products."""
    return lax.dot_general(_neighbours(x), _as_matrix(kernel), (((3,), (0,)), ((), ())))


def _few_places_forward(x, kernel):
    return _spatial_of_few_places(x, kernel), (x, kernel)


def _few_places_backward(inputs, gradient):
    x, kernel = inputs
    x, gradient = lax.optimization_barrier((x, gradient))
    to_neighbours = lax.dot_general(gradient, _as_matrix(kernel), (((3,), (1,)), ((), ())))
    to_kernel = _over_places(_neighbours(x), gradient).reshape(kernel.shape)
    return _to_centres(to_neighbours), to_kernel


_spatial_of_few_places.defvjp(_few_places_forward, _few_places_backward)


@jax.custom_vjp
def _spatial(x, kernel):
    """With a 3x3 kernel, stride 1 and SAME padding."""
    return _plain(x, kernel, (1, 1), "SAME")


def _spatial_forward(x, kernel):
    return _spatial(x, kernel), (x, kernel)


def _spatial_backward(inputs, gradient):
    x, kernel = inputs
    (to_x,) = jax.vjp(lambda x: _plain(x, kernel, (1, 1), "SAME"), x)[1](gradient)
    return to_x, _to_kernel(*lax.optimization_barrier((x, gradient)))


_spatial.defvjp(_spatial_forward, _spatial_backward)


def _as_matrix(kernel):
    return kernel.reshape(-1, kernel.shape[-1])


def _neighbours(x):
    """`[batch, height, width, 9 * channels]`: beside each place its eight neighbours, in the order
    of a 3x3 kernel's taps."""
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return lax.optimization_barrier(jnp.concatenate(taps(x, (3, 3)), -1))


def _to_centres(neighbours):
    """The transpose of `_neighbours`: to each place is added what it gave to its neighbours."""
    batch, height, width, _ = neighbours.shape
    neighbours = jnp.pad(lax.optimization_barrier(neighbours), ((0, 0), (1, 1), (1, 1), (0, 0)))
    neighbours = neighbours.reshape(batch, height + 2, width + 2, 3, 3, -1)
    given = (
        neighbours[:, 2 - down : 2 - down + height, 2 - right : 2 - right + width, down, right]
        for down in range(3)
        for right in range(3)
    )
    return reduce(add, (one.astype(jnp.float32) for one in given)).astype(neighbours.dtype)


def _to_kernel(x, gradient):
    """`[3, 3, channels, features]`: the gradient of a 3x3 kernel with stride 1 and SAME padding.

    Beside each place of `x` stand its neighbours to left and right, beside each of `gradient` those
    below and above: all nine taps are then one matrix product. Of large maps it is summed over
    bands of rows, whose copies stay in a CPU's caches. Twice as fast as the convolution that XLA
    makes of it, which is left for the few channels of an image.
    """
    batch, height, width, channels = x.shape
    if channels < FEW:
        return _laid_out(x, gradient)
    row = batch * width * (channels + gradient.shape[-1])
    if row * height <= ONE_BAND:
        zeros = jnp.zeros_like(gradient[:, :1])
        total = _over_places(*_beside(x, gradient, zeros, zeros))
    else:
        most = max(BAND // row, 1)
        rows = max(rows for rows in range(1, min(height, most) + 1) if height % rows == 0)
        total = _over_bands(x, gradient, rows)
    total = total.reshape(3, channels, 3, -1).transpose(2, 0, 1, 3).astype(x.dtype)
    # Else each of the kernel's readers, of which the optimizer has three, transposes it for itself.
    return lax.optimization_barrier(total)


def _beside(x, gradient, above, below):
    """What `_to_kernel` multiplies, `[..., height, width, 3 * channels]`: `x` with its neighbours
    in a row, and `gradient`, between the rows above and below it, with those in a column."""
    height, width = x.shape[-3:-1]
    x = jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(1, 1), (0, 0)])
    gradient = jnp.concatenate([above, gradient, below], -3)
    return (
        jnp.concatenate([x[..., tap : tap + width, :] for tap in range(3)], -1),
        jnp.concatenate([gradient[..., 2 - tap : 2 - tap + height, :, :] for tap in range(3)], -1),
    )


def _over_bands(x, gradient, rows):
    """The products of `_to_kernel`, so many rows at a time."""
    batch, height, _, channels = x.shape
    # Part by part: where these lie on several devices, they say each other the sum once, after the
    # loop, and nothing within it. On one, two threads compute two.
    parts = math.gcd(batch, max(jax.device_count(), 2))
    x, gradient = (of.reshape(parts, -1, *of.shape[1:]) for of in (x, gradient))
    rows_of = functools.partial(lax.dynamic_slice_in_dim, axis=2)

    def add(band, total):
        first = band * rows
        above = jnp.where(first > 0, rows_of(gradient, jnp.maximum(first - 1, 0), 1), 0)
        below = jnp.where(
            first + rows < height, rows_of(gradient, jnp.minimum(first + rows, height - 1), 1), 0
        )
        one, other = _beside(rows_of(x, first, rows), rows_of(gradient, first, rows), above, below)
        places = (1, 2, 3)
        return total + lax.dot_general(
            one, other, ((places, places), ((0,), (0,))), preferred_element_type=jnp.float32
        )

    zero = jnp.zeros((parts, 3 * channels, 3 * gradient.shape[-1]), jnp.float32)
    return lax.fori_loop(0, height // rows, add, zero).sum(0)


def _laid_out(x, gradient):
    """What `_to_kernel` computes, as a convolution whose batch is the channels and whose channels
    are the batch: the layout that XLA's fast one needs, which it doesn't choose within loops."""
    x, gradient = x.transpose(3, 1, 2, 0), gradient.transpose(1, 2, 0, 3)
    kernel = _plain(x, gradient, (1, 1), ((1, 1), (1, 1))).transpose(1, 2, 0, 3)
    return lax.optimization_barrier(kernel)


def _over_places(one, other):
    """`[channels of one, channels of other]`: the products of two maps, summed over batch, height
    and width."""
    return lax.dot_general(one, other, (((0, 1, 2), (0, 1, 2)), ((), ())))


# ---- depthwise convolution


def _shifted_products(x, kernel, stride, dilation, sides):
    """The sum of shifted products that the definition says, in float32.

    XLA's convolution with as many groups as channels takes 10 to 100 times as long as it should: a
    training step of MobileNet at 32x32 takes a third of the time with this.
    """
    places = _places(x.astype(jnp.float32), kernel.shape[:2], stride, dilation, sides)
    weights = _as_matrix(kernel).astype(jnp.float32)
    products = (place * weight for place, weight in zip(places, weights, strict=True))
    return reduce(add, products).astype(x.dtype)


_depthwise = jax.custom_vjp(_shifted_products, nondiff_argnums=(2, 3, 4))


def _depthwise_forward(x, kernel, stride, dilation, sides):
    return _depthwise(x, kernel, stride, dilation, sides), (x, kernel)


def _depthwise_backward(stride, dilation, sides, inputs, gradient):
    x, kernel = inputs
    # Where several operations read the sum, as where maps were concatenated, XLA else writes every
    # shifted product of it out.
    (to_x,) = lax.optimization_barrier(
        jax.vjp(lambda x: _shifted_products(x, kernel, stride, dilation, sides), x)[1](gradient)
    )

    # XLA sums over batch, height and width at once slowly, and over images one after the other
    # fast.
    def products(number):
        image, gradient_ = (
            lax.dynamic_slice_in_dim(a, number, 1).astype(jnp.float32) for a in (x, gradient)
        )
        return [
            (place * gradient_)[0]
            for place in _places(image, kernel.shape[:2], stride, dilation, sides)
        ]

    def add(number, total):
        return [t + p for t, p in zip(total, products(number), strict=True)]

    total = lax.fori_loop(1, len(x), add, products(0))
    to_kernel = jnp.stack([t.sum((0, 1)) for t in total]).reshape(kernel.shape)
    return to_x, to_kernel.astype(kernel.dtype)


_depthwise.defvjp(_depthwise_forward, _depthwise_backward)


def _places(x, kernel_px, stride, dilation, sides):
    """What each element of the kernel meets at every position: as many maps of the result's size,
    row by row."""
    return taps(jnp.pad(x, ((0, 0), *sides, (0, 0))), kernel_px, stride, dilation)


# ---- skips


def joined(one: jax.Array, other: jax.Array) -> jax.Array:
    """`operations.joined` as the sum of both with zeros beside them, which is computed by all cores
    where a concatenation is copied by one."""
    sides, zero = [(0, 0, 0)] * (one.ndim - 1), jnp.zeros((), one.dtype)
    return lax.pad(one, zero, [*sides, (0, other.shape[-1], 0)]) + lax.pad(
        other, zero, [*sides, (one.shape[-1], 0, 0)]
    )


# ---- max pooling


def max_of_windows(x: jax.Array, window_px: int, stride: int, padding: Any) -> jax.Array:
    """`operations.max_of_windows` by comparisons, where windows don't overlap or are not larger
    than `SMALL`.

    The gradient is computed faster than the select-and-scatter that XLA makes of `reduce_window`.
    """
    sides = padding
    if isinstance(padding, str):
        sides = lax.padtype_to_pads(x.shape[1:3], [window_px] * 2, [stride] * 2, padding)
    sides = tuple((low, high) for low, high in sides)
    (top, bottom), (left, right) = sides
    if stride == window_px and top == left == 0:
        return _of_separate_windows(x, window_px, (bottom, right))
    if window_px > SMALL:
        return nn.max_pool(x, (window_px, window_px), (stride, stride), padding)
    return _compared(x, window_px, stride, sides)


def _of_separate_windows(x, size, added):
    """Of windows side by side, with so many rows and columns `added` at the bottom and right."""
    around = [
        (0, (length + more) // size * size - length, 0)
        for length, more in zip(x.shape[1:3], added, strict=True)
    ]
    x = lax.pad(x, jnp.array(-jnp.inf, x.dtype), [(0, 0, 0), *around, (0, 0, 0)])
    batch, height, width, channels = x.shape
    windows = x.reshape(batch, height // size, size, width // size, size, channels)
    # The gradient of `max` looks for the largest value again, by equality. A compiler that computes
    # x twice, rounding differently, leaves nothing equal, and the gradient is NaN.
    largest = windows[:, :, 0, :, 0]
    for position in range(1, size**2):
        value = windows[:, :, position // size, :, position % size]
        largest = jnp.where(_stays(largest, value), largest, value)
    return largest


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


def _windows_places(x, window_px, stride, sides):
    """What stands at each place of the windows, minus infinity outside: `window_px`² maps of the
    result's size."""
    around = [(0, 0, 0), *((*both, 0) for both in sides), (0, 0, 0)]
    x = lax.pad(x, jnp.array(-jnp.inf, x.dtype), around)
    return taps(lax.optimization_barrier(x), (window_px, window_px), stride)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _compared(x, window_px, stride, sides):
    return _largest(_windows_places(x, window_px, stride, sides))[0]


def _compared_forward(x, window_px, stride, sides):
    return _compared(x, window_px, stride, sides), x


def _compared_backward(window_px, stride, sides, x, gradient):
    """Each value of the map gathers from the windows that it stands in. The values of one row and
    column of every `stride` stand in windows at the same places, so that each such part of the map
    is a sum of whole maps."""
    which = _largest(_windows_places(x, window_px, stride, sides))[1]
    reach = (window_px - 1) // stride  # windows further up or left that a value may stand in
    sizes = [-(-(size + low) // stride) for size, (low, _) in zip(x.shape[1:3], sides, strict=True)]
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
                    *(slice(start, start + size) for start, size in zip(place, sizes, strict=True)),
                )
                total += jnp.where(which[here] == down * window_px + right, gradient[here], 0)
        return total.astype(x.dtype)

    parts = jnp.stack(
        [jnp.stack([part(row, column) for column in range(stride)], 3) for row in range(stride)],
        2,
    )
    whole = parts.reshape(x.shape[0], sizes[0] * stride, sizes[1] * stride, x.shape[3])
    (top, _), (left, _) = sides
    return (whole[:, top : top + x.shape[1], left : left + x.shape[2]],)


_compared.defvjp(_compared_forward, _compared_backward)


# ---- windows


def taps(x: jax.Array, window_px: tuple[int, int], stride: int = 1, dilation: int = 1) -> list:
    """For each place of a window, from left to right and down, the map of what stands there,
    `[batch, height, width, channels]`.

    Args:
        x: `[batch, height, width, channels]`, with whatever is to be outside added to it: only
            whole windows count.
        window_px: height and width, before its places are spread by `dilation`.
        stride: by which the window moves, down and across.
        dilation: from one place of the window to the next.
    """
    reaches = [(length - 1) * dilation + 1 for length in window_px]
    ends = [
        max((size - reach) // stride * stride + 1, 0)
        for size, reach in zip(x.shape[1:3], reaches, strict=True)
    ]
    return [
        x[:, down : down + ends[0] : stride, right : right + ends[1] : stride]
        for down in range(0, reaches[0], dilation)
        for right in range(0, reaches[1], dilation)
    ]
