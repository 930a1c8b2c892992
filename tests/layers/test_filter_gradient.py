"""The gradient of a 1x1 kernel is that of XLA's convolution, also where maps lie on many devices, are batched or recomputed."""

import functools
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.layers.filter_gradient import convolve

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
    return convolve(x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


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
def test_result_and_gradients_are_those_of_the_convolution(channels, features, stride, padding, batch):
    arrays = inputs(channels, features, batch=batch)
    computed, expected = (
        jax.jit(jax.value_and_grad(functools.partial(loss, convolution, stride, padding), (0, 1)))(*arrays)
        for convolution in (ours, PLAIN)
    )
    for mine, its in zip(jax.tree.leaves(computed), jax.tree.leaves(expected), strict=True):
        assert mine.shape == its.shape
        assert float(jnp.abs(its).max()) > 0.1
        np.testing.assert_allclose(mine, its, rtol=1e-5, atol=1e-4)


def test_gradient_by_hand():
    """Two places with (1, 2) and (3, 4); the result's gradient is 1 and 10: 1 * 1 + 3 * 10, and 2 * 1 + 4 * 10."""
    x = jnp.array([1.0, 2, 3, 4]).reshape(1, 1, 2, 2)
    weights = jnp.array([1.0, 10]).reshape(1, 1, 2, 1)
    gradient = jax.grad(lambda kernel: jnp.sum(weights * ours(x, kernel, (1, 1), "SAME")))(jnp.ones((1, 1, 2, 1)))
    np.testing.assert_array_equal(gradient, np.array([31.0, 42]).reshape(1, 1, 2, 1))


def test_bfloat16_stays_bfloat16():
    arrays = inputs(3, 5, dtype="bfloat16")
    gradients = jax.jit(jax.grad(functools.partial(loss, ours, 1, "SAME"), (0, 1)))(*arrays)
    exact = jax.grad(functools.partial(loss, PLAIN, 1, "SAME"), (0, 1))(*(array.astype(jnp.float32) for array in arrays))
    for gradient, its in zip(gradients, exact, strict=True):
        assert gradient.dtype == jnp.bfloat16
        assert float(jnp.abs(gradient - its).max()) < 0.03 * float(jnp.abs(its).max())


@pytest.mark.parametrize("features", [2, 6])
def test_recomputed_and_batched_over_seeds(features):
    x, kernel = inputs(4, features)
    kernels = jnp.stack([kernel, 2 * kernel, -kernel])

    def gradient(convolution, kernel):
        return jax.grad(jax.checkpoint(functools.partial(loss, convolution, 1, "SAME", x)))(kernel)

    together = jax.jit(jax.vmap(functools.partial(gradient, ours)))(kernels)
    for mine, one in zip(together, kernels, strict=True):
        np.testing.assert_allclose(mine, gradient(PLAIN, one), rtol=1e-5, atol=1e-4)


SHARDED = """
import jax
jax.config.update("jax_num_cpu_devices", 8)
import functools
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from tests.layers.test_filter_gradient import inputs, loss, ours
mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
for features in (3, 9):
    x, kernel = inputs(5, features, batch=8)
    gradients = jax.jit(jax.grad(functools.partial(loss, ours, 1, "SAME"), (0, 1)))
    alone = gradients(x, kernel)
    x = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
    kernel = jax.device_put(kernel, NamedSharding(mesh, PartitionSpec()))
    print(gradients.lower(x, kernel).compile().as_text())
    assert all(abs(a - b).max() < 1e-3 for a, b in zip(alone, jax.device_get(gradients(x, kernel))))
"""


def test_a_batch_on_many_devices_stays_where_it_is():
    """Only the kernel's gradient is summed over devices."""
    finished = subprocess.run([sys.executable, "-c", SHARDED], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert re.search("all-reduce", finished.stdout)
    assert not re.search("all-gather|all-to-all|collective-permute", finished.stdout)
