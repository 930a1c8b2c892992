"""Densely Connected Convolutional Networks (Huang, Liu, van der Maaten, Weinberger, 2017):
DenseNet-BC for ImageNet."""

import functools
from dataclasses import field
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from cnn_jax.layers.convolution import DTYPES
from cnn_jax.layers.normalization import normalization
from cnn_jax.layers.pooling import average_pool, global_average_pool, max_pool

LAYERS = {121: (6, 12, 24, 16), 169: (6, 12, 32, 32), 201: (6, 12, 48, 32)}
"""Depth -> layers in each dense block (the paper's table 1)."""


class DenseNet(nn.Module):
    """DenseNet: images `[batch, height, width, channels]` of any size to float32 logits `[batch,
    num_classes]`.

    Every layer adds `growth` channels to a map that all later layers of its block see whole.
    Between blocks a transition halves the channels and the size. With `feature_maps=True` it
    returns `{stride: map}` instead, the last map at each stride (2, 4, 8, 16, 32 by default; each
    block's whole map, normalised), and has no head.

    Differs from the paper where sizes are odd: transitions round them up (see `rounding`). They
    also pool before their convolution, which gives the same map for a quarter of the work.

    Attributes:
        num_classes: classes to tell apart.
        depth: convolutions and the head: 121, 169 or 201.
        growth: channels that each layer adds (the paper's k); the stem makes twice as many.
        stem: imagenet (7x7 stride 2, then 3x3 max pooling, stride 2) or small (3x3 stride 1, for
            images of some 32 px).
        rounding: whether transitions keep the last row and column of odd sizes: up, or down as in
            Keras and PyTorch.
        epsilon: added to the variance of the normalisation; Keras has 0.00001001.
        dtype: float32 or bfloat16, of the computation; parameters and logits are float32.
        axis_name: the `pmap` axis of BatchNorm's statistics.
    """

    num_classes: int
    depth: int = field(default=121, metadata={"choices": tuple(LAYERS)})
    growth: int = field(default=32, metadata={"at_least": 1, "unit": "channels"})
    stem: str = field(default="imagenet", metadata={"choices": ("imagenet", "small")})
    rounding: str = field(default="up", metadata={"choices": ("up", "down"), "absent": "up"})
    epsilon: float = field(default=1e-5, metadata={"at_least": 0, "absent": 1e-5})
    dtype: str = field(default="float32", metadata={"choices": DTYPES})
    axis_name: str | None = None

    paper_px = (224, 224, 3)  # unannotated, or it would be a field
    paper_classes = 1000

    @property
    def least_px(self) -> int:
        """Least side of an image, in pixels: any where sizes are rounded up."""
        return 1 if self.rounding == "up" else 29 if self.stem == "imagenet" else 8

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool, feature_maps: bool = False) -> Any:
        convolution = functools.partial(
            nn.Conv, use_bias=False, kernel_init=nn.initializers.he_normal(), dtype=self.dtype
        )
        norm = normalization(
            "batch",
            train=train,
            dtype=self.dtype,
            axis_name=self.axis_name,
            epsilon=self.epsilon,
        )

        # Unlike in most architectures, normalisation and activation come before the convolution:
        # each layer sees the same channels as those before it, but scales them for itself.
        def layer(x, name):
            y = nn.relu(norm(name=f"{name}_norm_1")(x))
            y = convolution(4 * self.growth, (1, 1), name=f"{name}_convolution_1")(y)
            y = nn.relu(norm(name=f"{name}_norm_2")(y))
            y = convolution(self.growth, (3, 3), name=f"{name}_convolution_2")(y)
            return jnp.concatenate([x, y], axis=-1)

        maps = {}
        x = images.astype(self.dtype)
        if self.stem == "imagenet":
            x = convolution(2 * self.growth, (7, 7), strides=2, padding=3, name="stem_convolution")(
                x
            )
            x = maps[2] = nn.relu(norm(name="stem_norm")(x))
            x = max_pool(x, 3, stride=2, padding=1)
            output_stride = 4
        else:
            x = convolution(2 * self.growth, (3, 3), name="stem_convolution")(x)
            x = nn.relu(norm(name="stem_norm")(x))
            output_stride = 1

        for block, layers in enumerate(LAYERS[self.depth], start=1):
            if block > 1:
                x = average_pool(x, padding="SAME" if self.rounding == "up" else "VALID")
                x = convolution(
                    x.shape[-1] // 2, (1, 1), name=f"transition_{block - 1}_convolution"
                )(x)
                output_stride *= 2
            for number in range(1, layers + 1):
                x = layer(x, f"block_{block}_layer_{number}")
            x = maps[output_stride] = nn.relu(norm(name=f"block_{block}_norm")(x))
        if feature_maps:
            return maps
        x = global_average_pool(x)
        return nn.Dense(self.num_classes, name="head")(x)
