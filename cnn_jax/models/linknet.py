"""LinkNet: Exploiting Encoder Representations for Efficient Semantic Segmentation (Chaurasia and
Culurciello, 2017)."""

import functools
from collections.abc import Sequence
from dataclasses import field
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from cnn_jax.layers.convolution import DTYPES, ConvolutionNormActivation
from cnn_jax.layers.normalization import normalization
from cnn_jax.layers.upsampling import fitted
from cnn_jax.models.conventions import CONVENTIONS
from cnn_jax.models.encoders import ENCODERS, encoder, enlarged


class LinkNetStage(nn.Module):
    """`[batch, h, w, channels]` to `[batch, height, width, features]`, of about twice the size: a
    1x1 convolution to a quarter of the channels, a 4x4 transposed one of stride 2, and a 1x1 one.

    Attributes:
        features: channels of the result.
        size_px: height and width of the result, to which twice the size is fitted.
        options: norm, dtype and axis_name of the convolutions.
    """

    features: int
    size_px: Sequence[int]
    options: dict

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> Any:
        convolution = functools.partial(ConvolutionNormActivation, kernel_px=1, **self.options)
        quarter = max(x.shape[-1] // 4, 1)
        x = convolution(quarter, name="reduction")(x, train=train)
        x = nn.ConvTranspose(
            quarter,
            (4, 4),
            strides=(2, 2),
            use_bias=False,
            kernel_init=nn.initializers.he_normal(),
            dtype=self.options["dtype"],
            name="upsampling",
        )(x)
        norm = normalization(train=train, **self.options)
        x = nn.relu(norm(name="upsampling_norm")(x))
        x = fitted(x, *self.size_px)
        return convolution(self.features, name="expansion")(x, train=train)


class LinkNet(nn.Module):
    """LinkNet: `[batch, height, width, channels]` to float32 logits `[batch, height, width,
    num_classes]`.

    From the encoder's deepest map on, each stage doubles the size, and its result is added to the
    encoder's map there, whose channels it has; so a decoder costs little. It is the Linknet of
    segmentation_models.pytorch, whose enlarging kernels are 4x4 where the paper has 3x3, and which
    has one more such stage where the paper ends with a 3x3 and two more transposed convolutions.

    Attributes:
        num_classes: classes to tell apart.
        encoder: the backbone: a classifier that halves the resolution stage by stage.
        conventions: whose way of padding and normalising the backbone has: ours, or that of the
            library its weights came from.
        encoder_width: multiplies the backbone's channels, where it has a width.
        width: channels of the last stage, where the backbone has no map at the image's own size.
        norm: batch or group.
        skips: False leaves the encoder's maps out, to see what they are worth.
        dtype: float32 or bfloat16, of the computation; parameters and logits are float32.
        axis_name: the `pmap` axis of BatchNorm's statistics.
    """

    num_classes: int
    encoder: str = field(default="resnet18", metadata={"choices": ENCODERS})
    conventions: str = field(default="ours", metadata={"choices": CONVENTIONS, "absent": "ours"})
    encoder_width: float = field(default=1.0, metadata={"at_least": 0.05})
    width: int = field(default=32, metadata={"at_least": 1})
    norm: str = field(default="batch", metadata={"choices": ("batch", "group")})
    skips: bool = True
    dtype: str = field(default="float32", metadata={"choices": DTYPES})
    axis_name: str | None = None

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> Any:
        options = {"norm": self.norm, "dtype": self.dtype, "axis_name": self.axis_name}
        backbone = encoder(
            self.encoder, conventions=self.conventions, width=self.encoder_width, **options
        )
        inputs = enlarged(images, backbone.least_px)
        maps = backbone(inputs, train=train, feature_maps=True)
        stride = max(maps)
        x = maps[stride].astype(self.dtype)
        while stride > 1:
            stride //= 2
            there = maps.get(stride)
            size = [-(-side // stride) for side in inputs.shape[1:3]]
            features = self.width if stride == 1 else x.shape[-1]
            if there is not None:
                size, features = there.shape[1:3], there.shape[-1]
            stage = LinkNetStage(features, tuple(size), options, name=f"decoder_{stride}")
            x = stage(x, train=train)
            if self.skips and there is not None:
                x = x + there.astype(x.dtype)
        x = x[:, : images.shape[1], : images.shape[2]]
        return nn.Conv(self.num_classes, (1, 1), dtype=jnp.float32, name="head")(
            x.astype(jnp.float32)
        )
