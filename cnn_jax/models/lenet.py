"""LeNet-5: Gradient-Based Learning Applied to Document Recognition (LeCun, Bottou, Bengio, Haffner,
1998)."""

import functools
from dataclasses import field
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from cnn_jax.layers.convolution import DTYPES, ConvolutionNormActivation
from cnn_jax.layers.pooling import average_pool


def squash(x: jax.Array) -> Any:
    """The paper's scaled tanh: its slope is such that 1 becomes 1, and -1 becomes -1."""
    return 1.7159 * jnp.tanh(x * (2 / 3))


class LeNet5(nn.Module):
    """LeNet-5: `[batch, height, width, channels]` to float32 logits `[batch, num_classes]`; 61,706
    parameters on 32x32x1 and ten classes.

    The paper's layers C1, S2, C3, S4, C5, F6 and output, with its squashing function. A side under
    32 px is padded to 32 with the values at its edges, so that a digit of 28x28 gets the paper's
    two pixels of its own background on every side. Larger images leave C5 a map of more than one
    place, which is flattened: F6 then has more weights.

    Differs from the paper, as most modern readings do, in what saved computing or was particular to
    digits: C3 sees all six maps of S2 (the paper's table of connections leaves out 36 of 96); S2
    and S4 are plain averages (the paper multiplies each by a trained coefficient, adds a trained
    bias and squashes); the output is a dense layer under a softmax (the paper: distances to a
    drawing of each character, RBF units). Weights of convolutions start as He et al. (2015).

    Feature maps: C1 at stride 1, C3 at 2, C5 at 4, each smaller than the image / stride, for
    nothing is padded inside.

    Attributes:
        num_classes: classes to tell apart.
        dtype: float32 or bfloat16, of the computation; parameters and logits are float32.
        axis_name: without effect, for there is no BatchNorm.
    """

    num_classes: int
    dtype: str = field(default="float32", metadata={"choices": DTYPES})
    axis_name: str | None = None

    paper_px = (32, 32, 1)
    paper_classes = 10
    least_px = 1

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool, feature_maps: bool = False) -> Any:
        """Logits of `images`, or with `feature_maps` the last map at each output stride, {stride:
        `[batch, h, w, c]`}."""
        convolution = functools.partial(
            ConvolutionNormActivation,
            kernel_px=5,
            padding="VALID",
            norm="none",
            activation=squash,
            dtype=self.dtype,
        )
        missing = [max(0, 32 - side) for side in images.shape[1:3]]
        sides = [(pixels // 2, pixels - pixels // 2) for pixels in missing]
        x = jnp.pad(images.astype(self.dtype), [(0, 0), *sides, (0, 0)], mode="edge")

        c1 = convolution(6, name="c1")(x, train=train)
        s2 = average_pool(c1, padding="VALID")
        c3 = convolution(16, name="c3")(s2, train=train)
        s4 = average_pool(c3, padding="VALID")
        c5 = convolution(120, name="c5")(s4, train=train)
        if feature_maps:
            return {1: c1, 2: c3, 4: c5}

        f6 = squash(nn.Dense(84, dtype=self.dtype, name="f6")(c5.reshape(c5.shape[0], -1)))
        return nn.Dense(self.num_classes, dtype=jnp.float32, name="head")(f6.astype(jnp.float32))
