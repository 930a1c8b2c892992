"""DenseNet: published parameter counts, the paper's sizes, Keras's outputs, and layers that only
add channels."""

import jax
import jax.numpy as jnp
import pytest

from cnn_jax.models import CLASSIFIERS
from cnn_jax.models.densenet import DenseNet
from tests.models.shapes import KEY, count, maps, shallow

pytestmark = pytest.mark.usefixtures("quick_compilation")


def shapes(model, px=32):
    return jax.eval_shape(lambda: model.init(KEY, jnp.zeros((1, px, px, 3)), train=False))


@pytest.mark.parametrize(
    ("name", "total"),
    [("densenet121", 8_062_504), ("densenet169", 14_307_880), ("densenet201", 20_242_984)],
)
def test_all_parameters_are_kerass(name, total):
    """With moving statistics; like ours, Keras's convolutions have no biases."""
    assert count(shapes(CLASSIFIERS[name](num_classes=1000))) == total


def test_trainable_parameters_are_torchvisions():
    assert count(shapes(DenseNet(1000))["params"]) == 7_978_856


def test_stages_have_the_papers_sizes():
    """The channels of a block: half of the one before, and 32 for each of its 6, 12, 24, 16
    layers."""
    assert maps(DenseNet(5), 224, 224)[0] == {
        2: (112, 112, 64),
        4: (56, 56, 64 + 6 * 32),
        8: (28, 28, 128 + 12 * 32),
        16: (14, 14, 256 + 24 * 32),
        32: (7, 7, 512 + 16 * 32),
    }


def test_the_small_stem_keeps_a_map_of_4_for_32_px():
    made = maps(DenseNet(5, growth=12, stem="small"), 32, 32)[0]
    assert made == {
        1: (32, 32, 24 + 72),
        2: (16, 16, 48 + 144),
        4: (8, 8, 96 + 288),
        8: (4, 4, 192 + 192),
    }


@pytest.mark.parametrize(("stem", "height", "width"), [("imagenet", 33, 47), ("small", 1, 1)])
def test_maps_have_the_images_size_divided_and_rounded_up(stem, height, width):
    model = DenseNet(5, stem=stem)
    with shallow():
        made, variables = maps(model, height, width)
        whole = shapes(model)
    for stride, shape in made.items():
        assert shape[:2] == (-(-height // stride), -(-width // stride))
    assert set(whole["params"]) - set(variables["params"]) == {"head"}
    assert variables["batch_stats"] == whole["batch_stats"]


def test_every_layer_sees_all_channels_made_before_it_in_its_block():
    """The first kernel of layer l takes the block's input and the l - 1 times 32 channels that were
    added to it."""
    params = shapes(DenseNet(5))["params"]
    for block, (layers, entering) in enumerate([(6, 64), (12, 128), (24, 256), (16, 512)], start=1):
        for layer in range(1, layers + 1):
            bottleneck = params[f"block_{block}_layer_{layer}_convolution_1"]["kernel"]
            assert bottleneck.shape == (1, 1, entering + (layer - 1) * 32, 128)
            assert params[f"block_{block}_layer_{layer}_convolution_2"]["kernel"].shape == (
                3,
                3,
                128,
                32,
            )


@pytest.mark.long
def test_densenet121_computes_what_kerass_does():
    """Keras's transitions pool after their convolution, its epsilon is 1.001e-5."""
    from tests.models import keras_weights

    theirs = keras_weights.untrained("DenseNet121", px=64, classes=5)
    images = jax.random.normal(KEY, (2, 64, 64, 3))
    expected = keras_weights.random_logits(theirs, images)
    params, statistics = {}, {}

    def carry_convolution(ours, name):
        params[ours] = keras_weights.kernel_and_bias(theirs.get_layer(name))

    def carry_norm(ours, name):
        params[ours], statistics[ours] = keras_weights.scale_and_statistics(theirs.get_layer(name))

    carry_convolution("stem_convolution", "conv1_conv")
    carry_norm("stem_norm", "conv1_bn")
    for block, layers in enumerate((6, 12, 24, 16), start=1):
        for layer in range(1, layers + 1):
            ours, name = f"block_{block}_layer_{layer}", f"conv{block + 1}_block{layer}"
            carry_norm(f"{ours}_norm_1", f"{name}_0_bn")
            carry_convolution(f"{ours}_convolution_1", f"{name}_1_conv")
            carry_norm(f"{ours}_norm_2", f"{name}_1_bn")
            carry_convolution(f"{ours}_convolution_2", f"{name}_2_conv")
        carry_norm(f"block_{block}_norm", f"pool{block + 1}_bn" if block < 4 else "bn")
        if block < 4:
            carry_convolution(f"transition_{block}_convolution", f"pool{block + 1}_conv")
    carry_convolution("head", "predictions")
    keras_weights.assert_same_logits(
        DenseNet(5), {"params": params, "batch_stats": statistics}, images, expected
    )
