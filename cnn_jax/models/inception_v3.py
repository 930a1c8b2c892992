"""Inception v3: Rethinking the Inception Architecture for Computer Vision (Szegedy et al.,
2015)."""

import functools
from collections.abc import Callable
from dataclasses import field
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from cnn_jax.layers.convolution import DTYPES
from cnn_jax.layers.normalization import normalization
from cnn_jax.layers.pooling import average_pool, global_average_pool, max_pool

ROW, COLUMN = (1, 7), (7, 1)


def factorised_7x7(width: int) -> tuple:
    """Figure 6: 7x7 convolutions as a row and a column, `width` channels between."""
    once = ((width, 1), (width, ROW), (192, COLUMN))
    twice = ((width, 1), (width, COLUMN), (width, ROW), (width, COLUMN), (192, ROW))
    return ((192, 1),), once, twice


FIGURE_5 = ((64, 1),), ((48, 1), (64, 5)), ((64, 1), (96, 3), (96, 3))
FIGURE_7 = (
    ((320, 1),),
    ((384, 1), (384, (1, 3), (3, 1))),
    ((448, 1), (384, 3), (384, (1, 3), (3, 1))),
)

MODULES = (
    (FIGURE_5, 1, 32),
    (FIGURE_5, 1, 64),
    (FIGURE_5, 1, 64),
    ((((384, 3),), ((64, 1), (96, 3), (96, 3))), 2, None),
    (factorised_7x7(128), 1, 192),
    (factorised_7x7(160), 1, 192),
    (factorised_7x7(160), 1, 192),
    (factorised_7x7(192), 1, 192),
    ((((192, 1), (320, 3)), ((192, 1), (192, ROW), (192, COLUMN), (192, 3))), 2, None),
    (FIGURE_7, 1, 192),
    (FIGURE_7, 1, 192),
)
"""Each module's branches, stride and pool projection, as in `Inception`."""


class ConvolutionNorm(nn.Module):
    """Convolution without bias, BatchNorm, in the authors' code without scale (the next layer can
    scale as well), and ReLU."""

    features: int
    kernel_px: int | tuple[int, int]
    stride: int = 1
    padding: str = "SAME"
    scale: bool = False
    dtype: str = "float32"
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> Any:
        kernel_px = (
            (self.kernel_px, self.kernel_px) if isinstance(self.kernel_px, int) else self.kernel_px
        )
        x = nn.Conv(
            self.features,
            kernel_px,
            strides=self.stride,
            padding=self.padding,
            use_bias=False,
            kernel_init=nn.initializers.he_normal(),
            dtype=self.dtype,
            name="convolution",
        )(x)
        norm = normalization(
            "batch", train=train, dtype=self.dtype, axis_name=self.axis_name, epsilon=1e-3
        )
        return nn.relu(norm(use_scale=self.scale, name="norm")(x))


class Inception(nn.Module):
    """Branches side by side, the last a pooling: `[batch, height, width, channels]` to a map as
    large, or half as large.

    Attributes:
        branches: of each, its convolutions one after the other: channels and kernel; of several
            kernels, the maps side by side.
        stride: 1, or 2 in each branch's last convolution and in its pooling (figure 10).
        projection: channels of the 1x1 convolution after 3x3 average pooling; None: 3x3 max pooling
            alone.
        padding: of what has stride 2.
        convolution: constructor of a `ConvolutionNorm`, its dtype bound.
        count_padding: whether average pooling counts zeros beyond the edge.
    """

    branches: tuple
    stride: int
    projection: int | None
    padding: str
    convolution: Callable
    count_padding: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> Any:
        made = []
        for branch, layers in enumerate(self.branches, start=1):
            y = x
            for number, (features, *kernels) in enumerate(layers, start=1):
                strided = (
                    {"stride": self.stride, "padding": self.padding}
                    if self.stride > 1 and number == len(layers)
                    else {}
                )
                y = jnp.concatenate(
                    [
                        self.convolution(
                            features,
                            kernel_px,
                            name=f"branch_{branch}_convolution_{number}{letter}",
                            **strided,
                        )(y, train=train)
                        for letter, kernel_px in zip(
                            "ab" if len(kernels) > 1 else ("",), kernels, strict=True
                        )
                    ],
                    axis=-1,
                )
            made.append(y)
        if self.projection is None:
            made.append(max_pool(x, 3, self.stride, padding=self.padding))
        else:
            made.append(
                self.convolution(self.projection, 1, name="pool_projection")(
                    average_pool(x, 3, 1, count_padding=self.count_padding), train=train
                )
            )
        return jnp.concatenate(made, axis=-1)


