"""Xception: Deep Learning with Depthwise Separable Convolutions (Chollet, 2017)."""

import functools
from dataclasses import field
from typing import Any

import jax
from flax import linen as nn

from cnn_jax.layers.convolution import DTYPES, ConvolutionNormActivation, within_output_stride
from cnn_jax.layers.pooling import global_average_pool, max_pool
from cnn_jax.layers.separable_convolution import SeparableConvolution

BLOCKS = (
    ((128, 128), 2),  # entry flow
    ((256, 256), 2),
    ((728, 728), 2),
    *[((728, 728, 728), 1)] * 8,  # middle flow
    ((728, 1024), 2),  # exit flow
)
"""Figure 5, blocks 2 to 13: channels of each separable convolution, and the stride."""


class XceptionBlock(nn.Module):
    """Separable convolutions, a ReLU before each, and a shortcut: `[batch, height, width,
    channels]` to that size / `stride`.

    Attributes:
        features: channels of each convolution.
        pool: whether a 3x3 max pooling follows them.
        stride: of the pooling and the shortcut.
        dilation: distance between the taps of the depthwise kernels.
        options: norm, epsilon, dtype and axis_name of the convolutions.
        pool_padding: of the pooling: SAME or SYMMETRIC.
    """

    features: tuple[int, ...]
    pool: bool
    stride: int
    dilation: int
    options: dict
    pool_padding: str = "SAME"

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> Any:
        y = x
        for number, features in enumerate(self.features, start=1):
            separable = SeparableConvolution(
                features, dilation=self.dilation, name=f"convolution_{number}", **self.options
            )
            y = separable(nn.relu(y), train=train)
        if self.pool:
            y = max_pool(y, 3, self.stride, 1 if self.pool_padding == "SYMMETRIC" else "SAME")
        if x.shape != y.shape:
            shortcut = ConvolutionNormActivation(
                y.shape[-1], 1, self.stride, activation=None, name="shortcut", **self.options
            )
            x = shortcut(x, train=train)
        return x + y


class Xception(nn.Module):
    """Xception: images `[batch, height, width, channels]` to float32 logits `[batch, num_classes]`.

    Separable convolutions throughout, with nothing between the depthwise and the pointwise one, and
    shortcuts around them: an entry flow down to stride 16, a middle flow of eight equal blocks, an
    exit flow. Blocks are numbered as by the author in Keras, whose first two convolutions are not
    padded, so that 299 px become 147.

    With `feature_maps=True` it returns `{stride: map}` instead, the last block's map at each
    stride, before the ReLU with which the next block begins, and has no head. With an
    `output_stride` below 32 the poolings beyond it keep their 3x3 windows, not dilated, and have
    stride 1; maps keep their keys: each is under the stride that it has without.

    Attributes:
        num_classes: classes to tell apart.
        width: every layer has this many times the paper's channels, rounded down.
        stem: imagenet (output stride 32), or small (8: padded first convolutions and a second
            block, all of stride 1, for 32 px).
        padding: of the first two convolutions of the imagenet stem: VALID as by the author, or
            SAME or SYMMETRIC, which take images of any size.
        output_stride: largest ratio of the image's side to a map's; blocks beyond are dilated (the
            small stem reaches 8).
        norm: batch or group.
        pool_padding: of the poolings: SAME as in TensorFlow, or SYMMETRIC as in PyTorch.
        epsilon: added to the variance of the normalisation: 0.001 as by the author; PyTorch has
            0.00001.
        dropout: share of the pooled values dropped in training; 0.5 as in the paper for ImageNet.
        dtype: float32 or bfloat16, of the computation; parameters and logits are float32.
        axis_name: the `pmap` axis of BatchNorm's statistics.
    """

    num_classes: int
    width: float = field(default=1.0, metadata={"at_least": 0.05, "absent": 1.0})
    stem: str = field(default="imagenet", metadata={"choices": ("imagenet", "small")})
    padding: str = field(
        default="VALID", metadata={"choices": ("VALID", "SAME", "SYMMETRIC"), "absent": "VALID"}
    )
    output_stride: int = field(default=32, metadata={"choices": (8, 16, 32), "absent": 32})
    norm: str = field(default="batch", metadata={"choices": ("batch", "group")})
    pool_padding: str = field(
        default="SAME", metadata={"choices": ("SAME", "SYMMETRIC"), "absent": "SAME"}
    )
    epsilon: float = field(default=1e-3, metadata={"at_least": 0, "absent": 1e-3})
    dropout: float = field(default=0.5, metadata={"unit": "0 to 1"})
    dtype: str = field(default="float32", metadata={"choices": DTYPES})
    axis_name: str | None = None

    paper_px = (299, 299, 3)  # unannotated, or it would be a field
    paper_classes = 1000

    @property
    def least_px(self) -> int:
        """Least side of an image, in pixels: the author's, which leaves 3x3 at the end; any with
        the small stem."""
        return 71 if self.stem == "imagenet" and self.padding == "VALID" else 1

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool, feature_maps: bool = False) -> Any:
        options = {
            "norm": self.norm,
            "epsilon": self.epsilon,
            "dtype": self.dtype,
            "axis_name": self.axis_name,
        }
        convolution = functools.partial(ConvolutionNormActivation, **options)
        small = self.stem == "small"

        output_stride = 1 if small else 2
        padding = {"SYMMETRIC": 1}.get(self.padding, self.padding) if not small else "SAME"
        x = images.astype(self.dtype)
        x = convolution(
            int(32 * self.width),
            stride=output_stride,
            padding=padding,
            name="block_1_convolution_1",
        )(x, train=train)
        x = convolution(int(64 * self.width), padding=padding, name="block_1_convolution_2")(
            x, train=train
        )
        maps, dilation, key = {output_stride: x}, 1, output_stride
        for number, (features, stride) in enumerate(BLOCKS, start=2):
            stride = 1 if small and number == 2 else stride
            pool = stride > 1
            key *= stride
            stride, before, dilation = within_output_stride(
                self.output_stride, output_stride, stride, dilation
            )
            output_stride *= stride
            features = tuple(int(channels * self.width) for channels in features)
            x = XceptionBlock(
                features, pool, stride, before, options, self.pool_padding, name=f"block_{number}"
            )(x, train=train)
            maps[key] = x
        for number, features in enumerate((1536, 2048), start=1):
            x = maps[key] = SeparableConvolution(
                int(features * self.width),
                dilation=dilation,
                activation=nn.relu,
                name=f"block_14_convolution_{number}",
                **options,
            )(x, train=train)
        if feature_maps:
            return maps
        x = global_average_pool(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.num_classes, name="head")(x)
