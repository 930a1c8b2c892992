"""BatchNorm as one multiplication and one addition a value."""

import jax.numpy as jnp
from flax import linen as nn
from jax import lax


class BatchNorm(nn.Module):
    """BatchNorm (Ioffe and Szegedy, 2015) of maps `[batch, ..., channels]`, with the variables of
    Flax's: parameters "scale" and "bias", "mean" and "var" in "batch_stats", each float32
    `[channels]`.

    Flax's subtracts the mean from the map before it scales; its gradient then sums over the map
    three times and writes it twice. Here mean and variance become one factor and one addend a
    channel, whose gradient takes two sums and one pass. Both take the variance as the mean of
    squares less the square of the mean, and so lose digits where a mean is far larger than its
    deviation (at thirty deviations four are left of a gradient, with Flax's too).

    Args:
        train: normalise by the batch's own statistics, and let the running ones follow; otherwise
            by the running ones.
        momentum: of the running statistics: what is kept of them a step.
        epsilon: added to the variance.
        dtype: of the result; statistics and factors are float32.
        axis_name: the `pmap` axis over which statistics are averaged; None outside `pmap`, where
            they are of the whole batch anyway.
        use_scale: whether there is a parameter "scale".
    """

    train: bool
    momentum: float = 0.9
    epsilon: float = 1e-5
    dtype: str = "float32"
    axis_name: str | None = None
    use_scale: bool = True

    @nn.compact
    def __call__(self, x):
        channels = x.shape[-1:]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels, jnp.float32)
        running_variance = self.variable("batch_stats", "var", jnp.ones, channels, jnp.float32)
        x = x.astype(jnp.float32)
        if self.train:
            places = tuple(range(x.ndim - 1))
            moments = jnp.stack([x.mean(places), jnp.square(x).mean(places)])
            if self.axis_name is not None and not self.is_initializing():
                moments = lax.pmean(moments, self.axis_name)
            mean, variance = moments[0], jnp.maximum(moments[1] - jnp.square(moments[0]), 0)
            if not self.is_initializing():
                running_mean.value = self.momentum * running_mean.value + (1 - self.momentum) * mean
                running_variance.value = (
                    self.momentum * running_variance.value + (1 - self.momentum) * variance
                )
        else:
            mean, variance = running_mean.value, running_variance.value
        factor = lax.rsqrt(variance + self.epsilon)
        if self.use_scale:
            factor *= self.param("scale", nn.initializers.ones, channels)
        addend = self.param("bias", nn.initializers.zeros, channels) - mean * factor
        return (x * factor + addend).astype(self.dtype)
