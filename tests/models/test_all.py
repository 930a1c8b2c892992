"""What every segmenter must pass: sizes, gradients, skips, devices, dtypes, dropout.

Each architecture in `SEGMENTERS` needs an entry in `SMALL`, which makes it small enough to be
compiled in seconds, on a `shallow` backbone. Where maps join, `WAYS` says what each of them meets.
"""

import dataclasses
import functools
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.models import SEGMENTERS
from tests.models.shapes import mostly_later, shallow
from tests.running import devices

NARROW_FCN = {"width": 0.0625, "dense_width": 8}
NARROW_RESNET = {"encoder": "resnet18", "encoder_width": 0.125}
NARROW_VGG = {"encoder": "vgg11", "encoder_width": 0.0625}
SMALL = {
    "unet": {"base_width": 4, "depth": 2},
    "encoder_unet": {"encoder": "vgg16", "encoder_width": 0.0625, "decoder_widths": (8, 6, 4)},
    "asymmetric_unet": {"base_width": 4, "depth": 2, "reduction": 1},
    "fcn32s": NARROW_FCN,
    "fcn16s": NARROW_FCN,
    "fcn8s": NARROW_FCN,
    "dilated_fcn": NARROW_RESNET,
    "deeplabv3": NARROW_RESNET | {"output_stride": 16, "width": 8, "rates": (2,)},
    "deeplabv3plus": NARROW_RESNET | {"width": 8, "low_level_width": 4, "rates": (2,)},
    "pspnet": NARROW_RESNET | {"output_stride": 16, "width": 8, "bins": (1, 3)},
    "unet_plus_plus": NARROW_RESNET | {"decoder_widths": (8, 6, 4)},
    "linknet": NARROW_VGG,
    "fpn": NARROW_VGG | {"pyramid_width": 8, "width": 6},
    "upernet": NARROW_VGG | {"width": 8, "bins": (1, 3)},
}

UNETS_WAYS = {
    "bottom": ("decoder_1_convolution_1", slice(8, None)),
    "skip 1": ("decoder_1_convolution_1", slice(8)),
    "skip 0": ("decoder_0_convolution_1", slice(4)),
}
WAYS = {
    "unet": UNETS_WAYS,
    "asymmetric_unet": UNETS_WAYS,
    "encoder_unet": {
        "bottom": ("decoder_16_convolution_1", slice(32, None)),
        "skip 16": ("decoder_16_convolution_1", slice(32)),
        "skip 8": ("decoder_8_convolution_1", slice(32)),
        "skip 4": ("decoder_4_convolution_1", slice(16)),
        "skip 2": ("decoder_2_convolution_1", slice(8)),
        "skip 1": ("decoder_1_convolution_1", slice(4)),
    },
    "fcn16s": {"bottom": ("score_32", slice(None)), "skip 16": ("score_16", slice(None))},
    "fcn8s": {
        f"skip {stride}" if stride < 32 else "bottom": (f"score_{stride}", slice(None))
        for stride in (32, 16, 8)
    },
    "deeplabv3plus": {
        "bottom": ("decoder_convolution_1", slice(8)),
        "skip 4": ("decoder_convolution_1", slice(8, None)),
    },
}
"""Of architectures that join maps: the ways from image to logits, each with the layer by which it
comes in and the channels that the layer takes from it. The sizes follow from `SMALL`."""

WITHOUT_GRADIENT = {"upernet": r"\['norm_(4|8|16)'\]\['bias'\]"}
"""What a 1x1 convolution and BatchNorm, with nothing between, take away again."""

CLASSES, BATCH, SIZE = 3, 8, (37, 29)

each_model = pytest.mark.parametrize("name", SEGMENTERS)
each_computed = pytest.mark.parametrize("name", mostly_later(SEGMENTERS))
each_with_ways = pytest.mark.parametrize("name", mostly_later(WAYS))
computed = pytest.mark.usefixtures("quick_compilation")


