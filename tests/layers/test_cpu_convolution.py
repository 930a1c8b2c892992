"""Results and gradients are those of XLA's convolution, also where maps lie on many devices, are
batched or recomputed."""

import functools
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.layers import cpu_arithmetic as module
from cnn_jax.layers.cpu_arithmetic import convolve

pytestmark = pytest.mark.usefixtures("quick_compilation")

PLAIN = functools.partial(jax.lax.conv_general_dilated, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def inputs(channels, features, size=(7, 6), batch=2, kernel_px=1, dtype="float32"):
    rng = np.random.default_rng(0)
    shapes = [(batch, *size, channels), (kernel_px, kernel_px, channels, features)]
    return tuple(jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes)


def loss(convolution, stride, padding, x, kernel):
    """Of a result whose places all weigh differently."""
    y = convolution(x, kernel, (stride, stride), padding).astype(jnp.float32)
    return jnp.sum(jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape) * y**2)


def ours(x, kernel, strides, padding):
    return convolve(x, kernel, strides, padding)


@pytest.mark.parametrize(
    ("channels", "features", "stride", "padding", "batch"),
    [
        (3, 5, 1, "SAME", 2),
        (5, 3, 1, ((0, 0), (0, 0)), 1),
        (4, 4, 2, "SAME", 2),
        (5, 2, 3, "VALID", 1),
        (3, 2, 2, ((1, 0), (0, 2)), 2),  # padded: XLA's own
    ],
)
@pytest.mark.parametrize("kernel_px", [1, 3])
def test_result_and_gradients_are_those_of_the_convolution(
    channels, features, stride, padding, batch, kernel_px
):
    arrays = inputs(channels, features, batch=batch, kernel_px=kernel_px)
    computed, expected = (
        jax.jit(jax.value_and_grad(functools.partial(loss, convolution, stride, padding), (0, 1)))(
            *arrays
        )
        for convolution in (ours, PLAIN)
    )
    for mine, its in zip(jax.tree.leaves(computed), jax.tree.leaves(expected), strict=True):
        assert mine.shape == its.shape
        assert float(jnp.abs(its).max()) > 0.1
        np.testing.assert_allclose(mine, its, rtol=1e-5, atol=1e-4)


@pytest.fixture
def large(monkeypatch):
    """All maps count as large; the numbers of rows of the bands that were added."""
    calls = []
    over_bands = module._over_bands

    def counted(x, gradient, rows):
        calls.append(rows)
        return over_bands(x, gradient, rows)

    monkeypatch.setattr(module, "ONE_BAND", 1)
    monkeypatch.setattr(module, "BAND", 1)
    monkeypatch.setattr(module, "_over_bands", counted)
    return calls


@pytest.mark.parametrize(
    ("channels", "features", "stride", "padding", "batch", "size", "band", "rows"),
    [
        (16, 17, 1, "SAME", 2, (7, 6), 1, 1),
        (16, 17, 1, "SAME", 2, (8, 6), 3 * 2 * 6 * 33, 2),  # three don't divide eight
        (18, 16, 1, ((1, 1), (1, 1)), 1, (9, 7), 3 * 7 * 34, 3),
        (16, 16, 1, "SAME", 1, (1, 33), 1, 1),
        (16, 16, 1, "SAME", 3, (12, 1), 10**9, 12),
        (17, 15, 1, "SAME", 2, (7, 6), 1, 1),
        (32, 3, 1, "SAME", 1, (6, 5), 1, 1),
        (8, 2, 1, "SAME", 3, (7, 6), 1, 1),
        (16, 16, 1, "SAME", 2, (4, 4), 1, None),  # few places
        (16, 16, 2, "SAME", 2, (7, 6), 1, None),
        (16, 16, 1, "VALID", 2, (7, 6), 1, None),
        (3, 16, 1, "SAME", 1, (7, 6), 1, None),  # few channels
    ],
)
@pytest.mark.parametrize("one_band", [False, True])
def test_gradient_in_bands(
    large, monkeypatch, channels, features, stride, padding, batch, size, band, rows, one_band
):
    """In bands of one row or more, in one, or not."""
    monkeypatch.setattr(module, "BAND", band)
    monkeypatch.setattr(module, "ONE_BAND", 10**9 if one_band else 1)
    arrays = inputs(channels, features, size, batch, kernel_px=3)
    mine, expected = (
        jax.jit(jax.grad(functools.partial(loss, convolution, stride, padding), (0, 1)))(*arrays)
        for convolution in (ours, PLAIN)
    )
    assert large == ([] if one_band or rows is None else [rows])
    for gradient, its in zip(mine, expected, strict=True):
        np.testing.assert_allclose(gradient, its, rtol=1e-5, atol=1e-5 * float(jnp.abs(its).max()))


