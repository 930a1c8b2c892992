"""Enlarging feature maps: to twice the size, by any even factor, or to any size."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from cnn_jax.errors import InputError
from cnn_jax.layers.operations import convolve

UPSAMPLINGS = ("transposed", "bilinear")


class TransposedUpsampling(nn.Module):
    """Transposed convolution with kernel 2 and stride 2: `[batch, h, w, c]` to `[batch, 2h, 2w,
    features]`.

    With a stride as large as the kernel no two results overlap, so it is one matrix product and a
    reshape. The kernel is `[2, 2, c, features]` and gives what `flax.linen.ConvTranspose` gives
    with the same array.
    """

    features: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        batch, height, width, channels = x.shape
        shape, initial = (2, 2, channels, self.features), nn.initializers.lecun_normal(in_axis=-2)
        kernel = self.param("kernel", initial, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        x, kernel, bias = (value.astype(self.dtype) for value in (x, kernel, bias))
        kernel = kernel[::-1, ::-1].transpose(2, 0, 1, 3).reshape(1, 1, channels, 4 * self.features)
        y = (
            convolve(x, kernel, (1, 1), "VALID")
            .reshape(batch, height, width, 2, 2, self.features)
            .swapaxes(2, 3)
        )
        return y.reshape(batch, 2 * height, 2 * width, self.features) + bias[None, None, None]


@functools.partial(
    jax.jit, static_argnames=("height_px", "width_px")
)  # by its name the table of layers knows it
def bilinear_resize(x: jax.Array, height_px: int, width_px: int) -> jax.Array:
    """Bilinear interpolation of `[batch, height, width, channels]` to another size, places being
    the middles of their areas."""
    return jax.image.resize(x, (x.shape[0], height_px, width_px, x.shape[-1]), "bilinear")


def repeated_pixels(x: jax.Array, height_px: int, width_px: int) -> jax.Array:
    """`[batch, height, width, channels]` with each value twice down and across, `fitted` to another
    size: PyTorch's "nearest" to a size that this one is half of, rounded up."""
    return fitted(jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2), height_px, width_px)


def fitted(x: jax.Array, height_px: int, width_px: int) -> jax.Array:
    """`[batch, height, width, channels]` cut at the bottom and right to another size, or with its
    last row and column again where that is larger (as it is for backbones that don't pad)."""
    missing = [max(height_px - x.shape[1], 0), max(width_px - x.shape[2], 0)]
    if any(missing):
        x = jnp.pad(x, ((0, 0), (0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")
    return x[:, :height_px, :width_px]


class BilinearTransposedConvolution(nn.Module):
    """Transposed convolution that enlarges `[batch, h, w, c]` to `[batch, factor * h, factor * w,
    features]`, and can learn to do better than the bilinear interpolation that it begins as (Long
    et al., 2015).

    The kernel is `[2 * factor, 2 * factor, c, features]`, float32 like the computation; at first
    each of the features is made of the channel of the same number alone, so there should be as
    many. There is no bias. Beyond the edge lie zeros, towards which values near the edge fall off.

    Attributes:
        features: channels of the result.
        factor: by which the sides grow, an even number.
    """

    features: int
    factor: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.ConvTranspose(
            self.features,
            (2 * self.factor, 2 * self.factor),
            strides=(self.factor, self.factor),
            padding="SAME",
            use_bias=False,
            kernel_init=_bilinear,
            name="convolution",
        )(x)


def _bilinear(key, shape, dtype=jnp.float32):
    """A tent over the kernel's places, of each channel for the feature of its number."""
    reach = shape[0] // 2
    tent = 1 - jnp.abs(jnp.arange(shape[0], dtype=dtype) - reach + 0.5) / reach
    features = jnp.eye(*shape[2:], dtype=dtype)[None, None]
    return tent[:, None, None, None] * tent[None, :, None, None] * features


class BilinearUpsampling(nn.Module):
    """Bilinear interpolation to twice the size, then a 1x1 convolution: `[batch, h, w, c]` to
    `[batch, 2h, 2w, features]`."""

    features: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Conv(self.features, (1, 1), dtype=self.dtype, name="convolution")(
            x
        )  # first, for a quarter of the work
        return bilinear_resize(x, 2 * x.shape[1], 2 * x.shape[2])


def upsampling(name: str) -> Callable[..., Any]:
    """The module of that name: "transposed" or "bilinear".

    Raises:
        InputError: an unknown name.
    """
    if name not in UPSAMPLINGS:
        raise InputError(f"upsampling is {name!r}; it must be one of {', '.join(UPSAMPLINGS)}.")
    return {"transposed": TransposedUpsampling, "bilinear": BilinearUpsampling}[name]