class InceptionV3(nn.Module):
    """Inception v3: images `[batch, height, width, channels]` to float32 logits `[batch,
    num_classes]`.

    Channels that the paper leaves open, and the convolutions of stride 1 in its stem, are those of
    the authors' code and of Keras.

    In training with `auxiliary`, the logits of the auxiliary head (on the last map of stride 16,
    figure 8) are sown as "logits" into the collection "auxiliary": `apply(..., train=True,
    mutable=["auxiliary", ...])` returns them. Where it isn't asked for they are not computed. Its
    second convolution covers the whole pooled map, 5x5 at the paper's 299 px.

    With `feature_maps=True` it returns `{stride: map}` instead, the last map at each stride, and
    has no heads. With the imagenet stem nothing of stride 2 is padded: maps are some pixels smaller
    than the image / stride.

    Attributes:
        num_classes: classes to tell apart.
        auxiliary: have the auxiliary head, which belongs to one size of image.
        auxiliary_weight: weight of the auxiliary head's loss beside the loss itself; the paper
            gives none, its code 0.4.
        stem: imagenet (output stride 32) or small (8: stride 1, one pooling, everything padded, for
            images of some 32 px).
        norm_scale: whether BatchNorm has a scale, as in PyTorch; the authors' code and Keras have
            none.
        count_padding: whether average pooling counts zeros beyond the edge, as in PyTorch.
        dropout: share of the pooled values dropped in training; 0.2 as in the authors' code.
        dtype: float32 or bfloat16, of the computation; parameters and logits are float32.
        axis_name: the `pmap` axis of BatchNorm's statistics.
    """

    num_classes: int
    auxiliary: bool = False
    auxiliary_weight: float = field(default=0.4, metadata={"at_least": 0})
    stem: str = field(default="imagenet", metadata={"choices": ("imagenet", "small")})
    norm_scale: bool = field(default=False, metadata={"absent": False})
    count_padding: bool = field(default=False, metadata={"absent": False})
    dropout: float = field(default=0.2, metadata={"unit": "0 to 1"})
    dtype: str = field(default="float32", metadata={"choices": DTYPES})
    axis_name: str | None = None

    paper_px = (299, 299, 3)  # unannotated, or it would be a field
    paper_classes = 1000

    @property
    def least_px(self) -> int:
        """Least side of an image, in pixels: Keras's limit, under which little is left, or what
        leaves 5x5 for the auxiliary head."""
        if self.stem == "imagenet":
            return 107 if self.auxiliary else 75
        return 17 if self.auxiliary else 1

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool, feature_maps: bool = False) -> Any:
        convolution = functools.partial(
            ConvolutionNorm, scale=self.norm_scale, dtype=self.dtype, axis_name=self.axis_name
        )
        head = self.auxiliary and not feature_maps
        head = head and (
            self.is_initializing() or (train and self.is_mutable_collection("auxiliary"))
        )
        imagenet = self.stem == "imagenet"
        padding = "VALID" if imagenet else "SAME"

        def stem(x, number, features, kernel_px, **options):
            return convolution(features, kernel_px, name=f"stem_convolution_{number}", **options)(
                x, train=train
            )

        output_stride = 2 if imagenet else 1
        x = stem(images.astype(self.dtype), 1, 32, 3, stride=output_stride, padding=padding)
        x = stem(x, 2, 32, 3, padding=padding)
        x = stem(x, 3, 64, 3)
        maps = {output_stride: x}
        if imagenet:
            x = max_pool(x, 3, 2, padding)
            output_stride *= 2
        x = stem(x, 4, 80, 1)
        x = maps[output_stride] = stem(x, 5, 192, 3, padding=padding)
        x = max_pool(x, 3, 2, padding)
        output_stride *= 2
        for number, (branches, stride, projection) in enumerate(MODULES):
            if head and number == 8:
                logits = self._auxiliary_head(x, convolution, train)
                if not self.is_initializing():
                    self.sow("auxiliary", "logits", logits)
            output_stride *= stride
            module = Inception(
                branches,
                stride,
                projection,
                padding,
                convolution,
                self.count_padding,
                name=f"mixed_{number}",
            )
            x = maps[output_stride] = module(x, train=train)
        if feature_maps:
            return maps
        x = global_average_pool(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.num_classes, name="head")(x)

    def _auxiliary_head(self, x, convolution, train):
        x = average_pool(x, 5, 3, padding="VALID")
        x = convolution(128, 1, name="auxiliary_convolution_1")(x, train=train)
        x = convolution(768, x.shape[1:3], padding="VALID", name="auxiliary_convolution_2")(
            x, train=train
        )
        return nn.Dense(self.num_classes, name="auxiliary_head")(
            x.reshape(x.shape[0], -1).astype(jnp.float32)
        )
