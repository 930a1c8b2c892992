"""Xception: Keras's parameter count and outputs, the paper's sizes, and separable convolutions
without anything between."""

import jax
import pytest

from cnn_jax.models.xception import BLOCKS, Xception
from tests.models.shapes import KEY, count, shapes

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def paper():
    """Shapes of (feature maps, variables without a head) at the paper's size."""
    return shapes(Xception(1000), *Xception.paper_px, feature_maps=True)


def test_all_parameters_are_kerass_and_sizes_are_figure_5s(paper):
    """With moving statistics. The figure says 19x19x728 for the middle flow; like ours, Keras's
    convolutions have no biases."""
    maps, variables = paper
    head = 2048 * 1000 + 1000
    assert count(variables) + head == 22_910_480
    assert {stride: leaf.shape[1:] for stride, leaf in maps.items()} == {
        2: (147, 147, 64),
        4: (74, 74, 128),
        8: (37, 37, 256),
        16: (19, 19, 728),
        32: (10, 10, 2048),
    }


def test_36_convolutions_of_which_34_are_separable_with_nothing_between(paper):
    """Section 4: 36 convolutional layers. The middle flow's blocks have no convolution in their
    shortcuts."""
    params = paper[1]["params"]
    leaves = {
        tuple(key.key for key in path): leaf for path, leaf in jax.tree.leaves_with_path(params)
    }
    separable = [path[:-1] for path in leaves if path[-1] == "depthwise_kernel"]
    assert len(separable) == 34
    for layer in separable:
        held = {path[len(layer) :] for path in leaves if path[: len(layer)] == layer}
        norm = {("pointwise", "norm", "scale"), ("pointwise", "norm", "bias")}
        assert held == {("depthwise_kernel",), ("pointwise", "convolution", "kernel")} | norm
    assert (
        sum(path[-1] == "kernel" and leaf.shape[:2] == (3, 3) for path, leaf in leaves.items()) == 2
    )
    assert {number for number in range(2, 14) if "shortcut" in params[f"block_{number}"]} == {
        2,
        3,
        4,
        13,
    }


def test_least_px_leaves_3x3_and_the_small_stem_keeps_4x4_of_32_px():
    maps = shapes(Xception(7), 71, 71, 3, feature_maps=True)[0]
    assert maps[32].shape[1:3] == (3, 3)
    maps, small = shapes(Xception(7, stem="small"), 32, 32, 3, feature_maps=True)
    assert {stride: leaf.shape[1:] for stride, leaf in maps.items()} == {
        1: (32, 32, 128),
        2: (16, 16, 256),
        4: (8, 8, 728),
        8: (4, 4, 2048),
    }
    assert "head" not in small["params"]
    assert shapes(Xception(7, stem="small"), 1, 1, 1)[0].shape == (1, 7)


@pytest.mark.long
def test_it_computes_what_kerass_does():
    from tests.models import keras_weights

    theirs = keras_weights.untrained("Xception", px=71, classes=5)
    images = jax.random.normal(KEY, (2, 71, 71, 3))
    expected = keras_weights.random_logits(theirs, images)
    layer = theirs.get_layer
    params, statistics = {}, {}
    for name in ("conv1", "conv2"):
        carried = keras_weights.convolution_and_norm(
            layer(f"block1_{name}"), layer(f"block1_{name}_bn")
        )
        params[f"block_1_convolution_{name[-1]}"], statistics[f"block_1_convolution_{name[-1]}"] = (
            carried
        )

    def separable(name):
        convolution = layer(name)
        norm, moving = keras_weights.scale_and_statistics(layer(f"{name}_bn"))
        depthwise = convolution.depthwise_kernel.value.reshape(3, 3, 1, -1)
        pointwise = {"convolution": {"kernel": convolution.pointwise_kernel.value}, "norm": norm}
        return {"depthwise_kernel": depthwise, "pointwise": pointwise}, {
            "pointwise": {"norm": moving}
        }

    # The shortcuts alone have names made by Keras, which count on through a session; there is one
    # for each number of channels.
    unnamed = [
        one for one in theirs.layers if one.name.startswith(("conv2d", "batch_normalization"))
    ]
    shortcuts = {}
    for one in unnamed:
        shortcuts.setdefault(one.output.shape[-1], []).append(one)
    for number, (features, _) in enumerate(BLOCKS, start=2):
        name = f"block_{number}"
        params[name], statistics[name] = {}, {}
        for index in range(1, len(features) + 1):
            ours = f"convolution_{index}"
            params[name][ours], statistics[name][ours] = separable(f"block{number}_sepconv{index}")
        if number not in range(5, 13):
            carried = keras_weights.convolution_and_norm(
                *sorted(shortcuts[features[-1]], key=lambda one: "norm" in one.name)
            )
            params[name]["shortcut"], statistics[name]["shortcut"] = carried
    for index in (1, 2):
        ours = f"block_14_convolution_{index}"
        params[ours], statistics[ours] = separable(f"block14_sepconv{index}")
    params["head"] = keras_weights.kernel_and_bias(layer("predictions"))
    keras_weights.assert_same_logits(
        Xception(5), {"params": params, "batch_stats": statistics}, images, expected
    )
