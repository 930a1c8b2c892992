"""The asymmetric U-Net: a heavy encoder that weighs its channels, a bridge that looks at several
scales, a light decoder.

A course's proposal, published without figures. Read as U-Net (Ronneberger et al., 2015) with
Squeeze-and-Excitation (Hu et al., 2018) in the encoder, ASPP (Chen et al., 2017) as the bridge, and
half of the decoder taken away.
"""

import functools
from dataclasses import field
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from cnn_jax.layers import operations
from cnn_jax.layers.aspp import ASPP, rates_for
from cnn_jax.layers.convolution import DTYPES, ConvolutionNormActivation
from cnn_jax.layers.normalization import NORMS
from cnn_jax.layers.pooling import max_pool
from cnn_jax.layers.squeeze_excitation import SqueezeExcitation
from cnn_jax.layers.upsampling import UPSAMPLINGS, upsampling

SQUEEZE_EXCITATIONS = ("none", "channel", "concurrent")


class AsymmetricUNet(nn.Module):
    """The asymmetric U-Net: `[batch, height, width, channels]` to float32 logits `[batch, height,
    width, num_classes]`.

    Encoder: stages of two 3x3 convolutions and squeeze and excitation, 64, 128, 256 and 512
    channels, each followed by pooling.
    Bridge: ASPP of 256 channels. Decoder: a stage is one 3x3 convolution with half the channels of
    the encoder's stage at its size.
    Every part can be switched off; with all three off it is `UNet`. Sizes are carried as there.

    Attributes:
        num_classes: classes to tell apart.
        base_width: channels of the first stage; each further stage has twice as many.
        depth: how many times the resolution is halved.
        squeeze_excitation: of each encoder stage: none, channel (the paper's), or concurrent
            (channel and place; Roy et al., 2018).
        reduction: how many times fewer units its hidden layer has than the stage has channels.
        aspp: bridge of ASPP with a quarter of the channels; False: two 3x3 convolutions with all of
            them, as in U-Net.
        rates: dilation rates of ASPP; empty: they follow the size of a training crop's map, 2, 4
            and 6 for 144x256 px.
        dropout: share of the bridge's values dropped in training.
        asymmetry: the light decoder; False: U-Net's, two convolutions with as many channels as the
            encoder.
        norm: batch, group or none.
        upsampling: transposed (convolution) or bilinear.
        skips: False cuts the connections from encoder to decoder, to see what they are worth.
        dtype: float32 or bfloat16, of the computation; parameters and logits are float32.
        axis_name: the `pmap` axis of BatchNorm's statistics.
        crop_px: height and width of a training crop, which rates follow; None: of the image given.
    """

    num_classes: int
    base_width: int = field(default=64, metadata={"at_least": 1})
    depth: int = field(default=4, metadata={"at_least": 0, "at_most": 12})
    squeeze_excitation: str = field(default="channel", metadata={"choices": SQUEEZE_EXCITATIONS})
    reduction: int = field(default=16, metadata={"at_least": 1})
    aspp: bool = True
    rates: tuple[int, ...] = field(default=(), metadata={"at_least": 1})
    dropout: float = field(default=0.1, metadata={"unit": "0 to 1"})
    asymmetry: bool = True
    norm: str = field(default="batch", metadata={"choices": NORMS})
    upsampling: str = field(default="transposed", metadata={"choices": UPSAMPLINGS})
    skips: bool = True
    dtype: str = field(default="float32", metadata={"choices": DTYPES})
    axis_name: str | None = None
    crop_px: tuple[int, int] | None = None

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> Any:
        options = {"norm": self.norm, "dtype": self.dtype, "axis_name": self.axis_name}
        block = functools.partial(ConvolutionNormActivation, **options)

        def stage(x, name, features, convolutions=2):
            for number in range(1, convolutions + 1):
                x = block(features, name=f"{name}_convolution_{number}")(x, train=train)
            return x

        x = images.astype(self.dtype)
        skips = []
        for level in range(self.depth):
            x = stage(x, f"encoder_{level}", self.base_width * 2**level)
            if self.squeeze_excitation != "none":
                spatial = self.squeeze_excitation == "concurrent"
                x = SqueezeExcitation(
                    self.reduction, spatial, name=f"encoder_{level}_squeeze_excitation"
                )(x)
            skips.append(x)
            x = max_pool(x)
        if self.aspp:
            map_px = [-(-size // 2**self.depth) for size in self.crop_px or images.shape[1:3]]
            features = max(self.base_width * 2**self.depth // 4, 1)
            x = ASPP(
                features,
                self.rates or rates_for(map_px),
                dropout=self.dropout,
                name="bridge",
                **options,
            )(x, train=train)
        else:
            x = stage(x, "bridge", self.base_width * 2**self.depth)
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        for level in reversed(range(self.depth)):
            features, skip = self.base_width * 2**level, skips[level]
            if self.asymmetry:
                features = max(features // 2, 1)
            x = upsampling(self.upsampling)(
                features, dtype=self.dtype, name=f"decoder_{level}_upsampling"
            )(x)
            x = x[:, : skip.shape[1], : skip.shape[2]]
            if self.skips:
                x = operations.joined(skip, x)
            x = stage(x, f"decoder_{level}", features, convolutions=1 if self.asymmetry else 2)
        return nn.Conv(self.num_classes, (1, 1), dtype=jnp.float32, name="head")(
            x.astype(jnp.float32)
        )
