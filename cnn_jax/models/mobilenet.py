"""MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications (Howard et
al., 2017)."""

import functools
from dataclasses import field
from typing import Any

import jax
from flax import linen as nn

from cnn_jax.layers.convolution import (
    DTYPES,
    PADDINGS,
    ConvolutionNormActivation,
    strided_padding,
    within_output_stride,
)
from cnn_jax.layers.pooling import global_average_pool
from cnn_jax.layers.separable_convolution import SeparableConvolution

BLOCKS = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *[(512, 1)] * 5,
    (1024, 2),
    (1024, 1),
)
"""Table 1: channels of each depthwise separable block, and the stride of its depthwise
convolution."""


class MobileNet(nn.Module):
    """MobileNet: images `[batch, height, width, channels]` of any size to float32 logits `[batch,
    num_classes]`.

    A convolution is factored into a depthwise one, which looks at each channel's neighbourhood
    alone, and a pointwise one, which mixes channels at each place: 8 to 9 times less work for 3x3
    kernels. Both are followed by normalisation and ReLU6, as in the authors' code (the paper says
    ReLU), strided ones padded as in TensorFlow unless `padding` says otherwise. The paper's table 1
    gives the last depthwise convolution a stride of 2, but sizes that only a stride of 1 leads to,
    which it has here as in their code.

    With `feature_maps=True` it returns `{stride: map}` instead, the last map at each stride, and
    has no head. Maps keep their keys where an `output_stride` makes them larger: each is under the
    stride that it has without.

    Attributes:
        num_classes: classes to tell apart.
        width: the paper's width multiplier: every layer has this many times the channels, rounded
            down.
        stem: imagenet (output stride 32), or small (8: first convolution and second block of stride
            1, for images of some 32 px).
        output_stride: largest ratio of the image's side to a map's; blocks beyond are dilated (the
            small stem reaches 8).
        norm: batch or group.
        padding: of strided convolutions: SAME as in TensorFlow, SYMMETRIC as in PyTorch, or END as
            in Keras, whose blocks get zeros below and on the right only (its first convolution is
            padded as TensorFlow does), which is the same where sizes are even.
        epsilon: added to the variance of the normalisation: 0.001 as in the authors' code; PyTorch
            has 0.00001.
        dropout: share of the pooled values dropped in training; 0.001 as in the authors' code.
        dtype: float32 or bfloat16, of the computation; parameters and logits are float32.
        axis_name: the `pmap` axis of BatchNorm's statistics.
    """

    num_classes: int
    width: float = field(default=1.0, metadata={"at_least": 0.05})
    stem: str = field(default="imagenet", metadata={"choices": ("imagenet", "small")})
    output_stride: int = field(default=32, metadata={"choices": (8, 16, 32), "absent": 32})
    norm: str = field(default="batch", metadata={"choices": ("batch", "group")})
    padding: str = field(default="SAME", metadata={"choices": PADDINGS, "absent": "SAME"})
    epsilon: float = field(default=1e-3, metadata={"at_least": 0, "absent": 1e-3})
    dropout: float = field(default=0.001, metadata={"unit": "0 to 1"})
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
        separable = functools.partial(
            SeparableConvolution,
            between=nn.relu6,
            activation=nn.relu6,
            padding=self.padding,
            **options,
        )
        small = self.stem == "small"

        output_stride = 1 if small else 2
        x = convolution(
            int(32 * self.width),
            stride=output_stride,
            padding=strided_padding(
                "SAME" if self.padding == "END" else self.padding, 3, output_stride
            ),
            name="stem",
        )(images.astype(self.dtype), train=train)
        maps, dilation, key = {output_stride: x}, 1, output_stride
        for number, (features, stride) in enumerate(BLOCKS, start=1):
            stride = 1 if small and number == 2 else stride
            key *= stride
            stride, before, dilation = within_output_stride(
                self.output_stride, output_stride, stride, dilation
            )
            output_stride *= stride
            x = separable(
                int(features * self.width), stride=stride, dilation=before, name=f"block_{number}"
            )(x, train=train)
            maps[key] = x
        if feature_maps:
            return maps
        x = global_average_pool(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.num_classes, name="head")(x)
