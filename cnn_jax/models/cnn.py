"""The plain convolutional network of courses and textbooks: convolutions, pooling, dense layers."""

import functools
from dataclasses import field
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from cnn_jax.errors import InputError
from cnn_jax.layers.convolution import DTYPES, ConvolutionNormActivation
from cnn_jax.layers.normalization import NORMS
from cnn_jax.layers.pooling import global_average_pool, max_pool

DENSE_ACTIVATIONS = {
    "relu": (nn.relu, nn.initializers.he_normal()),
    "tanh": (nn.tanh, nn.initializers.lecun_normal()),
}
"""Each with the initial weights that keep its values' variance."""


class CNN(nn.Module):
    """Convolutions, some followed by 2x2 max pooling, then dense layers: `[batch, height, width,
    channels]` to float32 logits `[batch, num_classes]`.

    The defaults are a small modern network for MNIST and Fashion-MNIST (197,674 trainable
    parameters on 28x28x1 and ten classes): two stages of two 3x3 convolutions, each with BatchNorm
    (Ioffe and Szegedy, 2015) and ReLU, then 128 units and dropout. With another choice of its
    fields it is the course's models, `COURSE_CNN` and its kin.

    Feature maps are the last at each stride: 1, 2, 4, ..., one more for every pooling.

    Attributes:
        num_classes: classes to tell apart.
        widths: filters of each convolution.
        kernel_px: height and width of every convolution's kernel.
        padding: SAME (zeros around a map keep its size; pooling rounds up) or VALID (each
            convolution shrinks it; pooling rounds down).
        pool_after: numbers, from 1, of the convolutions that 2x2 max pooling follows.
        norm: batch, group or none.
        global_average: hand each channel's mean to the dense layers, not every value of the last
            map.
        dense: units of each dense layer before the logits.
        dense_activation: relu or tanh, of the dense layers; convolutions have relu.
        dropout: share of the values before the logits dropped in training.
        dtype: float32 or bfloat16, of the computation; parameters and logits are float32.
        axis_name: the `pmap` axis of BatchNorm's statistics.
    """

    num_classes: int
    widths: tuple[int, ...] = field(default=(32, 32, 64, 64), metadata={"at_least": 1})
    kernel_px: int = field(default=3, metadata={"at_least": 1, "unit": "px"})
    padding: str = field(default="VALID", metadata={"choices": ("SAME", "VALID")})
    pool_after: tuple[int, ...] = field(default=(2, 4), metadata={"at_least": 1})
    norm: str = field(default="batch", metadata={"choices": NORMS})
    global_average: bool = False
    dense: tuple[int, ...] = field(default=(128,), metadata={"at_least": 1})
    dense_activation: str = field(default="relu", metadata={"choices": tuple(DENSE_ACTIVATIONS)})
    dropout: float = field(default=0.5, metadata={"unit": "0 to 1"})
    dtype: str = field(default="float32", metadata={"choices": DTYPES})
    axis_name: str | None = None

    paper_px = (28, 28, 1)
    paper_classes = 10

    @property
    def least_px(self) -> int:
        """Least side of an image, in pixels: what leaves one value at the end."""
        side = 1
        if self.padding == "VALID":
            for number in range(len(self.widths), 0, -1):
                side = (side * 2 if number in self.pool_after else side) + self.kernel_px - 1
        return side

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool, feature_maps: bool = False) -> Any:
        """Logits of `images`, or with `feature_maps` the last map at each output stride, {stride:
        `[batch, h, w, c]`}.

        Raises:
            InputError: `pool_after` names a convolution that `widths` doesn't have.
        """
        if max(self.pool_after, default=0) > len(self.widths):
            raise InputError(
                f"pool_after is {self.pool_after}, but widths={self.widths} makes"
                f" {len(self.widths)} convolutions; name only those."
            )
        block = functools.partial(
            ConvolutionNormActivation,
            kernel_px=self.kernel_px,
            padding=self.padding,
            norm=self.norm,
            dtype=self.dtype,
            axis_name=self.axis_name,
        )
        x = images.astype(self.dtype)
        maps, stride = {}, 1
        for number, width in enumerate(self.widths, 1):
            maps[stride] = x = block(width, name=f"convolution_{number}")(x, train=train)
            if number in self.pool_after:
                stride *= 2
                maps[stride] = x = max_pool(x, padding=self.padding)
        if feature_maps:
            return maps

        x = global_average_pool(x) if self.global_average else x.reshape(x.shape[0], -1)
        activation, kernel_init = DENSE_ACTIVATIONS[self.dense_activation]
        for number, width in enumerate(self.dense, 1):
            x = activation(
                nn.Dense(width, kernel_init=kernel_init, dtype=self.dtype, name=f"dense_{number}")(
                    x
                )
            )
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.num_classes, dtype=jnp.float32, name="head")(x.astype(jnp.float32))


COURSE_CNN = functools.partial(
    CNN,
    widths=(64,),
    kernel_px=3,
    padding="VALID",
    pool_after=(),
    norm="none",
    global_average=False,
    dense=(),
    dense_activation="tanh",
    dropout=0.0,
)
"""The course's first convolutional network: 64 filters of 3x3, ReLU, flattened, logits; 433,290
parameters on 28x28x1.

Its second has `dense=(15,)` between (649,775 parameters), its third `pool_after=(1,)` as well
(163,055).
"""
