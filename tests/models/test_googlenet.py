"""GoogLeNet: the paper's table and published parameter counts, and auxiliary heads that leave when
they are asked for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.models.googlenet import GoogLeNet, Inception
from tests.models.shapes import KEY, count, shapes

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def with_batch_norm():
    """Shapes of (feature maps, variables without heads) at the paper's size."""
    return shapes(GoogLeNet(1000), *GoogLeNet.paper_px, feature_maps=True)


@pytest.fixture(scope="module")
def papers():
    """Shapes of the paper's parameters: without BatchNorm, with auxiliary heads."""
    return shapes(GoogLeNet(1000, norm="none"), *GoogLeNet.paper_px)[1]["params"]


def test_each_module_takes_the_channels_that_table_1_gives_the_one_before(papers):
    taken = {
        "3a": 192,
        "3b": 256,
        "4a": 480,
        "4b": 512,
        "4c": 512,
        "4d": 512,
        "4e": 528,
        "5a": 832,
        "5b": 832,
    }
    assert {
        name: papers[f"inception_{name}"]["1x1"]["convolution"]["kernel"].shape[2] for name in taken
    } == taken
    assert papers["head"]["kernel"].shape == (1024, 1000)


def test_parameters_by_arithmetic(papers):
    """A head: 1x1 convolution, 4x4x128 places to 1024, 1024 to 1000 classes, each with biases; 4a
    has 512 channels, 4d 528.

    The totals are those of Caffe's bvlc_googlenet, in training and in use.
    """
    for name, channels in (("4a", 512), ("4d", 528)):
        expected = (channels * 128 + 128) + (4 * 4 * 128 * 1024 + 1024) + (1024 * 1000 + 1000)
        assert count(papers[f"auxiliary_{name}"]) == expected
    assert count(papers) == 13_378_280
    assert (
        count({name: tree for name, tree in papers.items() if "auxiliary" not in name}) == 6_998_552
    )


def test_trainable_parameters_are_torchvisions_but_for_its_5x5_branches(with_batch_norm):
    """Without auxiliary heads. torchvision's kernels of the 5x5 branches have 3x3 places, as in the
    first TensorFlow code."""
    params = with_batch_norm[1]["params"]
    five = sum(
        leaf["5x5"]["convolution"]["kernel"].size
        for name, leaf in params.items()
        if name.startswith("inception")
    )
    assert five == 25 * 23_808
    trainable = count(params) + 1024 * 1000 + 1000
    assert trainable == 7_005_832
    assert trainable - (25 - 9) * 23_808 == 6_624_904


def test_sizes_are_table_1s(with_batch_norm):
    assert {stride: leaf.shape[1:] for stride, leaf in with_batch_norm[0].items()} == {
        2: (112, 112, 64),
        4: (56, 56, 192),
        8: (28, 28, 480),
        16: (14, 14, 832),
        32: (7, 7, 1024),
    }
    assert not {
        name for name in with_batch_norm[1]["params"] if "auxiliary" in name or name == "head"
    }


def test_the_small_stem_keeps_a_map_of_4_for_32_px():
    maps = shapes(GoogLeNet(7, stem="small"), 32, 32, 1, feature_maps=True)[0]
    assert {stride: leaf.shape[1:] for stride, leaf in maps.items()} == {
        1: (32, 32, 192),
        2: (16, 16, 480),
        4: (8, 8, 832),
        8: (4, 4, 1024),
    }


@pytest.mark.parametrize("stem", ["imagenet", "small"])
def test_least_px_leaves_one_window_to_the_auxiliary_heads(stem):
    model = GoogLeNet(7, stem=stem, norm="none")
    params = shapes(model, model.least_px, model.least_px, 3)[1]["params"]
    assert params["auxiliary_4a"]["dense"]["kernel"].shape == (128, 1024)
    plain = GoogLeNet(7, stem=stem, norm="none", auxiliary=False)
    assert shapes(plain, plain.least_px, plain.least_px, 3)[0].shape == (1, 7)


def test_auxiliary_logits_are_sown_in_training_where_they_are_asked_for():
    """Heads whose last kernels are zeros give their biases: that of 4a first."""
    model = GoogLeNet(3, stem="small", dtype="bfloat16")
    images = jnp.zeros((2, 17, 17, 3))
    made = jax.eval_shape(lambda: model.init(KEY, images, train=False))
    assert set(made) == {"params", "batch_stats"}

    def changed(variables, train, *collections):
        return model.apply(
            variables, images, train=train, mutable=collections, rngs={"dropout": KEY}
        )[1]

    assert set(jax.eval_shape(lambda variables: changed(variables, True, "batch_stats"), made)) == {
        "batch_stats"
    }
    assert not jax.eval_shape(lambda variables: changed(variables, False, "auxiliary"), made)

    variables = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), made)
    variables["params"]["auxiliary_4a"]["head"]["bias"] += jnp.array([1.0, 2.0, 3.0])
    variables["params"]["auxiliary_4d"]["head"]["bias"] += jnp.array([4.0, 5.0, 6.0])
    first, second = jax.jit(
        lambda variables: changed(variables, True, "auxiliary", "batch_stats")["auxiliary"][
            "logits"
        ]
    )(variables)
    assert first.dtype == second.dtype == jnp.float32
    np.testing.assert_array_equal(first, [[1, 2, 3]] * 2)
    np.testing.assert_array_equal(second, [[4, 5, 6]] * 2)


def test_branches_stand_in_the_papers_order_and_see_what_their_names_say():
    """A single bright pixel, kernels of ones: each branch spreads it as far as its kernel; the pool
    projection as far as 3x3."""
    from cnn_jax.layers.convolution import ConvolutionNormActivation

    def convolution(features, kernel_px, name):
        return ConvolutionNormActivation(features, kernel_px, norm="none", name=name)

    module = Inception((1, 1, 2, 1, 3, 4), convolution)
    image = jnp.zeros((1, 7, 7, 1)).at[0, 3, 3].set(1)
    made = jax.eval_shape(lambda: module.init(KEY, image, train=False))
    variables = jax.tree.map(lambda leaf: jnp.full(leaf.shape, float(leaf.ndim > 1)), made)
    y = np.asarray(
        jax.jit(lambda variables: module.apply(variables, image, train=False))(variables)
    )
    assert [int((y[0, :, :, channel] > 0).sum()) for channel in range(10)] == [
        1,
        9,
        9,
        25,
        25,
        25,
        9,
        9,
        9,
        9,
    ]
