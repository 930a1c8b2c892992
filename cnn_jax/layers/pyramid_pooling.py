"""Pyramid pooling: a map beside its own means over areas of several sizes (Zhao, Shi, Qi, Wang,
Jia, 2017)."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from cnn_jax.layers.convolution import ConvolutionNormActivation
from cnn_jax.layers.pooling import adaptive_average_pool
from cnn_jax.layers.upsampling import bilinear_resize


class PyramidPooling(nn.Module):
    """`[batch, height, width, channels]` to `[batch, height, width, features]`.

    For each number n the means over n by n areas, convolved 1x1 to `branch_features` and enlarged
    to the map (bilinear); the map and all of those joined, and a 3x3 convolution. The mean over the
    whole map is normalised in groups where the others are by the batch, which in a batch of one
    would leave nothing of it.

    Attributes:
        features: channels of the result.
        branch_features: channels of each level of the pyramid.
        bins: areas along each side, one level each.
        norm: batch, group or none.
        dtype: float32 or bfloat16, of the computation.
        axis_name: the `pmap` axis of BatchNorm's statistics.
    """

    features: int
    branch_features: int
    bins: tuple[int, ...] = (1, 2, 3, 6)
    norm: str = "batch"
    dtype: str = "float32"
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        options = {"dtype": self.dtype, "axis_name": self.axis_name}
        levels = [x.astype(self.dtype)]
        for bins in self.bins:
            pooled = adaptive_average_pool(x, bins, bins).astype(self.dtype)
            pooled = ConvolutionNormActivation(
                self.branch_features,
                1,
                norm="group" if bins == 1 and self.norm == "batch" else self.norm,
                name=f"bins_{bins}",
                **options,
            )(pooled, train=train)
            levels.append(bilinear_resize(pooled, *x.shape[1:3]))
        return ConvolutionNormActivation(
            self.features, norm=self.norm, name="projection", **options
        )(jnp.concatenate(levels, axis=-1), train=train)
