"""What every classifier must pass: logits, gradients, moving statistics, dtypes, dropout, feature
maps, sizes.

Each family in `CLASSIFIERS` needs a member in `SMALL`, with options that make it small enough to be
compiled in seconds. Where options can't, the table of the paper that the module is built from is
shortened here: every kind of block stays.
"""

import dataclasses
import functools
from contextlib import ExitStack
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
from cnn_jax.models import (
    CLASSIFIERS,
    convnext,
    densenet,
    efficientnet,
    googlenet,
    inception_v3,
    mobilenet,
    mobilenet_v2,
    resnet,
    vgg,
    xception,
)
from tests.models.shapes import mostly_later
from tests.models.test_all import filled

SMALL = {
    "softmax_regression": {},
    "mlp": {"widths": (16, 12)},
    "cnn": {"widths": (4, 4, 6, 6), "dense": (12,), "padding": "SAME"},
    "lenet5": {},
    "alexnet": {"stem": "small", "dense_width": 12},
    "vgg11": {"dense_width": 12, "norm": "batch"},
    "googlenet": {"stem": "small"},
    "inception_v3": {"stem": "small"},
    "xception": {"stem": "small"},
    "mobilenet": {"stem": "small", "width": 0.25},
    "mobilenet_v2": {"stem": "small", "width": 0.25},
    "se_resnet50": {"stem": "small"},
    "resnet20": {},
    "densenet121": {"stem": "small", "growth": 4},
    "efficientnet_b0": {"stem": "small", "width": 0.25, "stochastic_depth": 0.0},
    "convnext_tiny": {"stem": "small", "width": 0.09, "stochastic_depth": 0.0},
}


