"""Deep Residual Learning for Image Recognition (He, Zhang, Ren, Sun, 2015): the networks for
ImageNet and those for CIFAR."""

import functools
from collections.abc import Callable
from dataclasses import field
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from cnn_jax.layers.convolution import DTYPES, ConvolutionNormActivation, within_output_stride
from cnn_jax.layers.pooling import global_average_pool, max_pool
from cnn_jax.layers.squeeze_excitation import SqueezeExcitation

BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
"""Depth of a network for ImageNet -> residual blocks in each of its stages (the paper's table 1:
conv2_x to conv5_x)."""


class ResidualBlock(nn.Module):
    """A few convolutions whose result is added to their input: `[batch, height, width, channels]`
    to that size / `stride`.

    Plain: two 3x3 convolutions. Bottleneck: 1x1, 3x3, and 1x1 to four times `features`.

    Attributes:
        features: channels of the 3x3 convolutions.
        convolution: constructor of a `ConvolutionNormActivation`, its norm and dtype bound.
        bottleneck: which of the two.
        stride: by which the size is divided.
        downsample_in: of a bottleneck: which convolution has the stride, "3x3" or the first "1x1".
        dilations: of the convolutions up to the one with the stride, and of those after it.
        projection: where shapes differ, the shortcut is a 1x1 convolution (the paper's option B);
            False: every `stride`-th position, with zeros for the new channels (option A).
        zeros: without projection, where the zero channels lie: "after" the others, or half of them
            "around", before, and half after.
        squeeze_excitation: whether channels are weighed before the addition (Hu et al., 2018).
    """

    features: int
    convolution: Callable
    bottleneck: bool = False
    stride: int = 1
    downsample_in: str = "3x3"
    dilations: tuple[int, int] = (1, 1)
    projection: bool = True
    zeros: str = "after"
    squeeze_excitation: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> Any:
        def convolution(number, features, kernel_px, stride=1, dilation=1, **options):
            # As many zeros on every side, as in PyTorch, also with stride 2, where "SAME" would
            # depend on the size.
            padding = kernel_px // 2 * dilation
            return self.convolution(
                features,
                kernel_px,
                stride,
                dilation,
                padding=padding,
                name=f"convolution_{number}",
                **options,
            )

        before, after = self.dilations
        if self.bottleneck:
            first = self.downsample_in == "1x1"
            y = convolution(1, self.features, 1, self.stride if first else 1)(x, train=train)
            y = convolution(
                2, self.features, 3, 1 if first else self.stride, after if first else before
            )(y, train=train)
            y = convolution(3, 4 * self.features, 1, activation=None)(y, train=train)
        else:
            y = convolution(1, self.features, 3, self.stride, before)(x, train=train)
            y = convolution(2, self.features, 3, 1, after, activation=None)(y, train=train)
        if self.squeeze_excitation:
            y = SqueezeExcitation(name="squeeze_excitation")(y)

        if x.shape != y.shape and self.projection:
            x = self.convolution(y.shape[-1], 1, self.stride, activation=None, name="shortcut")(
                x, train=train
            )
        elif x.shape != y.shape:
            x = x[:, :: self.stride, :: self.stride]
            new = y.shape[-1] - x.shape[-1]
            before = new // 2 if self.zeros == "around" else 0
            x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (before, new - before)))
        return nn.relu(x + y)


