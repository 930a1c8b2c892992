"""ConvNeXt: A ConvNet for the 2020s (Liu, Mao, Wu, Feichtenhofer, Darrell, Xie, 2022)."""

import functools
from dataclasses import field
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

from cnn_jax.layers.convolution import CONVOLVED, DTYPES, within_output_stride
from cnn_jax.layers.pooling import global_average_pool

BLOCKS = {
    "tiny": (3, 3, 9, 3),
    "small": (3, 3, 27, 3),
    "base": (3, 3, 27, 3),
    "large": (3, 3, 27, 3),
    "xlarge": (3, 3, 27, 3),
}
"""Section 3: blocks of each stage, by size."""

CHANNELS = {"tiny": 96, "small": 96, "base": 128, "large": 192, "xlarge": 256}
"""Section 3: channels of the first stage, by size; each further stage has twice as many."""

EPSILON = 1e-6
"""Of all its norms, as in the authors' code."""

_initial = nn.initializers.truncated_normal(0.02)


class ConvNeXtBlock(nn.Module):
    """`[batch, height, width, channels]` to the same shape: a 7x7 depthwise convolution, LayerNorm,
    and two layers that see one place (to four times the channels, GELU, and back), scaled by one
    learned number a channel and added to the input.

    Attributes:
        dilation: distance between the depthwise kernel's taps.
        stochastic_depth: share of examples for which training leaves all of this out.
        dtype: float32 or bfloat16, of the computation.
    """

    dilation: int
    stochastic_depth: float
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> Any:
        channels = x.shape[-1]
        options = {"kernel_init": _initial, "dtype": self.dtype}
        y = nn.Conv(
            channels,
            (7, 7),
            kernel_dilation=self.dilation,
            feature_group_count=channels,
            name="depthwise",
            **options,
        )(x)
        y = checkpoint_name(y, CONVOLVED)
        y = nn.LayerNorm(epsilon=EPSILON, dtype=self.dtype, name="norm")(y)
        y = checkpoint_name(nn.Dense(4 * channels, name="expansion", **options)(y), CONVOLVED)
        y = nn.gelu(y, approximate=False)
        y = checkpoint_name(nn.Dense(channels, name="projection", **options)(y), CONVOLVED)
        initial = nn.initializers.constant(1e-6)
        scale = self.param("layer_scale", initial, (channels,), jnp.float32)
        y = y * scale.astype(y.dtype)[None, None, None]
        whole = nn.Dropout(self.stochastic_depth, broadcast_dims=(1, 2, 3), deterministic=not train)
        return x + whole(y)


