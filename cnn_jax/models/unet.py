"""U-Net: Convolutional Networks for Biomedical Image Segmentation (Ronneberger, Fischer, Brox,
2015)."""

import functools
from dataclasses import field
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from cnn_jax.layers import operations
from cnn_jax.layers.convolution import DTYPES, ConvolutionNormActivation
from cnn_jax.layers.normalization import NORMS
from cnn_jax.layers.pooling import max_pool
from cnn_jax.layers.upsampling import UPSAMPLINGS, upsampling


class UNet(nn.Module):
    """U-Net for images of any size: `[batch, height, width, channels]` to float32 logits `[batch,
    height, width, num_classes]`.

    Differs from the paper in padding every convolution (so that logits have the image's size), in
    its optional normalisation, and in carrying odd sizes: pooling rounds up, and an upsampled map
    is cut to the size of its skip. With base 64, no norm, three channels and two classes it has the
    paper's 31,031,810 parameters.

    Attributes:
        num_classes: classes to tell apart.
        base_width: channels of the first stage; each further stage has twice as many.
        depth: how many times the resolution is halved.
        norm: batch, group or none.
        upsampling: transposed (convolution) or bilinear.
        dropout: share of the deepest stage's values dropped in training.
        skips: False cuts the connections from encoder to decoder, to see what they are worth.
        dtype: float32 or bfloat16, of the computation; parameters and logits are float32.
        axis_name: the `pmap` axis of BatchNorm's statistics.
    """

    num_classes: int
    base_width: int = field(default=64, metadata={"at_least": 1})
    depth: int = field(default=4, metadata={"at_least": 0, "at_most": 12})
    norm: str = field(default="batch", metadata={"choices": NORMS})
    upsampling: str = field(default="transposed", metadata={"choices": UPSAMPLINGS})
    dropout: float = field(default=0.0, metadata={"unit": "0 to 1"})
    skips: bool = True
    dtype: str = field(default="float32", metadata={"choices": DTYPES})
    axis_name: str | None = None

    paper_classes = 2  # of cell and background; unannotated, or it would be a field

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> Any:
        block = functools.partial(
            ConvolutionNormActivation, norm=self.norm, dtype=self.dtype, axis_name=self.axis_name
        )

        def stage(x, name, features):
            x = block(features, name=f"{name}_convolution_1")(x, train=train)
            return block(features, name=f"{name}_convolution_2")(x, train=train)

        x = images.astype(self.dtype)
        skips = []
        for level in range(self.depth):
            x = stage(x, f"encoder_{level}", self.base_width * 2**level)
            skips.append(x)
            x = max_pool(x)
        x = stage(x, "bridge", self.base_width * 2**self.depth)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        for level in reversed(range(self.depth)):
            features, skip = self.base_width * 2**level, skips[level]
            x = upsampling(self.upsampling)(
                features, dtype=self.dtype, name=f"decoder_{level}_upsampling"
            )(x)
            x = x[:, : skip.shape[1], : skip.shape[2]]
            if self.skips:
                x = operations.joined(skip, x)
            x = stage(x, f"decoder_{level}", features)
        return nn.Conv(self.num_classes, (1, 1), dtype=jnp.float32, name="head")(
            x.astype(jnp.float32)
        )
