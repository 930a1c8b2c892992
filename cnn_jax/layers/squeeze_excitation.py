"""Squeeze and excitation: channels weighed by what the whole map holds (Hu, Shen, Sun, 2018), and
places by their channels (Roy, Navab, Wachinger, 2018)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from cnn_jax.layers.pooling import global_average_pool


class SqueezeExcitation(nn.Module):
    """Multiplies each channel of `[batch, height, width, channels]` by a number between 0 and 1,
    computed from all channels' means.

    The means go through a hidden layer of `channels / reduction` units (at least one) with an
    activation, then a layer with a sigmoid; both have biases. All of that is float32, for a mean
    over many positions loses what bfloat16 rounds away; the result has the map's shape and dtype.
    At first every number is near 1/2.

    With `spatial` each place is weighed too, by a sigmoid of a weighted sum of its channels, and
    the result is at each position the larger of both (Roy et al. call it concurrent, max-out, and
    found it the best of the ways to join them in their 2019 article).

    Attributes:
        reduction: how many times fewer units the hidden layer has than the map has channels (the
            paper's r).
        spatial: whether places are weighed beside channels.
        units: of the hidden layer, instead of what `reduction` makes; 0: that.
        activation: of the hidden layer.
    """

    reduction: int = 16
    spatial: bool = False
    units: int = 0
    activation: Callable = nn.relu

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        squeezed = global_average_pool(x)
        units = self.units or max(channels // self.reduction, 1)
        squeezed = self.activation(nn.Dense(units, name="reduction")(squeezed))
        excitation = nn.sigmoid(nn.Dense(channels, name="excitation")(squeezed))
        weighed = x * excitation[:, None, None].astype(x.dtype)
        if not self.spatial:
            return weighed
        places = nn.sigmoid(
            nn.Dense(1, dtype=jnp.float32, name="spatial_excitation")(x.astype(jnp.float32))
        )
        return jnp.maximum(weighed, x * places.astype(x.dtype))
