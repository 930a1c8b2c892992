"""Trunks of segmenters: maps of every image, at the output stride asked for, and what can't be
had."""

import re

import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.errors import InputError
from cnn_jax.models.encoders import DILATED_ENCODERS, ENCODERS, encoder, enlarged
from tests.models.shapes import RELATIVES, maps, shallow

OPTIONS = {"norm": "batch", "dtype": "float32", "axis_name": None}


def test_the_trunks_are_those_that_halve_stage_by_stage():
    assert {
        "vgg16",
        "googlenet",
        "inception_v3",
        "xception",
        "mobilenet",
        "resnet50",
        "resnet20",
        "densenet121",
        "efficientnet_b7",
        "convnext_base",
    } <= {*ENCODERS}
    assert not {"mlp", "lenet5", "alexnet", "course_cnn"} & {*ENCODERS}
    assert set(DILATED_ENCODERS) == {
        name
        for name in ENCODERS
        if re.match(r"mobilenet|xception|(se_)?resnet(18|34|50|1..)$|efficientnet|convnext", name)
    } - {
        "resnet110"  # CIFAR's, whose output stride is 4
    }


@pytest.mark.parametrize("name", [name for name in DILATED_ENCODERS if name not in RELATIVES])
def test_the_deepest_map_has_the_output_stride_and_keys_and_parameters_stay(name):
    """Sides of 65 and 50 px: at stride 8 they are 9 and 7, at 16 they are 5 and 4, rounded up."""
    with shallow():
        whole, variables = maps(encoder(name, **OPTIONS), 65, 50)
        dilated = {
            stride: maps(encoder(name, output_stride=stride, **OPTIONS), 65, 50)
            for stride in (8, 16)
        }
    for stride, size in ((8, (9, 7)), (16, (5, 4))):
        made, same = dilated[stride]
        assert list(made) == list(whole)
        assert same == variables
        for key, shape in made.items():
            assert shape[2] == whole[key][2]
            assert shape[:2] == (size if key > stride else whole[key][:2]), key


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        (
            "vgg16",
            {"output_stride": 8},
            (
                "model.encoder vgg16 can't have output stride 8; it must be one of xception,"
                " mobilenet,"
            ),
        ),
        ("alexnet", {}, "model.encoder alexnet is no encoder; it must be one of vgg11,"),
        (
            "alexnet",
            {"output_stride": 8},
            "model.encoder alexnet is no encoder; it must be one of xception,",
        ),
        (
            "densenet121",
            {"width": 0.5},
            (
                "model.encoder_width is 0.5, but densenet121 has one width: set it to 1, or take"
                " one of vgg11,"
            ),
        ),
    ],
)
def test_what_a_trunk_cannot_be_is_an_input_error(name, options, sentence):
    with pytest.raises(InputError, match=f"^{re.escape(sentence)}"):
        encoder(name, **OPTIONS | options)


def test_small_images_get_zeros_below_and_on_the_right():
    x = jnp.ones((1, 2, 5, 1))
    made = np.asarray(enlarged(x, 4))[0, :, :, 0]
    np.testing.assert_array_equal(made, [[1] * 5, [1] * 5, [0] * 5, [0] * 5])
    assert enlarged(x, 2) is x


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "resnet50",
        "vgg11",
        "mobilenet",
        "mobilenet_v2",
        "xception",
        "efficientnet_b0",
        "convnext_tiny",
    ],
)
def test_half_the_width_halves_the_channels_of_every_map(name):
    """But for MobileNetV2's, which are rounded to multiples of 8, the last never fewer than 1280,
    and EfficientNet's, rounded so too; by hand."""
    with shallow():
        whole, half = (
            maps(encoder(name, width=width, **OPTIONS), 33, 33)[0] for width in (1.0, 0.5)
        )
    expected = [shape[2] // 2 for shape in whole.values()]
    if name == "mobilenet_v2":
        expected = [8, 16, 16, 48, 1280]
    if name == "efficientnet_b0":
        expected = [8, 16, 24, 56, 640]
    assert [shape[2] for shape in half.values()] == expected
    assert [shape[:2] for shape in half.values()] == [shape[:2] for shape in whole.values()]
