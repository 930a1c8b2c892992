"""DeepLabV3 and V3+: torchvision's parameter counts, the papers' rates, and rates that follow the
training crop."""

import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from cnn_jax import tasks
from cnn_jax.configuration import schema
from cnn_jax.errors import InputError
from cnn_jax.layers.aspp import ASPP
from cnn_jax.models.deeplab import DeepLabV3, DeepLabV3Plus
from cnn_jax.models.encoders import DILATED_ENCODERS
from cnn_jax.tasks.segmentation_learner import SegmentationLearner
from tests.models.shapes import KEY, RELATIVES, count, mostly_later, shallow, shapes


def seen(model, *size):
    """(height and width of the map that ASPP takes, shape of the logits)."""
    noted = []

    def note(call, args, kwargs, context):
        if isinstance(context.module, ASPP):
            noted.append(args[0].shape[1:3])
        return call(*args, **kwargs)

    with nn.intercept_methods(note):
        logits = shapes(model, *size, 3)[0]
    (map_px,) = noted
    return map_px, logits.shape


def dilations(model, *size):
    """Dilation rates of ASPP's convolutions, in their order, read off the traced program."""
    program = jax.make_jaxpr(lambda x: model.init_with_output(KEY, x, train=False)[0])(
        jnp.zeros((1, *size, 3))
    ).jaxpr
    return [
        equation.params["rhs_dilation"][0]
        for equation in program.eqns
        if equation.primitive.name == "conv_general_dilated"
        and "/convolution_rate_" in str(equation.source_info.name_stack)
    ]


@pytest.mark.parametrize(
    ("encoder", "trainable"), [("resnet50", 42_004_074), ("resnet101", 60_996_202)]
)
def test_trainable_parameters_of_v3_are_torchvisions(encoder, trainable):
    assert count(shapes(DeepLabV3(21, encoder=encoder), 33, 33, 3)[1]["params"]) == trainable


def test_parameters_of_v3_plus():
    """By hand: the backbone, ASPP, 48 channels of the low level, two convolutions of 304 and 256
    channels, and scores."""
    backbone, low_level = 25_557_032 - 2048 * 1000 - 1000, 256 * 48 + 2 * 48
    decoder = 9 * (256 + 48) * 256 + 9 * 256 * 256 + 2 * 2 * 256 + 21 * 256 + 21
    assert backbone + 15_535_104 + low_level + decoder == 40_352_181
    assert count(shapes(DeepLabV3Plus(21), 33, 33, 3)[1]["params"]) == 40_352_181