def narrow(rows):
    """Rows of Inception v3's table with a sixteenth of the channels."""
    return tuple(
        (
            tuple(
                tuple((features // 16, *kernels) for features, *kernels in branch)
                for branch in branches
            ),
            stride,
            projection and projection // 16,
        )
        for branches, stride, projection in rows
    )


SHORTER = {
    "vgg11": [(vgg, "WIDTHS", (4, 6, 8, 8, 8))],
    "googlenet": [
        (googlenet, "INCEPTIONS", dict.fromkeys(("3a", "4a", "4d", "5a"), (4, 3, 6, 2, 4, 4)))
    ],
    "inception_v3": [
        (inception_v3, "MODULES", narrow(inception_v3.MODULES[number] for number in (3, 4, 8, 9)))
    ],
    "xception": [(xception, "BLOCKS", (((8,), 2), ((12,), 2), ((14,), 2), ((14,), 1), ((16,), 2)))],
    "mobilenet": [(mobilenet, "BLOCKS", ((64, 1), (64, 2), (128, 2), (128, 2), (256, 2)))],
    "mobilenet_v2": [
        (
            mobilenet_v2,
            "BOTTLENECKS",
            ((1, 16, 1, 1), (2, 24, 1, 2), (2, 32, 2, 2), (2, 64, 1, 2), (2, 64, 1, 2)),
        )
    ],
    "se_resnet50": [(resnet, "BLOCKS", {50: (2, 1, 1, 1)})],
    "densenet121": [(densenet, "LAYERS", {121: (2, 1, 1, 1)})],
    "efficientnet_b0": [
        (
            efficientnet,
            "BLOCKS",
            (
                (1, 16, 1, 1, 3),
                (2, 24, 1, 2, 3),
                (2, 40, 2, 2, 5),
                (2, 80, 1, 2, 3),
                (2, 96, 1, 2, 5),
            ),
        )
    ],
    "convnext_tiny": [(convnext, "BLOCKS", {"tiny": (1, 1, 2, 1)})],
}

WITHOUT_MAPS = ("softmax_regression", "mlp")
NOT_PADDED = ("lenet5", "alexnet")
"""Whose maps are smaller than the image / stride even with the options above, as their docstrings
say."""

WITHOUT_GRADIENT = {
    "mobilenet_v2": "['pointwise']['norm']['bias']",
    "efficientnet_b0": "['projection']['norm']['bias']",
}
"""A linear bottleneck's offset: the 1x1 convolution and BatchNorm that follow, with nothing
between, take it away again."""

CLASSES, SIZE = 3, (32, 28)

each_name = pytest.mark.parametrize("name", CLASSIFIERS)
each_family = pytest.mark.parametrize("name", SMALL)
each_computed = pytest.mark.parametrize("name", mostly_later(SMALL))
each_with_maps = pytest.mark.parametrize(
    "name", mostly_later(name for name in SMALL if name not in WITHOUT_MAPS)
)


def family(name):
    """The module that a name is a member of."""
    return getattr(CLASSIFIERS[name], "func", CLASSIFIERS[name])


def has(name, option):
    return option in {field.name for field in dataclasses.fields(tasks.model_config(name))}


STEMS = [
    (name, stem)
    for name in SMALL
    for stem in (("imagenet", "small") if has(name, "stem") else ("",))
]


def shortened(name):
    """While this is entered, the family's table is short."""
    stack = ExitStack()
    for module, table, rows in SHORTER.get(name, ()):
        stack.enter_context(mock.patch.object(module, table, rows))
    return stack


def small(name, **options):
    """The family made small, with those of `options` that it has. To be called, and applied, while
    `shortened`."""
    return CLASSIFIERS[name](
        num_classes=CLASSES, **SMALL[name] | {k: v for k, v in options.items() if has(name, k)}
    )


def described(*size):
    return jax.ShapeDtypeStruct((4, *size), jnp.float32)


def shapes(model, x, **options):
    """Shapes of (result, variables)."""
    return jax.eval_shape(
        lambda x: model.init_with_output(jax.random.key(0), x, train=False, **options), x
    )


@functools.cache
def of_the_least_image(name, stem):
    """Shapes of (logits, variables) for images of the least size, and which modules' results are
    empty."""
    empty = []

    def note(call, args, kwargs, context):
        result = call(*args, **kwargs)
        if 0 in result.shape:
            empty.append(context.module.path)
        return result

    with shortened(name), nn.intercept_methods(note):
        model = small(name, stem=stem)
        return *shapes(model, described(model.least_px, model.least_px, 3)), empty


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a family's small member computed of the same images.

    `trained` are (logits, gradient, statistics) of training with the dropout keys 1, 2 and 1;
    `logits` and `half` of predicting in float32 and in bfloat16; `maps` the feature maps.
    """

    variables: Any
    trained: list
    logits: np.ndarray
    half: np.ndarray
    maps: dict[int, np.ndarray]


@functools.cache
def outcome(name):
    """Compiles a family's small member twice, once with gradients, and runs it."""
    with shortened(name):
        model, halved = small(name, dropout=0.5), small(name, dropout=0.5, dtype="bfloat16")
        x = jax.random.normal(jax.random.key(5), (4, *SIZE, 3))
        variables = filled(model, x)
        weights = jax.random.normal(jax.random.key(6), (4, CLASSES))
        statistics = [collection for collection in variables if collection != "params"]

        @jax.jit
        def train(variables, key):
            def value(params):
                logits, new = model.apply(
                    variables | {"params": params},
                    x,
                    train=True,
                    mutable=[*statistics, "auxiliary"],
                    rngs={"dropout": key},
                )
                total = sum(
                    (made * weights).sum()
                    for made in [logits, *jax.tree.leaves(new.get("auxiliary", {}))]
                )
                return total, (logits, {collection: new[collection] for collection in statistics})

            gradient, (logits, new) = jax.grad(value, has_aux=True)(variables["params"])
            return logits, gradient, new

        @jax.jit
        def predict(variables):
            logits, half = (one.apply(variables, x, train=False) for one in (model, halved))
            return (
                logits,
                half,
                (
                    {}
                    if name in WITHOUT_MAPS
                    else model.apply(variables, x, train=False, feature_maps=True)
                ),
            )

        trained = [train(variables, jax.random.key(key)) for key in (1, 2, 1)]
        return Outcome(variables, trained, *jax.tree.map(np.asarray, predict(variables)))


computed = pytest.mark.usefixtures("quick_compilation")


# ---- names and options


def test_every_family_has_a_small_member_whose_options_are_options():
    assert {family(name) for name in CLASSIFIERS} == {family(name) for name in SMALL}
    for name, options in SMALL.items():
        assert all(has(name, option) for option in options), name


@each_name
def test_every_name_builds_and_every_option_is_explained(name):
    section = tasks.model_config(name)
    config = schema.ClassificationConfig(model=section)
    tasks.check(config)
    for option in dataclasses.fields(section):
        assert option.metadata["help"], option.name
    model = tasks.build_model(config.model, num_classes=7)
    assert isinstance(model, family(name))
    assert model.num_classes == 7
    height, width, channels = model.paper_px
    assert channels in (1, 3)
    assert isinstance(model.least_px, int)
    assert 1 <= model.least_px <= min(height, width)


# ---- numbers


@computed
@each_computed
def test_logits_are_finite_and_of_every_image(name):
    made = outcome(name)
    logits = [logits for logits, _, _ in made.trained] + [made.logits, made.half]
    for one in logits:
        assert one.shape == (4, CLASSES)
        assert one.dtype == jnp.float32
        assert np.isfinite(one).all()
    assert (made.logits.std(0) > 1e-4).all(), "logits don't depend on the image"


@computed
@each_computed
def test_every_parameter_gets_a_gradient(name):
    for keys, gradient in jax.tree.leaves_with_path(outcome(name).trained[0][1]):
        path = jax.tree_util.keystr(keys)
        assert np.isfinite(gradient).all(), path
        if name not in WITHOUT_GRADIENT or not path.endswith(WITHOUT_GRADIENT[name]):
            assert np.abs(gradient).max() > 1e-5, path


@computed
@each_computed
def test_training_moves_every_moving_statistic(name):
    made = outcome(name)
    before = {key: value for key, value in made.variables.items() if key != "params"}
    moved = jax.tree.map(
        lambda old, new: float(np.abs(new - old).min()), before, made.trained[0][2]
    )
    if has(name, "norm") and SMALL[name].get("norm", "batch") == "batch":
        assert jax.tree.leaves(before)
    for path, least in jax.tree.leaves_with_path(moved):
        assert least > 0, jax.tree_util.keystr(path)


@computed
@each_computed
def test_bfloat16_is_used_and_near_float32(name):
    made = outcome(name)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(made.variables))
    error = np.abs(made.half - made.logits).max() / np.sqrt((made.logits**2).mean())
    assert 0 < error < 0.1  # bfloat16 has eight bits; zero would mean that it was not used


@computed
@pytest.mark.parametrize("name", mostly_later(name for name in SMALL if has(name, "dropout")))
def test_dropout_acts_in_training_alone(name):
    one, other, again = (np.asarray(logits) for logits, _, _ in outcome(name).trained)
    assert np.abs(one - other).max() > 1e-3
    np.testing.assert_allclose(one, again, atol=1e-6)
    variables = outcome(name).variables  # with which `outcome` predicted without a key of dropout
    statistics = [collection for collection in variables if collection != "params"]
    with shortened(name):
        model = small(name, dropout=0.0)
        jax.eval_shape(
            lambda x: model.apply(variables, x, train=True, mutable=statistics), described(*SIZE, 3)
        )


# ---- feature maps


@computed
@each_with_maps
def test_feature_maps_are_what_the_classifier_computes(name):
    """By the classifier's program, of which that of the maps is the beginning; and its head on the
    deepest map makes the logits."""
    with shortened(name):
        model, x = small(name), described(*SIZE, 3)
        variables = outcome(name).variables
        whole, maps = (
            jax.make_jaxpr(functools.partial(model.apply, train=False, feature_maps=maps))(
                variables, x
            ).jaxpr.eqns
            for maps in (False, True)
        )
    assert 0 < len(maps) < len(whole)
    for one, other in zip(maps, whole, strict=False):
        assert one.primitive is other.primitive
        assert [made.aval for made in one.outvars] == [made.aval for made in other.outvars]

    made = outcome(name)
    deepest = made.maps[max(made.maps)]
    dense = next(
        equation for equation in whole[len(maps) :] if equation.primitive.name == "dot_general"
    )
    taken = dense.invars[0].aval.shape[-1]
    if taken != deepest.shape[-1] or deepest.shape[1:3] == (1, 1):
        assert taken == deepest[0].size  # flattened, to hidden layers
    else:
        head = made.variables["params"]["head"]
        mean = np.float64(deepest).mean((1, 2))
        norm = made.variables["params"].get("head_norm")
        if norm:
            mean -= mean.mean(-1, keepdims=True)
            mean /= np.sqrt(np.square(mean).mean(-1, keepdims=True) + 1e-6)
            mean = mean * norm["scale"] + norm["bias"]
        expected = mean @ np.float64(head["kernel"]) + head["bias"]
        np.testing.assert_allclose(made.logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "stem"), [(name, stem) for name, stem in STEMS if name not in WITHOUT_MAPS]
)
def test_feature_maps_have_their_strides_and_no_head(name, stem):
    height, width = size = SIZE if stem == "small" else (128, 100)
    with shortened(name):
        model = small(name, stem=stem)
        maps, variables = shapes(model, described(*size, 3), feature_maps=True)
        larger = jax.eval_shape(
            lambda v, x: model.apply(v, x, train=False, feature_maps=True),
            variables,
            described(height + 64, width + 32, 3),
        )
    parameters = of_the_least_image(name, stem)[1]["params"]
    assert list(maps) == sorted(maps)
    assert set(maps) <= {1, 2, 4, 8, 16, 32}
    padded = name not in NOT_PADDED and (
        stem == "small" or name not in ("inception_v3", "xception")
    )
    for stride, made in maps.items():
        rounded_up = (4, -(-height // stride), -(-width // stride))
        assert made.shape[:3] == rounded_up if padded else made.shape[:3] <= rounded_up
        # Whatever is lost at the edges, 64 px more make 64 / stride places more.
        assert larger[stride].shape == (
            4,
            made.shape[1] + 64 // stride,
            made.shape[2] + 32 // stride,
            made.shape[3],
        )
    if stem == "small":
        assert min(maps[max(maps)].shape[1:3]) >= 3
    assert "head" in parameters
    assert "head" not in variables["params"]
    for path, leaf in jax.tree.leaves_with_path(variables["params"]):
        same = functools.reduce(lambda tree, key: tree[key.key], path, parameters)
        assert leaf.shape == same.shape, jax.tree_util.keystr(path)


@pytest.mark.parametrize("name", WITHOUT_MAPS)
def test_what_has_no_maps_says_so(name):
    with pytest.raises(InputError, match=f"^{name} has no feature maps"):
        shapes(small(name), described(*SIZE, 3), feature_maps=True)


# ---- sizes


@each_family
def test_one_channel_and_any_dtype(name):
    with shortened(name):
        logits, variables = shapes(small(name, dtype="bfloat16"), described(*SIZE, 1))
    assert (logits.shape, logits.dtype) == ((4, CLASSES), jnp.float32)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))


@pytest.mark.parametrize(("name", "stem"), STEMS)
def test_the_least_size_leaves_something_everywhere(name, stem):
    """No map and no kernel is empty, so that means and logits are finite."""
    logits, variables, empty = of_the_least_image(name, stem)
    assert logits.shape == (4, CLASSES)
    assert not empty
    assert all(leaf.size for leaf in jax.tree.leaves(variables))
