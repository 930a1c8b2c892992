"""A CPU's BatchNorm beside Flax's and beside float64: results, gradients, running statistics,
replicas."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from cnn_jax.layers.cpu_arithmetic import fast_on_cpu

RANDOM = np.random.default_rng(0)
MAPS = RANDOM.normal(2, 3, (6, 5, 4, 7)).astype(np.float32)
WEIGHTS = RANDOM.normal(size=MAPS.shape).astype(np.float32)
VARIABLES = {
    "params": {name: RANDOM.normal(1, 0.5, 7).astype(np.float32) for name in ("scale", "bias")},
    "batch_stats": {
        "mean": RANDOM.normal(2, 1, 7).astype(np.float32),
        "var": RANDOM.uniform(5, 10, 7).astype(np.float32),
    },
}


TRAINED = nn.BatchNorm(use_running_average=False, momentum=0.9)


def fast(function):
    """Calls `function` while a CPU's arithmetic is in force."""

    @functools.wraps(function)
    def call(*args, **kwargs):
        with fast_on_cpu():
            return function(*args, **kwargs)

    return call


def gradients(layer, variables, x, weights=WEIGHTS):
    """(result, variables that follow, gradient by the parameters, gradient by the map) of a sum in
    which all values weigh differently."""

    def loss(params, x):
        y, changed = layer.apply({**variables, "params": params}, x, mutable=["batch_stats"])
        return jnp.sum(weights * jnp.sin(y)), (y, changed)

    # Compiled: each operation by itself would be compiled, too.
    compiled = jax.jit(jax.grad(loss, (0, 1), has_aux=True))
    by_both, (y, changed) = compiled(variables["params"], x)
    return y, changed, *by_both


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("use_scale", [True, False])
def test_it_is_that_of_flax(train, use_scale):
    variables = {
        **VARIABLES,
        "params": {k: v for k, v in VARIABLES["params"].items() if use_scale or k != "scale"},
    }
    layer = nn.BatchNorm(
        use_running_average=not train, momentum=0.8, epsilon=1e-3, use_scale=use_scale
    )
    for made, expected in zip(
        jax.tree.leaves_with_path(fast(gradients)(layer, variables, MAPS)),
        jax.tree.leaves_with_path(gradients(layer, variables, MAPS)),
        strict=True,
    ):
        assert made[0] == expected[0]
        np.testing.assert_allclose(made[1], expected[1], rtol=1e-4, atol=1e-5, err_msg=str(made[0]))


def test_it_starts_as_that_of_flax():
    mine, its = fast(TRAINED.init)(jax.random.key(0), MAPS), TRAINED.init(jax.random.key(0), MAPS)
    assert jax.tree.structure(mine) == jax.tree.structure(its)
    for one, other in zip(jax.tree.leaves(mine), jax.tree.leaves(its), strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype


def test_replicas_share_their_statistics():
    """Three replicas of two images each, their gradients summed, are one batch of six."""
    whole = fast(gradients)(TRAINED, VARIABLES, MAPS)

    def replica(x, weights):
        def loss(params, x):
            layer = TRAINED.clone(axis_name="replicas")
            y, changed = layer.apply({**VARIABLES, "params": params}, x, mutable=["batch_stats"])
            return jnp.sum(weights * jnp.sin(y)), (y, changed)

        (by_params, by_x), (y, changed) = jax.grad(loss, (0, 1), has_aux=True)(
            VARIABLES["params"], x
        )
        return y, changed, jax.lax.psum(by_params, "replicas"), by_x

    y, changed, by_params, by_x = fast(jax.jit(jax.vmap(replica, axis_name="replicas")))(
        MAPS.reshape(3, 2, 5, 4, 7), WEIGHTS.reshape(3, 2, 5, 4, 7)
    )
    first = jax.tree.map(lambda replicated: replicated[0], (changed, by_params))
    for made, expected in zip(
        jax.tree.leaves((y, *first, by_x)), jax.tree.leaves(whole), strict=True
    ):
        np.testing.assert_allclose(np.reshape(made, expected.shape), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mean", [0, 30])
def test_digits_far_from_zero(mean):
    """Where the mean is thirty deviations, three or four digits are left of what float64 gives, as
    with Flax's."""
    x = RANDOM.normal(mean, 1, (8, 16, 16, 3)).astype(np.float32)
    exact = np.asarray(x, np.float64)
    exact = (exact - exact.mean((0, 1, 2))) / np.sqrt(exact.var((0, 1, 2)) + 1e-5)
    variables = TRAINED.init(jax.random.key(0), x)
    y, _ = fast(TRAINED.apply)(variables, x, mutable=["batch_stats"])
    assert np.abs(y - exact).max() < (1e-5 if mean == 0 else 2e-3)


@pytest.mark.parametrize("mean", [0, 3, 30])
def test_digits_of_gradients_far_from_zero(mean):
    """Those of float64 by hand: of y = (x - mean) / deviation, whose mean and deviation follow
    x."""
    x = RANDOM.normal(mean, 1, (8, 16, 16, 3)).astype(np.float32)
    weights = RANDOM.normal(0.5, 1, x.shape).astype(np.float32)
    exact, by_y = np.asarray(x, np.float64), np.asarray(weights, np.float64)
    deviation = np.sqrt(exact.var((0, 1, 2)) + 1e-5)
    standard = (exact - exact.mean((0, 1, 2))) / deviation
    by_x = (by_y - by_y.mean((0, 1, 2)) - standard * (by_y * standard).mean((0, 1, 2))) / deviation
    variables = TRAINED.init(jax.random.key(0), x)

    def weighed(params, x):
        return jnp.sum(
            weights * TRAINED.apply({**variables, "params": params}, x, mutable=["batch_stats"])[0]
        )

    by_params, mine = fast(jax.jit(jax.grad(weighed, (0, 1))))(variables["params"], x)
    bound = 1e-6 if mean < 10 else 3e-4
    np.testing.assert_allclose(mine, by_x, atol=bound * np.abs(by_x).max(), rtol=0)
    for name, terms in (
        ("scale", by_y * standard),
        ("bias", by_y),
    ):  # of a sum, beside the sum of the terms' sizes
        np.testing.assert_allclose(
            by_params[name],
            terms.sum((0, 1, 2)),
            atol=1e-5 * np.abs(terms).sum((0, 1, 2)).max(),
            rtol=0,
        )


def test_half_precision_keeps_statistics_in_full():
    x = MAPS.astype(jnp.bfloat16)
    variables = TRAINED.init(jax.random.key(0), x)
    y, moved = fast(TRAINED.clone(dtype="bfloat16").apply)(variables, x, mutable=["batch_stats"])
    assert y.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves((variables, moved))} == {np.dtype("float32")}
    alone, _ = fast(TRAINED.apply)(variables, x.astype(jnp.float32), mutable=["batch_stats"])
    np.testing.assert_array_equal(y, alone.astype(jnp.bfloat16))
    # Flax's rule: without a dtype the result has that of maps and parameters together.
    assert fast(TRAINED.apply)(variables, x, mutable=["batch_stats"])[0].dtype == jnp.float32
