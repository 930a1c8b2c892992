"""Functions of JAX as ONNX models, beside onnxruntime: operations one by one, architectures, sizes
that stay free, and what is refused."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest
from flax import linen as nn
from jax import lax

from cnn_jax.errors import InputError
from cnn_jax.inference import export
from cnn_jax.inference.onnx import translated
from cnn_jax.layers.pooling import average_pool, max_pool
from cnn_jax.layers.upsampling import bilinear_resize
from cnn_jax.models import MODELS
from tests.models import test_all, test_classifiers
from tests.models.shapes import shallow
from tests.models.test_all import filled
from tests.models.test_transformations import ONE_SIZE, SAME_DEPTH

pytestmark = pytest.mark.usefixtures("quick_compilation")

SMALL = test_classifiers.SMALL | test_all.SMALL
QUICK = ("asymmetric_unet", "resnet20", "deeplabv3plus")
"""Architectures that the quick tests translate; between them they have every kind of operation."""


def computed(model, images):
    """What onnxruntime makes of images by a model that onnx's checker accepts."""
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (result,) = session.run(None, {"images": images})
    return result


def images_of(*shape):
    return np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32)


def assert_same(function, *shape, sizes=(), stride=None):
    """ONNX and JAX agree on images of this shape, and of the `sizes` beside it."""
    model = translated(function, shape[1:], stride=stride)
    for height, width in sizes or (shape[1:3],):
        for batch in (shape[0], 1):
            images = images_of(batch, height, width, shape[3])
            expected = np.asarray(jax.jit(function)(images))
            found = computed(model, images)
            assert found.dtype == np.float32
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * max(expected.std(), 1))
    return model


def kernel(*shape):
    return np.random.default_rng(1).normal(size=shape).astype(np.float32) / 3


def convolved(x, *shape, **options):
    dimensions = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x, kernel(*shape), dimension_numbers=dimensions, **{"window_strides": (1, 1), **options}
    )


OPERATIONS = {
    "convolution, strided, padded on one side": lambda x: convolved(
        x, 3, 2, 4, 6, window_strides=(2, 1), padding=[(0, 1), (1, 2)]
    ),
    "convolution, dilated, in groups": lambda x: convolved(
        x, 3, 3, 2, 6, padding="SAME", rhs_dilation=(2, 3), feature_group_count=2
    ),
    "transposed convolution": lambda x: convolved(
        x, 4, 6, 4, 3, padding=[(2, 2), (3, 1)], lhs_dilation=(2, 3)
    ),
    "overlapping maximum": lambda x: max_pool(x, 3, 2),
    "mean of incomplete windows": lambda x: average_pool(x, 3, 2),
    "resize up": lambda x: bilinear_resize(x, 17, 11),
    "resize down": lambda x: bilinear_resize(x, 5, 4),
    "group norm": lambda x: nn.GroupNorm(2).apply(
        {"params": {"scale": kernel(4), "bias": kernel(4)}}, x
    ),
    "softmax": lambda x: jax.nn.softmax(x),
    "activations": lambda x: (
        jax.nn.gelu(x) + jnp.tanh(x) + jax.nn.silu(x) + jax.nn.relu6(3 * x) + jax.nn.elu(x)
    ),
    "arithmetic": lambda x: (
        x**3 / (1 + x**2) ** 0.75 - jnp.abs(x) * jnp.exp(-x) + jnp.sqrt(x * x) + jnp.sign(x)
    ),
    "slices, pads and joins": lambda x: jnp.concatenate(
        [jnp.pad(x[:, 1:, ::2], ((0, 0), (0, 1), (0, 0), (0, 0)), constant_values=2), x[:, :, 4:]],
        2,
    ),
    "turns and shapes": lambda x: (
        x.transpose(0, 2, 1, 3).reshape(x.shape[0], -1, 2)[:, :, None] + x.mean(1)[:, None, :, :2]
        if x.shape[1] == 1
        else x.transpose(0, 2, 1, 3).reshape(x.shape[0], -1)
    ),
    "sums over places and channels": lambda x: x.sum((1, 3)) - x.max((1, 3)) + x.min((1, 3)),
    "products": lambda x: jnp.einsum("bhwc,hk->bkwc", x, kernel(9, 5)) @ kernel(4, 3),
    "choices": lambda x: jnp.where(x > 0.5, x, jnp.minimum(-x, 2.0)).astype(jnp.float32),
    "values repeated": lambda x: jnp.concatenate(
        [x, jnp.broadcast_to(x.mean((1, 2), keepdims=True), x.shape)], -1
    ),
    "an image that isn't looked at": lambda x: (
        jnp.ones((x.shape[0], 3)) * x.sum((1, 2, 3))[:, None]
    ),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_computes_what_jax_does(name):
    assert_same(OPERATIONS[name], 2, 9, 8, 4)


@pytest.mark.parametrize(
    "name", ["overlapping maximum", "mean of incomplete windows", "values repeated", "group norm"]
)
def test_an_operation_computes_what_jax_does_at_any_size(name):
    assert_same(OPERATIONS[name], 2, 8, 8, 4, stride=4, sizes=[(8, 12), (4, 20)])


@functools.cache
def small(name):
    """(function of images, size) of an architecture with few layers and channels; its moving
    statistics are random."""
    make = MODELS[name]
    depth = getattr(make, "keywords", {}).get("depth")
    options = {"depth": SAME_DEPTH[depth]} if depth in SAME_DEPTH else {}
    model = make(num_classes=3, **options, **SMALL.get(name, {}))
    px = max(64, getattr(model, "least_px", 1))
    variables = filled(model, np.zeros((1, px, px, 3), np.float32))
    return lambda images: model.apply(variables, images, train=False), px


def check_architecture(name):
    with shallow():
        function, px = small(name)
        assert_same(function, 2, px, px, 3)
        if name in ("pspnet", "upernet"):  # whose averages of areas follow the map
            with pytest.raises(InputError, match="operation iota at pyramid_pooling"):
                translated(function, (px, px, 3), stride=32)
            return
        if name not in ONE_SIZE:
            assert_same(function, 2, px, px, 3, stride=32, sizes=[(64, 96), (96, 128)])
            return
        # Of one, rates follow the map's size; the others flatten it.
        reason = "for a fixed size" if name == "asymmetric_unet" else "takes images of one size"
        with pytest.raises(InputError, match=reason):
            translated(function, (px, px, 3), stride=32)


@pytest.mark.parametrize("name", QUICK)
def test_an_architecture_computes_what_jax_does(name):
    check_architecture(name)


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name in MODELS if name not in QUICK])
def test_every_other_architecture_computes_what_jax_does(name):
    check_architecture(name)


