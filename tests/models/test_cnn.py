"""The plain convolutional network: the course's counts, the small default, Keras's outputs,
sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.errors import InputError
from cnn_jax.models import CLASSIFIERS
from cnn_jax.models.cnn import CNN
from cnn_jax.training.state import parameter_count


def shapes(model, image_px=CNN.paper_px):
    return jax.eval_shape(
        lambda: model.init(jax.random.key(0), jnp.zeros((1, *image_px)), train=False)
    )


def maps(model, *sides, channels=1):
    """{stride: (height, width, channels)} of the feature maps of an image, and the parameters they
    need."""
    x = jnp.zeros((1, *sides, channels))
    made, variables = jax.eval_shape(
        lambda: model.init_with_output(jax.random.key(0), x, train=False, feature_maps=True)
    )
    return {stride: values.shape[1:] for stride, values in made.items()}, variables["params"]


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("course_cnn", 640 + 432_650),
        ("course_cnn_dense", 640 + (26 * 26 * 64 * 15 + 15) + (15 * 10 + 10)),
        ("course_cnn_pool", 640 + (13 * 13 * 64 * 15 + 15) + (15 * 10 + 10)),
    ],
)
def test_parameter_counts_of_the_course(name, count):
    assert count in (433_290, 649_775, 163_055)  # as the course's material gives them
    assert parameter_count(shapes(CLASSIFIERS[name](10))) == count


def test_trainable_parameters_of_the_default():
    convolutions = 9 * (1 * 32 + 32 * 32 + 32 * 64 + 64 * 64)
    norms = 2 * (
        32 + 32 + 64 + 64
    )  # scale and bias of BatchNorm; its moving statistics are not trained
    dense = 4 * 4 * 64 * 128 + 128  # 28 -> 26 -> 24 -> 12 -> 10 -> 8 -> 4
    assert parameter_count(shapes(CNN(10))) == convolutions + norms + dense + 1290 == 197_674
    averaged = 64 * 128 + 128
    assert (
        parameter_count(shapes(CNN(10, global_average=True)))
        == convolutions + norms + averaged + 1290
        == 74_794
    )


@pytest.mark.parametrize("name", ["course_cnn", "course_cnn_dense", "course_cnn_pool"])
def test_the_courses_networks_compute_what_keras_computes(name, quick_compilation):
    from tests.models import keras_weights

    layers = keras_weights.keras.layers
    theirs = keras_weights.keras.Sequential(
        [
            layers.Input((28, 28, 1)),
            layers.Conv2D(64, 3, activation="relu", name="convolution_1"),
            *([layers.MaxPooling2D(2)] if name == "course_cnn_pool" else []),
            layers.Flatten(),
            *(
                [layers.Dense(15, activation="tanh", name="dense_1")]
                if name != "course_cnn"
                else []
            ),
            layers.Dense(10, name="head"),
        ]
    )
    images = jax.random.normal(jax.random.key(0), (4, 28, 28, 1))
    expected = keras_weights.random_logits(theirs, images)
    params = {
        layer.name: keras_weights.kernel_and_bias(layer) for layer in theirs.layers if layer.weights
    }
    params["convolution_1"] = {"convolution": params["convolution_1"]}
    keras_weights.assert_same_logits(CLASSIFIERS[name](10), {"params": params}, images, expected)


def test_maps_of_the_default_and_of_same_padding():
    assert maps(CNN(10), 28, 28)[0] == {1: (24, 24, 32), 2: (8, 8, 64), 4: (4, 4, 64)}
    padded = CNN(10, padding="SAME", widths=(8, 16, 16, 24), pool_after=(1, 3))
    assert maps(padded, 29, 30)[0] == {1: (29, 30, 8), 2: (15, 15, 16), 4: (8, 8, 24)}


def test_an_encoder_has_no_head_and_the_classifiers_other_names():
    model = CNN(10, dense=(20, 20))
    assert set(shapes(model)["params"]) - set(maps(model, 28, 28)[1]) == {
        "dense_1",
        "dense_2",
        "head",
    }


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"kernel_px": 5},
        {"padding": "SAME"},
        {"widths": (4, 4), "pool_after": (1,)},
        {"widths": (4, 4), "pool_after": ()},
    ],
)
def test_the_least_image_leaves_one_place_and_a_smaller_one_none(options):
    model = CNN(10, **options)
    last = maps(model, model.least_px, model.least_px)[0]
    assert last[max(last)][:2] == (1, 1)
    if model.least_px > 1:
        smaller = maps(model, model.least_px - 1, model.least_px - 1)[0]
        assert smaller[max(smaller)][:2] == (0, 0)


def test_a_global_average_does_not_see_where_things_are():
    """Without padding or pooling, a pattern moved over an empty image makes the same maps
    elsewhere, so the same means."""
    rng = np.random.default_rng(2)
    image = np.zeros((12, 12, 1), np.float32)
    image[3:6, 3:6] = rng.normal(size=(3, 3, 1))
    both = np.stack([image, np.roll(image, (2, 3), (0, 1))])

    def difference(**options):
        model = CNN(5, widths=(4,), pool_after=(), norm="none", dense=(), **options)
        params = jax.tree.map(
            lambda leaf: rng.normal(size=leaf.shape).astype(np.float32),
            shapes(model, (12, 12, 1))["params"],
        )
        logits = model.apply({"params": params}, both, train=False)
        return np.abs(logits[0] - logits[1]).max()

    assert difference(global_average=True) < 1e-5
    assert difference(global_average=False) > 0.1


def test_pooling_after_a_convolution_that_is_not_there_is_an_input_error():
    with pytest.raises(InputError, match=r"^pool_after is \(2, 4\), but widths"):
        shapes(CNN(10, widths=(8, 8, 8)))