def has(name, option):
    make = SEGMENTERS[name]
    module, bound = getattr(make, "func", make), getattr(make, "keywords", {})
    return option in {field.name for field in dataclasses.fields(module)} - {*bound}


def small(name, **options):
    """The architecture made small, with those of `options` that it has. To be called, and applied,
    while `shallow`."""
    return SEGMENTERS[name](
        num_classes=CLASSES, **SMALL[name] | {k: v for k, v in options.items() if has(name, k)}
    )


@functools.cache
def shapes_of_least(name):
    """Shapes of (logits, variables) of a small architecture in bfloat16, for images of 5x4."""
    with shallow():
        rough = small(name, dtype="bfloat16")
        x = jax.ShapeDtypeStruct((2, 5, 4, 3), jnp.float32)
        return jax.eval_shape(
            lambda x: rough.init_with_output(jax.random.key(0), x, train=False), x
        )


def filled(model, x, seed=0):
    """Variables with He-like kernels and no zero anywhere. (A model's own initialisation takes ten
    times as long to compile.)"""
    return filled_as(jax.eval_shape(lambda: model.init(jax.random.key(0), x, train=False)), seed)


def filled_as(shapes, seed=0):
    """`filled`, of these shapes."""
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

    return jax.tree.map_with_path(fill, shapes)


def inputs(batch=BATCH, size=SIZE):
    """Images of uneven contrast, float32, and what each logit weighs in the sum that stands for a
    loss."""
    rng = np.random.default_rng(5)
    images = rng.normal(size=(batch, *size, 3)) * np.linspace(0.5, 2, batch)[:, None, None, None]
    return images.astype(np.float32), rng.normal(size=(batch, *size, CLASSES)).astype(np.float32)


