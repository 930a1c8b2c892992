"""MobileNetV2: Keras's parameter counts and outputs, the paper's sizes, and bottlenecks that are
linear."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.models.mobilenet_v2 import BOTTLENECKS, InvertedResidual, MobileNetV2, divisible_by_8
from tests.models.shapes import KEY, count, shallow, shapes
from tests.models.test_all import filled

pytestmark = pytest.mark.usefixtures("quick_compilation")


def test_all_parameters_are_kerass_and_sizes_are_table_2s():
    """With moving statistics. Like ours, Keras's convolutions have no biases."""
    maps, variables = shapes(MobileNetV2(1000), *MobileNetV2.paper_px, feature_maps=True)
    head = 1280 * 1000 + 1000
    assert count(variables) + head == 3_538_984
    assert {stride: leaf.shape[1:] for stride, leaf in maps.items()} == {
        2: (112, 112, 16),
        4: (56, 56, 24),
        8: (28, 28, 32),
        16: (14, 14, 96),
        32: (7, 7, 1280),
    }


def test_the_small_stem_keeps_a_map_of_4_for_32_px_and_has_the_same_parameters():
    maps, small = shapes(MobileNetV2(7, stem="small"), 32, 32, 1, feature_maps=True)
    assert {stride: leaf.shape[1:] for stride, leaf in maps.items()} == {
        1: (32, 32, 24),
        2: (16, 16, 32),
        4: (8, 8, 96),
        8: (4, 4, 1280),
    }
    logits, whole = shapes(MobileNetV2(7), 33, 47, 1)
    assert logits.shape == (1, 7)
    assert count(whole["params"].pop("head")) == 1281 * 7
    assert small == whole


@pytest.mark.parametrize(
    ("channels", "rounded"),
    [
        (32 * 0.35, 16),
        (24 * 0.35, 8),
        (16 * 0.35, 8),
        (96 * 0.35, 32),
        (24 * 0.75, 24),
        (1280 * 1.4, 1792),
        (40, 40),
    ],
)
def test_channels_are_multiples_of_8_that_lose_less_than_a_tenth(channels, rounded):
    """By hand: 11.2 is nearest to 8, less than 10.08, so 16; 18 is nearer to 16, less than 16.2, so
    24."""
    assert divisible_by_8(channels) == rounded


def test_a_bottleneck_is_linear_and_its_shortcut_adds_the_input():
    """With a kernel of zeros in the projection only its BatchNorm's bias is left: negative, as no
    ReLU would let it be."""
    block = InvertedResidual(8, expansion=6, stride=1, dilation=1, options={"norm": "batch"})
    x = jax.random.normal(KEY, (2, 4, 5, 8))
    shapes_ = jax.eval_shape(lambda: block.init(KEY, x, train=False))
    variables = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), shapes_)
    pointwise = variables["params"]["convolution"]["pointwise"]
    pointwise["convolution"]["kernel"] *= 0
    pointwise["norm"]["bias"] *= -3
    variables["batch_stats"]["convolution"]["pointwise"]["norm"]["mean"] *= 0
    y = jax.jit(lambda variables: block.apply(variables, x, train=False))(variables)
    np.testing.assert_allclose(y, x - 3, atol=1e-5)


def test_dilated_blocks_compute_what_strided_ones_do_and_the_values_between():
    """Padded "SAME", a kernel of 3 with stride 2 stands on the odd positions of a map of even size,
    and on the even ones of an odd
    one: 64 px are halved to 2, 65 px to 33, 17, 9, 5 and 3."""
    x = jax.random.normal(KEY, (1, 64, 65, 3))
    with shallow():
        networks = [MobileNetV2(5, width=0.25, output_stride=stride) for stride in (32, 16, 8)]
        variables = filled(networks[0], x)
        at_32, at_16, at_8 = jax.jit(
            lambda variables: [
                network.apply(variables, x, train=False, feature_maps=True)[32]
                for network in networks
            ]
        )(variables)
    assert (at_32.shape[1:3], at_16.shape[1:3], at_8.shape[1:3]) == ((2, 3), (4, 5), (8, 9))
    tolerance = 1e-4 * float(at_32.std())
    assert tolerance > 1e-5
    np.testing.assert_allclose(at_16[:, 1::2, ::2], at_32, rtol=1e-4, atol=tolerance)
    np.testing.assert_allclose(at_8[:, 3::4, ::4], at_32, rtol=1e-4, atol=tolerance)


@pytest.mark.long
def test_it_computes_what_kerass_does():
    """At width 0.5, where numbers of channels are rounded."""
    from tests.models import keras_weights

    theirs = keras_weights.untrained("MobileNetV2", px=64, classes=5, alpha=0.5)
    images = jax.random.normal(KEY, (2, 64, 64, 3))
    expected = keras_weights.random_logits(theirs, images)
    layer = theirs.get_layer

    def block(name, expanded):
        depthwise = keras_weights.kernel_and_bias(layer(f"{name}_depthwise"))["kernel"]
        norm, moving = keras_weights.scale_and_statistics(layer(f"{name}_depthwise_BN"))
        pointwise = keras_weights.convolution_and_norm(
            layer(f"{name}_project"), layer(f"{name}_project_BN")
        )
        params = {
            "convolution": {
                "depthwise_kernel": depthwise,
                "depthwise_norm": norm,
                "pointwise": pointwise[0],
            }
        }
        statistics = {"convolution": {"depthwise_norm": moving, "pointwise": pointwise[1]}}
        if expanded:
            expansion = keras_weights.convolution_and_norm(
                layer(f"{name}_expand"), layer(f"{name}_expand_BN")
            )
            params["expansion"], statistics["expansion"] = expansion
        return params, statistics

    params, statistics = {}, {}
    params["stem"], statistics["stem"] = keras_weights.convolution_and_norm(
        layer("Conv1"), layer("bn_Conv1")
    )
    total = 0
    for stage, (expansion, _, blocks, _) in enumerate(BOTTLENECKS, start=1):
        for number in range(1, blocks + 1):
            name = f"block_{total}" if total else "expanded_conv"
            ours = f"stage_{stage}_block_{number}"
            params[ours], statistics[ours] = block(name, expansion > 1)
            total += 1
    params["last"], statistics["last"] = keras_weights.convolution_and_norm(
        layer("Conv_1"), layer("Conv_1_bn")
    )
    params["head"] = keras_weights.kernel_and_bias(layer("predictions"))
    keras_weights.assert_same_logits(
        MobileNetV2(5, width=0.5), {"params": params, "batch_stats": statistics}, images, expected
    )
