"""The convolution block against NumPy: strides, dilations, groups, each norm, running
statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.layers.convolution import ConvolutionNormActivation, within_output_stride

pytestmark = pytest.mark.usefixtures("quick_compilation")


def convolve(x, kernel, stride, dilation, groups):
    """Convolution with "SAME" padding (the odd pixel at the end), tap by tap, in float64."""
    size, _, taken, features = kernel.shape
    reach = (size - 1) * dilation + 1
    out = [-(-length // stride) for length in x.shape[1:3]]
    pads = [
        max((o - 1) * stride + reach - length, 0)
        for o, length in zip(out, x.shape[1:3], strict=True)
    ]
    x = np.pad(x.astype(np.float64), ((0, 0), *((p // 2, p - p // 2) for p in pads), (0, 0)))
    y = np.zeros((len(x), *out, features))
    each = features // groups
    for group in range(groups):
        channels = slice(group * taken, (group + 1) * taken)
        made = slice(group * each, (group + 1) * each)
        for i in range(out[0]):
            for j in range(out[1]):
                rows, columns = i * stride, j * stride
                patch = x[
                    :,
                    rows : rows + reach : dilation,
                    columns : columns + reach : dilation,
                    channels,
                ]
                y[:, i, j, made] = np.einsum("bijc,ijcf->bf", patch, kernel[..., made])
    return y


def randomised(tree, seed=0):
    """The same tree with random values, so that no bias is zero and no scale is one; variances are
    positive."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda x: jnp.asarray(rng.uniform(0.3, 1.5, x.shape) * rng.choice([-1, 1]), x.dtype), tree
    )


def images(shape=(2, 7, 6, 4), seed=1):
    return np.random.default_rng(seed).normal(1, 2, shape).astype(np.float32)


@pytest.mark.parametrize(
    ("kernel_px", "stride", "dilation", "groups"),
    [
        (3, 1, 1, 1),
        (1, 1, 1, 1),
        (3, 2, 1, 1),
        (5, 3, 1, 1),
        (3, 1, 2, 1),
        (3, 1, 1, 2),
        (3, 2, 1, 4),
        (2, 1, 1, 1),
    ],
)
def test_convolution_is_numpys(kernel_px, stride, dilation, groups):
    x = images()
    block = ConvolutionNormActivation(
        8,
        kernel_px=kernel_px,
        stride=stride,
        dilation=dilation,
        groups=groups,
        norm="none",
        activation=None,
    )
    variables = jax.eval_shape(lambda: block.init(jax.random.key(0), x, train=True))
    variables = randomised(variables)
    kernel, bias = (
        np.asarray(variables["params"]["convolution"][name], np.float64)
        for name in ("kernel", "bias")
    )
    expected = convolve(x, kernel, stride, dilation, groups) + bias
    np.testing.assert_allclose(
        block.apply(variables, x, train=True), expected, rtol=1e-4, atol=1e-3
    )


def test_kernels_have_he_variance():
    variables = ConvolutionNormActivation(64).init(
        jax.random.key(0), jnp.zeros((1, 2, 2, 32)), train=False
    )
    kernel = variables["params"]["convolution"]["kernel"]
    assert float(kernel.std()) == pytest.approx((2 / (9 * 32)) ** 0.5, rel=0.02)
    assert abs(float(kernel.mean())) < 0.002


@pytest.mark.parametrize(
    ("norm", "names"), [("none", {"convolution"}), ("batch", {"convolution", "norm"})]
)
def test_bias_only_where_no_norm_follows(norm, names):
    block = ConvolutionNormActivation(5, norm=norm)
    params = jax.eval_shape(lambda: block.init(jax.random.key(0), images(), train=False))["params"]
    assert set(params) == names
    assert ("bias" in params["convolution"]) == (norm == "none")


def test_batch_norm_in_training_uses_the_batch_and_moves_the_running_averages():
    x = images()
    block = ConvolutionNormActivation(6)
    variables = randomised(jax.eval_shape(lambda: block.init(jax.random.key(0), x, train=True)))
    params, running = variables["params"], variables["batch_stats"]["norm"]
    y, changed = block.apply(variables, x, train=True, mutable=["batch_stats"])

    maps = convolve(x, np.asarray(params["convolution"]["kernel"]), 1, 1, 1)
    mean, variance = maps.mean((0, 1, 2)), maps.var((0, 1, 2))
    scale, bias = np.asarray(params["norm"]["scale"]), np.asarray(params["norm"]["bias"])
    expected = np.maximum((maps - mean) / np.sqrt(variance + 1e-5) * scale + bias, 0)
    np.testing.assert_allclose(y, expected, rtol=1e-3, atol=1e-3)
    for name, value in (("mean", mean), ("var", variance)):
        expected = 0.9 * np.asarray(running[name]) + 0.1 * value
        np.testing.assert_allclose(
            changed["batch_stats"]["norm"][name], expected, rtol=1e-4, err_msg=name
        )