def training(name):
    """(a training step without an optimiser, compiled when it is called, and its variables).

    `(variables, images, weights, dropout key) -> (logits, gradient, statistics)`; the loss of an
    auxiliary head is in the gradient.
    """
    model = small(name, dropout=0.25)
    variables = filled_as(shapes_of_least(name)[1])  # which are the same for images of any size
    statistics = [collection for collection in variables if collection != "params"]

    @jax.jit
    def train(variables, images, weights, key):
        def value(params):
            logits, new = model.apply(
                variables | {"params": params},
                images,
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

    return train, variables


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a small architecture computed of the same images.

    `trained` are (logits, gradient, statistics) of training with the dropout keys 1, 2 and 1;
    `predict` is the compiled function from variables to the logits in float32 and in bfloat16, and
    these are `logits` and `half`.
    """

    variables: Any
    trained: list
    predict: Any
    logits: np.ndarray
    half: np.ndarray


@functools.cache
def outcome(name):
    """Compiles a small architecture twice, once with gradients, and runs it."""
    with shallow():
        train, variables = training(name)
        images, weights = inputs()
        trained = [
            jax.device_get(train(variables, images, weights, jax.random.key(key)))
            for key in (1, 2, 1)
        ]
        models = [small(name, dtype=dtype, dropout=0.25) for dtype in ("float32", "bfloat16")]
        predict = jax.jit(
            lambda variables: [model.apply(variables, images, train=False) for model in models]
        )
        return Outcome(variables, trained, predict, *jax.device_get(predict(variables)))


@each_model
def test_small_options_are_real_options(name):
    assert all(has(name, option) for option in SMALL[name])


# ---- sizes


@each_computed
def test_logits_have_any_images_size_at_every_dtype(name):
    logits, variables = shapes_of_least(name)
    with shallow():
        assert (logits.shape, logits.dtype) == ((2, 5, 4, CLASSES), jnp.float32)
        assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
        model = small(name)
        for size in [(1, 1), (2, 3), (37, 53), (65, 31)]:
            x = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
            logits = jax.eval_shape(
                lambda variables, x: model.apply(variables, x, train=False), variables, x
            )
            assert (logits.shape, logits.dtype) == ((2, *size, CLASSES), jnp.float32)


# ---- numbers


@computed
@each_computed
def test_logits_are_finite_and_depend_on_image_and_place(name):
    made = outcome(name)
    for logits in [made.logits, made.half, *(logits for logits, _, _ in made.trained)]:
        assert logits.shape == (BATCH, *SIZE, CLASSES)
        assert logits.dtype == jnp.float32
        assert np.isfinite(logits).all()
        assert np.abs(logits[0] - logits[1]).max() > 1e-3
        assert logits.std((1, 2)).min() > 1e-3


@computed
@each_computed
def test_every_parameter_gets_a_gradient(name):
    gradient = outcome(name).trained[0][1]
    assert jax.tree.map(jnp.shape, gradient) == jax.tree.map(
        jnp.shape, outcome(name).variables["params"]
    )
    for path, leaf in jax.tree.leaves_with_path(gradient):
        where = jax.tree_util.keystr(path)
        assert np.isfinite(leaf).all(), where
        if not re.fullmatch(WITHOUT_GRADIENT.get(name, "-"), where):
            assert np.abs(leaf).max() > 1e-5, where


@computed
def test_every_parameter_of_a_u_net_gets_a_gradient_with_biases_and_bilinear_upsampling_too():
    model = small("unet", norm="none", upsampling="bilinear")
    images, weights = inputs(2)
    variables = filled(model, images)
    gradient = jax.jit(
        jax.grad(lambda variables: (model.apply(variables, images, train=True) * weights[:2]).sum())
    )(variables)
    for path, leaf in jax.tree.leaves_with_path(gradient):
        assert np.isfinite(leaf).all(), jax.tree_util.keystr(path)
        assert np.abs(leaf).max() > 1e-5, jax.tree_util.keystr(path)


@computed
@each_computed
def test_training_moves_every_moving_statistic(name):
    made = outcome(name)
    before = {
        collection: tree for collection, tree in made.variables.items() if collection != "params"
    }
    moved = jax.tree.map(lambda old, new: np.abs(new - old).min(), before, made.trained[0][2])
    # Auxiliary heads are computed in training too; without its collection they would have stood
    # still.
    assert bool(jax.tree.leaves(moved)) == (not name.startswith("fcn"))
    for path, least in jax.tree.leaves_with_path(moved):
        assert least > 0, jax.tree_util.keystr(path)


@computed
@each_computed
def test_bfloat16_is_used_and_near_float32(name):
    made = outcome(name)
    error = np.abs(made.half - made.logits).max() / made.logits.std()
    assert 0 < error < 0.15  # bfloat16 has eight bits; zero would mean that it was not used


@computed
@pytest.mark.parametrize("name", mostly_later(name for name in SEGMENTERS if has(name, "dropout")))
def test_dropout_acts_in_training_alone(name):
    one, other, again = (logits for logits, _, _ in outcome(name).trained)
    assert np.abs(one - other).max() > 1e-3
    np.testing.assert_allclose(one, again, atol=1e-6)
    variables = outcome(name).variables  # with which `outcome` predicted without a key of dropout
    statistics = [collection for collection in variables if collection != "params"]
    with shallow():  # nor does training need one without dropout
        model = small(name, dropout=0.0)
        jax.eval_shape(
            lambda x: model.apply(variables, x, train=True, mutable=statistics), inputs(2)[0]
        )


@computed
def test_initial_logits_are_finite_and_neither_flat_nor_large():
    """Of the layers that all architectures are made of."""
    model, images = small("unet"), inputs(2, (8, 8))[0]
    logits, _ = jax.jit(lambda key: model.init_with_output(key, images, train=False))(
        jax.random.key(0, impl="rbg")  # compiles ten times as fast as the default generator
    )
    assert 1e-3 < float(logits.std()) < 100


# ---- skips


def shut(variables, ways):
    """These variables, but with nothing coming in by the ways given."""
    params = variables["params"]
    for layer, channels in ways:
        tree = params[layer].get("convolution", params[layer])
        kernel = np.array(tree["kernel"])
        kernel[:, :, channels] = 0
        mended = tree | {"kernel": kernel}
        params = params | {
            layer: (
                params[layer] | {"convolution": mended}
                if "convolution" in params[layer]
                else mended
            )
        }
    return variables | {"params": params}


def differ(logits):
    """Whether the logits of two images do."""
    return np.abs(logits[0] - logits[1]).max() > 1e-5


@computed
@each_with_ways
def test_the_image_reaches_the_logits_by_each_way_by_itself(name):
    """With all ways shut it doesn't; so each of them carries something, and there is no other."""
    made, ways = outcome(name), WAYS[name]
    assert differ(made.logits)
    assert not differ(made.predict(shut(made.variables, ways.values()))[0])
    for way in ways:
        others = [place for other, place in ways.items() if other != way]
        assert differ(made.predict(shut(made.variables, others))[0]), way


def test_every_architecture_that_can_cut_its_skips_has_ways():
    assert {name for name in SEGMENTERS if has(name, "skips")} <= {*WAYS, "fcn32s", "linknet"}


@computed
@pytest.mark.parametrize("name", mostly_later(name for name in WAYS if has(name, "skips")))
def test_without_skips_the_image_reaches_the_logits_by_the_bottom_alone(name):
    with shallow():
        model, images = small(name, skips=False, dropout=0.0), inputs(2)[0]
        variables = filled(model, images)
        predict = jax.jit(lambda variables: model.apply(variables, images, train=False))
        whole, cut = (
            predict(variables),
            predict(shut(variables, [(WAYS[name]["bottom"][0], slice(None))])),
        )
    assert differ(whole)
    assert not differ(cut)


# ---- devices

EIGHT = ("asymmetric_unet", "fcn8s")
"""Which of the architectures the quick tests run on eight devices, too."""


def on_all_devices(names, folder):
    """Trains each architecture, the batch spread over the devices of this process, and saves the
    outcome in the folder."""
    from cnn_jax.training.devices import Devices

    devices = Devices("jit")
    assert devices.count == 8
    for name in names:
        with shallow():
            train, variables = training(name)
            batch = devices.place(dict(zip(("images", "weights"), inputs(), strict=True)))
            assert len(batch["images"].addressable_shards) == 8
            made = train(
                devices.replicate(variables), batch["images"], batch["weights"], jax.random.key(1)
            )
        np.savez(Path(folder, f"{name}.npz"), *jax.tree.leaves(jax.device_get(made)))


def check_on_eight_devices(names, folder):
    """Logits, gradient and statistics of one device and of eight pieces of the CPU, in a process of
    their own, are the same.

    Where a gradient is 0 but for rounding (see `WITHOUT_GRADIENT`), what it is rounded from is as
    large as the gradient elsewhere, and so is the bound.
    """
    environment = os.environ | {
        **devices(8),
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "true",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    script = (
        f"from tests.models.test_all import on_all_devices; on_all_devices({json.dumps(names)},"
        f" {json.dumps(str(folder))})"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for name in names:
        leaves, structure = jax.tree.flatten(outcome(name).trained[0])
        with np.load(folder / f"{name}.npz") as saved:
            eight = structure.unflatten([saved[f"arr_{number}"] for number in range(len(leaves))])
        largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(outcome(name).trained[0][1]))
        for (path, one), many in zip(
            jax.tree.leaves_with_path(outcome(name).trained[0]), jax.tree.leaves(eight), strict=True
        ):
            where = jax.tree_util.keystr(path)
            rounded = re.fullmatch(r"\[1\]" + WITHOUT_GRADIENT.get(name, "-"), where)
            bound = 1e-4 * (largest if rounded else np.abs(one).max())
            np.testing.assert_allclose(many, one, rtol=0, atol=bound, err_msg=name + where)


@computed
def test_one_device_and_eight_agree(tmp_path):
    check_on_eight_devices(EIGHT, tmp_path)


@pytest.mark.long
@computed
def test_one_device_and_eight_agree_for_every_other_architecture(tmp_path):
    check_on_eight_devices([name for name in SEGMENTERS if name not in EIGHT], tmp_path)
