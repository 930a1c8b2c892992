"""EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks (Tan and Le, 2019)."""

import functools
import math
from dataclasses import field
from typing import Any

import jax
from flax import linen as nn

from cnn_jax.layers.convolution import DTYPES, ConvolutionNormActivation, within_output_stride
from cnn_jax.layers.pooling import global_average_pool
from cnn_jax.layers.squeeze_excitation import SqueezeExcitation
from cnn_jax.models.mobilenet_v2 import divisible_by_8

BLOCKS = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)
"""Table 1, EfficientNet-B0: expansion, channels, number of blocks, stride of the first, side of the
depthwise kernel."""

SCALING = {
    0: (1.0, 1.0, 224),
    1: (1.0, 1.1, 240),
    2: (1.1, 1.2, 260),
    3: (1.2, 1.4, 300),
    4: (1.4, 1.8, 380),
    5: (1.6, 2.2, 456),
    6: (1.8, 2.6, 528),
    7: (2.0, 3.1, 600),
}
"""Compound coefficient -> how many times B0's channels and blocks, and the image's side in px, as
in the authors' code: about 1.1, 1.2 and 1.15 to the power of the coefficient."""


class MBConv(nn.Module):
    """`[batch, height, width, channels]` to `[batch, height / stride, width / stride, features]`,
    rounded up: MobileNetV2's inverted residual with squeeze and excitation.

    A pointwise convolution to more channels, a depthwise one, channels weighed by what the whole
    map holds (through a quarter of the input's channels), and a pointwise one to few without an
    activation. The input is added where the shapes are the same.

    Attributes:
        features: channels of the result.
        expansion: how many times the channels are while convolved; 1: as many, without the first
            convolution.
        kernel_px: side of the depthwise kernel.
        stride: by which the size is divided.
        dilation: distance between the depthwise kernel's taps.
        padding: of the depthwise convolution: SAME or SYMMETRIC.
        stochastic_depth: share of examples for which training leaves all but the input out, where
            that is added.
        options: norm, epsilon, dtype and axis_name of the convolutions.
    """

    features: int
    expansion: int
    kernel_px: int
    stride: int
    dilation: int
    padding: str
    stochastic_depth: float
    options: dict

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> Any:
        convolution = functools.partial(
            ConvolutionNormActivation, activation=nn.silu, **self.options
        )
        y, channels = x, x.shape[-1]
        expanded = self.expansion * channels
        if self.expansion > 1:
            y = convolution(expanded, 1, name="expansion")(y, train=train)
        y = convolution(
            expanded,
            self.kernel_px,
            self.stride,
            self.dilation,
            groups=expanded,
            padding=_padding(self.padding, self.kernel_px, self.dilation),
            name="depthwise",
        )(y, train=train)
        y = SqueezeExcitation(
            units=max(channels // 4, 1), activation=nn.silu, name="squeeze_excitation"
        )(y)
        y = ConvolutionNormActivation(
            self.features, 1, activation=None, name="projection", **self.options
        )(y, train=train)
        if x.shape != y.shape:
            return y
        whole = nn.Dropout(self.stochastic_depth, broadcast_dims=(1, 2, 3), deterministic=not train)
        return x + whole(y)


def _padding(padding: str, kernel_px: int, dilation: int = 1) -> str | int:
    """As `ConvolutionNormActivation` takes it: SYMMETRIC has as many zeros on every side."""
    return kernel_px // 2 * dilation if padding == "SYMMETRIC" else padding


class EfficientNet(nn.Module):
    """EfficientNet: images `[batch, height, width, channels]` of any size to float32 logits
    `[batch, num_classes]`.

    B0, found by search, and its relatives, scaled in channels, blocks and image size by one
    coefficient. On a thousand classes B0 to B7 have 5,288,548, 7,794,184, 9,109,994, 12,233,232,
    19,341,616, 30,389,784, 43,040,704 and 66,347,960 parameters. As in the authors' code, numbers
    of channels are rounded to multiples of 8, numbers of blocks upwards, and strided convolutions
    are padded as in TensorFlow.

    With `feature_maps=True` it returns `{stride: map}` instead, the last map at each stride (the
    deepest is the last convolution's), and has no head. Maps keep their keys where an
    `output_stride` makes them larger: each is under the stride that it has without.

    Attributes:
        num_classes: classes to tell apart.
        compound: the paper's compound coefficient, 0 to 7 for B0 to B7.
        width: every layer has about this many times the channels that the coefficient gives.
        stem: imagenet (output stride 32), or small (8: first convolution and 24-channel blocks of
            stride 1, for some 32 px).
        output_stride: largest ratio of the image's side to a map's; blocks beyond are dilated (the
            small stem reaches 8).
        norm: batch or group.
        padding: of strided convolutions: SAME as in TensorFlow, or SYMMETRIC as in PyTorch.
        epsilon: added to the variance of the normalisation: 0.001 as in the authors' code; PyTorch
            has 0.00001 from B0 to B4.
        dropout: share of the pooled values dropped in training; 0.2 as for B0, where the paper has
            up to 0.5 for B7.
        stochastic_depth: share of examples for which training leaves the last block out; of earlier
            ones fewer, down to none of the first.
        dtype: float32 or bfloat16, of the computation; parameters and logits are float32.
        axis_name: the `pmap` axis of BatchNorm's statistics.
    """

    num_classes: int
    compound: int = field(default=0, metadata={"choices": tuple(SCALING)})
    width: float = field(default=1.0, metadata={"at_least": 0.05})
    stem: str = field(default="imagenet", metadata={"choices": ("imagenet", "small")})
    output_stride: int = field(default=32, metadata={"choices": (8, 16, 32)})
    norm: str = field(default="batch", metadata={"choices": ("batch", "group")})
    padding: str = field(default="SAME", metadata={"choices": ("SAME", "SYMMETRIC")})
    epsilon: float = field(default=1e-3, metadata={"at_least": 0})
    dropout: float = field(default=0.2, metadata={"unit": "0 to 1"})
    stochastic_depth: float = field(default=0.2, metadata={"unit": "0 to 1"})
    dtype: str = field(default="float32", metadata={"choices": DTYPES})
    axis_name: str | None = None

    paper_classes = 1000  # unannotated, or it would be a field
    least_px = 1  # every size is rounded up

    @property
    def paper_px(self) -> tuple[int, int, int]:
        """Height, width and channels of the images that the paper scales this network to."""
        side = SCALING[self.compound][2]
        return side, side, 3

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool, feature_maps: bool = False) -> Any:
        options = {
            "norm": self.norm,
            "epsilon": self.epsilon,
            "dtype": self.dtype,
            "axis_name": self.axis_name,
        }
        convolution = functools.partial(ConvolutionNormActivation, activation=nn.silu, **options)
        small = self.stem == "small"
        channels, depth, _ = SCALING[self.compound]
        channels *= self.width
        numbers = [math.ceil(depth * blocks) for _, _, blocks, _, _ in BLOCKS]

        output_stride = 1 if small else 2
        x = convolution(
            divisible_by_8(32 * channels),
            stride=output_stride,
            padding=_padding(self.padding, 3),
            name="stem",
        )(images.astype(self.dtype), train=train)
        maps, dilation, key, done = {}, 1, output_stride, 0
        for stage, (expansion, features, _, stride, kernel_px) in enumerate(BLOCKS, start=1):
            stride = 1 if small and stage == 2 else stride
            key *= stride
            stride, before, dilation = within_output_stride(
                self.output_stride, output_stride, stride, dilation
            )
            output_stride *= stride
            for number in range(1, numbers[stage - 1] + 1):
                x = MBConv(
                    divisible_by_8(features * channels),
                    expansion,
                    kernel_px,
                    stride if number == 1 else 1,
                    before if number == 1 else dilation,
                    self.padding,
                    self.stochastic_depth * done / sum(numbers),
                    options,
                    name=f"stage_{stage}_block_{number}",
                )(x, train=train)
                done += 1
            maps[key] = x
        x = maps[key] = convolution(divisible_by_8(1280 * channels), 1, name="last")(x, train=train)
        if feature_maps:
            return maps
        x = global_average_pool(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.num_classes, name="head")(x)
