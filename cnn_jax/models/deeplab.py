"""DeepLabV3: Rethinking Atrous Convolution for Semantic Image Segmentation (Chen, Papandreou,
Schroff, Adam, 2017), and DeepLabV3+: Encoder-Decoder with Atrous Separable Convolution (Chen, Zhu,
Papandreou, Schroff, Adam, 2018)."""

from collections.abc import Sequence
from dataclasses import field
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from cnn_jax.errors import InputError
from cnn_jax.layers import operations
from cnn_jax.layers.aspp import ASPP, rates_for
from cnn_jax.layers.convolution import DTYPES, ConvolutionNormActivation
from cnn_jax.layers.separable_convolution import SeparableConvolution
from cnn_jax.layers.upsampling import bilinear_resize
from cnn_jax.models.conventions import CONVENTIONS
from cnn_jax.models.encoders import DILATED_ENCODERS, encoder, enlarged

RATES = {16: (6, 12, 18), 8: (12, 24, 36)}
"""Output stride -> dilation rates of the paper's ASPP, for maps of 33x33 and 65x65 places."""


def aspp_rates(
    rates: tuple[int, ...],
    follow: bool,
    output_stride: int,
    crop_px: tuple[int, int] | None,
    images: jax.Array,
) -> tuple[int, ...]:
    """The rates of an ASPP: those given; or, left open, the paper's, or those that follow the size
    of the map.

    That is the map of a training crop: the same network must not have other rates where it is
    evaluated on larger windows.

    Raises:
        InputError: the paper gives none for this output stride.
    """
    if rates:
        return rates
    if not follow:
        if output_stride not in RATES:
            raise InputError(
                f"model.output_stride is {output_stride}, for which there are no rates; make it 8"
                " or 16, or set model.rates."
            )
        return RATES[output_stride]
    return rates_for([-(-size // output_stride) for size in crop_px or images.shape[1:3]])


class AuxiliaryHead(nn.Module):
    """A small FCN on a map `[batch, height, width, channels]`: a 3x3 convolution to a quarter of
    the channels, and float32 logits for each place (in training, after dropout of 0.1)."""

    num_classes: int
    options: dict

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> Any:
        x = ConvolutionNormActivation(max(x.shape[-1] // 4, 1), name="convolution", **self.options)(
            x, train=train
        )
        x = nn.Dropout(0.1, deterministic=not train)(x)
        return nn.Conv(self.num_classes, (1, 1), dtype=jnp.float32, name="head")(
            x.astype(jnp.float32)
        )


def sow_auxiliary(
    module: Any, features: jax.Array, size_px: Sequence[int], options: dict, train: bool
) -> None:
    """In training, the logits of an `AuxiliaryHead` on `features`, at image size, for `module`'s
    collection "auxiliary"."""
    training = train and module.is_mutable_collection("auxiliary")
    if not module.auxiliary_weight or not (module.is_initializing() or training):
        return
    logits = AuxiliaryHead(module.num_classes, options, name="auxiliary")(features, train=train)
    if not module.is_initializing():
        module.sow("auxiliary", "logits", bilinear_resize(logits, *size_px))


class DeepLabV3(nn.Module):
    """DeepLabV3: `[batch, height, width, channels]` to float32 logits `[batch, height, width,
    num_classes]`.

    A dilated backbone, ASPP, one 3x3 convolution, and logits enlarged to the image (bilinear). With
    ResNet-50 or -101, output stride 8, an auxiliary head and 21 classes it has torchvision's
    42,004,074 or 60,996,202 parameters. Differs from the paper in the auxiliary head, which is
    torchvision's (set `auxiliary_weight` to 0 to be without), in Xception's poolings (see there),
    and in how the mean over the map is normalised (see `ASPP`).

    Attributes:
        num_classes: classes to tell apart.
        encoder: the backbone: a classifier that can dilate.
        conventions: whose way of padding and normalising the backbone has: ours, or that of the
            library its weights came from.
        encoder_width: multiplies the backbone's channels.
        output_stride: ratio of the image's side to the last map's, 8 or 16.
        width: channels of ASPP and of the convolution after it.
        rates: dilation rates of ASPP; empty: the paper's, 6, 12 and 18 at output stride 16 and
            twice that at 8, or those that follow.
        rates_follow: where `rates` is empty, rates that are to the training crop's map what the
            paper's are to its own.
        separable: depthwise separable convolutions instead of the 3x3 ones.
        dropout: share of ASPP's values dropped in training.
        auxiliary_weight: what the loss of a second head, on the map before the last stage, weighs
            in training; 0: no such head.
        norm: batch or group.
        pooled_norm: of the mean over the map, where norm is batch: group, or batch as in
            torchvision, which can't be trained on batches of one.
        dtype: float32 or bfloat16, of the computation; parameters and logits are float32.
        axis_name: the `pmap` axis of BatchNorm's statistics.
        crop_px: height and width of a training crop, which rates follow; None: of the image given.
    """

    num_classes: int
    encoder: str = field(default="resnet50", metadata={"choices": DILATED_ENCODERS})
    conventions: str = field(default="ours", metadata={"choices": CONVENTIONS, "absent": "ours"})
    encoder_width: float = field(default=1.0, metadata={"at_least": 0.05})
    output_stride: int = field(default=8, metadata={"choices": (8, 16)})
    width: int = field(default=256, metadata={"at_least": 1})
    rates: tuple[int, ...] = field(default=(), metadata={"at_least": 1})
    rates_follow: bool = False
    separable: bool = False
    dropout: float = field(default=0.5, metadata={"unit": "0 to 1"})
    auxiliary_weight: float = field(default=0.5, metadata={"at_least": 0})
    norm: str = field(default="batch", metadata={"choices": ("batch", "group")})
    pooled_norm: str = field(
        default="group", metadata={"choices": ("group", "batch"), "absent": "group"}
    )
    dtype: str = field(default="float32", metadata={"choices": DTYPES})
    axis_name: str | None = None
    crop_px: tuple[int, int] | None = None

    paper_classes = 21  # of PASCAL VOC; unannotated, or it would be a field

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> Any:
        options = {"norm": self.norm, "dtype": self.dtype, "axis_name": self.axis_name}
        backbone = encoder(
            self.encoder,
            conventions=self.conventions,
            width=self.encoder_width,
            output_stride=self.output_stride,
            **options,
        )
        maps = backbone(enlarged(images, backbone.least_px), train=train, feature_maps=True)
        rates = aspp_rates(self.rates, self.rates_follow, self.output_stride, self.crop_px, images)
        aspp = ASPP(
            self.width,
            rates,
            separable=self.separable,
            dropout=self.dropout,
            pooled_norm=self.pooled_norm,
            name="aspp",
            **options,
        )
        x = aspp(maps[max(maps)], train=train)
        x = _convolution(self.separable, self.width, "convolution", options)(x, train=train)
        logits = nn.Conv(self.num_classes, (1, 1), dtype=jnp.float32, name="head")(
            x.astype(jnp.float32)
        )
        size_px = images.shape[1:3]
        sow_auxiliary(self, maps[max(maps) // 2], size_px, options, train)
        return bilinear_resize(logits, *size_px)


class DeepLabV3Plus(nn.Module):
    """DeepLabV3+: `[batch, height, width, channels]` to float32 logits `[batch, height, width,
    num_classes]`.

    DeepLabV3's backbone and ASPP, and a decoder: what ASPP gives, enlarged to the backbone's map at
    stride 4, joined with that map at 48 channels, convolved twice, and the logits enlarged to the
    image. With ResNet-50, plain convolutions and 21 classes it has 40,352,181 parameters. Differs
    from the paper in Xception, which is Chollet's and not their deeper one with strides for
    poolings, and in how the mean over the map is normalised (see `ASPP`).

    Attributes:
        num_classes: classes to tell apart.
        encoder: the backbone: a classifier that can dilate.
        conventions: whose way of padding and normalising the backbone has: ours, or that of the
            library its weights came from.
        encoder_width: multiplies the backbone's channels.
        output_stride: ratio of the image's side to the last map's, 8 or 16.
        width: channels of ASPP and of the decoder.
        low_level_width: channels that the map at stride 4 is reduced to.
        rates: dilation rates of ASPP; empty: the paper's, 6, 12 and 18 at output stride 16 and
            twice that at 8, or those that follow.
        rates_follow: where `rates` is empty, rates that are to the training crop's map what the
            paper's are to its own.
        separable: depthwise separable convolutions in ASPP and decoder, as in the paper's fastest,
            instead of plain ones.
        dropout: share of ASPP's values dropped in training.
        norm: batch or group.
        pooled_norm: of the mean over the map, where norm is batch: group, or batch as in
            torchvision, which can't be trained on batches of one.
        dtype: float32 or bfloat16, of the computation; parameters and logits are float32.
        axis_name: the `pmap` axis of BatchNorm's statistics.
        crop_px: height and width of a training crop, which rates follow; None: of the image given.
    """

    num_classes: int
    encoder: str = field(default="resnet50", metadata={"choices": DILATED_ENCODERS})
    conventions: str = field(default="ours", metadata={"choices": CONVENTIONS, "absent": "ours"})
    encoder_width: float = field(default=1.0, metadata={"at_least": 0.05})
    output_stride: int = field(default=16, metadata={"choices": (8, 16)})
    width: int = field(default=256, metadata={"at_least": 1})
    low_level_width: int = field(default=48, metadata={"at_least": 1})
    rates: tuple[int, ...] = field(default=(), metadata={"at_least": 1})
    rates_follow: bool = False
    separable: bool = False
    dropout: float = field(default=0.5, metadata={"unit": "0 to 1"})
    norm: str = field(default="batch", metadata={"choices": ("batch", "group")})
    pooled_norm: str = field(
        default="group", metadata={"choices": ("group", "batch"), "absent": "group"}
    )
    dtype: str = field(default="float32", metadata={"choices": DTYPES})
    axis_name: str | None = None
    crop_px: tuple[int, int] | None = None

    paper_classes = 21  # of PASCAL VOC; unannotated, or it would be a field

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> Any:
        options = {"norm": self.norm, "dtype": self.dtype, "axis_name": self.axis_name}
        backbone = encoder(
            self.encoder,
            conventions=self.conventions,
            width=self.encoder_width,
            output_stride=self.output_stride,
            **options,
        )
        maps = backbone(enlarged(images, backbone.least_px), train=train, feature_maps=True)
        rates = aspp_rates(self.rates, self.rates_follow, self.output_stride, self.crop_px, images)
        aspp = ASPP(
            self.width,
            rates,
            separable=self.separable,
            dropout=self.dropout,
            pooled_norm=self.pooled_norm,
            name="aspp",
            **options,
        )
        x = aspp(maps[max(maps)], train=train)
        low = ConvolutionNormActivation(self.low_level_width, 1, name="low_level", **options)(
            maps[4], train=train
        )
        x = operations.joined(bilinear_resize(x, *low.shape[1:3]), low)
        for number in (1, 2):
            x = _convolution(self.separable, self.width, f"decoder_convolution_{number}", options)(
                x, train=train
            )
        logits = nn.Conv(self.num_classes, (1, 1), dtype=jnp.float32, name="head")(
            x.astype(jnp.float32)
        )
        return bilinear_resize(logits, *images.shape[1:3])


def _convolution(separable, features, name, options):
    if separable:
        return SeparableConvolution(features, activation=nn.relu, name=name, **options)
    return ConvolutionNormActivation(features, name=name, **options)
