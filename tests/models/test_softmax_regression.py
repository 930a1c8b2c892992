"""Softmax regression: one template a class."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.errors import InputError
from cnn_jax.models.softmax_regression import SoftmaxRegression
from cnn_jax.training.state import parameter_count


def test_parameter_count():
    variables = jax.eval_shape(
        lambda: SoftmaxRegression(10).init(
            jax.random.key(0), jnp.zeros((1, *SoftmaxRegression.paper_px)), train=False
        )
    )
    assert parameter_count(variables) == 28 * 28 * 10 + 10 == 7850


def test_a_logit_is_the_inner_product_of_image_and_template():
    rng = np.random.default_rng(0)
    images, template, bias = (
        rng.normal(size=(4, 3, 5, 2)),
        rng.normal(size=(3, 5, 2, 6)),
        rng.normal(size=6),
    )
    params = {"head": {"kernel": template.reshape(30, 6), "bias": bias}}
    params = jax.tree.map(lambda value: jnp.asarray(value, jnp.float32), params)
    logits = SoftmaxRegression(6).apply(
        {"params": params}, jnp.asarray(images, jnp.float32), train=False
    )
    expected = np.einsum("bhwc,hwck->bk", images, template) + bias
    assert expected.std() > 1
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_feature_maps_are_an_input_error():
    with pytest.raises(InputError, match="no feature maps"):
        SoftmaxRegression(10).apply({}, jnp.zeros((1, 8, 8, 1)), train=False, feature_maps=True)
