"""Convolution that a CPU computes fast."""

import functools
import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from cnn_jax.layers.taps import taps

_plain = functools.partial(lax.conv_general_dilated, dimension_numbers=("NHWC", "HWIO", "NHWC"))


LARGE = 2**23
"""Values of a convolution's two maps from which on XLA's gradient of a 3x3 kernel falls out of a
CPU's caches; half as many where a batch has more than one image."""

NARROW = 16
"""Channels up to which, in and out, a convolution gets none of XLA's fast kernels for CPUs."""


def convolve(
    x,
    kernel,
    strides,
    padding,
    lhs_dilation=None,
    rhs_dilation=None,
    feature_group_count=1,
    **options,
):
    """What `lax.conv_general_dilated` computes of maps `[batch, height, width, channels]`; for
    `Convolution`, in its place.

    Two kinds of kernel are computed otherwise on a CPU. With a 1x1 kernel `[1, 1, channels,
    features]` and without padding the result and both gradients are the matrix products that they
    are, up to 20 times as fast as the convolutions that XLA makes of them. So are those of a 3x3
    kernel with stride 1 and SAME padding on maps of few places; on others its gradient is computed
    in whichever of three ways is fastest (`_fast`). Such convolutions have a first derivative in
    reverse mode only. Others, and other devices, are left to XLA.
    """
    size = kernel.shape[:2]
    plain = feature_group_count == 1 and set(lhs_dilation or (1,)) == {1}
    inside = isinstance(padding, str) or not any(sum(sides) for sides in padding)
    if size == (1, 1) and plain and inside:
        return _pointwise(x, kernel, tuple(strides))
    around = (
        padding == "SAME"
        if isinstance(padding, str)
        else all(tuple(sides) == (1, 1) for sides in padding)
    )
    if size == (3, 3) and plain and around and {*strides, *(rhs_dilation or ())} == {1}:
        return _spatial(x, kernel)
    options |= {
        "lhs_dilation": lhs_dilation,
        "rhs_dilation": rhs_dilation,
        "feature_group_count": feature_group_count,
    }
    return lax.conv_general_dilated(x, kernel, strides, padding, **options)


Convolution = functools.partial(nn.Conv, conv_general_dilated=convolve)
"""Flax's, which computes with `convolve`."""


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _pointwise(x, kernel, strides):
    """With a 1x1 kernel, and without padding."""

    def convolution(x, kernel):
        return _plain(x, kernel, strides, "VALID")

    def product(x, kernel):
        return lax.dot_general(
            _every(lax.optimization_barrier(x), strides), kernel[0, 0], (((3,), (0,)), ((), ()))
        )

    return lax.platform_dependent(x, kernel, cpu=product, default=convolution)


def _pointwise_forward(x, kernel, strides):
    return _pointwise(x, kernel, strides), (x, kernel)


def _pointwise_backward(strides, inputs, gradient):
    def convolutions(x, kernel, gradient):
        return jax.vjp(lambda x, kernel: _plain(x, kernel, strides, "VALID"), x, kernel)[1](
            gradient
        )

    def products(x, kernel, gradient):
        # Behind the barrier lie the maps as they are in memory: XLA else computes what leads to
        # them once more for each product.
        x, gradient = lax.optimization_barrier((x, gradient))
        to_x = lax.dot_general(gradient, kernel[0, 0], (((3,), (1,)), ((), ())))
        (to_x,) = jax.linear_transpose(lambda x: _every(x, strides), x)(to_x)
        x = _every(x, strides)
        # Twice as fast with the narrower map first. The barrier keeps XLA from turning the product
        # round again.
        if x.shape[-1] <= gradient.shape[-1]:
            return to_x, _over_places(x, gradient)[None, None]
        return to_x, lax.optimization_barrier(_over_places(gradient, x)).T[None, None]

    return lax.platform_dependent(*inputs, gradient, cpu=products, default=convolutions)


_pointwise.defvjp(_pointwise_forward, _pointwise_backward)


def _every(x, strides):
    """The places of a map where a kernel that moves by `strides` stands."""
    return x[:, :: strides[0], :: strides[1]]


@jax.custom_vjp
def _spatial(x, kernel):
    """With a 3x3 kernel, stride 1 and SAME padding."""

    def convolution(x, kernel):
        return _plain(x, kernel, (1, 1), "SAME")

    def product(x, kernel):
        return lax.dot_general(_neighbours(x), _as_matrix(kernel), (((3,), (0,)), ((), ())))

    cpu = product if _has_few_places(x, kernel) else convolution
    return lax.platform_dependent(x, kernel, cpu=cpu, default=convolution)


def _spatial_forward(x, kernel):
    return _spatial(x, kernel), (x, kernel)