@pytest.mark.parametrize(("size", "batch"), [((3, 4), 2), ((1, 2), 1), ((5, 1), 3), ((1, 4), 1)])
def test_few_places_are_products(size, batch):
    """The result and both gradients, where there are at most two places for each feature; here
    about as many."""
    places = batch * size[0] * size[1]
    half = -(-places // 2)
    for features in {max(half - 1, 1), half, half + 1}:
        arrays = inputs(3, features, size, batch, kernel_px=3)
        step = jax.jit(jax.value_and_grad(functools.partial(loss, ours, 1, "SAME"), (0, 1)))
        products = step.lower(*arrays).as_text().count("stablehlo.dot_general")
        assert products == (3 if places <= 2 * features else 0)
        expected = jax.value_and_grad(functools.partial(loss, PLAIN, 1, "SAME"), (0, 1))(*arrays)
        for mine, its in zip(
            jax.tree.leaves(step(*arrays)), jax.tree.leaves(expected), strict=True
        ):
            np.testing.assert_allclose(
                mine, its, rtol=1e-5, atol=1e-5 * max(float(jnp.abs(its).max()), 1)
            )


def test_dilated_kernels_are_left_alone(large):
    x, kernel = inputs(16, 16, kernel_px=3)
    gradients = [
        jax.grad(
            lambda kernel, to=to: jnp.sum(to(x, kernel, (1, 1), "SAME", rhs_dilation=(2, 2)) ** 2)
        )(kernel)
        for to in (convolve, PLAIN)
    ]
    np.testing.assert_array_equal(*gradients)
    assert not large


@pytest.mark.parametrize("in_bands", [False, True])
def test_in_loops_and_over_seeds(large, monkeypatch, in_bands):
    """Batches follow in a loop, and kernels are batched."""
    monkeypatch.setattr(module, "ONE_BAND", 1 if in_bands else 10**9)
    x, kernel = inputs(16, 17, batch=4, kernel_px=3)
    kernels = jnp.stack([kernel, -2 * kernel])

    def accumulated(convolution, kernel):
        gradient = jax.grad(jax.checkpoint(functools.partial(loss, convolution, 1, "SAME")), 1)
        return jax.lax.scan(
            lambda total, x: (total + gradient(x, kernel), None),
            jnp.zeros_like(kernel),
            x.reshape(2, 2, 7, 6, 16),
        )[0]

    mine, its = (
        jax.jit(jax.vmap(functools.partial(accumulated, convolution)))(kernels)
        for convolution in (ours, PLAIN)
    )
    np.testing.assert_allclose(mine, its, rtol=1e-5, atol=1e-5 * float(jnp.abs(its).max()))
    assert bool(large) == in_bands


def test_gradient_by_hand():
    """Two places with (1, 2) and (3, 4); the result's gradient is 1 and 10: 1 * 1 + 3 * 10, and 2 *
    1 + 4 * 10."""
    x = jnp.array([1.0, 2, 3, 4]).reshape(1, 1, 2, 2)
    weights = jnp.array([1.0, 10]).reshape(1, 1, 2, 1)
    gradient = jax.grad(lambda kernel: jnp.sum(weights * ours(x, kernel, (1, 1), "SAME")))(
        jnp.ones((1, 1, 2, 1))
    )
    np.testing.assert_array_equal(gradient, np.array([31.0, 42]).reshape(1, 1, 2, 1))


@pytest.mark.parametrize(
    ("channels", "features", "kernel_px"), [(3, 5, 1), (16, 18, 3), (16, 100, 3)]
)
def test_bfloat16_stays_bfloat16(large, channels, features, kernel_px):
    arrays = inputs(channels, features, dtype="bfloat16", kernel_px=kernel_px)
    gradients = jax.jit(jax.grad(functools.partial(loss, ours, 1, "SAME"), (0, 1)))(*arrays)
    exact = jax.grad(functools.partial(loss, PLAIN, 1, "SAME"), (0, 1))(
        *(array.astype(jnp.float32) for array in arrays)
    )
    for gradient, its in zip(gradients, exact, strict=True):
        assert gradient.dtype == jnp.bfloat16
        assert float(jnp.abs(gradient - its).max()) < 0.03 * float(jnp.abs(its).max())
    assert bool(large) == (features == 18)


@pytest.mark.parametrize(("features", "kernel_px"), [(2, 1), (6, 1), (90, 3)])
def test_recomputed_and_batched_over_seeds(features, kernel_px):
    x, kernel = inputs(4, features, kernel_px=kernel_px)
    kernels = jnp.stack([kernel, 2 * kernel, -kernel])

    def gradient(convolution, kernel):
        return jax.grad(jax.checkpoint(functools.partial(loss, convolution, 1, "SAME", x)))(kernel)

    together = jax.jit(jax.vmap(functools.partial(gradient, ours)))(kernels)
    for mine, one in zip(together, kernels, strict=True):
        expected = gradient(PLAIN, one)
        np.testing.assert_allclose(
            mine, expected, rtol=1e-5, atol=1e-5 * float(jnp.abs(expected).max())
        )


SHARDED = """
import jax
jax.config.update("jax_num_cpu_devices", 8)
import functools
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from cnn_jax.layers import cpu_arithmetic as module
from tests.layers.test_cpu_convolution import inputs, loss, ours
module.ONE_BAND = 5000
mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
kinds = ((5, 3, 1), (5, 9, 1), (5, 4, 3), (9, 4, 3), (16, 16, 3), (5, 400, 3))
for channels, features, kernel_px in kinds:
    x, kernel = inputs(channels, features, batch=8, kernel_px=kernel_px)
    gradients = jax.jit(jax.grad(functools.partial(loss, ours, 1, "SAME"), (0, 1)))
    alone = gradients(x, kernel)
    x = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
    kernel = jax.device_put(kernel, NamedSharding(mesh, PartitionSpec()))
    print(gradients.lower(x, kernel).compile().as_text())
    assert all(abs(a - b).max() < 1e-3 for a, b in zip(alone, jax.device_get(gradients(x, kernel))))
"""


def test_a_batch_on_many_devices_stays_where_it_is():
    """Only the kernel's gradient is summed over devices."""
    finished = subprocess.run(
        [sys.executable, "-c", SHARDED], capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
    assert re.search("all-reduce", finished.stdout)
    assert not re.search("all-gather|all-to-all|collective-permute", finished.stdout)
