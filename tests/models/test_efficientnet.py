"""EfficientNet: published parameter counts, Keras's outputs, the paper's sizes and scaling."""

import jax
import numpy as np
import pytest
from flax import linen as nn

from cnn_jax.models import CLASSIFIERS
from cnn_jax.models.efficientnet import BLOCKS, SCALING, EfficientNet, MBConv
from tests.models.shapes import KEY, count, maps, shallow, shapes
from tests.models.test_all import filled

pytestmark = pytest.mark.usefixtures("quick_compilation")


def test_all_parameters_are_kerass_and_sizes_are_the_papers():
    """Keras's count, with moving statistics, has seven more, of the normalisation of pixels."""
    found, variables = maps(CLASSIFIERS["efficientnet_b0"](num_classes=1000), 224, 224)
    head = 1280 * 1000 + 1000
    assert count(variables["params"]) + head == 5_288_548
    assert count(variables) + head == 5_330_571 - 7
    assert found == {
        2: (112, 112, 16),
        4: (56, 56, 24),
        8: (28, 28, 40),
        16: (14, 14, 112),
        32: (7, 7, 1280),
    }


@pytest.mark.long
@pytest.mark.parametrize(
    ("compound", "trainable"),
    [
        (1, 7_794_184),
        (2, 9_109_994),
        (3, 12_233_232),
        (4, 19_341_616),
        (5, 30_389_784),
        (6, 43_040_704),
        (7, 66_347_960),
    ],
)
def test_larger_ones_have_torchvisions_parameters(compound, trainable):
    params = shapes(CLASSIFIERS[f"efficientnet_b{compound}"](num_classes=1000), 32, 32, 3)[1][
        "params"
    ]
    assert count(params) == trainable


def test_the_coefficient_scales_channels_blocks_and_images_as_the_paper_says():
    """To within what rounding to a tenth and to sizes that suit the network makes: 1.1, 1.2 and
    1.15 to the power of the coefficient less a half, whose released networks begin low."""
    for compound, (wide, deep, px) in SCALING.items():
        assert CLASSIFIERS[f"efficientnet_b{compound}"](num_classes=3).paper_px == (px, px, 3)
        for released, base in ((wide, 1.1), (deep, 1.2), (px / 224, 1.15)):
            assert base ** (compound - 1) * 0.95 < released < base**compound * 1.05


def test_the_small_stem_keeps_a_map_of_4_for_32_px():
    with shallow():
        found, _ = maps(EfficientNet(7, stem="small"), 32, 32)
    assert found == {1: (32, 32, 24), 2: (16, 16, 40), 4: (8, 8, 112), 8: (4, 4, 1280)}


def test_channels_are_weighed_through_a_quarter_of_the_blocks_input():
    block = MBConv(24, 6, 5, 2, 1, "SAME", 0.0, {"norm": "batch"})
    params = shapes(block, 8, 8, 16)[1]["params"]
    assert params["squeeze_excitation"]["reduction"]["kernel"].shape == (96, 4)
    assert params["squeeze_excitation"]["excitation"]["kernel"].shape == (4, 96)
    assert params["depthwise"]["convolution"]["kernel"].shape == (5, 5, 1, 96)


def test_stochastic_depth_leaves_whole_examples_out_where_the_input_is_added():
    x = np.random.default_rng(4).normal(size=(64, 4, 3, 6)).astype(np.float32)
    block = MBConv(6, 2, 3, 1, 1, "SAME", 0.75, {"norm": "group"})
    variables = filled(block, x)
    plain, trained = jax.jit(
        lambda v: (
            block.apply(v, x, train=False),
            block.apply(v, x, train=True, rngs={"dropout": jax.random.key(1)}),
        )
    )(variables)
    added, kept = np.asarray(plain - x), np.asarray(trained - x)
    whole = np.abs(kept).max((1, 2, 3)) > 1e-6
    assert 6 <= whole.sum() <= 26
    np.testing.assert_allclose(kept, np.where(whole[:, None, None, None], 4 * added, 0), atol=1e-4)


def test_later_blocks_are_left_out_more_often():
    rates = []

    def note(call, args, kwargs, context):
        if isinstance(context.module, MBConv):
            rates.append(context.module.stochastic_depth)
        return call(*args, **kwargs)

    with nn.intercept_methods(note), shallow():
        shapes(EfficientNet(3, stochastic_depth=0.4), 32, 32, 3)
    np.testing.assert_allclose(rates, [0.4 * number / 8 for number in range(8)])


