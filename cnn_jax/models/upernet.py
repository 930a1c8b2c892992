"""UPerNet: Unified Perceptual Parsing for Scene Understanding (Xiao, Liu, Zhou, Jiang, Sun,
2018)."""

import functools
from dataclasses import field
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from cnn_jax.layers.convolution import DTYPES, ConvolutionNormActivation
from cnn_jax.layers.pyramid_pooling import PyramidPooling
from cnn_jax.layers.upsampling import bilinear_resize
from cnn_jax.models.conventions import CONVENTIONS
from cnn_jax.models.encoders import ENCODERS, encoder, enlarged
from cnn_jax.models.pspnet import check_bins

LEVELS = 4
"""How many of the backbone's maps are taken, the deepest."""


class UPerNet(nn.Module):
    """UPerNet's segmentation of a scene: `[batch, height, width, channels]` to float32 logits
    `[batch, height, width, num_classes]`.

    Pyramid pooling (PSPNet's) on the deepest map, a feature pyramid from there to the maps of twice
    to eight times its size, all levels enlarged to the largest (bilinear) and joined, one 3x3
    convolution, and logits enlarged to the image. It is the UPerNet of
    segmentation_models.pytorch at twice the width, whose LayerNorm on each of the backbone's maps
    the paper doesn't have; maps of a ConvNeXt need one. Differs from both in how the mean over the
    whole map is normalised (see `PyramidPooling`).

    Attributes:
        num_classes: classes to tell apart.
        encoder: the backbone: a classifier that halves the resolution stage by stage.
        conventions: whose way of padding and normalising the backbone has: ours, or that of the
            library its weights came from.
        encoder_width: multiplies the backbone's channels, where it has a width.
        width: channels of every level.
        bins: areas along each side of the deepest map, one level of the pooling each.
        dropout: share of the joined levels' values dropped in training.
        norm: batch or group.
        dtype: float32 or bfloat16, of the computation; parameters and logits are float32.
        axis_name: the `pmap` axis of BatchNorm's statistics.
    """

    num_classes: int
    encoder: str = field(default="resnet50", metadata={"choices": ENCODERS})
    conventions: str = field(default="ours", metadata={"choices": CONVENTIONS, "absent": "ours"})
    encoder_width: float = field(default=1.0, metadata={"at_least": 0.05})
    width: int = field(default=512, metadata={"at_least": 1})
    bins: tuple[int, ...] = field(default=(1, 2, 3, 6), metadata={"at_least": 1})
    dropout: float = field(default=0.1, metadata={"unit": "0 to 1"})
    norm: str = field(default="batch", metadata={"choices": ("batch", "group")})
    dtype: str = field(default="float32", metadata={"choices": DTYPES})
    axis_name: str | None = None

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> Any:
        check_bins(self.bins)
        options = {"norm": self.norm, "dtype": self.dtype, "axis_name": self.axis_name}
        block = functools.partial(ConvolutionNormActivation, self.width, **options)
        backbone = encoder(
            self.encoder, conventions=self.conventions, width=self.encoder_width, **options
        )
        maps = backbone(enlarged(images, backbone.least_px), train=train, feature_maps=True)
        deepest, *finer = sorted(maps, reverse=True)[:LEVELS]
        maps = {
            stride: nn.LayerNorm(epsilon=1e-6, dtype=self.dtype, name=f"norm_{stride}")(
                maps[stride]
            )
            for stride in (deepest, *finer)
        }
        x = PyramidPooling(self.width, self.width, self.bins, name="pyramid_pooling", **options)(
            maps[deepest], train=train
        )
        levels = [x]
        for stride in finer:
            lateral = block(1, name=f"lateral_{stride}")(maps[stride], train=train)
            x = lateral + bilinear_resize(x, *lateral.shape[1:3])
            levels.append(block(name=f"level_{stride}")(x, train=train))
        largest = levels[-1].shape[1:3]
        x = jnp.concatenate([bilinear_resize(level, *largest) for level in levels[::-1]], axis=-1)
        x = block(name="fusion")(x, train=train)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        logits = nn.Conv(self.num_classes, (1, 1), dtype=jnp.float32, name="head")(
            x.astype(jnp.float32)
        )
        return bilinear_resize(logits, *images.shape[1:3])
