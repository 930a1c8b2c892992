"""Decoders of any encoder: what segmentation_models.pytorch and torchvision compute with the same
maps and weights, their numbers of parameters, every encoder, and what configurations refuse."""

import dataclasses
import re
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from cnn_jax import tasks
from cnn_jax.configuration import schema
from cnn_jax.errors import InputError
from cnn_jax.layers.upsampling import repeated_pixels
from cnn_jax.models import SEGMENTERS, linknet, pspnet, semantic_fpn, unet_plus_plus, upernet
from cnn_jax.models.mobilenet_v2 import MobileNetV2
from tests.models import smp_decoders
from tests.models.shapes import KEY, count, shallow, shapes
from tests.models.smp_decoders import BINS, CHANNELS, SIZE, STORED, WIDTH, WIDTHS

STRIDES = [*CHANNELS]

# ---- the same as the peers'


class Given(nn.Module):
    """Stands for a backbone, whose maps it has ready."""

    least_px = 1  # unannotated, or it would be a field

    def __call__(self, images: jax.Array, *, train: bool, feature_maps: bool = False) -> Any:
        assert images.shape == (1, *SIZE, 3)
        assert feature_maps
        return {stride: jnp.asarray(x) for stride, x in smp_decoders.maps().items()}


def of_unet_plus_plus(part):
    node = re.fullmatch(r"node_(\d+)_(\d)_convolution_(\d)", part)
    if not node:
        return f"blocks.x_0_4.conv{part[-1]}"
    level = STRIDES[-2::-1].index(int(node[1]))
    return f"blocks.x_{level + 1 - int(node[2])}_{level}.conv{node[3]}"


def of_linknet(part, layer):
    block = f"blocks.{STRIDES[-2::-1].index(int(part[8:])) if part != 'decoder_1' else 4}.block"
    if layer.startswith("upsampling"):
        return f"{block}.1.{1 if layer.endswith('norm') else 0}"
    return f"{block}.{0 if layer == 'reduction' else 2}"


def of_pooling(layer):
    if layer == "projection":
        return "out_conv"
    return f"blocks.{BINS.index(int(layer[5:]))}.1"


def of_upernet(part, layer):
    if part == "pyramid_pooling":
        return f"psp.{of_pooling(layer)}"
    if part == "fusion":
        return "fusion_block"
    kind, stride = part.split("_")
    if kind == "norm":
        return f"feature_norms.{STRIDES[1:].index(int(stride))}"
    name = "fpn_lateral_blocks.{}.conv_norm_relu" if kind == "lateral" else "fpn_conv_blocks.{}"
    return name.format(STRIDES[-2::-1].index(int(stride)))


def of_fpn(part, layer):
    if part == "pyramid":
        kind, stride = layer.split("_")
        kind = "inner" if kind == "lateral" else "layer"
        return f"pyramid.{kind}_blocks.{STRIDES[1:].index(int(stride))}.0"
    _, stride, _, step = part.split("_")
    return f"levels.{STRIDES[1:].index(int(stride))}.{int(step) - 1}"


DECODERS = {
    "unet_plus_plus": (
        unet_plus_plus,
        unet_plus_plus.UNetPlusPlus(WIDTHS[-1], decoder_widths=WIDTHS),
        lambda part, layer: of_unet_plus_plus(part),
    ),
    "linknet": (linknet, linknet.LinkNet(WIDTH, width=WIDTH), of_linknet),
    "pspnet": (
        pspnet,
        pspnet.PSPNet(2, width=2, bins=BINS, auxiliary_weight=0.0),
        lambda part, layer: of_pooling(layer),
    ),
    "upernet": (upernet, upernet.UPerNet(WIDTH, width=WIDTH, bins=BINS), of_upernet),
    "fpn": (semantic_fpn, semantic_fpn.SemanticFPN(WIDTH, pyramid_width=WIDTH, width=32), of_fpn),
}
"""The module of each, a small one, and what its layers are called there, by the first two parts of
their paths."""

LEAVES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}


