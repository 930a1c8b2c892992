"""Convolution, normalisation and activation: the block that most architectures are made of."""

from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

from cnn_jax.layers.normalization import normalization

DTYPES = ("float32", "bfloat16")
"""What a model may compute in; parameters are always float32."""

CONVOLVED = "convolved"
"""The name that results of convolutions carry, by which `training.remat` keeps them."""


def within_output_stride(
    limit: int, reached: int, stride: int, dilation: int
) -> tuple[int, int, int]:
    """What becomes of a strided block where no map may be more than `limit` times smaller than the
    image (Chen et al., 2017).

    A stride that would go beyond is left out, and what follows is dilated by as much instead: it
    then computes what it did, and the values between.

    Args:
        limit: the largest output stride.
        reached: the output stride before the block.
        stride: of the block.
        dilation: of what comes before its strided convolution.

    Returns:
        (the stride it has, the dilation of its strided convolution, the dilation of all that
        follows).
    """
    if reached * stride > limit:
        return 1, dilation, dilation * stride
    return stride, dilation, dilation


PADDINGS = ("SAME", "SYMMETRIC", "END")
"""How a strided convolution may be padded: as in TensorFlow, so that zeros come in equally or one
more below and on the right, by the size; as in PyTorch, alike on every side; or only below and on
the right. At sizes that the stride divides SAME and END are the same."""


def strided_padding(padding: str, kernel_px: int, stride: int, dilation: int = 1) -> Any:
    """One of `PADDINGS` as `lax` takes it, for an odd kernel; without a stride all are "SAME"."""
    reach = kernel_px // 2 * dilation
    if padding == "SYMMETRIC":
        return ((reach, reach), (reach, reach))
    if padding == "END" and stride > 1:
        return ((0, reach), (0, reach))
    return "SAME"


class ConvolutionNormActivation(nn.Module):
    """Convolution, then normalisation, then activation, on `[batch, height, width, channels]`.

    The convolution has a bias only where no normalisation follows (which would cancel it). Weights
    start as He et al. (2015), for ReLU. Parameters are float32; the computation and the result have
    `dtype`.

    Attributes:
        features: channels of the result.
        kernel_px: height and width of the kernel; one number for a square one.
        stride: step of the kernel.
        dilation: distance between the kernel's taps.
        groups: channels are convolved in this many separate groups.
        padding: SAME (TensorFlow's: the result has size / stride, rounded up), VALID (none), a
            number of zeros on every side, or numbers before and after each of both sides.
        norm: batch, group or none.
        epsilon: added to the variance of the normalisation.
        activation: applied last; None for none.
        dtype: float32 or bfloat16.
        axis_name: the `pmap` axis of BatchNorm's statistics.
    """

    features: int
    kernel_px: int | tuple[int, int] = 3
    stride: int = 1
    dilation: int = 1
    groups: int = 1
    padding: Any = "SAME"
    norm: str = "batch"
    epsilon: float = 1e-5
    activation: Callable | None = nn.relu
    dtype: str = "float32"
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        kernel_px = (
            (self.kernel_px, self.kernel_px) if isinstance(self.kernel_px, int) else self.kernel_px
        )
        x = nn.Conv(
            self.features,
            kernel_px,
            strides=self.stride,
            kernel_dilation=self.dilation,
            feature_group_count=self.groups,
            padding=self.padding,
            use_bias=self.norm == "none",
            kernel_init=nn.initializers.he_normal(),
            dtype=self.dtype,
            name="convolution",
        )(x)
        x = checkpoint_name(x, CONVOLVED)
        norm = normalization(
            self.norm, train=train, dtype=self.dtype, axis_name=self.axis_name, epsilon=self.epsilon
        )
        x = norm(name="norm")(x)
        return x if self.activation is None else self.activation(x)
