"""U-Net's decoder on the backbone of a classification network."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from cnn_jax.errors import InputError
from cnn_jax.layers import operations
from cnn_jax.layers.convolution import DTYPES, ConvolutionNormActivation
from cnn_jax.layers.upsampling import bilinear_resize
from cnn_jax.models.conventions import CONVENTIONS
from cnn_jax.models.encoders import ENCODERS, encoder, enlarged


class EncoderUNet(nn.Module):
    """U-Net with a classifier as its encoder: `[batch, height, width, channels]` to float32 logits
    `[batch, height, width, num_classes]`.

    The encoder's last map at each output stride is a skip; from the deepest on, each stage enlarges
    the map (bilinear) to the next skip's size, joins the two and convolves twice. Where the
    backbone has no map at the image's own size, a last stage without a skip gets there. It is the
    U-Net of segmentation_models.pytorch, but for the bilinear enlargement (theirs repeats pixels)
    and the 1x1 head (theirs is 3x3).

    Attributes:
        num_classes: classes to tell apart.
        encoder: the backbone: a classifier that halves the resolution stage by stage.
        conventions: whose way of padding and normalising the backbone has: ours, or that of the
            library its weights came from.
        encoder_width: multiplies the backbone's channels, where it has a width.
        decoder_widths: channels of the decoder's stages, the deepest first; the last value serves
            all that are left.
        norm: batch or group.
        skips: False cuts the connections from encoder to decoder, to see what they are worth.
        dtype: float32 or bfloat16, of the computation; parameters and logits are float32.
        axis_name: the `pmap` axis of BatchNorm's statistics.
    """

    num_classes: int
    encoder: str = field(default="resnet34", metadata={"choices": ENCODERS})
    conventions: str = field(default="ours", metadata={"choices": CONVENTIONS, "absent": "ours"})
    encoder_width: float = field(default=1.0, metadata={"at_least": 0.05})
    decoder_widths: tuple[int, ...] = field(
        default=(256, 128, 64, 32, 16), metadata={"at_least": 1}
    )
    norm: str = field(default="batch", metadata={"choices": ("batch", "group")})
    skips: bool = True
    dtype: str = field(default="float32", metadata={"choices": DTYPES})
    axis_name: str | None = None

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> Any:
        if not self.decoder_widths:
            raise InputError(
                "model.decoder_widths is empty; give the channels of one stage at least."
            )
        options = {"norm": self.norm, "dtype": self.dtype, "axis_name": self.axis_name}
        block = functools.partial(ConvolutionNormActivation, **options)
        backbone = encoder(
            self.encoder, conventions=self.conventions, width=self.encoder_width, **options
        )
        inputs = enlarged(images, backbone.least_px)
        maps = backbone(inputs, train=train, feature_maps=True)
        x = decoded(
            maps,
            inputs.shape[1:3],
            self.decoder_widths,
            block,
            train=train,
            skips=self.skips,
        )
        x = x[:, : images.shape[1], : images.shape[2]]
        return nn.Conv(self.num_classes, (1, 1), dtype=jnp.float32, name="head")(
            x.astype(jnp.float32)
        )


def decoded(
    maps: Mapping[int, jax.Array],
    size_px: Sequence[int],
    widths: Sequence[int],
    block: Callable,
    *,
    train: bool,
    skips: bool = True,
    until: int = 1,
) -> Any:
    """U-Net's decoder over a backbone's maps; its layers are the caller's, within its `compact`.

    Args:
        maps: `{stride: [batch, h, w, c]}`.
        size_px: height and width of the image.
        widths: channels of the stages, the deepest first; the last value serves all that are left.
        block: constructor of a `ConvolutionNormActivation`.
        train: as the layers take it.
        skips: whether the maps of each stage are joined in.
        until: the stride of the result.
    """
    deepest, *others = sorted(maps, reverse=True)
    x = maps[deepest]
    strides = [stride for stride in others if stride >= until]
    strides += [until] if until not in maps else []
    for stage, stride in enumerate(strides):
        features = (*widths, *tuple(widths[-1:]) * len(maps))[stage]
        size = [-(-side // stride) for side in size_px]
        size = maps[stride].shape[1:3] if stride in maps else size
        x = bilinear_resize(x, *size)
        if skips and stride in maps:
            x = operations.joined(maps[stride].astype(x.dtype), x)
        x = block(features, name=f"decoder_{stride}_convolution_1")(x, train=train)
        x = block(features, name=f"decoder_{stride}_convolution_2")(x, train=train)
    return x
