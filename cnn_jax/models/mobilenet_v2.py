"""MobileNetV2: Inverted Residuals and Linear Bottlenecks (Sandler, Howard, Zhu, Zhmoginov, Chen,
2018)."""

import functools
from dataclasses import field
from typing import Any

import jax
from flax import linen as nn

from cnn_jax.layers.convolution import (
    DTYPES,
    ConvolutionNormActivation,
    strided_padding,
    within_output_stride,
)
from cnn_jax.layers.pooling import global_average_pool
from cnn_jax.layers.separable_convolution import SeparableConvolution

BOTTLENECKS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Table 2, t, c, n, s: expansion, channels, number of blocks, stride of the first."""


def divisible_by_8(channels: float) -> int:
    """The nearest multiple of 8 that is not below 90% of `channels`, as the authors' code rounds
    numbers of channels."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * channels else rounded + 8


class InvertedResidual(nn.Module):
    """`[batch, height, width, channels]` to `[batch, height / stride, width / stride, features]`,
    rounded up.

    A pointwise convolution to more channels, a depthwise one, and a pointwise one to few without an
    activation, since ReLU would lose what few channels hold (a linear bottleneck). The shortcut
    joins the bottlenecks, where the shapes are the same.

    Attributes:
        features: channels of the result.
        expansion: how many times the channels are while convolved; 1: as many, without the first
            convolution.
        stride: by which the size is divided.
        dilation: distance between the depthwise kernel's taps.
        options: norm, epsilon, dtype and axis_name of the convolutions.
        padding: of the depthwise kernel, as `SeparableConvolution` has it.
    """

    features: int
    expansion: int
    stride: int
    dilation: int
    options: dict
    padding: str = "SAME"

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> Any:
        y = x
        if self.expansion > 1:
            expanded = self.expansion * x.shape[-1]
            y = ConvolutionNormActivation(
                expanded, 1, activation=nn.relu6, name="expansion", **self.options
            )(y, train=train)
        y = SeparableConvolution(
            self.features,
            stride=self.stride,
            dilation=self.dilation,
            padding=self.padding,
            between=nn.relu6,
            activation=None,
            name="convolution",
            **self.options,
        )(y, train=train)
        return x + y if x.shape == y.shape else y


class MobileNetV2(nn.Module):
    """MobileNetV2: images `[batch, height, width, channels]` of any size to float32 logits `[batch,
    num_classes]`.

    Strided convolutions are padded as in TensorFlow, unless `padding` says otherwise. As in the
    authors' code, numbers of channels are rounded to multiples of 8, and the last convolution has
    no fewer than 1280 channels, whatever the width.

    With `feature_maps=True` it returns `{stride: map}` instead, the last map at each stride (the
    deepest is the last convolution's 1280 channels), and has no head. Maps keep their keys where an
    `output_stride` makes them larger: each is under the stride that it has without.

    Attributes:
        num_classes: classes to tell apart.
        width: the paper's width multiplier: every layer has about this many times the channels.
        stem: imagenet (output stride 32), or small (8: first convolution and 24-channel blocks of
            stride 1, for some 32 px).
        output_stride: largest ratio of the image's side to a map's; blocks beyond are dilated (the
            small stem reaches 8).
        norm: batch or group.
        padding: of strided convolutions: SAME as in TensorFlow, or SYMMETRIC as in PyTorch.
        epsilon: added to the variance of the normalisation: 0.001 as in the authors' code; PyTorch
            has 0.00001.
        dropout: share of the pooled values dropped in training; 0.2 as in the authors' code.
        dtype: float32 or bfloat16, of the computation; parameters and logits are float32.
        axis_name: the `pmap` axis of BatchNorm's statistics.
    """

    num_classes: int
    width: float = field(default=1.0, metadata={"at_least": 0.05})
    stem: str = field(default="imagenet", metadata={"choices": ("imagenet", "small")})
    output_stride: int = field(default=32, metadata={"choices": (8, 16, 32), "absent": 32})
    norm: str = field(default="batch", metadata={"choices": ("batch", "group")})
    padding: str = field(
        default="SAME", metadata={"choices": ("SAME", "SYMMETRIC"), "absent": "SAME"}
    )
    epsilon: float = field(default=1e-3, metadata={"at_least": 0, "absent": 1e-3})
    dropout: float = field(default=0.2, metadata={"unit": "0 to 1"})
    dtype: str = field(default="float32", metadata={"choices": DTYPES})
    axis_name: str | None = None

    paper_px = (224, 224, 3)  # unannotated, or it would be a field
    paper_classes = 1000
    least_px = 1  # every size is rounded up

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool, feature_maps: bool = False) -> Any:
        options = {
            "norm": self.norm,
            "epsilon": self.epsilon,
            "dtype": self.dtype,
            "axis_name": self.axis_name,
        }
        convolution = functools.partial(ConvolutionNormActivation, activation=nn.relu6, **options)
        small = self.stem == "small"

        output_stride = 1 if small else 2
        x = convolution(
            divisible_by_8(32 * self.width),
            stride=output_stride,
            padding=strided_padding(self.padding, 3, output_stride),
            name="stem",
        )(images.astype(self.dtype), train=train)
        maps, dilation, key = {}, 1, output_stride
        for stage, (expansion, features, blocks, stride) in enumerate(BOTTLENECKS, start=1):
            stride = 1 if small and stage == 2 else stride
            key *= stride
            stride, before, dilation = within_output_stride(
                self.output_stride, output_stride, stride, dilation
            )
            output_stride *= stride
            for number in range(1, blocks + 1):
                x = InvertedResidual(
                    divisible_by_8(features * self.width),
                    expansion,
                    stride if number == 1 else 1,
                    before if number == 1 else dilation,
                    options,
                    self.padding,
                    name=f"stage_{stage}_block_{number}",
                )(x, train=train)
            maps[key] = x
        x = maps[key] = convolution(divisible_by_8(1280 * max(self.width, 1)), 1, name="last")(
            x, train=train
        )
        if feature_maps:
            return maps
        x = global_average_pool(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.num_classes, name="head")(x)
