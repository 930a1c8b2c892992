"""U-Net's decoder on every backbone: sizes, skips, widths, and what configurations refuse."""

import jax
import numpy as np
import pytest

from cnn_jax import tasks
from cnn_jax.configuration import schema
from cnn_jax.errors import InputError
from cnn_jax.models.encoder_unet import EncoderUNet
from cnn_jax.models.encoders import ENCODERS, encoder
from tests.models.shapes import KEY, RELATIVES, count, maps, shallow, shapes
from tests.models.test_all import filled


@pytest.mark.parametrize("name", [name for name in ENCODERS if name not in RELATIVES])
def test_every_trunk_gives_logits_of_the_images_size_and_a_skip_a_map(name):
    """For odd sides; a decoder stage's first kernel takes the skip and what comes from below."""
    with shallow():
        logits, variables = shapes(
            EncoderUNet(3, encoder=name, decoder_widths=(24, 12, 6)), 37, 53, 3
        )
        backbone = encoder(name, norm="batch", dtype="float32", axis_name=None)
        made, alone = maps(backbone, max(37, backbone.least_px), max(53, backbone.least_px))
    assert (logits.shape, logits.dtype) == ((1, 37, 53, 3), "float32")
    params = variables["params"]
    assert params["encoder"] == alone["params"]
    deepest, *skips = sorted(made, reverse=True)
    below = made[deepest][2]
    for stride, width in zip(
        [*skips, *([1] if 1 not in made else [])], (24, 12, 6, 6, 6), strict=False
    ):
        kernels = [
            params[f"decoder_{stride}_convolution_{number}"]["convolution"]["kernel"].shape
            for number in (1, 2)
        ]
        skip = made[stride][2] if stride in made else 0
        assert kernels == [(3, 3, skip + below, width), (3, 3, width, width)]
        below = width
    assert params["head"]["kernel"].shape == (1, 1, below, 3)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3", "densenet121"])
def test_images_may_be_smaller_than_the_trunk_takes(name):
    with shallow():
        assert shapes(EncoderUNet(3, encoder=name), 1, 2, 3)[0].shape == (1, 1, 2, 3)


def test_parameters_are_those_of_segmentation_models_pytorch_but_for_its_3x3_head():
    """Its Unet("resnet34", classes=1) has 24,436,369 trainable ones; its head takes 16 channels,
    3x3 where ours is 1x1."""
    assert count(shapes(EncoderUNet(1), 64, 64, 3)[1]["params"]) == 24_436_369 - (9 - 1) * 16


def between(size: int, wanted: int) -> np.ndarray:
    """Bilinear interpolation of a line, float64 `[wanted, size]`: places are middles, and beyond
    the first and last the line goes on level."""
    place = np.clip((np.arange(wanted) + 0.5) * size / wanted - 0.5, 0, size - 1)
    return np.maximum(0, 1 - np.abs(place[:, None] - np.arange(size)))


def block(x, params, statistics):
    """Convolution 3x3 with zeros around, BatchNorm by its running statistics, ReLU."""
    height, width = x.shape[1:3]
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    kernel = params["convolution"]["kernel"]
    y = sum(
        padded[:, i : i + height, j : j + width] @ kernel[i, j] for i in range(3) for j in range(3)
    )
    y = (y - statistics["norm"]["mean"]) / np.sqrt(statistics["norm"]["var"] + 1e-5)
    return np.maximum(0, y * params["norm"]["scale"] + params["norm"]["bias"])


@pytest.mark.parametrize("name", ["resnet18", "vgg11", "mobilenet_v2"])
def test_the_decoder_is_that_of_a_twin_in_numpy(name, quick_compilation):
    """From the encoder's own maps: each skip lies on the map from below as it lies on the image,
    before it in the channels."""
    images = np.random.default_rng(3).normal(size=(2, 45, 37, 3)).astype(np.float32)
    with shallow():
        model = EncoderUNet(3, encoder=name, decoder_widths=(9, 7, 5))
        variables = filled(model, images)
        logits = jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, images)
        alone = {collection: of["encoder"] for collection, of in variables.items()}
        backbone = encoder(name, norm="batch", dtype="float32", axis_name=None).clone(name=None)
        made = jax.jit(lambda v, x: backbone.apply(v, x, train=False, feature_maps=True))(
            alone, images
        )
    made = {stride: np.float64(one) for stride, one in made.items()}
    params, statistics = (
        jax.tree.map(np.float64, variables[kind]) for kind in ("params", "batch_stats")
    )
    x = made[max(made)]
    for stride in (16, 8, 4, 2, 1):
        size = made[stride].shape[1:3] if stride in made else images.shape[1:3]
        rows, columns = between(x.shape[1], size[0]), between(x.shape[2], size[1])
        x = np.einsum("ih,jw,bhwc->bijc", rows, columns, x)
        if stride in made:
            x = np.concatenate([made[stride], x], -1)
        for number in (1, 2):
            layer = f"decoder_{stride}_convolution_{number}"
            x = block(x, params[layer], statistics[layer])
    expected = x @ params["head"]["kernel"][0, 0] + params["head"]["bias"]
    assert expected.std() > 0.1
    np.testing.assert_allclose(logits, expected, atol=1e-4 * np.abs(expected).max())


def test_without_skips_the_decoder_takes_what_comes_from_below_alone():
    params = shapes(EncoderUNet(3, encoder="resnet18", skips=False), 33, 33, 3)[1]["params"]
    taken = [
        params[f"decoder_{stride}_convolution_1"]["convolution"]["kernel"].shape[2]
        for stride in (16, 8, 4, 2, 1)
    ]
    assert taken == [512, 256, 128, 64, 32]


def test_a_misspelt_trunk_and_an_option_out_of_range_are_sentences():
    config = schema.SegmentationConfig(model=tasks.model_config("encoder_unet", encoder="resnet5O"))
    with pytest.raises(InputError, match=r"model\.encoder is 'resnet5O': did you mean .*resnet50"):
        tasks.check(config)
    config = schema.SegmentationConfig(
        model=tasks.model_config("encoder_unet", decoder_widths=(8, 0))
    )
    with pytest.raises(
        InputError, match=r"^model.decoder_widths is \(8, 0\); it must be at least 1"
    ):
        tasks.check(config)
    model = EncoderUNet(3, encoder="googlenet", encoder_width=0.5)
    with pytest.raises(
        InputError, match=r"^model.encoder_width is 0.5, but googlenet has one width"
    ):
        jax.eval_shape(lambda: model.init(KEY, jax.numpy.zeros((1, 33, 33, 3)), train=False))
