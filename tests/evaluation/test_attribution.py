"""Grad-CAM against its closed form and finite differences; maps against Flax's own capture."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from cnn_jax.evaluation.attribution import feature_maps, first_kernel, grad_cam, map_names
from cnn_jax.layers.convolution import ConvolutionNormActivation
from cnn_jax.models import CLASSIFIERS

pytestmark = pytest.mark.usefixtures("quick_compilation")


class Pooled(nn.Module):
    """A convolution with ReLU, global mean, dense: the network of CAM (Zhou et al., 2016), where Grad-CAM has a closed form."""

    stride: int = 1
    dtype: str = "float32"

    @nn.compact
    def __call__(self, images, *, train):
        block = ConvolutionNormActivation(4, 1, stride=self.stride, norm="none", dtype=self.dtype, name="block")
        x = nn.Dropout(0.5, deterministic=not train)(block(images, train=train))
        return nn.Dense(3, name="head")(x.mean((1, 2), dtype=jnp.float32))


class Flattened(nn.Module):
    """A bare convolution, then dense layers with tanh, where every place has a gradient of its own."""

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
    kernel, bias = weights["block"]["convolution"]["kernel"][0, 0], weights["block"]["convolution"]["bias"]
    features = np.maximum(x @ kernel + bias, 0)
    # The logit is the mean over places of features @ head, so a channel's weight is the head's, up to the scale.
    expected = scaled(np.einsum("bhwc,cb->bhw", features, weights["head"]["kernel"][:, classes]))
    assert (expected.max((1, 2)) == 1).sum() >= 3
    np.testing.assert_allclose(grad_cam(model, variables, x, classes), expected, atol=1e-5)


def test_grad_cam_is_what_finite_differences_say():
    model, x, classes = Flattened(), images(), np.array([0, 1, 2, 2])
    variables = filled(model, x)
    weights = jax.tree.map(np.float64, variables["params"])
    features = np.float64(nn.Conv(3, (3, 3), strides=2).apply({"params": variables["params"]["convolution"]}, x))
    assert features.shape == (4, 3, 3, 3)

    def logits(features):
        hidden = np.tanh(features.reshape(4, -1) @ weights["dense"]["kernel"] + weights["dense"]["bias"])
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
    # The first feature sees what is bright and speaks for class 0, the second what is dark and speaks for class 1.
    kernel, bias, head = np.zeros((1, 1, 1, 4), np.float32), np.zeros(4, np.float32), np.zeros((4, 3), np.float32)
    kernel[..., :2] = 1, -1
    head[0, 0] = head[1, 1] = 1
    params = {"block": {"convolution": {"kernel": kernel, "bias": bias}}, "head": {"kernel": head, "bias": np.zeros(3)}}
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
    _, captured = model.apply(variables, x, train=False, capture_intermediates=True, mutable=["intermediates"])
    assert {name: value.shape for name, value in maps.items()} == {"convolution_1": (10, 10, 4), "convolution_2": (3, 3, 2)}
    for name, value in maps.items():
        np.testing.assert_allclose(value, captured["intermediates"][name]["__call__"][0][2], atol=1e-5)
    assert map_names(model, variables, x)[-1] == "convolution_2", "the map that the head flattens, after its activation"


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
    assert list(feature_maps(Wrapper(), filled(Wrapper(), x), x[0])) == ["body/first", "body/second"]
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
    heats = [grad_cam(model, variables, x, [0, 1, 2, 0], layer) for layer in (None, "stem", "reduction/first")]
    np.testing.assert_array_equal(heats[0], heats[1])
    assert np.abs(heats[0] - heats[2]).max() > 0.1


def test_the_first_kernel_is_that_of_the_layer_called_first():
    x = images(size=12)
    for model, path in ((CLASSIFIERS["lenet5"](num_classes=3), ("c1", "convolution")), (Flattened(), ("convolution",))):
        variables = filled(model, x)
        expected = variables["params"]
        for name in path:
            expected = expected[name]
        np.testing.assert_array_equal(first_kernel(model, variables, x), expected["kernel"])
