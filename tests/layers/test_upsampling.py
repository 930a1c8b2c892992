"""Upsampling against Flax's general transposed convolution and against NumPy."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from cnn_jax.errors import InputError
from cnn_jax.layers.upsampling import (
    UPSAMPLINGS,
    BilinearTransposedConvolution,
    BilinearUpsampling,
    TransposedUpsampling,
    upsampling,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def example():
    """Maps [2, 3, 5, 4] and random parameters for three features."""
    rng = np.random.default_rng(0)
    return tuple(
        rng.normal(size=shape).astype(np.float32) for shape in ((2, 3, 5, 4), (2, 2, 4, 3), (3,))
    )


def test_transposed_is_flax_conv_transpose(example):
    x, kernel, bias = example
    variables = {"params": {"kernel": kernel, "bias": bias}}
    ours, theirs = TransposedUpsampling(3).apply, nn.ConvTranspose(3, (2, 2), strides=(2, 2)).apply
    weights = np.random.default_rng(1).normal(size=(2, 6, 10, 3)).astype(np.float32)
    for function in (ours, theirs):
        assert function(variables, x).shape == weights.shape
    np.testing.assert_allclose(ours(variables, x), theirs(variables, x), atol=1e-5)
    one, other = (jax.vjp(function, variables, x)[1](weights) for function in (ours, theirs))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), one, other)


def test_transposed_is_numpys(example):
    """Each value is spread over its own 2x2 block; XLA's convention runs through the kernel
    backwards."""
    x, kernel, bias = example
    expected = np.zeros((2, 6, 10, 3))
    for i in range(2):
        for j in range(2):
            expected[:, i::2, j::2] = x @ kernel[1 - i, 1 - j] + bias
    got = TransposedUpsampling(3).apply({"params": {"kernel": kernel, "bias": bias}}, x)
    np.testing.assert_allclose(got, expected, atol=1e-5)


def doubled(x, axis):
    """Linear interpolation to twice the size along an axis, pixel centres aligned, edges
    repeated."""
    length = x.shape[axis]
    position = np.clip((np.arange(2 * length) + 0.5) / 2 - 0.5, 0, length - 1)
    below = np.floor(position).astype(int)
    share = np.expand_dims(position - below, tuple(range(1, x.ndim - axis)))
    return (
        np.take(x, below, axis) * (1 - share)
        + np.take(x, np.minimum(below + 1, length - 1), axis) * share
    )


def test_bilinear_is_numpys(example):
    x, kernel, bias = example
    kernel = kernel[:1, :1]
    got = BilinearUpsampling(3).apply(
        {"params": {"convolution": {"kernel": kernel, "bias": bias}}}, x
    )
    expected = doubled(doubled(x.astype(np.float64), 1), 2) @ kernel[0, 0] + bias
    np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("factor", [2, 8, 16, 32])
def test_a_bilinear_transposed_convolution_begins_as_linear_interpolation(factor):
    """NumPy's, row by row and column by column; at the edges, of a map with zeros around it."""
    x = np.random.default_rng(0).normal(size=(1, 3, 2, 2)).astype(np.float32)
    y, variables = BilinearTransposedConvolution(2, factor).init_with_output(jax.random.key(0), x)
    assert variables["params"]["convolution"]["kernel"].shape == (2 * factor, 2 * factor, 2, 2)
    assert y.shape == (1, 3 * factor, 2 * factor, 2)

    def interpolated(values):
        positions = (np.arange(factor * len(values)) + 0.5) / factor - 0.5
        return np.interp(positions, np.arange(len(values)), values)

    def enlarged(x):
        return np.apply_along_axis(
            interpolated, 2, np.apply_along_axis(interpolated, 1, x.astype(np.float64))
        )

    around = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    np.testing.assert_allclose(y, enlarged(around)[:, factor:-factor, factor:-factor], atol=1e-5)
    inner = slice(factor // 2, -(factor // 2))
    np.testing.assert_allclose(y[:, inner, inner], enlarged(x)[:, inner, inner], atol=1e-5)


@pytest.mark.parametrize("name", UPSAMPLINGS)
def test_names_give_modules_that_double_and_keep_float32_parameters(name):
    module = upsampling(name)(6, dtype="bfloat16")
    y, variables = module.init_with_output(jax.random.key(0), jnp.ones((1, 1, 3, 4)))
    assert y.shape == (1, 2, 6, 6)
    assert y.dtype == jnp.bfloat16
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))


def test_unknown_upsampling_is_an_input_error():
    with pytest.raises(
        InputError,
        match=re.escape("upsampling is 'nearest'; it must be one of transposed, bilinear."),
    ):
        upsampling("nearest")
