"""Squeeze and excitation: channels weighed by what the whole map holds (Hu, Shen, Sun, 2018)."""

import jax.numpy as jnp
from flax import linen as nn


class SqueezeExcitation(nn.Module):
    """Multiplies each channel of `[batch, height, width, channels]` by a number between 0 and 1, computed from all channels' means.

    The means go through a hidden layer of `channels / reduction` units (at least one) with ReLU, then a layer with a sigmoid; both
    have biases. All of that is float32, for a mean over many positions loses what bfloat16 rounds away; the result has the map's
    shape and dtype. At first every number is near 1/2.

    Attributes:
        reduction: how many times fewer units the hidden layer has than the map has channels (the paper's r).
    """

    reduction: int = 16

    @nn.compact
    def __call__(self, x):
        channels = x.shape[-1]
        squeezed = x.mean((1, 2), dtype=jnp.float32)
        squeezed = nn.relu(nn.Dense(max(channels // self.reduction, 1), name="reduction")(squeezed))
        excitation = nn.sigmoid(nn.Dense(channels, name="excitation")(squeezed))
        return x * excitation[:, None, None].astype(x.dtype)
