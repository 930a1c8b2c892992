"""AlexNet, one tower and two groups: counts, the papers' sizes, and halves that don't see each
other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.models import CLASSIFIERS
from cnn_jax.models.alexnet import AlexNet
from cnn_jax.training.state import parameter_count


def made(model, *image_px, feature_maps=False):
    """Shapes of what the model computes of an image, and of its parameters."""
    x = jnp.zeros((1, *image_px))
    result, variables = jax.eval_shape(
        lambda: model.init_with_output(jax.random.key(0), x, train=False, feature_maps=feature_maps)
    )
    return jax.tree.map(lambda leaf: leaf.shape[1:], result), variables["params"]


@pytest.mark.parametrize(
    ("name", "count", "first_dense"),
    [
        ("alexnet", 61_100_840, 9216 * 4096),  # torchvision's, trainable
        (
            "alexnet_two_groups",
            60_965_224,
            9216 * 4096,
        ),  # by the paper's sizes; there are no moving statistics
    ],
)
def test_parameter_count_at_the_papers_size(name, count, first_dense):
    model = CLASSIFIERS[name](num_classes=1000)
    params = made(model, *model.paper_px)[1]
    assert parameter_count({"params": params}) == count
    assert params["dense_1"]["kernel"].size == first_dense


def test_each_kernel_of_the_two_groups_is_the_papers():
    params = made(AlexNet(1000, two_groups=True), 227, 227, 3)[1]
    kernels = [
        params[f"convolution_{number}"]["convolution"]["kernel"].shape for number in range(1, 6)
    ]
    assert kernels == [
        (11, 11, 3, 96),
        (5, 5, 48, 256),
        (3, 3, 256, 384),
        (3, 3, 192, 384),
        (3, 3, 192, 256),
    ]


@pytest.mark.parametrize(
    ("name", "maps"),
    [
        ("alexnet", {4: (55, 55, 64), 8: (27, 27, 192), 16: (13, 13, 256), 32: (6, 6, 256)}),
        (
            "alexnet_two_groups",
            {4: (55, 55, 96), 8: (27, 27, 256), 16: (13, 13, 256), 32: (6, 6, 256)},
        ),
    ],
)
def test_maps_at_the_papers_size(name, maps):
    model = CLASSIFIERS[name](num_classes=1000)
    shapes, params = made(model, *model.paper_px, feature_maps=True)
    assert shapes == maps
    assert set(params) == {f"convolution_{number}" for number in range(1, 6)}


@pytest.mark.parametrize("two_groups", [False, True])
def test_the_small_stem_leaves_enough_of_a_small_image(two_groups):
    model = AlexNet(10, two_groups=two_groups, stem="small")
    shapes, _ = made(model, 32, 32, 3, feature_maps=True)
    assert {stride: size[:2] for stride, size in shapes.items()} == {
        1: (32, 32),
        2: (15, 15),
        4: (7, 7),
    }
    assert made(model, 28, 28, 1, feature_maps=True)[0][4] == (6, 6, 256)


@pytest.mark.parametrize("two_groups", [False, True])
@pytest.mark.parametrize("stem", ["imagenet", "small"])
def test_the_least_image_leaves_one_place_and_a_smaller_one_none(two_groups, stem):
    model = AlexNet(10, two_groups=two_groups, stem=stem)
    for side, left in [(model.least_px, (1, 1)), (model.least_px - 1, (0, 0))]:
        shapes = made(model, side, side, 3, feature_maps=True)[0]
        assert shapes[max(shapes)][:2] == left


@pytest.mark.parametrize("two_groups", [False, True])
def test_the_halves_of_the_second_convolution_see_only_their_half_of_the_first(
    two_groups, quick_compilation
):
    """Local response normalisation looks two channels over the border between the halves, before
    and after the convolution."""
    model = AlexNet(10, two_groups=two_groups, stem="small")
    rng = np.random.default_rng(0)
    params = made(model, 7, 7, 1, feature_maps=True)[1]
    params = jax.tree.map(lambda leaf: rng.normal(0, 0.1, leaf.shape).astype(np.float32), params)
    images = rng.normal(size=(1, 7, 7, 1)).astype(np.float32)
    second = jax.jit(
        lambda params: model.apply({"params": params}, images, train=False, feature_maps=True)[1]
    )

    before = np.asarray(second(params))
    channels = before.shape[-1]
    params["convolution_1"]["convolution"]["kernel"][..., :46] *= (
        3  # the first half of 48, less the two at the border
    )
    changed = np.abs(np.asarray(second(params)) - before).max((0, 1, 2)) > 1e-6
    alive = before.max((0, 1, 2)) > 0
    assert alive.mean() > 0.9
    assert changed[: channels // 2][alive[: channels // 2]].all()
    rest = changed[channels // 2 + 2 :]
    assert not rest.any() if two_groups else rest[alive[channels // 2 + 2 :]].all()


def test_only_the_two_groups_have_local_response_normalization(quick_compilation):
    """Without biases, convolution and ReLU are proportional to the image; that normalisation is
    not."""
    rng = np.random.default_rng(1)
    images = rng.normal(size=(1, 7, 7, 1)).astype(np.float32)

    def departure(model):
        params = made(model, 7, 7, 1, feature_maps=True)[1]
        params = jax.tree.map(
            lambda leaf: (rng.normal(0, 0.1, leaf.shape) * (leaf.ndim > 1)).astype(np.float32),
            params,
        )
        first = jax.jit(
            lambda images: model.apply({"params": params}, images, train=False, feature_maps=True)[
                1
            ]
        )
        once, tenfold = first(images), first(1000 * images)
        return float(jnp.abs(tenfold / 1000 - once).max() / once.max())

    assert departure(AlexNet(10, stem="small", two_groups=True)) > 0.1
    assert departure(AlexNet(10, stem="small", two_groups=False)) < 1e-5


@pytest.mark.parametrize("two_groups", [False, True])
def test_the_same_layers_in_keras_give_the_same_logits(two_groups, quick_compilation):
    """Keras has no AlexNet; its layers in the papers' order, four pixels above the least size, with
    16 units a dense layer."""
    from tests.models import keras_weights

    layers = keras_weights.keras.layers
    model = AlexNet(10, two_groups=two_groups, dense_width=16)
    side = model.least_px + 4
    first, second, groups = (96, 256, 2) if two_groups else (64, 192, 1)
    band = [
        np.float32(abs(np.subtract.outer(np.arange(n), np.arange(n))) <= 2) for n in (first, second)
    ]  # sums five neighbours

    def respond(band):  # a matrix that sums five neighbours
        return (
            [layers.Lambda(lambda x: x / (2 + 1e-4 * (x * x) @ band) ** 0.75)] if two_groups else []
        )

    theirs = keras_weights.keras.Sequential(
        [
            layers.Input((side, side, 3)),
            layers.ZeroPadding2D(0 if two_groups else 2),
            layers.Conv2D(first, 11, strides=4, activation="relu", name="convolution_1"),
            *respond(band[0]),
            layers.MaxPooling2D(3, 2),
            layers.Conv2D(
                second, 5, padding="same", groups=groups, activation="relu", name="convolution_2"
            ),
            *respond(band[1]),
            layers.MaxPooling2D(3, 2),
            layers.Conv2D(384, 3, padding="same", activation="relu", name="convolution_3"),
            layers.Conv2D(
                384 if two_groups else 256,
                3,
                padding="same",
                groups=groups,
                activation="relu",
                name="convolution_4",
            ),
            layers.Conv2D(
                256, 3, padding="same", groups=groups, activation="relu", name="convolution_5"
            ),
            layers.MaxPooling2D(3, 2),
            layers.Flatten(),
            layers.Dense(16, activation="relu", name="dense_1"),
            layers.Dense(16, activation="relu", name="dense_2"),
            layers.Dense(10, name="head"),
        ]
    )
    images = jnp.asarray(np.random.default_rng(2).standard_normal((2, side, side, 3), np.float32))
    expected = keras_weights.random_logits(theirs, images)
    params = {
        layer.name: keras_weights.kernel_and_bias(layer) for layer in theirs.layers if layer.weights
    }
    params = {
        name: {"convolution": layer} if name.startswith("convolution") else layer
        for name, layer in params.items()
    }
    keras_weights.assert_same_logits(model, {"params": params}, images, expected)