def carried(name, path, leaf):
    """The peers' weight for one of ours. A head of ours hands the decoder's channels out."""
    keys = [key.key for key in path][1:]  # without the collection
    if keys[0] == "head":
        return (
            jnp.eye(*leaf.shape[2:])[None, None] if keys[-1] == "kernel" else jnp.zeros_like(leaf)
        )
    layer = DECODERS[name][2](keys[0], keys[1])
    if keys[-2] in ("convolution", "norm"):  # of a `ConvolutionNormActivation`
        layer = f"{layer}.{['convolution', 'norm'].index(keys[-2])}"
    there, shape = f"{layer}.{LEAVES.get(keys[-1], keys[-1])}", leaf.shape
    if keys[-2] == "upsampling":
        weight = smp_decoders.value(there, (*shape[2:], *shape[:2]))
        return weight.transpose(2, 3, 0, 1)[::-1, ::-1]
    if keys[-1] == "mean" and keys[-2] == "upsampling_norm":  # after a bias, which ours hasn't
        bias = smp_decoders.value(f"{layer[:-2]}.0.bias", shape)
        return smp_decoders.value(there, shape) - bias
    if keys[-1] != "kernel":
        return smp_decoders.value(there, shape)
    kernel = smp_decoders.value(there, (shape[3], shape[2], *shape[:2])).transpose(2, 3, 1, 0)
    node = re.fullmatch(r"node_(\d+)_(\d)_convolution_1", keys[0])
    if node:  # theirs joins the maps the other way round
        own, columns = CHANNELS[int(node[1])], int(node[2])
        first = shape[2] - own * columns
        parts = np.split(kernel, [first + own * number for number in range(columns)], axis=2)
        kernel = np.concatenate(parts[::-1], axis=2)
    return kernel


@pytest.mark.parametrize("name", DECODERS)
def test_the_peers_compute_the_same_with_the_same_maps_and_weights(name, quick_compilation):
    module, model, _ = DECODERS[name]
    images = jnp.zeros((1, *SIZE, 3))
    with mock.patch.object(module, "encoder", return_value=Given()):
        variables = jax.tree.map_with_path(
            lambda path, leaf: carried(name, path, leaf), shapes(model, *SIZE, 3)[1]
        )
        logits = jax.jit(lambda variables: model.apply(variables, images, train=False))(variables)
    with np.load(STORED) as stored:
        expected = stored[name]
    assert expected.std() > 0.1
    logits = smp_decoders.thinned(logits)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


@pytest.mark.peers
def test_what_is_stored_is_what_the_peers_compute():
    pytest.importorskip("torch")
    pytest.importorskip("segmentation_models_pytorch")
    with np.load(STORED) as stored:
        for name, made in smp_decoders.outputs().items():
            np.testing.assert_allclose(stored[name], made, rtol=1e-4, atol=1e-5, err_msg=name)


# ---- parameters


