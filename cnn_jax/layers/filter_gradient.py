"""Convolution whose filter gradient a CPU computes as matrix products."""

import functools

import jax
from flax import linen as nn
from jax import lax

_plain = functools.partial(lax.conv_general_dilated, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def convolve(x, kernel, strides, padding, lhs_dilation=None, rhs_dilation=None, feature_group_count=1, **options):
    """What `lax.conv_general_dilated` computes of maps `[batch, height, width, channels]`; for `Convolution`, in its place.

    The difference is the gradient of a 1x1 kernel `[1, 1, channels, features]`. XLA makes of it a convolution with a window as large
    as the map, for which a CPU takes 2 to 20 times as long as for the matrix product that it is. Such a convolution has a first
    derivative in reverse mode only. Other convolutions, and other devices, are left to XLA.
    """
    inside = isinstance(padding, str) or not any(sum(sides) for sides in padding)
    if kernel.shape[:2] == (1, 1) and feature_group_count == 1 and inside and set(lhs_dilation or (1,)) == {1}:
        return _pointwise(x, kernel, tuple(strides))
    options |= {"lhs_dilation": lhs_dilation, "rhs_dilation": rhs_dilation, "feature_group_count": feature_group_count}
    return lax.conv_general_dilated(x, kernel, strides, padding, **options)


Convolution = functools.partial(nn.Conv, conv_general_dilated=convolve)
"""Flax's, which computes with `convolve`."""


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _pointwise(x, kernel, strides):
    return _plain(x, kernel, strides, "VALID")


def _forward(x, kernel, strides):
    return _pointwise(x, kernel, strides), (x, kernel)


def _backward(strides, inputs, gradient):
    x, kernel = inputs
    (to_x,) = jax.vjp(lambda x: _plain(x, kernel, strides, "VALID"), x)[1](gradient)

    def convolution(x, gradient):
        return jax.vjp(lambda kernel: _plain(x, kernel, strides, "VALID"), kernel)[1](gradient)[0]

    def product(x, gradient):
        x = x[:, :: strides[0], :: strides[1]]
        # Twice as fast with the narrower map first. The barrier keeps XLA from turning the product round again.
        if x.shape[-1] <= gradient.shape[-1]:
            return _over_places(x, gradient)[None, None]
        return lax.optimization_barrier(_over_places(gradient, x)).T[None, None]

    return to_x, lax.platform_dependent(x, gradient, cpu=product, default=convolution)


_pointwise.defvjp(_forward, _backward)


def _over_places(one, other):
    """`[channels of one, channels of other]`: the products of two maps, summed over batch, height and width."""
    return lax.dot_general(one, other, (((0, 1, 2), (0, 1, 2)), ((), ())))
