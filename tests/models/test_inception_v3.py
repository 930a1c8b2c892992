"""Inception v3: Keras's and torchvision's parameter counts, Keras's outputs, the paper's sizes, and
its factorised kernels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.models.inception_v3 import InceptionV3
from tests.models.shapes import KEY, count, shapes

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def paper():
    """Shapes of (feature maps, variables without heads) at the paper's size."""
    return shapes(InceptionV3(1000), *InceptionV3.paper_px, feature_maps=True)


def test_all_parameters_are_kerass(paper):
    """With moving statistics; BatchNorm has no scale, neither ours nor Keras's, and no convolution
    a bias."""
    assert count(paper[1]) + 2048 * 1000 + 1000 == 23_851_784


def test_sizes_are_table_1s(paper):
    """The table's rows before each change of size; its 73x73x80 was made 71x71x192 by the next
    convolution."""
    maps, variables = paper
    assert {stride: leaf.shape[1:] for stride, leaf in maps.items()} == {
        2: (147, 147, 64),
        4: (71, 71, 192),
        8: (35, 35, 288),
        16: (17, 17, 768),
        32: (8, 8, 2048),
    }
    assert not {name for name in variables["params"] if "head" in name or "auxiliary" in name}


def test_seven_by_seven_is_a_row_and_a_column_with_two_sevenths_of_the_weights(paper):
    """Section 3.2: an n x 1 after a 1 x n convolution sees n x n places; 14 instead of 49 weights
    for each pair of channels."""
    module = paper[1]["params"]["mixed_7"]
    once = [
        module[f"branch_2_convolution_{number}"]["convolution"]["kernel"].shape for number in (2, 3)
    ]
    assert once == [(1, 7, 192, 192), (7, 1, 192, 192)]
    assert sum(np.prod(shape) for shape in once) == 49 * 192 * 192 * 2 / 7


def test_with_its_auxiliary_head_trainable_parameters_are_torchvisions_but_for_scales():
    """torchvision's 27,161,264 have a scale for each channel of BatchNorm, where we have a bias
    alone."""
    model = InceptionV3(1000, auxiliary=True)
    params = shapes(model, *InceptionV3.paper_px)[1]["params"]
    assert params["auxiliary_convolution_2"]["convolution"]["kernel"].shape == (5, 5, 128, 768)
    biases = sum(
        leaf.size for path, leaf in jax.tree.leaves_with_path(params) if path[-2].key == "norm"
    )
    assert count(params) + biases == 27_161_264


def test_least_px_leaves_one_place_and_the_small_stem_keeps_4x4_of_32_px():
    model, small = InceptionV3(7), InceptionV3(7, stem="small")
    assert shapes(model, model.least_px, model.least_px, 3, feature_maps=True)[0][32].shape[
        1:3
    ] == (1, 1)
    less = shapes(model, model.least_px - 1, model.least_px - 1, 3, feature_maps=True)[0]
    assert less[32].shape[1:3] == (0, 0)
    maps = shapes(small, 32, 32, 1, feature_maps=True)[0]
    assert {stride: leaf.shape[1:] for stride, leaf in maps.items()} == {
        1: (32, 32, 192),
        2: (16, 16, 288),
        4: (8, 8, 768),
        8: (4, 4, 2048),
    }


@pytest.mark.parametrize("stem", ["imagenet", "small"])
def test_least_px_leaves_one_window_to_the_auxiliary_head(stem):
    model = InceptionV3(7, stem=stem, auxiliary=True)
    params = shapes(model, model.least_px, model.least_px, 3)[1]["params"]
    assert params["auxiliary_convolution_2"]["convolution"]["kernel"].shape == (1, 1, 128, 768)


def test_auxiliary_logits_are_sown_in_training_where_they_are_asked_for():
    model = InceptionV3(3, stem="small", auxiliary=True)
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    made = jax.eval_shape(lambda: model.init(KEY, jnp.zeros(images.shape), train=False))
    assert set(made) == {"params", "batch_stats"}

    def changed(train, *collections):
        def apply(variables, images):
            return model.apply(
                variables, images, train=train, mutable=collections, rngs={"dropout": KEY}
            )[1]

        return jax.eval_shape(apply, made, images)

    (logits,) = changed(True, "auxiliary", "batch_stats")["auxiliary"]["logits"]
    assert (logits.shape, logits.dtype) == ((2, 3), jnp.float32)
    assert set(changed(True, "batch_stats")) == {"batch_stats"}
    assert not changed(False, "auxiliary")


@pytest.mark.long
def test_it_computes_what_kerass_does():
    from tests.models import keras_weights

    theirs = keras_weights.untrained("InceptionV3", px=75, classes=5)
    images = jax.random.normal(KEY, (2, 75, 75, 3))
    expected = keras_weights.random_logits(theirs, images)

    # Keras numbers these layers as they are made, which is our order too: branch by branch, the
    # pool projection last.
    def numbered(kind):
        return sorted(
            (one for one in theirs.layers if type(one) is kind),
            key=lambda one: int(tail) if (tail := one.name.rpartition("_")[2]).isdigit() else 0,
        )

    convolutions = numbered(keras_weights.keras.layers.Conv2D)
    norms = numbered(keras_weights.keras.layers.BatchNormalization)
    model = InceptionV3(5)
    ours = shapes(model, 75, 75, 3)[1]["params"]
    names = [(f"stem_convolution_{number}",) for number in range(1, 6)]
    names += [
        (f"mixed_{number}", name)
        for number in range(11)
        for name in sorted(ours[f"mixed_{number}"])
    ]
    params, statistics = {}, {}
    for (*module, name), convolution, norm in zip(names, convolutions, norms, strict=True):
        carried = keras_weights.convolution_and_norm(convolution, norm)
        for tree, values in zip((params, statistics), carried, strict=True):
            for outer in module:
                tree = tree.setdefault(outer, {})
            tree[name] = values
    params["head"] = keras_weights.kernel_and_bias(theirs.get_layer("predictions"))
    keras_weights.assert_same_logits(
        model, {"params": params, "batch_stats": statistics}, images, expected
    )
