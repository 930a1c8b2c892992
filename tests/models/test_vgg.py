"""VGG: published counts, the paper's table, and Keras's outputs with the same weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.models import CLASSIFIERS
from cnn_jax.models.vgg import VGG
from cnn_jax.training.state import parameter_count


def made(model, *image_px, feature_maps=False):
    """Shapes of what the model computes of an image, and of its parameters."""
    x = jnp.zeros((1, *image_px))
    result, variables = jax.eval_shape(
        lambda: model.init_with_output(jax.random.key(0), x, train=False, feature_maps=feature_maps)
    )
    return jax.tree.map(lambda leaf: leaf.shape[1:], result), variables["params"]


@pytest.mark.parametrize(
    ("depth", "count", "millions_in_the_paper"),
    [
        (11, 132_863_336, 133),
        (13, 133_047_848, 133),
        (16, 138_357_544, 138),
        (19, 143_667_240, 144),
    ],
)
def test_parameter_count(depth, count, millions_in_the_paper):
    """Keras's and torchvision's; without normalisation all are trainable."""
    params = made(CLASSIFIERS[f"vgg{depth}"](num_classes=1000), 224, 224, 3)[1]
    assert parameter_count({"params": params}) == count
    assert round(count / 1e6) == millions_in_the_paper  # its table 2
    weighted = [path for path, _ in jax.tree.leaves_with_path(params) if path[-1].key == "kernel"]
    assert len(weighted) == depth


def test_batch_norm_replaces_each_convolutions_bias_by_a_scale_and_a_bias():
    """torchvision's vgg16_bn, 138,365,992 trainable, keeps the biases: one more for each of the
    4,224 filters."""
    filters = 2 * 64 + 2 * 128 + 3 * 256 + 6 * 512
    params = made(CLASSIFIERS["vgg16"](num_classes=1000, norm="batch"), 224, 224, 3)[1]
    assert parameter_count({"params": params}) == 138_357_544 + filters == 138_365_992 - filters


def test_maps_at_the_papers_size():
    shapes, params = made(VGG(1000), *VGG.paper_px, feature_maps=True)
    assert shapes == {
        1: (224, 224, 64),
        2: (112, 112, 128),
        4: (56, 56, 256),
        8: (28, 28, 512),
        16: (14, 14, 512),
        32: (7, 7, 512),
    }
    assert len(params) == 13
    assert all(name.startswith("block_") for name in params)


@pytest.mark.parametrize(("height", "width"), [(28, 28), (32, 33), (1, 1)])
def test_pooling_rounds_up_so_that_any_image_reaches_the_head(height, width):
    shapes, _ = made(VGG(10, depth=11), height, width, 1, feature_maps=True)
    assert shapes == {
        stride: (-(-height // stride), -(-width // stride), channels)
        for stride, channels in [(1, 64), (2, 128), (4, 256), (8, 512), (16, 512), (32, 512)]
    }
    assert made(VGG(10, depth=11), height, width, 1)[0] == (10,)


def test_two_convolutions_of_three_pixels_see_five(quick_compilation):
    """The paper's idea: a stack of 3x3 convolutions sees as far as one larger kernel, here the two
    of VGG16's first block."""
    model = VGG(10)
    params = made(model, 9, 9, 1, feature_maps=True)[1]
    params = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.01, np.float32), params)

    @jax.jit  # leaves out what the first map doesn't need
    def gradient(image):
        def centre(image):
            return model.apply({"params": params}, image, train=False, feature_maps=True)[1][
                0, 4, 4
            ].sum()

        return jax.grad(centre)(image)

    rows, columns = np.nonzero(np.asarray(gradient(jnp.ones((1, 9, 9, 1))))[0, :, :, 0])
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (2, 6, 2, 6)


@pytest.mark.long
def test_same_outputs_as_keras(quick_compilation):
    """VGG16 with one set of random weights, on images whose last map has more than one place."""
    from tests.models import keras_weights

    images = jnp.asarray(np.random.default_rng(0).standard_normal((2, 64, 64, 3), np.float32))
    theirs = keras_weights.untrained("VGG16", px=64, classes=10)
    expected = keras_weights.random_logits(theirs, images)
    params = {}
    for layer in theirs.layers:
        if layer.name.startswith("block") and layer.weights:  # block1_conv2
            block, number = layer.name.removeprefix("block").split("_conv")
            params[f"block_{block}_convolution_{number}"] = {
                "convolution": keras_weights.kernel_and_bias(layer)
            }
        elif layer.weights:
            params[{"fc1": "dense_1", "fc2": "dense_2", "predictions": "head"}[layer.name]] = (
                keras_weights.kernel_and_bias(layer)
            )
    keras_weights.assert_same_logits(VGG(10), {"params": params}, images, expected)
