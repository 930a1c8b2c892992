"""Depthwise separable convolution: each channel's neighbourhood by itself, then the channels of
each place together."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

from cnn_jax.layers.convolution import (
    CONVOLVED,
    ConvolutionNormActivation,
    strided_padding,
)
from cnn_jax.layers.normalization import normalization
from cnn_jax.layers.operations import convolve

_initial = nn.initializers.variance_scaling(2.0, "fan_out", "truncated_normal")
"""Of depthwise kernels, as PyTorch's MobileNetV2 begins, and nearly as Keras's: the more channels,
the smaller. With He's, which are larger by the root of their number, optimisers such as Adam, whose
steps don't follow the size of a kernel, hardly turn them."""


class SeparableConvolution(nn.Module):
    """Depthwise, then pointwise (1x1) convolution of `[batch, height, width, channels]`, without
    biases.

    With an activation `between` the two, after a normalisation, it is MobileNet's (Howard et al.,
    2017); with neither it is Xception's (Chollet, 2017). Parameters are float32; the computation
    and the result have `dtype`.

    Attributes:
        features: channels of the result.
        kernel_px: height and width of the depthwise kernel.
        stride: step of the depthwise kernel.
        dilation: distance between the depthwise kernel's taps.
        padding: of the depthwise convolution: SAME (TensorFlow's: the result has size / stride,
            rounded up), SYMMETRIC (as many zeros on every side, PyTorch's), or END (zeros only
            below and on the right where there is a stride, as in Keras's MobileNet). Without a
            stride they are the same.
        between: activation after the depthwise convolution and its normalisation; None for neither.
        activation: applied last, after the pointwise convolution's normalisation; None for none.
        norm: batch or group.
        epsilon: added to the variance of the normalisation.
        dtype: float32 or bfloat16.
        axis_name: the `pmap` axis of BatchNorm's statistics.
    """

    features: int
    kernel_px: int = 3
    stride: int = 1
    dilation: int = 1
    padding: str = "SAME"
    between: Callable | None = None
    activation: Callable | None = None
    norm: str = "batch"
    epsilon: float = 1e-5
    dtype: str = "float32"
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        shape = (self.kernel_px, self.kernel_px, 1, x.shape[-1])
        kernel = self.param("depthwise_kernel", _initial, shape, jnp.float32)
        x = convolve(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            (self.stride, self.stride),
            strided_padding(self.padding, self.kernel_px, self.stride, self.dilation),
            rhs_dilation=(self.dilation, self.dilation),
            feature_group_count=x.shape[-1],
        )
        x = checkpoint_name(x, CONVOLVED)
        if self.between is not None:
            norm = normalization(
                self.norm,
                train=train,
                dtype=self.dtype,
                axis_name=self.axis_name,
                epsilon=self.epsilon,
            )
            x = self.between(norm(name="depthwise_norm")(x))
        return ConvolutionNormActivation(
            self.features,
            kernel_px=1,
            norm=self.norm,
            epsilon=self.epsilon,
            activation=self.activation,
            dtype=self.dtype,
            axis_name=self.axis_name,
            name="pointwise",
        )(x, train=train)
