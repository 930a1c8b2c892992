"""LeNet-5: the paper's sizes and counts, layer by layer, and its arithmetic."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.models.lenet import LeNet5, squash
from cnn_jax.training.state import parameter_count


def shapes(*image_px, **options):
    x = jnp.zeros((1, *image_px))
    return jax.eval_shape(
        lambda: LeNet5(10).init_with_output(jax.random.key(0), x, train=False, **options)
    )


@pytest.mark.parametrize("side", [32, 28])
def test_parameter_count_of_each_layer(side):
    params = shapes(side, side, 1)[1]["params"]
    assert {name: parameter_count({"params": layer}) for name, layer in params.items()} == {
        "c1": 156,  # as in the paper
        # 1,516 in the paper, whose table connects 60 of the 96 pairs of maps: (60 - 96) * 25 fewer
        "c3": 2416,
        "c5": 48_120,  # as in the paper
        "f6": 10_164,  # as in the paper
        "head": 850,  # the paper's RBF units are not trained
    }
    assert parameter_count({"params": params}) == 61_706


def test_maps_have_the_papers_sizes():
    maps, variables = shapes(32, 32, 1, feature_maps=True)
    assert {stride: values.shape for stride, values in maps.items()} == {
        1: (1, 28, 28, 6),
        2: (1, 10, 10, 16),
        4: (1, 1, 1, 120),
    }
    assert set(variables["params"]) == {"c1", "c3", "c5"}


def test_the_squashing_function_is_the_papers():
    np.testing.assert_allclose(squash(jnp.array([-1.0, 0.0, 1.0])), [-1, 0, 1], atol=1e-4)
    np.testing.assert_allclose(squash(jnp.array([-100.0, 100.0])), [-1.7159, 1.7159], rtol=1e-6)


def test_logits_against_numpy():
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: rng.normal(0, 0.2, leaf.shape).astype(np.float32),
        shapes(32, 32, 1)[1]["params"],
    )
    images = rng.normal(size=(2, 32, 32, 1)).astype(np.float32)

    def convolution(x, layer):
        windows = np.lib.stride_tricks.sliding_window_view(x, (5, 5), axis=(1, 2))
        return np.einsum("bhwcij,ijcf->bhwf", windows, layer["kernel"]) + layer["bias"]

    def half(x):
        return (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4

    def activation(x):
        return 1.7159 * np.tanh(2 * x / 3)

    x = images
    for name in ("c1", "c3"):
        x = half(activation(convolution(x, params[name]["convolution"])))
    x = activation(convolution(x, params["c5"]["convolution"])).reshape(2, 120)
    x = activation(x @ params["f6"]["kernel"] + params["f6"]["bias"])
    expected = x @ params["head"]["kernel"] + params["head"]["bias"]
    assert expected.std() > 0.5
    np.testing.assert_allclose(
        LeNet5(10).apply({"params": params}, images, train=False), expected, atol=1e-4
    )


def test_a_small_image_is_its_own_background():
    """28 px and the same with two more on every side are one picture, whatever the value of the
    background."""
    rng = np.random.default_rng(1)
    params = jax.tree.map(
        lambda leaf: rng.normal(0, 0.2, leaf.shape).astype(np.float32),
        shapes(32, 32, 1)[1]["params"],
    )
    padded = np.full((2, 32, 32, 1), -0.4, np.float32)
    padded[:, 6:26, 6:26] = rng.normal(size=(2, 20, 20, 1))
    wanted = LeNet5(10).apply({"params": params}, padded, train=False)
    assert wanted.std() > 0.5
    np.testing.assert_allclose(
        LeNet5(10).apply({"params": params}, padded[:, 2:30, 2:30], train=False), wanted, atol=1e-5
    )
    off_centre = LeNet5(10).apply({"params": params}, padded[:, 3:31, 3:31], train=False)
    assert np.abs(off_centre - wanted).max() > 1e-2
