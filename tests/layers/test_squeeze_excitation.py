"""Squeeze and excitation: the paper's parameters, its formula, and means that bfloat16 doesn't round."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.layers.squeeze_excitation import SqueezeExcitation


def sizes(channels, **options):
    x = jnp.zeros((1, 4, 4, channels))
    return jax.tree.leaves(jax.eval_shape(lambda: SqueezeExcitation(**options).init(jax.random.key(0), x)))


@pytest.mark.parametrize(("channels", "count"), [(64, 580), (128, 2_184), (256, 8_464), (512, 33_312), (1024, 132_160)])
def test_parameter_count_with_reduction_16(channels, count):
    assert sum(leaf.size for leaf in sizes(channels)) == count


def test_the_hidden_layer_has_at_least_one_unit():
    assert sum(leaf.size for leaf in sizes(4, reduction=16)) == (4 + 1) + (4 + 4)


def test_values_are_the_papers_formula():
    rng = np.random.default_rng(0)
    x = rng.normal(0.5, 2, (2, 3, 5, 6))
    w1, b1, w2, b2 = rng.normal(size=(6, 2)), rng.normal(size=2), rng.normal(size=(2, 6)), rng.normal(size=6)
    s = 1 / (1 + np.exp(-(np.maximum(x.mean((1, 2)) @ w1 + b1, 0) @ w2 + b2)))
    params = {"reduction": {"kernel": w1, "bias": b1}, "excitation": {"kernel": w2, "bias": b2}}
    result = SqueezeExcitation(reduction=3).apply({"params": jax.tree.map(jnp.float32, params)}, jnp.float32(x))
    assert s.std() > 0.1
    np.testing.assert_allclose(result, x * s[:, None, None, :], atol=1e-5)


def test_the_mean_of_a_bfloat16_map_is_float32():
    """64x64 values of 1 but for one of 2: the mean is 1 + 1/4096, of which bfloat16 would leave 1."""
    x = jnp.ones((1, 64, 64, 1), jnp.bfloat16).at[0, 5, 7, 0].set(2)
    params = {
        "reduction": {"kernel": jnp.full((1, 1), 4096.0), "bias": jnp.full(1, -4096.0)},  # 1 from that mean, 0 from 1
        "excitation": {"kernel": jnp.full((1, 1), 10.0), "bias": jnp.zeros(1)},
    }
    result = SqueezeExcitation().apply({"params": params}, x)
    assert result.dtype == jnp.bfloat16
    np.testing.assert_allclose(float(result[0, 0, 0, 0]), 1 / (1 + np.exp(-10)), atol=0.01)  # from a mean of 1 it would be 0.5