def test_batch_norm_outside_training_uses_the_running_averages():
    x = images()
    block = ConvolutionNormActivation(6, activation=None)
    variables = randomised(jax.eval_shape(lambda: block.init(jax.random.key(0), x, train=True)))
    variables["batch_stats"]["norm"]["var"] = jnp.abs(variables["batch_stats"]["norm"]["var"])
    params, running = variables["params"], variables["batch_stats"]["norm"]
    maps = convolve(x, np.asarray(params["convolution"]["kernel"]), 1, 1, 1)
    expected = (maps - np.asarray(running["mean"])) / np.sqrt(np.asarray(running["var"]) + 1e-5)
    expected = expected * np.asarray(params["norm"]["scale"]) + np.asarray(params["norm"]["bias"])
    np.testing.assert_allclose(
        block.apply(variables, x, train=False), expected, rtol=1e-4, atol=1e-3
    )
    one = block.apply(variables, x[:1], train=False)
    np.testing.assert_allclose(one, expected[:1], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("features", "size"), [(6, 2), (32, 16), (24, 8)])
def test_group_norm_has_sixteen_channels_a_group_where_they_divide(features, size):
    x = images()
    block = ConvolutionNormActivation(features, norm="group", activation=None)
    variables = randomised(jax.eval_shape(lambda: block.init(jax.random.key(0), x, train=True)))
    params = variables["params"]
    assert set(variables) == {"params"}
    maps = convolve(x, np.asarray(params["convolution"]["kernel"]), 1, 1, 1)
    groups = maps.reshape(*maps.shape[:3], -1, size)
    mean, variance = groups.mean((1, 2, 4), keepdims=True), groups.var((1, 2, 4), keepdims=True)
    expected = ((groups - mean) / np.sqrt(variance + 1e-5)).reshape(maps.shape)
    expected = expected * np.asarray(params["norm"]["norm"]["scale"]) + np.asarray(
        params["norm"]["norm"]["bias"]
    )
    for train in (True, False):
        np.testing.assert_allclose(
            block.apply(variables, x, train=train), expected, rtol=1e-3, atol=1e-3
        )


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
def test_bfloat16_computes_in_bfloat16_and_keeps_float32_variables(norm):
    x = images()
    half, single = (
        ConvolutionNormActivation(8, norm=norm, dtype=dtype) for dtype in ("bfloat16", "float32")
    )
    shapes = jax.eval_shape(lambda: half.init(jax.random.key(0), x, train=True))
    variables = randomised(shapes)
    y, changed = half.apply(variables, x, train=True, mutable=["batch_stats"])
    assert y.dtype == jnp.bfloat16
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves((variables, changed)))
    exact, _ = single.apply(variables, x, train=True, mutable=["batch_stats"])
    error = np.abs(np.asarray(y, np.float32) - np.asarray(exact))
    assert 0 < error.max() < 0.03 * np.abs(exact).max()


@pytest.mark.parametrize(
    ("limit", "reached", "stride", "dilation", "expected"),
    [
        (32, 16, 2, 1, (2, 1, 1)),  # within: nothing changes
        (16, 8, 2, 1, (2, 1, 1)),
        (16, 16, 1, 2, (1, 2, 2)),  # a block without a stride keeps the dilation
        (
            16,
            16,
            2,
            1,
            (1, 1, 2),
        ),  # beyond: the strided convolution sees what it did, what follows is dilated
        (8, 8, 2, 2, (1, 2, 4)),  # and again
        (8, 4, 2, 1, (2, 1, 1)),
    ],
)
def test_a_stride_beyond_the_limit_becomes_a_dilation(limit, reached, stride, dilation, expected):
    assert within_output_stride(limit, reached, stride, dilation) == expected


def test_strides_of_a_whole_trunk_end_at_the_limit():
    """Strides 2, 2, 2, 2, 2: by hand, the last two left out at output stride 8."""
    reached, dilation, made = 1, 1, []
    for stride in (2, 2, 2, 2, 2):
        stride, before, dilation = within_output_stride(8, reached, stride, dilation)
        reached *= stride
        made.append((stride, before, dilation))
    assert made == [(2, 1, 1), (2, 1, 1), (2, 1, 1), (1, 1, 2), (1, 2, 4)]
