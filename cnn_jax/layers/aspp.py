"""Atrous spatial pyramid pooling: one map seen at several scales at once (Chen, Papandreou,
Schroff, Adam, 2017)."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from cnn_jax.layers.convolution import ConvolutionNormActivation
from cnn_jax.layers.pooling import global_average_pool
from cnn_jax.layers.separable_convolution import SeparableConvolution


def rates_for(map_px: Sequence[int]) -> tuple[int, int, int]:
    """Three dilation rates for a map of this height and width: what 6, 12 and 18 are to the 33x33
    maps of the paper.

    On a map of 9x16 a rate of 12 reaches over every edge, and a 3x3 convolution is a 1x1 one; there
    the rates are 2, 4 and 6.
    """
    first = max(round(min(map_px) / 5.5), 1)
    return first, 2 * first, 3 * first


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling of `[batch, height, width, channels]` to `[batch, height,
    width, features]`.

    Side by side a 1x1 convolution, a dilated 3x3 convolution a rate, and the mean over the map;
    concatenated, and projected by a 1x1 convolution. With 2048 channels, 256 features and three
    rates it has the 15,535,104 parameters of torchvision's.

    Differs from the paper where the mean over the map is normalised: over groups of channels (Wu
    and He, 2018) where the others are normalised over the batch. There is one value an image and
    channel there; of a batch of one, BatchNorm would leave nothing but its offset, and a running
    variance of 0, by which evaluation then divides.

    Attributes:
        features: channels of each branch and of the result; best a multiple of 16, the size of the
            mean's groups. Of an odd number each channel is a group of its own, and the norm leaves
            nothing of the mean but its offset.
        rates: dilation of each 3x3 convolution.
        separable: whether the 3x3 convolutions are depthwise separable (Chen et al., 2018).
        dropout: share of the result's values dropped in training.
        norm: batch, group or none.
        pooled_norm: of the mean over the map where norm is batch: group, or batch (torchvision).
        dtype: float32 or bfloat16, of the computation.
        axis_name: the `pmap` axis of BatchNorm's statistics.
    """

    features: int
    rates: tuple[int, ...]
    separable: bool = False
    dropout: float = 0.0
    norm: str = "batch"
    pooled_norm: str = "group"
    dtype: str = "float32"
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        options = {"dtype": self.dtype, "axis_name": self.axis_name}

        def pointwise(name, norm=self.norm):
            return ConvolutionNormActivation(self.features, 1, norm=norm, name=name, **options)

        branches = [pointwise("convolution_1x1")(x, train=train)]
        for number, rate in enumerate(self.rates, start=1):
            name = f"convolution_rate_{number}"
            if self.separable:
                branch = SeparableConvolution(
                    self.features,
                    dilation=rate,
                    activation=nn.relu,
                    norm=self.norm,
                    name=name,
                    **options,
                )
            else:
                branch = ConvolutionNormActivation(
                    self.features, dilation=rate, norm=self.norm, name=name, **options
                )
            branches.append(branch(x, train=train))
        pooled = global_average_pool(x, keepdims=True).astype(self.dtype)
        pooled_norm = self.pooled_norm if self.norm == "batch" else self.norm
        pooled = pointwise("image_pooling", pooled_norm)(pooled, train=train)
        branches.append(jnp.broadcast_to(pooled, branches[0].shape))
        x = pointwise("projection")(jnp.concatenate(branches, axis=-1), train=train)
        return nn.Dropout(self.dropout, deterministic=not train)(x)
