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
from tests.models.shapes import shallow
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

PLATFORMS = ["cpu", "cuda", "tpu"]

each_model = pytest.mark.parametrize("name", MODELS)


@functools.cache
def described(name):
    """(the module, shapes of its variables, shape of an image)."""
    model = MODELS[name](num_classes=3)
    size = getattr(model, "paper_px", (64, 64, 3))
    with shallow():
        variables = jax.eval_shape(
            lambda: model.init(jax.random.key(0), jnp.zeros((1, *size)), train=False)
        )
    return model, variables, size


def exported(model, variables, shape):
    """A program for every platform, of images of this shape."""
    with shallow():
        return export.export(
            jax.jit(functools.partial(model.apply, train=False)), platforms=PLATFORMS
        )(variables, jax.ShapeDtypeStruct(shape, jnp.float32))


@each_model
@pytest.mark.parametrize("train", [False, True])
def test_derivatives_in_forward_mode_and_hessian_products(name, train):
    model, variables, size = described(name)
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

    def derivatives(params, rest, x, direction):
        at = functools.partial(predict, rest=rest, x=x)
        forward = jax.jvp(at, (params,), (direction,))[1]
        product = jax.jvp(jax.grad(at), (params,), (direction,))[1]
        return forward, product

    with shallow():
        forward, product = jax.eval_shape(
            derivatives, variables["params"], rest, x, variables["params"]
        )
    assert forward.shape == ()
    assert jax.tree.map(jnp.shape, product) == jax.tree.map(jnp.shape, variables["params"])


@each_model
def test_export_for_any_batch(name):
    model, variables, size = described(name)
    (batch,) = export.symbolic_shape("b")
    (result,) = exported(model, variables, (batch, *size)).out_avals
    assert result.shape[0] == batch
    assert result.shape[-1] == 3


@pytest.mark.parametrize("name", [name for name in MODELS if name not in ONE_SIZE])
def test_export_for_images_of_any_size(name):
    model, variables, size = described(name)
    batch, height, width = export.symbolic_shape("b, 32*h, 32*w")
    (result,) = exported(model, variables, (batch, height, width, size[-1])).out_avals
    assert result.shape in ((batch, 3), (batch, height, width, 3))


@pytest.mark.parametrize("name", ONE_SIZE)
def test_those_of_one_size_are_refused(name):
    model, variables, size = described(name)
    shape = export.symbolic_shape(f"b, 32*h, 32*w, {size[-1]}")
    with pytest.raises(Exception, match="inconclusive|expected to generate shape"):
        exported(model, variables, shape)


def test_the_asymmetric_u_net_told_its_crop_takes_images_of_any_size():
    _, variables, _ = described("asymmetric_unet")
    model = MODELS["asymmetric_unet"](num_classes=3, crop_px=(64, 64))
    shape = export.symbolic_shape("b, 32*h, 32*w, 3")
    assert exported(model, variables, shape).out_avals[0].shape == shape


def test_the_cnn_with_global_averages_takes_images_of_any_size():
    model = MODELS["cnn"](num_classes=3, global_average=True, padding="SAME")
    variables = jax.eval_shape(
        lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 1)), train=False)
    )
    shape = export.symbolic_shape("b, 32*h, 32*w, 1")
    assert exported(model, variables, shape).out_avals[0].shape == (shape[0], 3)


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
@pytest.mark.parametrize("name", NARROW)
def test_an_exported_program_computes_what_the_network_does(name):
    """For images of any size that 32 divides; written and read."""
    with shallow():
        model = MODELS[name](num_classes=3, **NARROW[name])
        rng = np.random.default_rng(0)
        variables = filled(model, np.zeros((1, 32, 32, 3), np.float32))
        shape = export.symbolic_shape("b, 32*h, 32*w, 3")
        written = exported(model, variables, shape).serialize()
        program = export.deserialize(written)
        for size in ((3, 64, 96), (1, 32, 32)):
            x = rng.normal(size=(*size, 3)).astype(np.float32)
            expected = model.apply(variables, x, train=False)
            np.testing.assert_allclose(
                program.call(variables, x), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max()
            )


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("name", ["unet", "resnet20"])
def test_a_hessian_product_is_the_difference_of_gradients(name):
    """Of the mean of squared logits, along one direction; and the derivative in forward mode is the
    gradient's share of it."""
    model = MODELS[name](num_classes=3, **NARROW[name])
    x = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
    variables = filled(model, x)
    rest = {key: value for key, value in variables.items() if key != "params"}
    params = variables["params"]
    rng = np.random.default_rng(1)
    direction = jax.tree.map(
        lambda leaf: (rng.normal(size=leaf.shape) * np.abs(leaf).mean()).astype(np.float32), params
    )

    def loss(params):
        return jnp.square(model.apply({"params": params, **rest}, x, train=False)).mean()

    @jax.jit
    def derivatives(params):
        gradient, product = jax.jvp(jax.grad(loss), (params,), (direction,))
        return jax.jvp(loss, (params,), (direction,))[1], gradient, product

    def inner(one, other):
        pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
        return sum(np.vdot(np.float64(a), np.float64(b)) for a, b in pairs)

    forward, gradient, product = jax.device_get(derivatives(params))
    np.testing.assert_allclose(forward, inner(gradient, direction), rtol=1e-3)
    step = 1e-3
    later, earlier = (
        inner(
            derivatives(
                jax.tree.map(lambda leaf, way: leaf + sign * step * way, params, direction)
            )[1],
            direction,
        )
        for sign in (1, -1)
    )
    np.testing.assert_allclose(inner(product, direction), (later - earlier) / (2 * step), rtol=0.05)
