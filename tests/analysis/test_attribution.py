"""Grad-CAM against its closed form and finite differences; maps against Flax's own capture."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from cnn_jax.analysis.attribution import (
    deepest_map,
    excitation_by_class,
    feature_maps,
    first_kernel,
    grad_cam,
    level_maps,
    logits_for_and_against,
    map_names,
    segmentation_grad_cam,
)
from cnn_jax.layers.convolution import ConvolutionNormActivation
from cnn_jax.layers.squeeze_excitation import SqueezeExcitation
from cnn_jax.models import CLASSIFIERS, MODELS

pytestmark = pytest.mark.usefixtures("quick_compilation")


class Pooled(nn.Module):
    """A convolution with ReLU, global mean, dense: the network of CAM (Zhou et al., 2016), where
    Grad-CAM has a closed form."""

    stride: int = 1
    dtype: str = "float32"

    @nn.compact
    def __call__(self, images, *, train):
        block = ConvolutionNormActivation(
            4, 1, stride=self.stride, norm="none", dtype=self.dtype, name="block"
        )
        x = nn.Dropout(0.5, deterministic=not train)(block(images, train=train))
        return nn.Dense(3, name="head")(x.mean((1, 2), dtype=jnp.float32))


class Flattened(nn.Module):
    """A bare convolution, then dense layers with tanh, where every place has a gradient of its
    own."""

    @nn.compact
    def __call__(self, images, *, train):
        x = nn.Conv(3, (3, 3), strides=2, name="convolution")(images)
        x = nn.tanh(nn.Dense(5, name="dense")(x.reshape(len(x), -1)))
        return nn.Dense(3, name="head")(x)


class Repeated(nn.Module):
    """One convolution called twice, inside another module."""

    @nn.compact
    def __call__(self, images, *, train):
        return Inner(name="inner")(images).mean((1, 2))


class Inner(nn.Module):
    @nn.compact
    def __call__(self, x):
        convolution = nn.Conv(3, (3, 3), name="convolution")
        return nn.relu(convolution(nn.relu(convolution(x))))


def filled(model, images, seed=0):
    """Variables of random numbers."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    return jax.tree.map(lambda leaf: rng.normal(0, 0.5, leaf.shape).astype(np.float32), shapes)


def images(size=6, batch=4, channels=3):
    return np.random.default_rng(1).normal(size=(batch, size, size, channels)).astype(np.float32)


def scaled(evidence):
    """Positive evidence, each image's largest value 1."""
    evidence = np.maximum(evidence, 0)
    largest = evidence.max((1, 2), keepdims=True)
    return np.divide(evidence, largest, out=np.zeros_like(evidence), where=largest > 0)


def test_grad_cam_has_its_closed_form_before_global_pooling():
    model, x, classes = Pooled(), images(), np.array([0, 1, 2, 1])
    variables = filled(model, x)
    weights = variables["params"]
    kernel, bias = (
        weights["block"]["convolution"]["kernel"][0, 0],
        weights["block"]["convolution"]["bias"],
    )
    features = np.maximum(x @ kernel + bias, 0)
    # The logit is the mean over places of features @ head, so a channel's weight is the head's, up
    # to the scale.
    expected = scaled(np.einsum("bhwc,cb->bhw", features, weights["head"]["kernel"][:, classes]))
    assert (expected.max((1, 2)) == 1).sum() >= 3
    np.testing.assert_allclose(grad_cam(model, variables, x, classes), expected, atol=1e-5)


