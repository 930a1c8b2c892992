"""The feature pyramid as a segmenter: Panoptic Feature Pyramid Networks (Kirillov, Girshick, He,
Dollár, 2019)."""

import functools
from dataclasses import field
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from cnn_jax.layers.convolution import DTYPES, ConvolutionNormActivation
from cnn_jax.layers.upsampling import bilinear_resize
from cnn_jax.models.conventions import CONVENTIONS
from cnn_jax.models.encoders import ENCODERS, encoder, enlarged
from cnn_jax.models.fpn import FPN

LEVELS = 4
"""How many of the backbone's maps are taken, the deepest."""


class SemanticFPN(nn.Module):
    """The semantic branch of Panoptic FPN: `[batch, height, width, channels]` to float32 logits
    `[batch, height, width, num_classes]`.

    A feature pyramid on the backbone's four deepest maps; each level is convolved 3x3 and enlarged
    to twice the size (bilinear) until it has that of the largest, which is convolved once; their
    sum, and logits enlarged to the image. Norms are those of `norm`, where the paper has GroupNorm
    in this branch.

    Attributes:
        num_classes: classes to tell apart.
        encoder: the backbone: a classifier that halves the resolution stage by stage.
        conventions: whose way of padding and normalising the backbone has: ours, or that of the
            library its weights came from.
        encoder_width: multiplies the backbone's channels, where it has a width.
        pyramid_width: channels of the pyramid.
        width: channels of the branch.
        dropout: share of the sum's values dropped in training; none in the paper.
        norm: batch or group.
        dtype: float32 or bfloat16, of the computation; parameters and logits are float32.
        axis_name: the `pmap` axis of BatchNorm's statistics.
    """

    num_classes: int
    encoder: str = field(default="resnet50", metadata={"choices": ENCODERS})
    conventions: str = field(default="ours", metadata={"choices": CONVENTIONS, "absent": "ours"})
    encoder_width: float = field(default=1.0, metadata={"at_least": 0.05})
    pyramid_width: int = field(default=256, metadata={"at_least": 1})
    width: int = field(default=128, metadata={"at_least": 1})
    dropout: float = field(default=0.0, metadata={"unit": "0 to 1"})
    norm: str = field(default="batch", metadata={"choices": ("batch", "group")})
    dtype: str = field(default="float32", metadata={"choices": DTYPES})
    axis_name: str | None = None

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> Any:
        options = {"norm": self.norm, "dtype": self.dtype, "axis_name": self.axis_name}
        block = functools.partial(ConvolutionNormActivation, self.width, **options)
        backbone = encoder(
            self.encoder, conventions=self.conventions, width=self.encoder_width, **options
        )
        maps = backbone(enlarged(images, backbone.least_px), train=train, feature_maps=True)
        strides = sorted(maps)[-LEVELS:]
        levels = FPN(self.pyramid_width, tuple(strides), dtype=self.dtype, name="pyramid")(maps)

        total = block(name=f"level_{strides[0]}_convolution_1")(levels[strides[0]], train=train)
        for number, stride in enumerate(strides[1:], start=1):
            x = levels[stride]
            for step, finer in enumerate(strides[number - 1 :: -1], start=1):
                x = block(name=f"level_{stride}_convolution_{step}")(x, train=train)
                x = bilinear_resize(x, *maps[finer].shape[1:3])
            total = total + x
        x = nn.Dropout(self.dropout, deterministic=not train)(total)
        logits = nn.Conv(self.num_classes, (1, 1), dtype=jnp.float32, name="head")(
            x.astype(jnp.float32)
        )
        return bilinear_resize(logits, *images.shape[1:3])
