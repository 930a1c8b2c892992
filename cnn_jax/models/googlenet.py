"""GoogLeNet, or Inception v1: Going Deeper with Convolutions (Szegedy et al., 2014)."""

import functools
from collections.abc import Callable
from dataclasses import field
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from cnn_jax.layers.convolution import DTYPES, ConvolutionNormActivation
from cnn_jax.layers.local_response_normalization import local_response_normalization
from cnn_jax.layers.normalization import NORMS
from cnn_jax.layers.pooling import average_pool, global_average_pool, max_pool

INCEPTIONS = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
"""Table 1: channels of each module's 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5 and pool projection."""


class Inception(nn.Module):
    """Four branches of an image's map, side by side: `[batch, height, width, channels]` to as large
    a map (figure 2b).

    Attributes:
        features: channels of the 1x1, the 3x3 reduce, the 3x3, the 5x5 reduce, the 5x5 and the pool
            projection.
        convolution: constructor of a `ConvolutionNormActivation`, its norm and dtype bound.
        largest_px: side of the largest kernel, the paper's 5.
    """

    features: tuple[int, int, int, int, int, int]
    convolution: Callable
    largest_px: int = 5

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> Any:
        def convolution(features, kernel_px, name, x):
            return self.convolution(features, kernel_px, name=name)(x, train=train)

        one, three_reduce, three, five_reduce, five, projection = self.features
        branches = [
            convolution(one, 1, "1x1", x),
            convolution(three, 3, "3x3", convolution(three_reduce, 1, "3x3_reduce", x)),
            convolution(five, self.largest_px, "5x5", convolution(five_reduce, 1, "5x5_reduce", x)),
            convolution(projection, 1, "pool_projection", max_pool(x, 3, 1)),
        ]
        return jnp.concatenate(branches, axis=-1)


class AuxiliaryHead(nn.Module):
    """A classifier on a map halfway, `[batch, height, width, channels]` to float32 logits `[batch,
    num_classes]` (section 5).

    The 5x5 average pooling of stride 3 takes whole windows only, so the map must have 5x5 places or
    more; the fully connected layer belongs to one size of image (4x4 places at the paper's 224 px).

    Attributes:
        num_classes: classes to tell apart.
        convolution: constructor of a `ConvolutionNormActivation`, its norm and dtype bound.
        dtype: of the computation but the logits'.
    """

    num_classes: int
    convolution: Callable
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> Any:
        x = average_pool(x, 5, 3, padding="VALID")
        x = self.convolution(128, 1, name="convolution")(x, train=train)
        x = nn.relu(nn.Dense(1024, dtype=self.dtype, name="dense")(x.reshape(x.shape[0], -1)))
        x = nn.Dropout(0.7, deterministic=not train)(x)
        return nn.Dense(self.num_classes, name="head")(x.astype(jnp.float32))


class GoogLeNet(nn.Module):
    """GoogLeNet: images `[batch, height, width, channels]` to float32 logits `[batch,
    num_classes]`.

    In training, the logits of the two auxiliary heads, on modules 4a and 4d, are sown in this order
    as "logits" into the collection "auxiliary": `apply(..., train=True, mutable=["auxiliary",
    ...])` returns them. Where it isn't asked for they are not computed.

    Differs from the paper in its BatchNorm (Ioffe and Szegedy, 2015), which came later: with
    `norm="none"` convolutions have biases, and the paper's local response normalisation is applied
    around the second and third convolution. Everything is padded.

    With `feature_maps=True` it returns `{stride: map}` instead, the last map at each stride, and
    has no heads.

    Attributes:
        num_classes: classes to tell apart.
        auxiliary: have the two auxiliary heads, whose fully connected layers belong to one size of
            image.
        auxiliary_weight: weight of each auxiliary head's loss beside the loss itself; 0.3 as in the
            paper.
        stem: imagenet (7x7 stride 2, then pooling; output stride 32) or small (3x3 stride 1; 8, for
            images of some 32 px).
        norm: batch, group or none (the paper's: local response normalisation twice).
        origin: paper; or torchvision, which has 3x3 kernels for the 5x5 ones, a 2x2 pooling before
            5a, the stem padded alike on every side, poolings that begin at the edge, and an epsilon
            of 0.001.
        dropout: share of the pooled values dropped in training; 0.4 as in the paper (0.7 in the
            auxiliary heads).
        dtype: float32 or bfloat16, of the computation; parameters and logits are float32.
        axis_name: the `pmap` axis of BatchNorm's statistics.
    """

    num_classes: int
    auxiliary: bool = True
    auxiliary_weight: float = field(default=0.3, metadata={"at_least": 0})
    stem: str = field(default="imagenet", metadata={"choices": ("imagenet", "small")})
    norm: str = field(default="batch", metadata={"choices": NORMS})
    origin: str = field(
        default="paper", metadata={"choices": ("paper", "torchvision"), "absent": "paper"}
    )
    dropout: float = field(default=0.4, metadata={"unit": "0 to 1"})
    dtype: str = field(default="float32", metadata={"choices": DTYPES})
    axis_name: str | None = None

    paper_px = (224, 224, 3)  # unannotated, or it would be a field
    paper_classes = 1000

    @property
    def least_px(self) -> int:
        """Least side of an image, in pixels: any, but the auxiliary heads need 5x5 places at stride
        16 (4 with the small stem)."""
        if not self.auxiliary:
            return 1
        return 65 if self.stem == "imagenet" else 17

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool, feature_maps: bool = False) -> Any:
        paper = self.origin == "paper"
        convolution = functools.partial(
            ConvolutionNormActivation,
            norm=self.norm,
            epsilon=1e-5 if paper else 1e-3,
            dtype=self.dtype,
            axis_name=self.axis_name,
        )
        pool = functools.partial(max_pool, stride=2, padding="SAME" if paper else "END")
        heads = self.auxiliary and not feature_maps
        heads = heads and (
            self.is_initializing() or (train and self.is_mutable_collection("auxiliary"))
        )

        def respond(x):
            return local_response_normalization(x) if self.norm == "none" else x

        maps = {}
        x = images.astype(self.dtype)
        if self.stem == "imagenet":
            x = maps[2] = convolution(
                64, 7, stride=2, padding="SAME" if paper else 3, name="convolution_1"
            )(x, train=train)
            x = pool(x, 3)
            output_stride = 4
        else:
            x = convolution(64, 3, name="convolution_1")(x, train=train)
            output_stride = 1
        x = convolution(64, 1, name="convolution_2_reduce")(respond(x), train=train)
        x = maps[output_stride] = respond(convolution(192, 3, name="convolution_2")(x, train=train))
        for name, features in INCEPTIONS.items():
            if name in ("3a", "4a", "5a"):
                x = pool(x, 3 if paper or name != "5a" else 2)
                output_stride *= 2
            x = maps[output_stride] = Inception(
                features, convolution, 5 if paper else 3, name=f"inception_{name}"
            )(x, train=train)
            if heads and name in ("4a", "4d"):
                head = AuxiliaryHead(
                    self.num_classes, convolution, self.dtype, name=f"auxiliary_{name}"
                )
                logits = head(x, train=train)
                if not self.is_initializing():
                    self.sow("auxiliary", "logits", logits)
        if feature_maps:
            return maps
        x = global_average_pool(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.num_classes, name="head")(x)