def test_separable_convolutions_have_a_share_of_the_weights():
    """Each 3x3 convolution of c to 256 channels has 9 c + 256 c weights instead of 9 * 256 c; ASPP
    has three, the decoder two."""
    plain, separable = (
        count(shapes(DeepLabV3Plus(21, separable=one), 33, 33, 3)[1]["params"])
        for one in (False, True)
    )
    assert plain - separable == sum(
        9 * 256 * c - (9 * c + 256 * c) for c in (2048, 2048, 2048, 304, 256)
    )


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize(
    "encoder", mostly_later(name for name in DILATED_ENCODERS if name not in RELATIVES)
)
def test_every_trunk_gives_a_map_at_the_output_stride_and_logits_of_the_images_size(
    encoder, output_stride
):
    size = -(-37 // output_stride), -(-53 // output_stride)
    model = DeepLabV3Plus(3, encoder=encoder, output_stride=output_stride, width=8)
    with shallow():
        assert seen(model, 37, 53) == (size, (1, 37, 53, 3))


@pytest.mark.parametrize("encoder", ["mobilenet_v2", "resnet18"])
def test_the_auxiliary_head_reads_the_map_before_the_last_stage(encoder):
    kernel = shapes(DeepLabV3(3, encoder=encoder), 33, 33, 3)[1]["params"]["auxiliary"][
        "convolution"
    ]["convolution"]["kernel"]
    channels = {"mobilenet_v2": 96, "resnet18": 256}[encoder]
    assert kernel.shape == (3, 3, channels, channels // 4)


# ---- rates


@pytest.mark.parametrize(
    ("options", "rates"),
    [
        ({"output_stride": 16}, [6, 12, 18]),
        ({"output_stride": 8}, [12, 24, 36]),
        ({"output_stride": 8, "rates": (3, 7)}, [3, 7]),
        ({"output_stride": 16, "rates": (3, 7), "rates_follow": True}, [3, 7]),
        ({"output_stride": 16, "rates_follow": True, "crop_px": (144, 256)}, [2, 4, 6]),
        ({"output_stride": 8, "rates_follow": True, "crop_px": (144, 256)}, [3, 6, 9]),
        ({"output_stride": 16, "rates_follow": True}, [6, 12, 18]),  # of the image itself, 513 px
    ],
)
def test_rates_are_the_papers_or_those_given_or_follow_the_crop(options, rates):
    with shallow():
        assert dilations(DeepLabV3(3, encoder="resnet18", width=4, **options), 513, 513) == rates


@pytest.mark.parametrize(
    ("name", "options", "rates"),
    [
        (
            "deeplabv3",
            {"output_stride": 16, "rates_follow": True, "encoder": "resnet18"},
            [2, 4, 6],
        ),
        ("deeplabv3plus", {"rates_follow": True, "encoder": "resnet18"}, [2, 4, 6]),
        ("asymmetric_unet", {}, [2, 4, 6]),
        ("asymmetric_unet", {"rates": (5,)}, [5]),
    ],
)
def test_a_task_hands_the_crop_on_and_a_larger_window_keeps_its_rates(name, options, rates):
    config = schema.SegmentationConfig(model=tasks.model_config(name, **options))
    config.data.crop_px = (144, 256)
    tasks.check(config)
    model = SegmentationLearner.module(SimpleNamespace(config=config, names=["a", "b"]))
    assert model.crop_px == (144, 256)
    left = tasks.build_model(config.model, num_classes=2)
    assert left.crop_px is None
    with shallow():
        assert dilations(model, 144, 256) == dilations(model, 512, 512) == rates
        assert dilations(left, 512, 512) == ([5] if options.get("rates") else [6, 12, 18])


# ---- what configurations refuse


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("deeplabv3", {"encoder": "resnet5"}, "model.encoder is 'resnet5': did you mean resnet50"),
        (
            "deeplabv3plus",
            {"encoder": "mobilnet"},
            "model.encoder is 'mobilnet': did you mean mobilenet or mobilenet_v2",
        ),
        (
            "deeplabv3",
            {"encoder": "vgg16"},
            "model.encoder is 'vgg16': it must be one of convnext_base, convnext_large,",
        ),
        ("deeplabv3", {"output_stride": 4}, "model.output_stride is 4: it must be one of 16, 8"),
        ("dilated_fcn", {"output_stride": 4}, "model.output_stride is 4: it must be one of 16, 8"),
        ("deeplabv3", {"rates": (2, 0)}, "model.rates is (2, 0); it must be at least 1"),
        ("deeplabv3", {"dropout": 1.5}, "model.dropout is 1.5; it must lie between 0 and 1"),
    ],
)
def test_bad_options_are_sentences(name, options, sentence):
    config = schema.SegmentationConfig(model=tasks.model_config(name, **options))
    with pytest.raises(InputError, match=f"^{re.escape(sentence)}"):
        tasks.check(config)


def test_a_stride_without_rates_is_refused_without_a_configuration_too():
    with pytest.raises(
        InputError,
        match=r"^model.output_stride is 4, for which there are no rates; make it 8 or 16, or set",
    ):
        jax.eval_shape(
            lambda: DeepLabV3(3, output_stride=4).init(KEY, jnp.zeros((1, 33, 33, 3)), train=False)
        )


def test_a_trunk_that_cannot_dilate_is_refused_without_a_configuration_too():
    with pytest.raises(InputError, match=r"^model.encoder densenet121 can't have output stride 8"):
        jax.eval_shape(
            lambda: DeepLabV3(3, encoder="densenet121").init(
                KEY, jnp.zeros((1, 33, 33, 3)), train=False
            )
        )