def _spatial_backward(inputs, gradient):
    def convolutions(x, kernel, gradient):
        return jax.vjp(lambda x, kernel: _plain(x, kernel, (1, 1), "SAME"), x, kernel)[1](gradient)

    def products(x, kernel, gradient):
        x, gradient = lax.optimization_barrier((x, gradient))
        to_neighbours = lax.dot_general(gradient, _as_matrix(kernel), (((3,), (1,)), ((), ())))
        return _to_centres(to_neighbours), _over_places(_neighbours(x), gradient).reshape(
            kernel.shape
        )

    def fast(x, kernel, gradient):
        (to_x,) = jax.vjp(lambda x: _plain(x, kernel, (1, 1), "SAME"), x)[1](gradient)
        return to_x, _fast(x.shape, gradient.shape)(*lax.optimization_barrier((x, gradient)))

    cpu = products if _has_few_places(*inputs) else fast
    return lax.platform_dependent(*inputs, gradient, cpu=cpu, default=convolutions)


_spatial.defvjp(_spatial_forward, _spatial_backward)


def _has_few_places(x, kernel):
    """Whether a map has no more places than features result: its neighbourhoods are then small
    beside the kernel, which XLA would turn round and transpose for the gradient, and read again for
    every few places (2 to 5 times the time of products).
    """
    return math.prod(x.shape[:3]) <= kernel.shape[-1]


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
    return sum(one.astype(jnp.float32) for one in given).astype(neighbours.dtype)


def _fast(maps, gradients):
    """The function that computes the gradient of a 3x3 kernel soonest, by the shapes of the two
    maps.

    A sum over bands of rows for large maps (1.1 to 5 times as fast as XLA's) and for a few images
    of few channels (2 to 6 times); else a convolution in the layout that XLA's fast one needs,
    which XLA doesn't choose within loops (10 to 40 times as fast there), and with more channels
    resulting than `NARROW`, if either of the maps has more (2 to 8 times).
    """
    (batch, *_, channels), features = maps, gradients[-1]
    if min(channels, features) >= NARROW and math.prod(maps) + math.prod(gradients) >= (
        LARGE if batch == 1 else LARGE // 2
    ):
        return functools.partial(_over_bands, places=1024)
    if batch > NARROW or features > NARROW or channels < NARROW // 2:
        return _laid_out
    if channels > NARROW:
        return _laid_out_the_other_way
    return functools.partial(_over_bands, places=256) if batch <= 2 else _laid_out


def _over_bands(x, gradient, places):
    """`[3, 3, channels, features]`: the gradient of a 3x3 kernel with stride 1 and SAME padding.

    Beside each place of `x` stand its neighbours to left and right, beside each of `gradient` those
    below and above: all nine taps are then one matrix product, summed over bands of rows (of at
    most `places` places, or one row) whose copies stay in a CPU's caches.
    """
    batch, height, width, channels = x.shape
    most = max(places // max(width, 1), 1)
    rows = max(rows for rows in range(1, min(height, most) + 1) if height % rows == 0)
    rows_of = functools.partial(lax.dynamic_slice_in_dim, axis=1)

    def add(band, total):
        first = band * rows
        one = jnp.pad(rows_of(x, first, rows), ((0, 0), (0, 0), (1, 1), (0, 0)))
        above = jnp.where(first > 0, rows_of(gradient, jnp.maximum(first - 1, 0), 1), 0)
        below = jnp.where(
            first + rows < height, rows_of(gradient, jnp.minimum(first + rows, height - 1), 1), 0
        )
        other = jnp.concatenate([above, rows_of(gradient, first, rows), below], 1)
        one = jnp.concatenate([one[:, :, tap : tap + width] for tap in range(3)], -1)
        other = jnp.concatenate([other[:, 2 - tap : 2 - tap + rows] for tap in range(3)], -1)
        return total + lax.dot_general(
            one, other, (((1, 2), (1, 2)), ((0,), (0,))), preferred_element_type=jnp.float32
        )

    # Image by image: where they lie on several devices, these say each other the sum once, after
    # the loop, and nothing within it.
    total = lax.fori_loop(
        0,
        height // rows,
        add,
        jnp.zeros((batch, 3 * channels, 3 * gradient.shape[-1]), jnp.float32),
    ).sum(0)
    return total.reshape(3, channels, 3, -1).transpose(2, 0, 1, 3).astype(x.dtype)


def _laid_out(x, gradient):
    """What `_over_bands` computes, as a convolution whose batch is the channels and whose channels
    are the batch."""
    x, gradient = x.transpose(3, 1, 2, 0), gradient.transpose(1, 2, 0, 3)
    kernel = _plain(x, gradient, (1, 1), ((1, 1), (1, 1))).transpose(1, 2, 0, 3)
    # Else each of the kernel's readers, of which the optimizer has three, transposes it for itself.
    return lax.optimization_barrier(kernel)


def _laid_out_the_other_way(x, gradient):
    """What `_laid_out` computes with the two maps in each other's place, so that more than `NARROW`
    channels result."""
    return _laid_out(gradient, x)[::-1, ::-1].swapaxes(2, 3)


def _over_places(one, other):
    """`[channels of one, channels of other]`: the products of two maps, summed over batch, height
    and width."""
    return lax.dot_general(one, other, (((0, 1, 2), (0, 1, 2)), ((), ())))
