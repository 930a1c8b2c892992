"""MobileNet: Keras's parameter count and outputs, the paper's sizes, the width multiplier and what
factoring saves."""

import jax
import numpy as np
import pytest

from cnn_jax.models.mobilenet import BLOCKS, MobileNet
from tests.models.shapes import KEY, count, shallow, shapes
from tests.models.test_all import filled

pytestmark = pytest.mark.usefixtures("quick_compilation")


def test_all_parameters_are_kerass_and_sizes_are_table_1s():
    """With moving statistics, two for each of 10,944 channels of BatchNorm. Like ours, Keras's
    convolutions have no biases."""
    maps, variables = shapes(MobileNet(1000), *MobileNet.paper_px, feature_maps=True)
    channels = 32 + sum(
        before + after for (before, _), (after, _) in zip([(32, 1), *BLOCKS], BLOCKS, strict=False)
    )
    assert channels == 10_944
    assert count(variables["batch_stats"]) == 2 * channels
    head = 1024 * 1000 + 1000
    assert count(variables) + head == 4_253_864
    assert {stride: leaf.shape[1:] for stride, leaf in maps.items()} == {
        2: (112, 112, 64),
        4: (56, 56, 128),
        8: (28, 28, 256),
        16: (14, 14, 512),
        32: (7, 7, 1024),
    }


def test_half_the_width_halves_every_layer():
    """Table 6's quarter of the pointwise kernels: each has half the channels on either side."""
    whole, half = (shapes(MobileNet(7, width=width), 8, 8, 3)[1]["params"] for width in (1, 0.5))
    for number in range(1, 14):
        one, other = (params[f"block_{number}"] for params in (whole, half))
        assert (
            one["pointwise"]["convolution"]["kernel"].size
            == 4 * other["pointwise"]["convolution"]["kernel"].size
        )
        assert one["depthwise_kernel"].size == 2 * other["depthwise_kernel"].size


def test_a_block_has_the_papers_share_of_a_convolutions_weights():
    """Section 3.1: 1 / channels + 1 / 9 of what a 3x3 convolution has."""
    block = shapes(MobileNet(7), 8, 8, 3)[1]["params"]["block_9"]
    share = (block["depthwise_kernel"].size + block["pointwise"]["convolution"]["kernel"].size) / (
        9 * 512 * 512
    )
    assert share == pytest.approx(1 / 512 + 1 / 9)


def test_the_small_stem_keeps_a_map_of_4_for_32_px_and_has_the_same_parameters():
    maps, small = shapes(MobileNet(7, stem="small"), 32, 32, 1, feature_maps=True)
    assert {stride: leaf.shape[1:] for stride, leaf in maps.items()} == {
        1: (32, 32, 128),
        2: (16, 16, 256),
        4: (8, 8, 512),
        8: (4, 4, 1024),
    }
    logits, whole = shapes(MobileNet(7), 33, 47, 1)
    assert logits.shape == (1, 7)
    head = whole["params"].pop("head")
    assert count(head) == 1025 * 7
    assert small == whole


def test_dilated_blocks_compute_what_strided_ones_do_and_the_values_between():
    """Padded "SAME", a kernel of 3 with stride 2 stands on the odd positions of a map of even size,
    and on the even ones of an odd
    one: 64 px are halved to 2, 65 px to 33, 17, 9, 5 and 3."""
    x = jax.random.normal(KEY, (1, 64, 65, 3))
    with shallow():
        networks = [MobileNet(5, width=0.25, output_stride=stride) for stride in (32, 16, 8)]
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
    """Keras pads at the bottom and right alone before a stride of 2, as SAME does where sizes are
    even."""
    from tests.models import keras_weights

    theirs = keras_weights.untrained("MobileNet", px=64, classes=5, alpha=0.5)
    images = jax.random.normal(KEY, (2, 64, 64, 3))
    expected = keras_weights.random_logits(theirs, images)
    layer = theirs.get_layer
    params, statistics = {}, {}
    params["stem"], statistics["stem"] = keras_weights.convolution_and_norm(
        layer("conv1"), layer("conv1_bn")
    )
    for number in range(1, 14):
        depthwise = keras_weights.kernel_and_bias(layer(f"conv_dw_{number}"))["kernel"]
        norm, moving = keras_weights.scale_and_statistics(layer(f"conv_dw_{number}_bn"))
        pointwise = keras_weights.convolution_and_norm(
            layer(f"conv_pw_{number}"), layer(f"conv_pw_{number}_bn")
        )
        params[f"block_{number}"] = {
            "depthwise_kernel": depthwise,
            "depthwise_norm": norm,
            "pointwise": pointwise[0],
        }
        statistics[f"block_{number}"] = {"depthwise_norm": moving, "pointwise": pointwise[1]}
    head = keras_weights.kernel_and_bias(layer("conv_preds"))
    params["head"] = {"kernel": head["kernel"][0, 0], "bias": head["bias"]}
    keras_weights.assert_same_logits(
        MobileNet(5, width=0.5), {"params": params, "batch_stats": statistics}, images, expected
    )