def test_grad_cam_is_what_finite_differences_say():
    model, x, classes = Flattened(), images(), np.array([0, 1, 2, 2])
    variables = filled(model, x)
    weights = jax.tree.map(np.float64, variables["params"])
    features = np.float64(
        nn.Conv(3, (3, 3), strides=2).apply({"params": variables["params"]["convolution"]}, x)
    )
    assert features.shape == (4, 3, 3, 3)

    def logits(features):
        hidden = np.tanh(
            features.reshape(4, -1) @ weights["dense"]["kernel"] + weights["dense"]["bias"]
        )
        return (hidden @ weights["head"]["kernel"] + weights["head"]["bias"])[range(4), classes]

    slope = np.zeros_like(features)
    for place in np.ndindex(3, 3, 3):
        moved = np.zeros_like(features)
        moved[:, *place] = 1e-5
        slope[:, *place] = (logits(features + moved) - logits(features - moved)) / 2e-5
    evidence = np.maximum((slope.mean((1, 2), keepdims=True) * features).sum(-1), 0)
    expected = scaled(np.asarray(jax.image.resize(evidence, (4, 6, 6), "bilinear")))
    assert expected.max() == 1
    np.testing.assert_allclose(grad_cam(model, variables, x, classes), expected, atol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_heat_is_where_the_class_is(dtype):
    model = Pooled(stride=2, dtype=dtype)
    # The first feature sees what is bright and speaks for class 0, the second what is dark and
    # speaks for class 1.
    kernel, bias, head = (
        np.zeros((1, 1, 1, 4), np.float32),
        np.zeros(4, np.float32),
        np.zeros((4, 3), np.float32),
    )
    kernel[..., :2] = 1, -1
    head[0, 0] = head[1, 1] = 1
    params = {
        "block": {"convolution": {"kernel": kernel, "bias": bias}},
        "head": {"kernel": head, "bias": np.zeros(3)},
    }
    x = np.full((3, 16, 16, 1), -1, np.float32)
    x[:, 8:, :8] = 1
    heat = grad_cam(model, {"params": params}, x, [0, 1, 2])
    assert heat.dtype == np.float32
    inside = np.zeros((16, 16), bool)
    inside[8:, :8] = True
    seam = np.zeros((16, 16), bool)  # where the enlargement blends the two
    seam[7:9] = seam[:, 7:9] = True
    for found, expected in zip(heat, (inside, ~inside, np.zeros_like(inside)), strict=True):
        np.testing.assert_array_equal(found[~seam], expected[~seam])


def test_grad_cam_takes_another_layer_and_refuses_one_that_is_not_there():
    model, x = Repeated(), images()
    variables = filled(model, x)
    names = map_names(model, variables, x)
    assert names == ["inner/convolution", "inner/convolution#2", "inner"]
    heats = [grad_cam(model, variables, x, [0, 1, 2, 0], layer) for layer in (None, *names)]
    np.testing.assert_array_equal(heats[0], heats[3])
    assert np.abs(heats[1] - heats[2]).max() > 0.1
    with pytest.raises(ValueError, match="'head'; it has inner/convolution, "):
        grad_cam(model, variables, x, [0] * 4, "head")


def test_a_network_without_maps_has_no_grad_cam():
    model, x = CLASSIFIERS["softmax_regression"](num_classes=3), images()
    with pytest.raises(ValueError, match="SoftmaxRegression has none"):
        grad_cam(model, filled(model, x), x, [0] * 4)
    assert feature_maps(model, filled(model, x), x[0]) == {}


def test_maps_are_those_that_flax_captures_in_the_order_of_computation():
    model = CLASSIFIERS["cnn"](num_classes=3, widths=(4, 2), pool_after=(1,), dense=())
    x = images(size=12)
    variables = filled(model, x)
    variables["batch_stats"] = jax.tree.map(np.abs, variables["batch_stats"])
    maps = feature_maps(model, variables, x[2])
    _, captured = model.apply(
        variables, x, train=False, capture_intermediates=True, mutable=["intermediates"]
    )
    assert {name: value.shape for name, value in maps.items()} == {
        "convolution_1": (10, 10, 4),
        "convolution_2": (3, 3, 2),
    }
    for name, value in maps.items():
        np.testing.assert_allclose(
            value, captured["intermediates"][name]["__call__"][0][2], atol=1e-5
        )
    assert map_names(model, variables, x)[-1] == "convolution_2", (
        "the map that the head flattens, after its activation"
    )


def test_stages_are_the_outermost_modules_that_are_several():
    class Body(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dropout(0.5, deterministic=True)(Inner(name="second")(Inner(name="first")(x)))

    class Wrapper(nn.Module):
        @nn.compact
        def __call__(self, images, *, train):
            return Body(name="body")(images).mean((1, 2))

    one = CLASSIFIERS["course_cnn"](num_classes=3)
    x = images()
    assert list(feature_maps(Wrapper(), filled(Wrapper(), x), x[0])) == [
        "body/first",
        "body/second",
    ]
    assert list(feature_maps(one, filled(one, x), x[0])) == ["convolution_1"]


def test_the_default_layer_is_no_branch_inside_a_module_that_leaves_one_place():
    class Reduction(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Conv(4, (3, 3), strides=3, name="second")(nn.Conv(1, (1, 1), name="first")(x))

    class Reduced(nn.Module):
        @nn.compact
        def __call__(self, images, *, train):
            x = Reduction(name="reduction")(nn.Conv(3, (3, 3), strides=2, name="stem")(images))
            return nn.Dense(3, name="head")(x.mean((1, 2)))

    model, x = Reduced(), images()
    variables = filled(model, x)
    assert map_names(model, variables, x) == ["stem", "reduction/first"]
    heats = [
        grad_cam(model, variables, x, [0, 1, 2, 0], layer)
        for layer in (None, "stem", "reduction/first")
    ]
    np.testing.assert_array_equal(heats[0], heats[1])
    assert np.abs(heats[0] - heats[2]).max() > 0.1


def test_the_first_kernel_is_that_of_the_layer_called_first():
    x = images(size=12)
    for model, path in (
        (CLASSIFIERS["lenet5"](num_classes=3), ("c1", "convolution")),
        (Flattened(), ("convolution",)),
    ):
        variables = filled(model, x)
        expected = variables["params"]
        for name in path:
            expected = expected[name]
        np.testing.assert_array_equal(first_kernel(model, variables, x), expected["kernel"])


class Segmenter(nn.Module):
    """Two convolutions, a bridge of half the size, no skips: logits are linear in the bridge, so
    that Seg-Grad-CAM has a closed form."""

    classes: int = 3

    @nn.compact
    def __call__(self, images, *, train):
        x = ConvolutionNormActivation(4, norm="none", name="encoder_1")(images, train=train)
        x = ConvolutionNormActivation(4, norm="none", name="encoder_2")(x, train=train)
        x = ConvolutionNormActivation(5, stride=2, norm="none", name="bridge")(x, train=train)
        x = nn.Dropout(0.5, deterministic=not train)(x)
        x = jnp.repeat(
            jnp.repeat(x, 2, axis=1), 2, axis=2
        )  # each place of the bridge answers for 2x2 pixels
        return nn.Conv(self.classes, (1, 1), name="head")(x)


def test_segmentation_grad_cam_has_its_closed_form():
    model, x, classes = Segmenter(), images(size=8), np.array([0, 1, 2, 1])
    variables = filled(model, x)
    params = variables["params"]
    bridge = x
    for name, strides in (("encoder_1", 1), ("encoder_2", 1), ("bridge", 2)):
        kernel, bias = params[name]["convolution"]["kernel"], params[name]["convolution"]["bias"]
        bridge = jax.lax.conv_general_dilated(
            bridge, kernel, (strides,) * 2, "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        bridge = np.maximum(bridge + bias, 0)
    assert bridge.shape == (4, 4, 4, 5)
    head = params["head"]
    logits = (bridge @ head["kernel"][0, 0] + head["bias"]).repeat(2, 1).repeat(2, 2)
    chosen = np.random.default_rng(2).random((4, 8, 8)) < 0.3
    for given, pixels in ((None, logits.argmax(-1) == classes[:, None, None]), (chosen, chosen)):
        # The sum over pixels has the gradient head[:, class] at a place, times how many of its four
        # pixels are asked about.
        asked = pixels.reshape(4, 4, 2, 4, 2).sum((2, 4))
        weights = asked.mean((1, 2))[:, None] * head["kernel"][0, 0][:, classes].T
        evidence = np.maximum(np.einsum("bhwc,bc->bhw", bridge, weights), 0)
        expected = scaled(np.asarray(jax.image.resize(evidence, (4, 8, 8), "bilinear")))
        assert (expected.max((1, 2)) == 1).sum() >= 2
        np.testing.assert_allclose(
            segmentation_grad_cam(model, variables, x, classes, given), expected, atol=1e-4
        )
    nothing = segmentation_grad_cam(model, variables, x[:1], classes[:1], np.zeros((1, 8, 8), bool))
    np.testing.assert_array_equal(nothing, 0)
    with pytest.raises(ValueError, match="'decoder'; it has encoder_1/convolution, "):
        segmentation_grad_cam(model, variables, x, classes, layer="decoder")


def test_one_logit_stands_for_two_classes():
    model, x = Segmenter(classes=1), images(size=8, batch=1)
    variables = filled(model, x)
    two = jax.tree.map(np.copy, variables)
    kernel, bias = variables["params"]["head"]["kernel"], variables["params"]["head"]["bias"]
    two["params"]["head"] = {
        "kernel": np.concatenate([-kernel, kernel], -1),
        "bias": np.concatenate([-bias, bias]),
    }
    pair = np.concatenate([x, x])
    expected = segmentation_grad_cam(Segmenter(classes=2), two, pair, [0, 1])
    assert expected.max() == 1
    np.testing.assert_allclose(
        segmentation_grad_cam(model, variables, pair, [0, 1]), expected, atol=1e-6
    )
    np.testing.assert_array_equal(logits_for_and_against(np.float32([[2]])), [[-2, 2]])
    np.testing.assert_array_equal(logits_for_and_against(np.float32([[2, 3]])), [[2, 3]])


def test_the_deepest_map_is_the_bottleneck():
    unet, x = (
        MODELS["unet"](num_classes=6, base_width=2, depth=2, upsampling="bilinear"),
        images(size=16),
    )
    variables = filled(unet, x)
    assert deepest_map(unet, variables, x) == "bridge_convolution_2", (
        "neither dropout nor what the decoder does there"
    )

    class Coarse(nn.Module):
        @nn.compact
        def __call__(self, images, *, train):
            x = nn.Conv(4, (3, 3), strides=4, name="backbone")(images)
            return jax.image.resize(
                nn.Conv(3, (1, 1), name="scores")(x), (*images.shape[:3], 3), "nearest"
            )

    assert deepest_map(Coarse(), filled(Coarse(), x), x) == "backbone", "not the class scores"
    model = CLASSIFIERS["softmax_regression"](num_classes=3)
    assert deepest_map(model, filled(model, x), x) is None


def test_levels_of_a_unet_are_the_last_maps_of_its_stages():
    model, x = MODELS["unet"](num_classes=3, base_width=2, depth=1), images(size=6, batch=1)
    variables = filled(model, x)
    variables["batch_stats"] = jax.tree.map(np.abs, variables["batch_stats"])
    maps = level_maps(model, variables, x[0])
    assert list(maps) == [
        "encoder_0_convolution_2",
        "bridge_convolution_2",
        "decoder_0_convolution_2",
        "head",
    ]
    assert [value.shape for value in maps.values()] == [(6, 6, 2), (3, 3, 4), (6, 6, 2), (6, 6, 3)]
    logits = jax.jit(lambda variables, x: model.apply(variables, x, train=False))(variables, x)[0]
    np.testing.assert_allclose(maps["head"], logits, rtol=1e-4, atol=1e-4)


def test_levels_of_a_trunk_that_hands_out_maps_are_those_of_its_blocks():
    class Backbone(nn.Module):
        @nn.compact
        def __call__(self, x):
            maps = {}
            for stage in (1, 2):
                x = maps[stage] = Inner(name=f"stage_{stage}")(x[:, ::2, ::2])
            return maps

    class Decoded(nn.Module):
        @nn.compact
        def __call__(self, images, *, train):
            maps = Backbone(name="backbone")(images)
            x = nn.Conv(3, (1, 1), name="reduced")(maps[2])
            return nn.Conv(2, (1, 1), name="head")(
                jax.image.resize(x, (*images.shape[:3], 3), "nearest")
            )

    x = images(size=8)
    # "reduced" has the shape of the backbone's last map, and is the last of that level.
    assert list(level_maps(Decoded(), filled(Decoded(), x), x[0])) == [
        "backbone/stage_1",
        "reduced",
        "head",
    ]


class Attentive(nn.Module):
    """Squeeze and excitation twice, the second time with a gate of places on a map of half the
    size."""

    spatial: bool = True

    @nn.compact
    def __call__(self, images, *, train):
        x = SqueezeExcitation(reduction=2, name="first")(images)
        x = nn.Conv(6, (2, 2), strides=2, name="reduced")(x)
        x = SqueezeExcitation(reduction=2, spatial=self.spatial, name="second")(x)
        return nn.Conv(3, (1, 1), name="head")(x)


def test_excitations_by_class_are_weighed_by_pixels():
    model, x = Attentive(), images(size=4, batch=3)
    variables = filled(model, x)
    rng = np.random.default_rng(3)
    masks = rng.integers(0, 2, (3, 4, 4))
    masks[2] = 255
    masks[0, 0] = 255
    found = excitation_by_class(
        model, variables, [(x[:1], masks[:1]), (x[1:], masks[1:])], classes=3
    )
    assert list(found) == ["first", "second"]

    def sigmoid(value):
        return 1 / (1 + np.exp(-value))

    params = jax.tree.map(np.float64, variables["params"])
    reduced = np.float64(
        nn.Conv(6, (2, 2), strides=2).apply(
            {"params": variables["params"]["reduced"]},
            np.asarray(SqueezeExcitation(2).apply({"params": variables["params"]["first"]}, x)),
        )
    )
    for name, seen in (("first", np.float64(x)), ("second", reduced)):
        dense = params[name]
        hidden = np.maximum(
            seen.mean((1, 2)) @ dense["reduction"]["kernel"] + dense["reduction"]["bias"], 0
        )
        excitation = sigmoid(hidden @ dense["excitation"]["kernel"] + dense["excitation"]["bias"])
        for index in (0, 1):
            weights = (masks == index).sum((1, 2))
            assert weights[2] == 0 < weights[:2].min(), "the last image is ignored"
            np.testing.assert_allclose(
                found[name].channels[index],
                np.average(excitation, axis=0, weights=weights),
                rtol=1e-4,
            )
        assert np.isnan(found[name].channels[2]).all()
    assert found["first"].places is None
    dense = params["second"]["spatial_excitation"]
    gate = sigmoid(reduced @ dense["kernel"] + dense["bias"])[..., 0].repeat(2, 1).repeat(2, 2)
    for index in (0, 1):
        np.testing.assert_allclose(
            found["second"].places[index], gate[masks == index].mean(), rtol=1e-4
        )
    assert np.isnan(found["second"].places[2])


def test_excitations_are_those_that_scale_the_map():
    """Of the whole module: what it makes of a map is the map times the excitation."""
    model, x = Attentive(spatial=False), images(size=4, batch=1)
    variables = filled(model, x)
    found = excitation_by_class(model, variables, [(x, np.zeros((1, 4, 4), int))], classes=1)
    after = SqueezeExcitation(2).apply({"params": variables["params"]["first"]}, x)
    np.testing.assert_allclose(np.asarray(after)[0], x[0] * found["first"].channels[0], rtol=1e-5)
    assert found["second"].places is None


def test_a_network_without_attention_has_no_excitations():
    model, x = Segmenter(), images(size=8, batch=1)
    assert (
        excitation_by_class(model, filled(model, x), [(x, np.zeros((1, 8, 8), int))], classes=3)
        == {}
    )
