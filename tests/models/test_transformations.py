"""What JAX makes of any architecture on any device: derivatives in forward mode, products with
Hessians, programs exported for batches and images of any size.

Architectures are traced, at their papers' sizes and `shallow`; a few are computed.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from cnn_jax.models import MODELS
from tests.models.shapes import RELATIVES, mostly_later, shallow
from tests.models.test_all import filled

PLACES = "its dense layers belong to one size of image"
ONE_SIZE = {
    "softmax_regression": PLACES,
    "mlp": PLACES,
    "cnn": PLACES,
    "course_cnn": PLACES,
    "course_cnn_dense": PLACES,
    "course_cnn_pool": PLACES,
    "lenet5": PLACES,
    "alexnet": PLACES,
    "alexnet_two_groups": PLACES,
    "vgg11": PLACES,
    "vgg13": PLACES,
    "vgg16": PLACES,
    "vgg19": PLACES,
    "asymmetric_unet": "its dilation rates follow the map, unless it is told its training crop",
}
"""Architectures that can't be exported for images of any size, and why."""

SAME_DEPTH = {34: 18, 101: 50, 152: 50, 169: 121, 201: 121, 13: 11, 16: 11, 19: 11} | dict.fromkeys(
    (20, 32, 44, 56, 110), 8
)
"""Depths for which others stand, of the same layers: each kind of network is traced once."""

ON_VGG = {"encoder": "vgg11"}
SHORT = {
    "pspnet": {"encoder": "resnet18"},
    "unet_plus_plus": ON_VGG,
    "linknet": ON_VGG,
    "fpn": ON_VGG,
    "upernet": ON_VGG,
}
"""Options with which segmenters stand on a backbone of few operations."""

PLATFORMS = ["cpu", "cuda", "tpu"]

SAME_OPERATIONS = ("unet_plus_plus", "upernet", "efficientnet_b0")
"""Architectures whose every operation is in the program of another, too."""

NAMES = [name for name in MODELS if name not in RELATIVES]

each_model = pytest.mark.parametrize("name", mostly_later(NAMES))


@functools.cache
def described(name):
    """(the module, with few layers, shape of an image)."""
    make = MODELS[name]
    depth = getattr(make, "keywords", {}).get("depth")
    options = SHORT.get(name, {}) | ({"depth": SAME_DEPTH.get(depth, depth)} if depth else {})
    model = make(num_classes=3, **options)
    size = getattr(model, "paper_px", (64, 64, 3))
    return model, size


@functools.cache
def shapes_of(model, size):
    """Shapes of the variables, once for equal modules; to be called while `shallow`."""
    return jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, *size)), train=False))


@functools.cache
def exported(model, size, shape):
    """A program for every platform, of images of this shape, once for equal modules."""
    with shallow():
        return export.export(
            jax.jit(functools.partial(model.apply, train=False)), platforms=PLATFORMS
        )(shapes_of(model, size), jax.ShapeDtypeStruct(shape, jnp.float32))


@functools.cache
def derivatives(model, size, train):
    """Shapes of (variables, derivative in forward mode, product with the Hessian), once for equal
    modules."""
    with shallow():
        variables = shapes_of(model, size)
    x = jax.ShapeDtypeStruct((2, *size), jnp.float32)
    rest = {key: value for key, value in variables.items() if key != "params"}

    def predict(params, rest, x):
        y, new = model.apply(
            {"params": params, **rest},
            x,
            train=train,
            mutable=[*rest, "auxiliary"],
            rngs={"dropout": jax.random.key(0)},
        )
        return sum(jnp.square(y).sum() for y in [y, *jax.tree.leaves(new.get("auxiliary", ()))])

    def computed(params, rest, x, direction):
        at = functools.partial(predict, rest=rest, x=x)
        forward = jax.jvp(at, (params,), (direction,))[1]
        return forward, jax.jvp(jax.grad(at), (params,), (direction,))[1]

    params = variables["params"]
    with shallow():
        traced = jax.eval_shape(computed, params, rest, x, params)
    return jax.tree.map(jnp.shape, (params, *traced))


@each_model
@pytest.mark.parametrize("train", [pytest.param(False, marks=pytest.mark.long), True])
def test_derivatives_in_forward_mode_and_hessian_products(name, train):
    params, forward, product = derivatives(*described(name), train)
    assert forward == ()
    assert product == params


@pytest.mark.parametrize("name", ONE_SIZE)
def test_export_for_any_batch(name):
    """Of those that aren't exported for any size, and so for any batch, below."""
    model, size = described(name)
    shape = export.symbolic_shape(f"b, {', '.join(map(str, size))}")
    (result,) = exported(model, size, shape).out_avals
    assert result.shape[0] == shape[0]
    assert result.shape[-1] == 3


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.long) if name in SAME_OPERATIONS else name
        for name in NAMES
        if name not in ONE_SIZE
    ],
)
def test_export_for_images_of_any_size(name):
    model, size = described(name)
    shape = export.symbolic_shape(f"b, 32*h, 32*w, {size[-1]}")
    (result,) = exported(model, size, shape).out_avals
    assert result.shape in ((shape[0], 3), (*shape[:3], 3))


