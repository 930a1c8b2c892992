"""The asymmetric U-Net: U-Net with all its parts off, and what each part adds or takes away, by
hand."""

import functools

import jax
import jax.numpy as jnp
import pytest

from cnn_jax.models.asymmetric_unet import AsymmetricUNet
from cnn_jax.models.unet import UNet
from tests.models.shapes import count, shapes

OFF = {"squeeze_excitation": "none", "aspp": False, "asymmetry": False, "dropout": 0.0}


@functools.cache
def trainable(**options):
    return count(shapes(AsymmetricUNet(2, **OFF | options), 32, 32, 3)[1]["params"])


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize(
    "options", [{}, {"upsampling": "bilinear", "norm": "group", "skips": False}]
)
def test_with_all_parts_off_it_is_the_u_net(options, train):
    """Variables of the same names and shapes, and one program, operation for operation."""
    models = UNet(2, depth=2, **options), AsymmetricUNet(2, depth=2, **OFF, **options)
    x = jax.ShapeDtypeStruct((2, 13, 18, 3), jnp.float32)
    one, other = (shapes(model, 13, 18, 3)[1] for model in models)
    assert one == other
    programs = [
        str(
            jax.make_jaxpr(
                lambda v, x, model=model: model.apply(v, x, train=train, mutable=["batch_stats"])
            )(one, x)
        )
        for model in models
    ]
    assert programs[0] == programs[1]
    assert programs[0].count("conv_general_dilated") >= 11


def test_parameters_with_all_parts_off_are_the_u_nets():
    assert trainable() == 31_037_698


def test_each_squeeze_and_excitation_adds_its_own():
    """For 64, 128, 256 and 512 channels; concurrent ones a weight a channel and a bias more."""
    channels = 580 + 2_184 + 8_464 + 33_312
    assert trainable(squeeze_excitation="channel") - trainable() == channels
    assert (
        trainable(squeeze_excitation="concurrent") - trainable()
        == channels + 64 + 128 + 256 + 512 + 4
    )


def test_aspp_of_256_channels_takes_the_bridges_place():
    """The bridge had 3x3 convolutions 512 -> 1024 -> 1024; the first enlargement takes 256 channels
    instead of 1024."""
    bridge = 9 * 512 * 1024 + 9 * 1024 * 1024 + 2 * 2 * 1024
    aspp = 2 * 512 * 256 + 3 * 9 * 512 * 256 + 5 * 256 * 256 + 6 * 2 * 256
    enlargement = 4 * (1024 - 256) * 512
    assert trainable(aspp=True) - trainable() == aspp - bridge - enlargement


def test_the_light_decoder_has_half_the_channels_and_one_convolution_a_stage():
    """A stage at c channels: 2x2 from the stage below to c / 2, one 3x3 from c + c / 2 to c / 2,
    its norm; instead of U-Net's."""
    heavy = light = 0
    for c in (512, 256, 128, 64):
        heavy += (4 * 2 * c * c + c) + 9 * 2 * c * c + 9 * c * c + 2 * 2 * c
        below = 1024 if c == 512 else c  # half of the stage below, which had 2 c
        light += (4 * below * c // 2 + c // 2) + 9 * (c + c // 2) * c // 2 + 2 * c // 2
    assert (
        trainable(asymmetry=True) - trainable() == light - heavy + (32 - 64) * 2
    )  # and a head that takes 32


def test_what_the_parts_add_adds_up():
    """With SE, ASPP and the light decoder, the decoder's first enlargement takes ASPP's 256
    channels."""
    assert trainable(squeeze_excitation="channel", aspp=True, asymmetry=True) == (
        trainable()
        + (trainable(squeeze_excitation="channel") - trainable())
        + (trainable(aspp=True) - trainable())
        + (trainable(asymmetry=True) - trainable())
        + 4
        * (1024 - 256)
        * 256  # counted twice: half of that enlargement's filters were gone already
    )


@pytest.mark.parametrize(("base_width", "depth"), [(1, 3), (3, 0)])
def test_the_narrowest_and_shallowest_networks_have_channels_everywhere(base_width, depth):
    logits, variables = shapes(AsymmetricUNet(2, base_width=base_width, depth=depth), 5, 7, 3)
    assert logits.shape == (1, 5, 7, 2)
    assert all(leaf.size for leaf in jax.tree.leaves(variables))
