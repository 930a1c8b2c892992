"""Objects as Points (Zhou, Wang, Krähenbühl, 2019): CenterNet."""

import functools
import math
from dataclasses import field
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from cnn_jax.layers.convolution import DTYPES, ConvolutionNormActivation
from cnn_jax.models.conventions import CONVENTIONS
from cnn_jax.models.encoder_unet import decoded
from cnn_jax.models.encoders import ENCODERS, encoder, enlarged
from cnn_jax.models.fpn import FPN

PRIOR = 0.1
"""How probable a centre is in every cell before training."""


class CenterNet(nn.Module):
    """CenterNet: images `[batch, height, width, channels]` to a dict of maps at `stride`, float32:
    `heat` `[batch, h, w, num_classes]`, logits of an object's centre; `size` `[batch, h, w, 2]`,
    its width and height in units of `stride` px; and `offset` `[batch, h, w, 2]`, where within the
    cell the centre lies, x and y from 0 to 1.

    The backbone's maps are enlarged by U-Net's decoder up to `stride`, or by an FPN. Each output
    has a head of its own, a 3x3 convolution, ReLU and a 1x1 convolution. Differs from the paper in
    the decoder (deformable convolutions there) and in predicting sizes in cells, not in pixels.

    Attributes:
        num_classes: classes to tell apart.
        encoder: the backbone: a classifier that halves the resolution stage by stage.
        conventions: whose way of padding and normalising the backbone has: ours, or that of the
            library its weights came from.
        encoder_width: multiplies the backbone's channels, where it has a width.
        neck: what brings the maps together: U-Net's decoder, or a feature pyramid.
        neck_width: channels of the maps that the heads see.
        head_width: channels within each head.
        stride: px of the image to a cell.
        norm: batch or group.
        dtype: float32 or bfloat16, of the computation; parameters and results are float32.
        axis_name: the `pmap` axis of BatchNorm's statistics.
    """

    num_classes: int
    encoder: str = field(default="resnet18", metadata={"choices": ENCODERS})
    conventions: str = field(default="ours", metadata={"choices": CONVENTIONS, "absent": "ours"})
    encoder_width: float = field(default=1.0, metadata={"at_least": 0.05})
    neck: str = field(default="unet", metadata={"choices": ("unet", "fpn")})
    neck_width: int = field(default=64, metadata={"at_least": 1})
    head_width: int = field(default=64, metadata={"at_least": 1})
    stride: int = field(default=4, metadata={"choices": (1, 2, 4, 8)})
    norm: str = field(default="batch", metadata={"choices": ("batch", "group")})
    dtype: str = field(default="float32", metadata={"choices": DTYPES})
    axis_name: str | None = None

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> Any:
        options: dict[str, Any] = {
            "norm": self.norm,
            "dtype": self.dtype,
            "axis_name": self.axis_name,
        }
        backbone = encoder(
            self.encoder, conventions=self.conventions, width=self.encoder_width, **options
        )
        high, wide = (-(-side // self.stride) for side in images.shape[1:3])
        inputs = enlarged(images, backbone.least_px)
        maps = backbone(inputs, train=train, feature_maps=True)
        block = functools.partial(ConvolutionNormActivation, **options)
        if self.neck == "fpn":
            strides = tuple(stride for stride in maps if stride >= self.stride)
            pyramid = FPN(self.neck_width, strides, dtype=self.dtype, name="fpn")(maps)
            x = nn.relu(pyramid[min(strides)])
        else:
            stages = len([stride for stride in maps if stride >= self.stride])
            widths = tuple(self.neck_width * 2 ** max(stages - 2 - i, 0) for i in range(stages))
            x = decoded(maps, inputs.shape[1:3], widths, block, train=train, until=self.stride)
        x = x[:, :high, :wide]

        def head(name, features, bias=0.0):
            y = nn.Conv(self.head_width, (3, 3), dtype=self.dtype, name=f"{name}_convolution")(x)
            constant = nn.initializers.constant(bias)
            return nn.Conv(
                features, (1, 1), dtype=jnp.float32, bias_init=constant, name=f"{name}_head"
            )(nn.relu(y).astype(jnp.float32))

        prior = -math.log(1 / PRIOR - 1)
        return {
            "heat": head("heat", self.num_classes, prior),
            "size": head("size", 2, 1.0),
            "offset": head("offset", 2, 0.5),
        }
