"""The multilayer perceptron: counts, its arithmetic against NumPy, and no idea of neighbours."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.errors import InputError
from cnn_jax.models.mlp import MLP
from cnn_jax.training.state import parameter_count


def shapes(model, image_px=MLP.paper_px):
    return jax.eval_shape(
        lambda: model.init(jax.random.key(0), jnp.zeros((1, *image_px)), train=False)
    )


@pytest.mark.parametrize(
    ("widths", "count"),
    [
        ((256, 128), (784 * 256 + 256) + (256 * 128 + 128) + (128 * 10 + 10)),
        (
            (256, 128, 100),
            (784 * 256 + 256) + (256 * 128 + 128) + (128 * 100 + 100) + (100 * 10 + 10),
        ),
        ((), 784 * 10 + 10),
    ],
)
def test_parameter_count(widths, count):
    assert parameter_count(shapes(MLP(10, widths=widths))) == count


def test_it_is_dense_layers_with_relu_between():
    rng = np.random.default_rng(1)
    model, images = MLP(3, widths=(7, 5)), rng.normal(size=(6, 4, 2, 2)).astype(np.float32)
    params = jax.tree.map(
        lambda leaf: rng.normal(size=leaf.shape).astype(np.float32),
        shapes(model, (4, 2, 2))["params"],
    )
    x = images.reshape(6, 16)
    for name in ("dense_1", "dense_2"):
        x = np.maximum(x @ params[name]["kernel"] + params[name]["bias"], 0)
    expected = x @ params["head"]["kernel"] + params["head"]["bias"]
    assert expected.std() > 1
    assert (x == 0).any(), "no unit is off, so the test would not see a missing ReLU"
    np.testing.assert_allclose(
        model.apply({"params": params}, images, train=False), expected, atol=1e-4
    )


def test_dropout_takes_its_share_of_the_hidden_units():
    """64 units that are 1, half of them dropped, the rest doubled: the logits count twice those
    kept; evaluation drops none."""
    model = MLP(3, widths=(64,), dropout=0.5)
    params = {
        "dense_1": {"kernel": jnp.zeros((4, 64)), "bias": jnp.ones(64)},
        "head": {"kernel": jnp.ones((64, 3)), "bias": jnp.zeros(3)},
    }
    logits = model.apply(
        {"params": params},
        jnp.zeros((50, 2, 2, 1)),
        train=True,
        rngs={"dropout": jax.random.key(0)},
    )
    kept = np.asarray(logits[:, 0]) / 2  # what is kept is doubled
    assert kept.min() < 32 < kept.max()
    assert abs(kept.mean() - 32) < 4 * (64 * 0.25 / 50) ** 0.5
    np.testing.assert_array_equal(kept, np.round(kept))
    np.testing.assert_array_equal(
        model.apply({"params": params}, jnp.zeros((1, 2, 2, 1)), train=False), [[64, 64, 64]]
    )


def test_feature_maps_are_an_input_error():
    with pytest.raises(InputError, match="no feature maps"):
        MLP(10).apply({}, jnp.zeros((1, 8, 8, 1)), train=False, feature_maps=True)