def test_sizes_are_named():
    model = translated(OPERATIONS["overlapping maximum"], (8, 8, 4), stride=2)
    (images,) = model.graph.input
    named = [one.dim_param or one.dim_value for one in images.type.tensor_type.shape.dim]
    assert named == ["batch", "height", "width", 4]


def test_nodes_say_where_in_the_network_they_are():
    with shallow():
        model = translated(small("resnet20")[0], (64, 64, 3))
    kinds = {node.name: node.op_type for node in model.graph.node}
    assert kinds["stem/convolution/Conv"] == "Conv"


@pytest.mark.parametrize(
    ("function", "stride", "words"),
    [
        (lambda x: jnp.sort(x), None, "the operation sort"),
        (lambda x: x[:, : (x.shape[1] - 11) // 4], 32, "a size that doesn't divide"),
        (lambda x: x * x.shape[1], 32, "follows the image's size in mul"),
        (lambda x: convolved(x, 3, 3, 3, 2, padding=[(x.shape[1],) * 2] * 2), 32, "padding"),
        (lambda x: x.reshape(-1, 64 * 64 * 3) @ kernel(64 * 64 * 3, 2), 32, "one size"),
        (
            lambda x: convolved(x, 3, 3, 3, 2, padding=[(3, 3)] * 2, lhs_dilation=(2, 2)),
            None,
            "beyond",
        ),
    ],
)
def test_what_onnx_cant_hold_is_named(function, stride, words):
    with pytest.raises(InputError, match=words):
        translated(function, (64, 64, 3), stride=stride)


def test_a_refusal_says_where_in_the_network():
    class Sorts(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Sequential([jnp.sort], name="ranks")(x)

    with pytest.raises(InputError, match="the operation sort at ranks"):
        translated(lambda x: Sorts().apply({}, x), (8, 8, 3))


def test_of_one_logit_softmax_gives_both_classes():
    model = MODELS["unet"](num_classes=1, base_width=2, depth=1)
    images = images_of(1, 8, 8, 3)
    run = SimpleNamespace(
        config=SimpleNamespace(task="segmentation"),
        model=model,
        variables=model.init(jax.random.key(0), images, train=False),
    )
    logits = np.asarray(model.apply(run.variables, images, train=False))
    both = computed(translated(export.network(run, ("softmax",)), (8, 8, 3)), images)
    foreground = 1 / (1 + np.exp(-logits))
    np.testing.assert_allclose(both, np.concatenate([1 - foreground, foreground], -1), atol=1e-5)


@pytest.mark.parametrize("made", [export.to_onnx, export.to_stablehlo])
@pytest.mark.parametrize(
    ("asked", "flag"), [({"size_px": (30, 40)}, "--size-px"), ({"any_size": True}, "--any-size")]
)
def test_a_classifier_that_flattens_is_refused_at_another_size(made, asked, flag):
    model = MODELS["softmax_regression"](num_classes=3)
    run = SimpleNamespace(
        config=SimpleNamespace(task="classification", model=SimpleNamespace(name="softmax")),
        info=SimpleNamespace(image_px=(28, 28), channels=1),
        model=model,
        variables=model.init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)), train=False),
    )
    with pytest.raises(InputError, match=rf"^this .* \(.*\): leave out {flag}") as caught:
        made(run, **asked)
    assert "\n" not in str(caught.value)
    assert "http" not in str(caught.value)  # where Flax explains an error, at length