def test_symmetric_padding_is_pytorchs():
    """At even sizes PyTorch's strided 3x3 windows stand one place before TensorFlow's."""
    x = np.random.default_rng(5).normal(size=(1, 8, 8, 4)).astype(np.float32)
    same, symmetric = (MBConv(4, 1, 3, 2, 1, way, 0.0, {}) for way in ("SAME", "SYMMETRIC"))
    variables = filled(same, x)
    shifted = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))  # SAME then pads one more at the end
    params = variables["params"]
    # Channels are not weighed by the mean, which the shift would change.
    params["squeeze_excitation"]["reduction"]["kernel"] *= 0
    made, expected = jax.jit(
        lambda v: (symmetric.apply(v, x, train=False), same.apply(v, shifted, train=False))
    )(variables)
    np.testing.assert_allclose(made, expected[:, :4, :4], atol=1e-5)


@pytest.mark.long
def test_dilated_blocks_compute_what_strided_ones_do_and_the_values_between():
    """Padded "SAME", a stride of 2 stands on the even positions of a map of odd size: 65 px are
    halved to 33, 17, 9, 5 and 3."""
    x = jax.random.normal(KEY, (1, 65, 65, 3))
    with shallow():
        networks = [EfficientNet(5, width=0.25, output_stride=stride) for stride in (32, 16, 8)]
        variables = filled(networks[0], x)
        for path in [path for path in variables["params"] if path.startswith("stage")]:
            # A mean over more values would weigh channels otherwise.
            gate = variables["params"][path]["squeeze_excitation"]["reduction"]
            gate["kernel"] = np.zeros_like(gate["kernel"])
        at_32, at_16, at_8 = jax.jit(
            lambda variables: [
                network.apply(variables, x, train=False, feature_maps=True)[32]
                for network in networks
            ]
        )(variables)
    assert (at_32.shape[1:3], at_16.shape[1:3], at_8.shape[1:3]) == ((3, 3), (5, 5), (9, 9))
    tolerance = 1e-4 * float(at_32.std())
    assert tolerance > 1e-5
    np.testing.assert_allclose(at_16[:, ::2, ::2], at_32, rtol=1e-4, atol=tolerance)
    np.testing.assert_allclose(at_8[:, ::4, ::4], at_32, rtol=1e-4, atol=tolerance)


@pytest.mark.long
def test_it_computes_what_kerass_does():
    """B1, whose stages have more blocks. Keras divides pixels by 255 itself."""
    from tests.models import keras_weights

    theirs = keras_weights.untrained("EfficientNetB1", px=64, classes=5)
    images = jax.random.normal(KEY, (2, 64, 64, 3))
    expected = keras_weights.random_logits(theirs, 255 * images)
    layer = theirs.get_layer
    both = keras_weights.convolution_and_norm

    def squeezed(name):
        params = keras_weights.kernel_and_bias(layer(name))
        return {"kernel": params["kernel"][0, 0], "bias": params["bias"]}

    params, statistics = {}, {}
    for ours, name in (("stem", "stem"), ("last", "top")):
        params[ours], statistics[ours] = both(layer(f"{name}_conv"), layer(f"{name}_bn"))
    params["head"] = keras_weights.kernel_and_bias(layer("predictions"))
    for stage, (expansion, *_) in enumerate(BLOCKS, start=1):
        for number, letter in enumerate("abcdefgh", start=1):
            name, ours = f"block{stage}{letter}", f"stage_{stage}_block_{number}"
            if f"{name}_dwconv" not in {one.name for one in theirs.layers}:
                break
            parts = {
                "depthwise": both(layer(f"{name}_dwconv"), layer(f"{name}_bn")),
                "projection": both(layer(f"{name}_project_conv"), layer(f"{name}_project_bn")),
            }
            if expansion > 1:
                parts["expansion"] = both(layer(f"{name}_expand_conv"), layer(f"{name}_expand_bn"))
            params[ours] = {part: made[0] for part, made in parts.items()} | {
                "squeeze_excitation": {
                    "reduction": squeezed(f"{name}_se_reduce"),
                    "excitation": squeezed(f"{name}_se_expand"),
                }
            }
            statistics[ours] = {part: made[1] for part, made in parts.items()}
    keras_weights.assert_same_logits(
        EfficientNet(5, compound=1),
        {"params": params, "batch_stats": statistics},
        images,
        expected,
    )