@pytest.mark.parametrize("name", ONE_SIZE)
def test_those_of_one_size_are_refused(name):
    model, size = described(name)
    shape = export.symbolic_shape(f"b, 32*h, 32*w, {size[-1]}")
    with pytest.raises(Exception, match=r"inconclusive|expected to generate|boolean conv"):
        exported(model, size, shape)


def test_the_asymmetric_u_net_told_its_crop_takes_images_of_any_size():
    model = MODELS["asymmetric_unet"](num_classes=3, crop_px=(64, 64))
    shape = export.symbolic_shape("b, 32*h, 32*w, 3")
    assert exported(model, (64, 64, 3), shape).out_avals[0].shape == shape


def test_the_cnn_with_global_averages_takes_images_of_any_size():
    model = MODELS["cnn"](num_classes=3, global_average=True, padding="SAME")
    shape = export.symbolic_shape("b, 32*h, 32*w, 1")
    assert exported(model, (32, 32, 1), shape).out_avals[0].shape == (shape[0], 3)


@pytest.mark.parametrize(
    "name", ["unet", "asymmetric_unet", "fcn8s", "pspnet", "mobilenet", "convnext_tiny"]
)
def test_parameters_are_float32_whatever_jax_is_told_of_types_and_ranks(name):
    """Of the architectures whose layers are not all Flax's own."""
    model, size = described(name)
    x = jax.ShapeDtypeStruct((2, *size), jnp.float32)

    def computed(x):
        return model.init_with_output(jax.random.key(0), x, train=False)

    with shallow(), jax.enable_x64(True):
        traced = jax.eval_shape(computed, x)
    assert {leaf.dtype for leaf in jax.tree.leaves(traced)} == {jnp.dtype("float32")}
    with shallow(), jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        assert jax.tree.map(jnp.shape, jax.eval_shape(computed, x)) == jax.tree.map(
            jnp.shape, traced
        )


NARROW = {
    "unet": {"base_width": 4, "depth": 3},
    "resnet20": {},
    "deeplabv3plus": {
        "encoder": "resnet18",
        "encoder_width": 0.125,
        "width": 16,
        "low_level_width": 4,
    },
}


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n == "unet" else pytest.mark.long) for n in NARROW]
)
def test_an_exported_program_computes_what_the_network_does(name):
    """For images of any size that 32 divides; written and read."""
    with shallow():
        model = MODELS[name](num_classes=3, **NARROW[name])
        rng = np.random.default_rng(0)
        variables = filled(model, np.zeros((1, 32, 32, 3), np.float32))
        shape = export.symbolic_shape("b, 32*h, 32*w, 3")
        written = exported(model, (32, 32, 3), shape).serialize()
        program = export.deserialize(written)
        apply = jax.jit(functools.partial(model.apply, train=False))
        for size in ((3, 64, 96), (1, 32, 32)):
            x = rng.normal(size=(*size, 3)).astype(np.float32)
            expected = apply(variables, x)
            np.testing.assert_allclose(
                program.call(variables, x), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max()
            )


@pytest.mark.usefixtures("quick_compilation")
def test_hessian_products_in_either_mode_and_forward_derivatives_agree():
    model = MODELS["unet"](num_classes=3, base_width=4, depth=2)
    x = np.random.default_rng(0).normal(size=(2, 8, 12, 3)).astype(np.float32)
    variables = filled(model, x)
    rest = {key: value for key, value in variables.items() if key != "params"}
    direction = filled(model, x, seed=1)["params"]

    def loss(params):
        y, _ = model.apply({"params": params, **rest}, x, train=True, mutable=[*rest])
        return jnp.square(y).mean()

    def along(tree):
        return sum(jax.tree.leaves(jax.tree.map(jnp.vdot, tree, direction)))

    @jax.jit
    def derivatives(params):
        slope = jax.jvp(loss, (params,), (direction,))[1]
        gradient, product = jax.jvp(jax.grad(loss), (params,), (direction,))
        return slope, along(gradient), product, jax.grad(lambda p: along(jax.grad(loss)(p)))(params)

    slope, gradients_slope, product, reverse = jax.device_get(derivatives(variables["params"]))
    np.testing.assert_allclose(slope, gradients_slope, rtol=1e-3)
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(product)) > 1e-3
    for one, other in zip(jax.tree.leaves(product), jax.tree.leaves(reverse), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3 * np.abs(other).max() + 1e-6)
