"""Squeeze and excitation: the paper's parameters, its formula, and means that bfloat16 doesn't
round."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.layers.squeeze_excitation import SqueezeExcitation


def sizes(channels, **options):
    x = jnp.zeros((1, 4, 4, channels))
    return jax.tree.leaves(
        jax.eval_shape(lambda: SqueezeExcitation(**options).init(jax.random.key(0), x))
    )


@pytest.mark.parametrize(
    ("channels", "count"), [(64, 580), (128, 2_184), (256, 8_464), (512, 33_312), (1024, 132_160)]
)
def test_parameter_count_with_reduction_16(channels, count):
    assert sum(leaf.size for leaf in sizes(channels)) == count


def test_the_hidden_layer_has_at_least_one_unit():
    assert sum(leaf.size for leaf in sizes(4, reduction=16)) == (4 + 1) + (4 + 4)


def test_values_are_the_papers_formula():
    rng = np.random.default_rng(0)
    x = rng.normal(0.5, 2, (2, 3, 5, 6))
    w1, b1, w2, b2 = (
        rng.normal(size=(6, 2)),
        rng.normal(size=2),
        rng.normal(size=(2, 6)),
        rng.normal(size=6),
    )
    s = 1 / (1 + np.exp(-(np.maximum(x.mean((1, 2)) @ w1 + b1, 0) @ w2 + b2)))
    params = {"reduction": {"kernel": w1, "bias": b1}, "excitation": {"kernel": w2, "bias": b2}}
    result = SqueezeExcitation(reduction=3).apply(
        {"params": jax.tree.map(jnp.float32, params)}, jnp.float32(x)
    )
    assert s.std() > 0.1
    np.testing.assert_allclose(result, x * s[:, None, None, :], atol=1e-5)


def test_places_are_weighed_by_hand_and_the_larger_of_both_weighings_stands():
    """One place has the channels (1, 2): weighed by channel 0.5 and 0.5 (all those weights are
    zero), as a place by sigmoid(1 + 2 - 1).

    The other has (-1, 3), as a place sigmoid(-1 + 3 - 1); of a negative value the larger result is
    that of the smaller weight.
    """
    x = jnp.array([[[[1.0, 2.0], [-1.0, 3.0]]]])
    params = {
        "reduction": {"kernel": jnp.zeros((2, 1)), "bias": jnp.zeros(1)},
        "excitation": {"kernel": jnp.zeros((1, 2)), "bias": jnp.zeros(2)},
        "spatial_excitation": {"kernel": jnp.ones((2, 1)), "bias": jnp.array([-1.0])},
    }
    module = SqueezeExcitation(reduction=2, spatial=True)
    sigmoid = [1 / (1 + np.exp(-2)), 1 / (1 + np.exp(-1))]  # 0.881 and 0.731, both above a half
    expected = [[[[sigmoid[0], 2 * sigmoid[0]], [-0.5, 3 * sigmoid[1]]]]]
    np.testing.assert_allclose(module.apply({"params": params}, x), expected, rtol=1e-5)
    params["spatial_excitation"]["bias"] = jnp.array([-5.0])  # now 0.119 and 0.047, both below
    expected = [[[[0.5, 1], [-1 / (1 + np.exp(3)), 1.5]]]]
    np.testing.assert_allclose(module.apply({"params": params}, x), expected, rtol=1e-5)
    made = module.apply({"params": params}, x.astype(jnp.bfloat16))
    assert made.dtype == jnp.bfloat16


def test_weighing_places_adds_one_weight_a_channel_and_a_bias():
    assert sum(leaf.size for leaf in sizes(64, spatial=True)) == 580 + 64 + 1


def test_the_mean_of_a_bfloat16_map_is_float32():
    """64x64 values of 1 but for one of 2: the mean is 1 + 1/4096, of which bfloat16 would leave
    1."""
    x = jnp.ones((1, 64, 64, 1), jnp.bfloat16).at[0, 5, 7, 0].set(2)
    params = {
        "reduction": {
            "kernel": jnp.full((1, 1), 4096.0),
            "bias": jnp.full(1, -4096.0),
        },  # 1 from that mean, 0 from 1
        "excitation": {"kernel": jnp.full((1, 1), 10.0), "bias": jnp.zeros(1)},
    }
    result = SqueezeExcitation().apply({"params": params}, x)
    assert result.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        float(result[0, 0, 0, 0]), 1 / (1 + np.exp(-10)), atol=0.01
    )  # from a mean of 1 it would be 0.5
