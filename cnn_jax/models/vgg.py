"""VGG: Very Deep Convolutional Networks for Large-Scale Image Recognition (Simonyan, Zisserman,
2014)."""

import functools
from dataclasses import field
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from cnn_jax.layers.convolution import DTYPES, ConvolutionNormActivation
from cnn_jax.layers.normalization import NORMS
from cnn_jax.layers.pooling import adaptive_average_pool, max_pool

CONVOLUTIONS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
"""Convolutions of each block, by depth: the columns A, B, D and E of the paper's table 1."""

WIDTHS = (64, 128, 256, 512, 512)
"""Filters of the convolutions of each block."""


class VGG(nn.Module):
    """VGG: `[batch, height, width, channels]` to float32 logits `[batch, num_classes]`.

    Five blocks of 3x3 convolutions, each followed by 2x2 max pooling, then three dense layers on
    the flattened map: 7x7 of 224 px, 1x1 of 32 px. The first dense layer's weights thus depend on
    the size of the images. Images may have any size, all the same one: pooling rounds up, where the
    paper's and Keras's rounds down. The two are the same where sides are divisible by 32; elsewhere
    rounding up keeps the last row and column, and 28 px come through as 28, 14, 7, 4, 2, 1 (rounded
    down: 0); `rounding` chooses.

    On 224x224x3 and a thousand classes the depths 11, 13, 16 and 19 have 132,863,336, 133,047,848,
    138,357,544 and 143,667,240 parameters. Differs from the paper in its optional normalisation,
    which replaces the biases of the convolutions (torchvision keeps them), and in its initial
    weights (He et al., 2015; the paper starts deep networks from the weights of shallow ones).

    Feature maps: the last convolution of the blocks at strides 1, 2, 4, 8 and 16, and the last
    pooling at 32.

    Attributes:
        num_classes: classes to tell apart.
        depth: layers with weights: 11, 13, 16 or 19.
        width: every convolution has this many times the paper's filters, rounded down.
        norm: batch, group or none (the paper's).
        rounding: whether pooling keeps the last row and column of odd sizes: up, or down as in the
            paper, Keras and PyTorch, whose images need 32 px then.
        pooled_px: side of the map that is flattened, to which larger and smaller ones are averaged
            (7 in PyTorch), so that images may have any size; 0: the map as it is.
        dense_width: units of each of the two hidden dense layers; small data sets do with fewer.
        dropout: share of either hidden dense layer's values dropped in training.
        dtype: float32 or bfloat16, of the computation; parameters and logits are float32.
        axis_name: the `pmap` axis of BatchNorm's statistics.
    """

    num_classes: int
    depth: int = field(default=16, metadata={"choices": tuple(CONVOLUTIONS)})
    width: float = field(default=1.0, metadata={"at_least": 0.05, "absent": 1.0})
    norm: str = field(default="none", metadata={"choices": NORMS})
    rounding: str = field(default="up", metadata={"choices": ("up", "down"), "absent": "up"})
    pooled_px: int = field(default=0, metadata={"at_least": 0, "absent": 0})
    dense_width: int = field(default=4096, metadata={"at_least": 1})
    dropout: float = field(default=0.5, metadata={"unit": "0 to 1"})
    dtype: str = field(default="float32", metadata={"choices": DTYPES})
    axis_name: str | None = None

    paper_px = (224, 224, 3)
    paper_classes = 1000

    @property
    def least_px(self) -> int:
        """Least side of an image, in pixels: any where sizes are rounded up."""
        return 1 if self.rounding == "up" else 32

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool, feature_maps: bool = False) -> Any:
        """Logits of `images`, or with `feature_maps` the last map at each output stride, {stride:
        `[batch, h, w, c]`}."""
        convolution = functools.partial(
            ConvolutionNormActivation, norm=self.norm, dtype=self.dtype, axis_name=self.axis_name
        )
        x = images.astype(self.dtype)
        maps = {}
        for block, (convolutions, width) in enumerate(
            zip(CONVOLUTIONS[self.depth], WIDTHS, strict=True)
        ):
            for number in range(convolutions):
                x = convolution(
                    int(width * self.width), name=f"block_{block + 1}_convolution_{number + 1}"
                )(x, train=train)
            maps[2**block] = x
            x = max_pool(x, padding="SAME" if self.rounding == "up" else "VALID")
        maps[32] = x
        if feature_maps:
            return maps

        if self.pooled_px:
            x = adaptive_average_pool(x, self.pooled_px, self.pooled_px).astype(self.dtype)
        x = x.reshape(x.shape[0], -1)
        for number in (1, 2):
            dense = nn.Dense(
                self.dense_width,
                kernel_init=nn.initializers.he_normal(),
                dtype=self.dtype,
                name=f"dense_{number}",
            )
            x = nn.Dropout(self.dropout, deterministic=not train)(nn.relu(dense(x)))
        return nn.Dense(self.num_classes, dtype=jnp.float32, name="head")(x.astype(jnp.float32))
