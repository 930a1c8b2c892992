"""AlexNet: ImageNet Classification with Deep Convolutional Neural Networks (Krizhevsky, Sutskever,
Hinton, 2012).

And its single tower: One Weird Trick for Parallelizing Convolutional Neural Networks (Krizhevsky,
2014).
"""

import functools
from dataclasses import field
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from cnn_jax.layers.convolution import DTYPES, ConvolutionNormActivation
from cnn_jax.layers.local_response_normalization import local_response_normalization
from cnn_jax.layers.pooling import adaptive_average_pool, max_pool

STEMS = ("imagenet", "small")


class AlexNet(nn.Module):
    """AlexNet: `[batch, height, width, channels]` to float32 logits `[batch, num_classes]`.

    Five convolutions and three dense layers. `two_groups` is the network of 2012, its second,
    fourth and fifth convolution divided into the halves of its two graphics cards, with local
    response normalisation: 60,965,224 parameters on 227x227x3 and a thousand classes. Without it,
    it is the single tower of 2014, narrower, undivided and without that normalisation: 61,100,840
    parameters on 224x224x3, as in torchvision. Max pooling has windows of 3 and stride 2, whole
    windows only.

    The paper's first convolution is 11x11 with stride 4, and 32 pixels would not outlast it: the
    stem "small" is 3x3 with stride 1 and no pooling after it, which leaves a map of 7x7 of 32 px,
    and the 6x6 of the paper of 28 px. Whatever map is left is flattened, so the first dense layer's
    weights depend on the size of the images (torchvision averages to 6x6 instead: `pooled_px`).

    Differs from the papers in its initial weights (He et al., 2015, and no bias of 1), and from the
    paper of 2012 in letting local response normalisation see the other half's two nearest channels,
    as Caffe does.

    Feature maps: strides 4, 8, 16 and 32 with the stem "imagenet", and 1, 2 and 4 with "small";
    their sizes are rounded down.

    Attributes:
        num_classes: classes to tell apart.
        two_groups: the divided network of 2012; False for the single tower of 2014.
        stem: imagenet, or small for images of about 28 to 64 px.
        pooled_px: side of the map that is flattened, to which larger and smaller ones are averaged
            (6 in torchvision), so that images may have any size; 0: the map as it is.
        dense_width: units of each of the two hidden dense layers.
        dropout: share of either hidden dense layer's values dropped in training.
        dtype: float32 or bfloat16, of the computation; parameters and logits are float32.
        axis_name: without effect, for there is no BatchNorm.
    """

    num_classes: int
    two_groups: bool = False
    stem: str = field(default="imagenet", metadata={"choices": STEMS})
    pooled_px: int = field(default=0, metadata={"at_least": 0, "absent": 0})
    dense_width: int = field(default=4096, metadata={"at_least": 1})
    dropout: float = field(default=0.5, metadata={"unit": "0 to 1"})
    dtype: str = field(default="float32", metadata={"choices": DTYPES})
    axis_name: str | None = None

    paper_classes = 1000  # unannotated, or it would be a field

    @property
    def paper_px(self) -> tuple[int, int, int]:
        """Height, width and channels of the paper's images (that of 2012 says 224, but its sizes
        are those of 227)."""
        return (227, 227, 3) if self.two_groups else (224, 224, 3)

    @property
    def least_px(self) -> int:
        """Least side of an image, in pixels: what leaves a map of 1x1."""
        if self.stem == "small":
            return 7  # 7 -> 3 -> 1 by two poolings
        return (
            67 if self.two_groups else 63
        )  # 15 -> 7 -> 3 -> 1 by three, after the first convolution

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool, feature_maps: bool = False) -> Any:
        """Logits of `images`, or with `feature_maps` the last map at each output stride, {stride:
        `[batch, h, w, c]`}."""
        convolution = functools.partial(ConvolutionNormActivation, norm="none", dtype=self.dtype)
        pool = functools.partial(max_pool, window_px=3, stride=2, padding="VALID")
        if self.two_groups:
            widths, groups, respond = (96, 256, 384, 384, 256), 2, local_response_normalization
        else:
            widths, groups, respond = (64, 192, 384, 256, 256), 1, lambda x: x
        small = self.stem == "small"
        first: dict[str, Any] = (
            {"kernel_px": 3}
            if small
            else {"kernel_px": 11, "stride": 4, "padding": "VALID" if self.two_groups else 2}
        )

        x = images.astype(self.dtype)
        map_1 = respond(convolution(widths[0], **first, name="convolution_1")(x, train=train))
        x = map_1 if small else pool(map_1)
        map_2 = respond(
            convolution(widths[1], kernel_px=5, groups=groups, name="convolution_2")(x, train=train)
        )
        x = convolution(widths[2], name="convolution_3")(pool(map_2), train=train)
        x = convolution(widths[3], groups=groups, name="convolution_4")(x, train=train)
        map_5 = convolution(widths[4], groups=groups, name="convolution_5")(x, train=train)
        x = pool(map_5)
        if feature_maps:
            return {1: map_2, 2: map_5, 4: x} if small else {4: map_1, 8: map_2, 16: map_5, 32: x}

        if self.pooled_px:
            x = adaptive_average_pool(x, self.pooled_px, self.pooled_px).astype(self.dtype)
        x = x.reshape(x.shape[0], -1)
        for number in (1, 2):
            dense = nn.Dense(
                self.dense_width,
                kernel_init=nn.initializers.he_normal(),
                dtype=self.dtype,
                name=f"dense_{number}",
            )
            x = nn.Dropout(self.dropout, deterministic=not train)(nn.relu(dense(x)))
        return nn.Dense(self.num_classes, dtype=jnp.float32, name="head")(x.astype(jnp.float32))
