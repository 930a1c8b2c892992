"""Local response normalisation against a loop written from the paper's formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.layers.local_response_normalization import local_response_normalization


def by_the_formula(a, k, n, alpha, beta):
    """Section 3.3 of the paper, with a sum over maps from max(0, i - n/2) to min(N - 1, i +
    n/2)."""
    b, maps = np.empty_like(a), a.shape[-1]
    for i in range(maps):
        neighbours = range(max(0, i - n // 2), min(maps - 1, i + n // 2) + 1)
        b[..., i] = a[..., i] / (k + alpha * sum(a[..., j] ** 2 for j in neighbours)) ** beta
    return b


@pytest.mark.parametrize("channels", [1, 2, 5, 12])
def test_against_a_loop(channels):
    a = np.random.default_rng(0).normal(0, 100, (2, 3, 4, channels))  # so large that alpha matters
    expected = by_the_formula(a, k=2, n=5, alpha=1e-4, beta=0.75)
    assert np.abs(expected - a / 2**0.75).max() > 1, "the neighbours are not felt"
    np.testing.assert_allclose(local_response_normalization(jnp.float32(a)), expected, rtol=1e-5)


def test_other_constants():
    a = np.random.default_rng(1).normal(size=(1, 2, 2, 6))
    expected = by_the_formula(a, k=1, n=3, alpha=0.5, beta=0.5)
    np.testing.assert_allclose(
        local_response_normalization(jnp.float32(a), 3, 1.0, 0.5, 0.5), expected, rtol=1e-5
    )


def test_a_loud_neighbour_is_felt_two_channels_away_and_no_further():
    quiet = jnp.ones((1, 1, 1, 9))
    change = local_response_normalization(quiet) - local_response_normalization(
        quiet.at[..., 4].set(1000.0)
    )
    felt = np.asarray(change[0, 0, 0]) > 1e-3
    np.testing.assert_array_equal(
        felt[[0, 1, 2, 3, 5, 6, 7, 8]], [False, False, True, True, True, True, False, False]
    )


def test_bfloat16_stays_bfloat16_and_gradients_at_zero_are_finite():
    x = jnp.zeros((1, 2, 2, 8), jnp.bfloat16)
    assert local_response_normalization(x).dtype == jnp.bfloat16
    gradient = jax.grad(lambda x: local_response_normalization(x).sum())(jnp.zeros((1, 2, 2, 8)))
    np.testing.assert_allclose(gradient, 2**-0.75, rtol=1e-6)
