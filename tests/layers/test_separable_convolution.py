"""Depthwise convolution: what a CPU computes is the grouped convolution and its gradients; what
surrounds it in the block."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.layers.cpu_arithmetic import convolve
from cnn_jax.layers.separable_convolution import SeparableConvolution

pytestmark = pytest.mark.usefixtures("quick_compilation")


def inputs(height=7, width=6, kernel_px=3, dtype="float32"):
    rng = np.random.default_rng(0)
    return tuple(
        jnp.asarray(rng.normal(size=shape), dtype)
        for shape in [(2, height, width, 5), (kernel_px, kernel_px, 1, 5)]
    )


def depthwise(x, kernel, stride=1, dilation=1):
    """A CPU's, in training."""
    return convolve(
        x,
        kernel,
        (stride, stride),
        "SAME",
        rhs_dilation=(dilation, dilation),
        feature_group_count=x.shape[-1],
    )


def grouped(x, kernel, stride, dilation):
    """XLA's own."""
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        "SAME",
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


@pytest.mark.parametrize(
    ("size", "kernel_px", "stride", "dilation"),
    [
        ((7, 6), 3, 2, 1),
        ((8, 5), 3, 2, 1),
        ((7, 6), 3, 1, 2),
        ((9, 4), 2, 3, 2),
        ((1, 1), 3, 2, 1),
    ],
)
def test_result_and_gradients_are_those_of_the_grouped_convolution(
    size, kernel_px, stride, dilation
):
    x, kernel = inputs(*size, kernel_px)

    @functools.partial(jax.jit, static_argnums=0)
    def value_and_gradients(function, x, kernel):
        value, back = jax.vjp(lambda x, kernel: function(x, kernel, stride, dilation), x, kernel)
        weights = jnp.cos(jnp.arange(value.size, dtype=value.dtype)).reshape(value.shape)
        return value, *back(weights)

    ours, theirs = (
        value_and_gradients(depthwise, x, kernel),
        value_and_gradients(grouped, x, kernel),
    )
    assert ours[0].shape == (2, -(-size[0] // stride), -(-size[1] // stride), 5)
    for mine, its in zip(ours, theirs, strict=True):
        assert float(jnp.abs(its).max()) > 0.1
        np.testing.assert_allclose(mine, its, rtol=1e-5, atol=1e-5)


def test_a_channel_sees_its_neighbourhood_and_no_other_channel():
    """By hand: nine ones under a kernel of ones, six at an edge, four in a corner; the other
    channel has nothing to see."""
    x = jnp.stack([jnp.ones((3, 3)), jnp.zeros((3, 3))], axis=-1)[None]
    y = depthwise(x, jnp.ones((3, 3, 1, 2)))
    np.testing.assert_array_equal(y[0, :, :, 0], [[4, 6, 4], [6, 9, 6], [4, 6, 4]])
    np.testing.assert_array_equal(y[0, :, :, 1], np.zeros((3, 3)))


def test_bfloat16_is_rounded_once():
    """Products and sums are float32's: the result is the exact one's nearest bfloat16."""
    x, kernel = inputs(dtype="bfloat16")

    @jax.jit
    def computed(x, kernel):
        y, back = jax.vjp(depthwise, x, kernel)
        return y, back(y), depthwise(x.astype(jnp.float32), kernel.astype(jnp.float32))

    y, gradients, exact = computed(x, kernel)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(y, exact.astype(jnp.bfloat16))
    assert [gradient.dtype for gradient in gradients] == [jnp.bfloat16, jnp.bfloat16]


@pytest.mark.parametrize("channels", [16, 144, 960])
def test_depthwise_kernels_begin_as_those_of_torchvision_and_keras(channels):
    """torchvision's MobileNetV2: normal, with a variance of 2 / (9 channels); Keras's
    DepthwiseConv2D: uniform within the root of 6 / (9 channels + 9)."""
    layer = SeparableConvolution(8)
    variables = layer.init(jax.random.key(0), jnp.zeros((1, 4, 4, channels)), train=False)
    deviation = float(np.std(variables["params"]["depthwise_kernel"]))
    assert deviation == pytest.approx((2 / (9 * channels)) ** 0.5, rel=0.15)
    assert deviation == pytest.approx((6 / (9 * channels + 9) / 3) ** 0.5, rel=0.2)


@pytest.mark.parametrize("between", [None, jax.nn.relu6])
def test_norm_and_activation_between_are_there_together_or_not_at_all(between):
    block = SeparableConvolution(7, stride=2, between=between)
    x, _ = inputs()
    shapes = jax.eval_shape(lambda: block.init(jax.random.key(0), x, train=False))
    norms = {"depthwise_norm"} if between else set()
    assert set(shapes["params"]) == {"depthwise_kernel", "pointwise"} | norms
    assert set(shapes["params"]["pointwise"]["convolution"]) == {"kernel"}

    rng = np.random.default_rng(1)
    variables = jax.tree.map(
        lambda leaf: jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape), leaf.dtype), shapes
    )
    params, statistics = variables["params"], variables["batch_stats"]

    def normalised(y, params, statistics):
        return (y - statistics["mean"]) / np.sqrt(statistics["var"] + 1e-5) * params[
            "scale"
        ] + params["bias"]

    y = np.asarray(grouped(x, params["depthwise_kernel"], 2, 1))
    if between:
        y = np.clip(normalised(y, params["depthwise_norm"], statistics["depthwise_norm"]), 0, 6)
    y = y @ np.asarray(params["pointwise"]["convolution"]["kernel"])[0, 0]
    expected = normalised(y, params["pointwise"]["norm"], statistics["pointwise"]["norm"])
    assert expected.shape == (2, 4, 3, 7)
    np.testing.assert_allclose(
        block.apply(variables, x, train=False), expected, rtol=1e-4, atol=1e-4
    )
