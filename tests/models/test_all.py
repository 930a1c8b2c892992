"""What every segmenter must pass: sizes, gradients, dtypes, dropout.

Each architecture in `SEGMENTERS` needs an entry in `SMALL`, which makes it small enough to be compiled in a second.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.models import SEGMENTERS

SMALL = {"unet": {"base_width": 4, "depth": 2}}
CLASSES = 3

each_model = pytest.mark.parametrize("name", SEGMENTERS)


def has(name, option):
    make = SEGMENTERS[name]
    module, bound = getattr(make, "func", make), getattr(make, "keywords", {})
    return option in {field.name for field in dataclasses.fields(module)} - {*bound}


def small(name, **options):
    """The architecture made small, with those of `options` that it has."""
    return SEGMENTERS[name](num_classes=CLASSES, **SMALL[name], **{k: v for k, v in options.items() if has(name, k)})


def images(height, width, batch=2):
    return jax.random.normal(jax.random.key(5), (batch, height, width, 3))


def filled(model, x, seed=0):
    """Variables with He-like kernels and no zero anywhere. (A model's own initialisation takes ten times as long to compile.)"""
    rng = np.random.default_rng(seed)

    def fill(path, leaf):
        name, positive = path[-1].key, rng.uniform(0.5, 1.5, leaf.shape)
        if name in ("scale", "var"):
            value = positive
        elif leaf.ndim > 1:
            value = rng.normal(0, (2 / np.prod(leaf.shape[:-1])) ** 0.5, leaf.shape)
        else:
            value = rng.normal(0, 0.1, leaf.shape)
        return value.astype(leaf.dtype)

    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), x, train=False))
    return jax.tree.map_with_path(fill, shapes)


def combinations(name):
    """The norms and upsamplings that the architecture offers."""
    norms = ("batch", "group", "none") if has(name, "norm") else ("",)
    upsamplings = ("transposed", "bilinear") if has(name, "upsampling") else ("",)
    return [(norm, upsampling) for norm in norms for upsampling in upsamplings]


ALL_COMBINATIONS = [(name, *combination) for name in SEGMENTERS for combination in combinations(name)]


@each_model
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (37, 53)])
def test_logits_have_the_images_size_and_are_finite(name, size):
    model, x = small(name), images(*size)
    logits = jax.jit(lambda variables: model.apply(variables, x, train=False))(filled(model, x))
    assert logits.shape == (2, *size, CLASSES)
    assert logits.dtype == jnp.float32
    assert bool(jnp.isfinite(logits).all())
    assert float(jnp.abs(logits[0] - logits[1]).max()) > 1e-3
    if min(size) > 30:
        assert float(logits.std((1, 2)).min()) > 1e-3


@each_model
def test_initial_logits_are_finite_and_neither_flat_nor_large(name):
    model, x = small(name), images(8, 8)
    logits, _ = jax.jit(lambda key: model.init_with_output(key, x, train=False))(
        jax.random.key(0, impl="rbg")  # compiles ten times as fast as the default generator
    )
    assert 1e-3 < float(logits.std()) < 100


@each_model
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_logits_have_any_images_size_at_every_dtype(name, dtype):
    model = small(name, dtype=dtype)
    variables = filled(model, images(8, 8))
    for size in [(1, 9), (5, 4), (64, 64), (65, 31)]:
        x = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
        shape = jax.eval_shape(lambda x: model.apply(variables, x, train=False), x)
        assert (shape.shape, shape.dtype) == ((2, *size, CLASSES), jnp.float32)


@pytest.mark.parametrize(("name", "norm", "upsampling"), ALL_COMBINATIONS)
def test_every_parameter_gets_a_gradient(name, norm, upsampling):
    model = small(name, norm=norm, upsampling=upsampling)
    x = images(16, 12)
    weights = jax.random.normal(jax.random.key(6), (*x.shape[:3], CLASSES))

    @jax.jit
    def gradient(variables):
        rest = {k: v for k, v in variables.items() if k != "params"}

        def value(params):
            logits, _ = model.apply({"params": params, **rest}, x, train=True, mutable=list(rest))
            return (logits * weights).sum()

        return jax.grad(value)(variables["params"])

    largest = jax.tree.map(lambda g: float(jnp.abs(g).max()), gradient(filled(model, x)))
    for path, size in jax.tree.leaves_with_path(largest):
        assert np.isfinite(size), jax.tree_util.keystr(path)
        assert size > 1e-5, jax.tree_util.keystr(path)


@each_model
def test_bfloat16_is_near_float32_and_keeps_float32_parameters_and_logits(name):
    if not has(name, "dtype"):
        pytest.skip("the architecture has one dtype")
    half, single = small(name, dtype="bfloat16"), small(name)
    x = images(16, 12)

    @jax.jit
    def compare(variables):
        return half.apply(variables, x, train=False), single.apply(variables, x, train=False)

    variables = filled(half, x)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))
    rough, exact = compare(variables)
    assert rough.dtype == exact.dtype == jnp.float32
    error = float(jnp.abs(rough - exact).max() / exact.std())
    assert 0 < error < 0.1  # bfloat16 has eight bits; zero would mean that it was not used


@each_model
def test_dropout_acts_in_training_alone(name):
    if not has(name, "dropout"):
        pytest.skip("the architecture has no dropout")
    options = {"norm": "none"}
    model, without = small(name, dropout=0.5, **options), small(name, dropout=0.0, **options)
    x = images(16, 12)

    @jax.jit
    def outputs(variables):
        draws = [model.apply(variables, x, train=True, rngs={"dropout": jax.random.key(k)}) for k in (1, 2, 1)]
        return draws, model.apply(variables, x, train=False), without.apply(variables, x, train=True)

    (one, other, again), evaluated, never = outputs(filled(model, x))
    assert float(jnp.abs(one - other).max()) > 1e-3
    np.testing.assert_allclose(one, again, atol=1e-6)
    assert float(jnp.abs(one - evaluated).max()) > 1e-3
    np.testing.assert_allclose(evaluated, never, atol=1e-5)


@each_model
def test_small_options_are_real_options(name):
    assert all(has(name, option) for option in SMALL[name])