@pytest.mark.parametrize(
    ("model", "trainable"),
    [
        # smp's UnetPlusPlus("resnet34", classes=1) has a 3x3 head of 16 channels
        (unet_plus_plus.UNetPlusPlus(1), 26_078_609 - (9 - 1) * 16),
        # its Linknet has biases before norms, a quarter of each stage's channels
        (linknet.LinkNet(1, encoder="resnet34"), 21_771_937 - (512 + 256 + 128 + 64 + 64) // 4),
        # its FPN lacks the 3x3 convolutions after the pyramid's additions
        (
            semantic_fpn.SemanticFPN(1, encoder="resnet34"),
            23_155_393 + 4 * (9 * 256 * 256 + 256),
        ),
        (upernet.UPerNet(1, encoder="resnet18", width=256), 19_491_521),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_parameters_are_the_peers(model, trainable):
    assert count(shapes(model, 33, 33, 3)[1]["params"]) == trainable


@pytest.mark.long
def test_parameters_of_pspnet():
    """By hand: ResNet-50, four levels, the convolution after them, scores, the auxiliary head."""
    backbone, levels, last = 23_508_032, 4 * (2048 * 512 + 2 * 512), 9 * 4096 * 512 + 2 * 512
    auxiliary = 9 * 1024 * 256 + 2 * 256 + 257 * 21
    expected = backbone + levels + last + 513 * 21 + auxiliary
    assert count(shapes(pspnet.PSPNet(21), 33, 33, 3)[1]["params"]) == expected == 48_957_802


@pytest.mark.long
def test_upernet_on_convnext_has_the_papers_60_million():
    """ConvNeXt's paper, table 3: 60, 82, 122 and 235 million on 150 classes, with an auxiliary head
    of 256 channels on the map at stride 16, which ours lacks."""
    for size, millions in (("tiny", 60), ("small", 82), ("base", 122), ("large", 235)):
        model = upernet.UPerNet(150, encoder=f"convnext_{size}")
        params = shapes(model, 64, 64, 3)[1]["params"]
        channels = params["norm_16"]["scale"].size
        auxiliary = 9 * channels * 256 + 2 * 256 + 257 * 150
        assert round((count(params) + auxiliary) / 1e6) == millions


# ---- encoders and options

LATER_ENCODERS = ("inception_v3", "vgg11", "googlenet", "densenet121", "efficientnet_b0")


@pytest.mark.parametrize(
    "encoder",
    [
        "resnet20",
        "convnext_tiny",
        *(pytest.param(name, marks=pytest.mark.long) for name in LATER_ENCODERS),
    ],
)
def test_every_kind_of_encoder_serves_every_decoder(encoder):
    """They differ in the strides at which they have maps, in how those are rounded, and in the
    least image they take."""
    models = [
        unet_plus_plus.UNetPlusPlus(3, encoder=encoder, decoder_widths=(6, 4)),
        linknet.LinkNet(3, encoder=encoder, width=4),
        semantic_fpn.SemanticFPN(3, encoder=encoder, pyramid_width=4, width=4),
        upernet.UPerNet(3, encoder=encoder, width=4),
    ]
    with shallow():
        for model in models:
            logits = shapes(model, 37, 53, 3)[0]
            assert (logits.shape, logits.dtype) == ((1, 37, 53, 3), "float32")


def test_maps_that_twice_the_size_misses_are_fitted():
    """As Inception v3's are, which pads nothing: there 3 places stand above 1."""
    x = jnp.arange(3.0)[None, None, :, None]
    np.testing.assert_array_equal(repeated_pixels(x, 3, 7)[0, :, :, 0], [[0, 0, 1, 1, 2, 2, 2]] * 3)
    np.testing.assert_array_equal(repeated_pixels(x, 1, 5)[0, :, :, 0], [[0, 0, 1, 1, 2]])


def test_every_segmenter_on_a_backbone_hands_on_whose_conventions_that_has():
    """Else weights given to a backbone would be computed with another padding than they had."""
    for name, make in SEGMENTERS.items():
        module = getattr(make, "func", make)
        fields = {field.name for field in dataclasses.fields(module)}
        if "encoder" not in fields:
            continue
        assert "conventions" in fields, name
        model = make(num_classes=3, encoder="mobilenet_v2", conventions="torchvision")
        found = []

        def note(call, args, kwargs, context, found=found):
            if isinstance(context.module, MobileNetV2):
                found.append((context.module.padding, context.module.epsilon))
                raise StopIteration  # no more is to be known
            return call(*args, **kwargs)

        with nn.intercept_methods(note), pytest.raises(StopIteration):
            model.init(KEY, jnp.zeros((1, 33, 33, 3)), train=False)
        assert found == [("SYMMETRIC", 1e-5)], name


def test_linknet_without_skips_has_the_same_parameters():
    with shallow():
        with_skips, without = (
            shapes(linknet.LinkNet(3, skips=skips), 33, 33, 3)[1] for skips in (True, False)
        )
    assert with_skips == without


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("pspnet", {"encoder": "vgg16"}, "model.encoder is 'vgg16': it must be one of convnext"),
        ("unet_plus_plus", {"encoder": "resnet5"}, "model.encoder is 'resnet5': did you mean"),
        ("linknet", {"width": 0}, "model.width is 0; it must be at least 1"),
        ("fpn", {"dropout": 2.0}, "model.dropout is 2.0; it must lie between 0 and 1"),
        ("upernet", {"bins": (1, 0)}, "model.bins is (1, 0); it must be at least 1"),
    ],
)
def test_bad_options_are_sentences(name, options, sentence):
    config = schema.SegmentationConfig(model=tasks.model_config(name, **options))
    with pytest.raises(InputError, match=f"^{re.escape(sentence)}"):
        tasks.check(config)


@pytest.mark.parametrize("bins", [(), (1, 2, 2)])
def test_levels_of_a_pyramid_differ(bins):
    for model in (pspnet.PSPNet(3, bins=bins), upernet.UPerNet(3, bins=bins)):
        with pytest.raises(InputError, match=r"^model\.bins is .* none twice"):
            jax.eval_shape(lambda: model.init(KEY, jnp.zeros((1, 33, 33, 3)), train=False))  # noqa: B023