class ResNet(nn.Module):
    """ResNet: images `[batch, height, width, channels]` of any size to float32 logits `[batch,
    num_classes]`.

    With `feature_maps=True` it returns `{stride: map}` instead, the last map at each stride (2, 4,
    8, 16, 32 by default), has no head, and serves as the encoder of a segmenter. Maps keep their
    keys where an `output_stride` makes them larger: a stage's map is always under the stride that
    it has without.

    Differs from the paper in where a bottleneck takes its stride (see `downsample_in`), and in what
    its authors left to others: strided convolutions are padded alike on every side, as PyTorch
    does. The last normalisation of a block starts with scale 1 as in the paper, not with 0 (Goyal
    et al., 2017). An `output_stride` below 32 is Chen et al.'s (2017): where a stage would go
    beyond it, its stride becomes 1 and what follows is dilated instead, so that each value computed
    before is computed again, and others between them. With squeeze and excitation it is SE-ResNet
    (Hu et al., 2018).

    Attributes:
        num_classes: classes to tell apart.
        depth: convolutions and the head: 18, 34, 50, 101 or 152.
        width: every layer has this many times the paper's channels, rounded down.
        squeeze_excitation: weigh the channels of every block by what the whole map holds, reduction
            16.
        stem: imagenet (7x7 stride 2, then 3x3 max pooling, stride 2) or small (3x3 stride 1, for
            images of some 32 px).
        norm: batch or group.
        downsample_in: the bottleneck's convolution that has the stride; 1x1 as in the paper, 3x3 as
            in torchvision (v1.5).
        output_stride: largest ratio of the image's side to a map's; stages beyond are dilated (the
            small stem reaches 8).
        pool_padding: of the stem's pooling: SYMMETRIC, or END as in the SE-ResNets that came from
            Caffe, whose first window begins at the edge.
        epsilon: added to the variance of the normalisation; Keras has 0.00001001.
        dtype: float32 or bfloat16, of the computation; parameters and logits are float32.
        axis_name: the `pmap` axis of BatchNorm's statistics.
    """

    num_classes: int
    depth: int = field(default=50, metadata={"choices": tuple(BLOCKS)})
    width: float = field(default=1.0, metadata={"at_least": 0.05, "absent": 1.0})
    squeeze_excitation: bool = False
    stem: str = field(default="imagenet", metadata={"choices": ("imagenet", "small")})
    norm: str = field(default="batch", metadata={"choices": ("batch", "group")})
    downsample_in: str = field(default="3x3", metadata={"choices": ("3x3", "1x1")})
    output_stride: int = field(default=32, metadata={"choices": (8, 16, 32)})
    pool_padding: str = field(
        default="SYMMETRIC", metadata={"choices": ("SYMMETRIC", "END"), "absent": "SYMMETRIC"}
    )
    epsilon: float = field(default=1e-5, metadata={"at_least": 0, "absent": 1e-5})
    dtype: str = field(default="float32", metadata={"choices": DTYPES})
    axis_name: str | None = None

    paper_px = (224, 224, 3)  # unannotated, or it would be a field
    paper_classes = 1000
    least_px = 1  # every size is rounded up

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool, feature_maps: bool = False) -> Any:
        convolution = functools.partial(
            ConvolutionNormActivation,
            norm=self.norm,
            epsilon=self.epsilon,
            dtype=self.dtype,
            axis_name=self.axis_name,
        )
        block = functools.partial(
            ResidualBlock,
            convolution=convolution,
            bottleneck=self.depth >= 50,
            downsample_in=self.downsample_in,
            squeeze_excitation=self.squeeze_excitation,
        )

        maps = {}
        x = images.astype(self.dtype)
        if self.stem == "imagenet":
            x = maps[2] = convolution(int(64 * self.width), 7, stride=2, padding=3, name="stem")(
                x, train=train
            )
            x = max_pool(x, 3, stride=2, padding=1 if self.pool_padding == "SYMMETRIC" else "END")
            output_stride = 4
        else:
            x = convolution(int(64 * self.width), 3, name="stem")(x, train=train)
            output_stride = 1

        dilation, key = 1, output_stride
        for stage, blocks in enumerate(BLOCKS[self.depth], start=1):
            for number in range(1, blocks + 1):
                stride = 2 if stage > 1 and number == 1 else 1
                key *= stride
                stride, before, dilation = within_output_stride(
                    self.output_stride, output_stride, stride, dilation
                )
                output_stride *= stride
                name = f"stage_{stage}_block_{number}"
                features = int(64 * 2 ** (stage - 1) * self.width)
                x = block(features, stride=stride, dilations=(before, dilation), name=name)(
                    x, train=train
                )
            maps[key] = x
        if feature_maps:
            return maps
        x = global_average_pool(x)
        return nn.Dense(self.num_classes, name="head")(x)


class CifarResNet(nn.Module):
    """The paper's ResNets for CIFAR (section 4.2): images `[batch, height, width, channels]` to
    float32 logits `[batch, num_classes]`.

    A 3x3 convolution, three stages of (depth - 2) / 6 blocks with 16, 32 and 64 channels, and
    shortcuts without parameters. With `feature_maps=True` it returns `{stride: map}` instead, the
    last map at strides 1, 2 and 4, and has no head.

    Attributes:
        num_classes: classes to tell apart.
        depth: convolutions and the head: 20, 32, 44, 56 or 110.
        shortcut: where zeros stand for channels that a shortcut lacks: after the others, or around
            them, half before and half after, as in the well-known PyTorch networks.
        dtype: float32 or bfloat16, of the computation; parameters and logits are float32.
        axis_name: the `pmap` axis of BatchNorm's statistics.
    """

    num_classes: int
    depth: int = field(default=20, metadata={"choices": (20, 32, 44, 56, 110)})
    shortcut: str = field(
        default="after", metadata={"choices": ("after", "around"), "absent": "after"}
    )
    dtype: str = field(default="float32", metadata={"choices": DTYPES})
    axis_name: str | None = None

    paper_px = (32, 32, 3)
    paper_classes = 10
    least_px = 1

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool, feature_maps: bool = False) -> Any:
        convolution = functools.partial(
            ConvolutionNormActivation, dtype=self.dtype, axis_name=self.axis_name
        )
        maps = {}
        x = convolution(16, 3, name="stem")(images.astype(self.dtype), train=train)
        for stage in (1, 2, 3):
            for number in range(1, (self.depth - 2) // 6 + 1):
                stride = 2 if stage > 1 and number == 1 else 1
                block = ResidualBlock(
                    16 * 2 ** (stage - 1),
                    convolution,
                    stride=stride,
                    projection=False,
                    zeros=self.shortcut,
                    name=f"stage_{stage}_block_{number}",
                )
                x = block(x, train=train)
            maps[2 ** (stage - 1)] = x
        if feature_maps:
            return maps
        x = global_average_pool(x)
        return nn.Dense(self.num_classes, name="head")(x)
