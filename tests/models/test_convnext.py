"""ConvNeXt: published parameter counts, Keras's outputs, the paper's sizes, its block in NumPy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from cnn_jax.models import CLASSIFIERS
from cnn_jax.models.convnext import ConvNeXt, ConvNeXtBlock
from tests.models.shapes import KEY, count, maps, shallow, shapes
from tests.models.test_all import filled

pytestmark = pytest.mark.usefixtures("quick_compilation")


def test_parameters_are_torchvisions_and_sizes_are_the_papers():
    found, variables = maps(CLASSIFIERS["convnext_tiny"](num_classes=1000), 224, 224)
    head = 2 * 768 + 769 * 1000
    assert count(variables) + head == 28_589_128
    assert found == {4: (56, 56, 96), 8: (28, 28, 192), 16: (14, 14, 384), 32: (7, 7, 768)}


@pytest.mark.long
@pytest.mark.parametrize(
    ("size", "parameters"),
    [
        ("small", 50_223_688),
        ("base", 88_591_464),
        ("large", 197_767_336),
        ("xlarge", 350_196_968),
    ],
)
def test_larger_sizes_have_the_published_parameters(size, parameters):
    """Torchvision's; of xlarge the authors'."""
    variables = shapes(CLASSIFIERS[f"convnext_{size}"](num_classes=1000), 32, 32, 3)[1]
    assert count(variables) == parameters


def test_the_small_stem_keeps_a_map_of_4_for_32_px():
    with shallow():
        found, _ = maps(ConvNeXt(7, stem="small"), 32, 32)
    assert found == {1: (32, 32, 96), 2: (16, 16, 192), 4: (8, 8, 384), 8: (4, 4, 768)}


@pytest.mark.parametrize("dilation", [1, 2])
def test_the_block_is_that_of_a_twin_in_numpy(dilation):
    x = np.random.default_rng(3).normal(size=(2, 9, 8, 6)).astype(np.float32)
    block = ConvNeXtBlock(dilation, 0.0, "float32")
    variables = filled(block, x)
    y = jax.jit(lambda v: block.apply(v, x, train=False))(variables)

    params, reach = jax.tree.map(np.float64, variables["params"]), 3 * dilation
    padded = np.pad(x, ((0, 0), (reach, reach), (reach, reach), (0, 0)))
    z = params["depthwise"]["bias"] + sum(
        padded[:, i * dilation : i * dilation + 9, j * dilation : j * dilation + 8]
        * params["depthwise"]["kernel"][i, j, 0]
        for i in range(7)
        for j in range(7)
    )
    z = (z - z.mean(-1, keepdims=True)) / np.sqrt(z.var(-1, keepdims=True) + 1e-6)
    z = z * params["norm"]["scale"] + params["norm"]["bias"]
    z = z @ params["expansion"]["kernel"] + params["expansion"]["bias"]
    z = z * (1 + np.vectorize(math.erf)(z / 2**0.5)) / 2
    z = z @ params["projection"]["kernel"] + params["projection"]["bias"]
    np.testing.assert_allclose(y, x + z * params["layer_scale"], atol=1e-5)


def test_stochastic_depth_leaves_whole_examples_out_and_keeps_the_mean():
    """At a rate of 0.75 an example is the input, or the input and four times what is added."""
    x = np.random.default_rng(4).normal(size=(64, 4, 3, 6)).astype(np.float32)
    block = ConvNeXtBlock(1, 0.75, "float32")
    variables = filled(block, x)
    plain, trained = jax.jit(
        lambda v: (
            block.apply(v, x, train=False),
            block.apply(v, x, train=True, rngs={"dropout": jax.random.key(1)}),
        )
    )(variables)
    added, kept = np.asarray(plain - x), np.asarray(trained - x)
    whole = np.abs(kept).max((1, 2, 3)) > 1e-6
    assert 6 <= whole.sum() <= 26  # of 64, a quarter
    np.testing.assert_allclose(kept, np.where(whole[:, None, None, None], 4 * added, 0), atol=1e-5)


def test_later_blocks_are_left_out_more_often():
    rates = []

    def note(call, args, kwargs, context):
        if isinstance(context.module, ConvNeXtBlock):
            rates.append(context.module.stochastic_depth)
        return call(*args, **kwargs)

    with nn.intercept_methods(note), shallow():
        shapes(ConvNeXt(3, stochastic_depth=0.4), 32, 32, 3)
    np.testing.assert_allclose(rates, [0, 0.1, 0.2, 0.3, 0.4])


@pytest.mark.long
def test_dilated_stages_compute_what_strided_ones_do_and_the_values_between():
    """Patches begin at the edge: a stride of 2 stands on the even positions of any map."""
    x = jax.random.normal(KEY, (1, 64, 68, 3))
    with shallow():
        networks = [ConvNeXt(5, width=0.09, output_stride=stride) for stride in (32, 16, 8)]
        variables = filled(networks[0], x)
        at_32, at_16, at_8 = jax.jit(
            lambda variables: [
                network.apply(variables, x, train=False, feature_maps=True)[32]
                for network in networks
            ]
        )(variables)
    assert (at_32.shape[1:3], at_16.shape[1:3], at_8.shape[1:3]) == ((2, 3), (4, 5), (8, 9))
    tolerance = 1e-4 * float(at_32.std())
    assert tolerance > 1e-5
    np.testing.assert_allclose(at_16[:, ::2, ::2], at_32, rtol=1e-4, atol=tolerance)
    np.testing.assert_allclose(at_8[:, ::4, ::4], at_32, rtol=1e-4, atol=tolerance)


@pytest.mark.long
def test_it_computes_what_kerass_does():
    from tests.models import keras_weights

    theirs = keras_weights.untrained("ConvNeXtTiny", px=64, classes=5, include_preprocessing=False)
    images = jax.random.normal(KEY, (2, 64, 64, 3))
    expected = keras_weights.random_logits(theirs, images)
    named = {
        part.name.removeprefix("convnext_tiny_"): part
        for layer in theirs.layers
        for part in (layer, *getattr(layer, "layers", ()))
    }
    dense = keras_weights.kernel_and_bias

    def norm(layer):
        return {"scale": layer.gamma.value, "bias": layer.beta.value}

    params = {
        "stem_convolution": dense(named["stem_conv"]),
        "stem_norm": norm(named["stem_layernorm"]),
        "head_norm": norm(named["head_layernorm"]),
        "head": dense(named["head_dense"]),
    }
    for stage, blocks in enumerate((3, 3, 9, 3)):
        if stage:
            there = f"downsampling_{stage + 1}"
            params[f"{there}_norm"] = norm(named[f"downsampling_layernorm_{stage - 1}"])
            params[f"{there}_convolution"] = dense(named[f"downsampling_conv_{stage - 1}"])
        for block in range(blocks):
            name = f"stage_{stage}_block_{block}"
            params[f"stage_{stage + 1}_block_{block + 1}"] = {
                "depthwise": dense(named[f"{name}_depthwise_conv"]),
                "norm": norm(named[f"{name}_layernorm"]),
                "expansion": dense(named[f"{name}_pointwise_conv_1"]),
                "projection": dense(named[f"{name}_pointwise_conv_2"]),
                "layer_scale": named[f"{name}_layer_scale"].gamma.value,
            }
    keras_weights.assert_same_logits(ConvNeXt(5), {"params": params}, images, expected)


def test_parameters_and_logits_stay_float32_beside_bfloat16():
    with shallow():
        logits, variables = shapes(ConvNeXt(3, dtype="bfloat16"), 33, 47, 3)
    assert logits.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