class ConvNeXt(nn.Module):
    """ConvNeXt: images `[batch, height, width, channels]` of any size to float32 logits `[batch,
    num_classes]`.

    A stem of 4x4 patches; four stages of `ConvNeXtBlock`s, a LayerNorm and a 2x2 convolution of
    stride 2 before each but the first; the mean over the map, LayerNorm, and the head. On a
    thousand classes tiny, small, base, large and xlarge have 28,589,128, 50,223,688, 88,591,464,
    197,767,336 and 350,196,968 parameters. Where patches stick out of the image at the bottom and
    right, zeros are added; with `rounding` "down" what is left over is dropped, as in the authors'
    code. The two are the same where sides are divisible by 32.

    With `feature_maps=True` it returns `{stride: map}` instead, the last map at each stride (4, 8,
    16, 32 by default), and has no head. Maps keep their keys where an `output_stride` makes them
    larger: each is under the stride that it has without.

    Attributes:
        num_classes: classes to tell apart.
        size: tiny, small, base, large or xlarge.
        width: every layer has this many times the paper's channels, rounded down.
        stem: imagenet (4x4 patches, output stride 32), or small (a 3x3 convolution of stride 1
            instead, output stride 8, for images of some 32 px).
        output_stride: largest ratio of the image's side to a map's; stages beyond are dilated (the
            small stem reaches 8).
        stochastic_depth: share of examples for which training leaves the last block out; of earlier
            ones fewer, down to none of the first (0.1 to 0.5 in the paper, by size).
        rounding: of maps whose side the stride doesn't divide: up, with zeros, or down, without
            what is left over, as published weights of PyTorch's networks want it.
        dtype: float32 or bfloat16, of the computation; parameters and logits are float32.
    """

    num_classes: int
    size: str = field(default="tiny", metadata={"choices": tuple(BLOCKS)})
    width: float = field(default=1.0, metadata={"at_least": 0.05})
    stem: str = field(default="imagenet", metadata={"choices": ("imagenet", "small")})
    output_stride: int = field(default=32, metadata={"choices": (8, 16, 32)})
    stochastic_depth: float = field(default=0.1, metadata={"unit": "0 to 1"})
    rounding: str = field(default="up", metadata={"choices": ("up", "down"), "absent": "up"})
    dtype: str = field(default="float32", metadata={"choices": DTYPES})

    paper_px = (224, 224, 3)  # unannotated, or it would be a field
    paper_classes = 1000

    @property
    def least_px(self) -> int:
        """Least side of an image, in pixels: any where sizes are rounded up."""
        return 1 if self.rounding == "up" else 32 if self.stem == "imagenet" else 8

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool, feature_maps: bool = False) -> Any:
        norm = functools.partial(nn.LayerNorm, epsilon=EPSILON, dtype=self.dtype)
        channels = int(CHANNELS[self.size] * self.width)
        x = images.astype(self.dtype)
        if self.stem == "imagenet":
            output_stride = 4
            x = _convolution(x, channels, 4, 4, 1, self.rounding, self.dtype, "stem_convolution")
        else:
            output_stride = 1
            x = _convolution(x, channels, 3, 1, 1, self.rounding, self.dtype, "stem_convolution")
        x = norm(name="stem_norm")(x)

        blocks = BLOCKS[self.size]
        maps, dilation, key, done = {}, 1, output_stride, 0
        for stage, number_of_blocks in enumerate(blocks, start=1):
            if stage > 1:
                key *= 2
                stride, before, dilation = within_output_stride(
                    self.output_stride, output_stride, 2, dilation
                )
                output_stride *= stride
                x = norm(name=f"downsampling_{stage}_norm")(x)
                x = _convolution(
                    x,
                    channels * 2 ** (stage - 1),
                    2,
                    stride,
                    before,
                    self.rounding,
                    self.dtype,
                    f"downsampling_{stage}_convolution",
                )
            for number in range(1, number_of_blocks + 1):
                rate = self.stochastic_depth * done / max(sum(blocks) - 1, 1)
                x = ConvNeXtBlock(dilation, rate, self.dtype, name=f"stage_{stage}_block_{number}")(
                    x, train=train
                )
                done += 1
            maps[key] = x
        if feature_maps:
            return maps
        x = nn.LayerNorm(epsilon=EPSILON, name="head_norm")(global_average_pool(x))
        return nn.Dense(self.num_classes, kernel_init=_initial, name="head")(x)


def _convolution(
    x: jax.Array,
    features: int,
    kernel_px: int,
    stride: int,
    dilation: int,
    rounding: str,
    dtype: str,
    name: str,
) -> Any:
    """A convolution whose first window begins at the edge, unless it goes place by place with an
    odd kernel, which has a middle."""
    if kernel_px % 2:
        padding: Any = "SAME"
    elif stride > 1 and rounding == "down":
        padding = "VALID"
    elif stride > 1:
        padding = [(0, -size % stride) for size in x.shape[1:3]]
    else:
        padding = [(0, (kernel_px - 1) * dilation)] * 2
    convolution = nn.Conv(
        features,
        (kernel_px, kernel_px),
        strides=stride,
        kernel_dilation=dilation,
        padding=padding,
        kernel_init=_initial,
        dtype=dtype,
        name=name,
    )
    return checkpoint_name(convolution(x), CONVOLVED)
