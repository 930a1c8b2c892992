"""Random weights for Keras's models, carried to ours, so that outputs can be compared."""

import os
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

os.environ["KERAS_BACKEND"] = "jax"  # before its first import
with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    keras = pytest.importorskip("keras")


def untrained(name, px, classes, **options):
    """The classifier of `keras.applications` with that name, for `[batch, px, px, 3]`, every kernel
    still 0; its result is logits."""
    with pytest.MonkeyPatch.context() as patch:  # drawing them compiles a program for every shape
        patch.setattr(
            keras.initializers.GlorotUniform,
            "__call__",
            lambda self, shape, dtype: np.zeros(shape, dtype),
        )
        return getattr(keras.applications, name)(
            weights=None,
            input_shape=(px, px, 3),
            classes=classes,
            classifier_activation=None,
            **options,
        )


def random_logits(model, images, seed=0):
    """Gives every weight of a Keras classifier a random value, the head's such that the logits have
    a std of 1; returns those.

    Kernels are He-like; norms, moving statistics and biases are random too, so that none can be
    left out unnoticed.
    """
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        if weight.name in ("mean", "variance", "count"):
            continue  # of a normalisation of pixels, which does nothing yet
        if weight.name == "kernel":
            fan_in = np.prod(weight.shape[:2] if "depthwise" in weight.path else weight.shape[:-1])
            weight.assign(rng.normal(0, (2 / fan_in) ** 0.5, weight.shape))
        elif weight.name in ("gamma", "moving_variance"):
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
        else:
            weight.assign(rng.normal(0, 0.1, weight.shape))

    @jax.jit
    def logits(weights):
        trainable, rest = weights
        return model.stateless_call(trainable, rest, images, training=False)[0]

    def weights():
        return [weight.value for weight in model.trainable_variables], [
            weight.value for weight in model.non_trainable_variables
        ]

    std = float(logits(weights()).std())
    head = next(layer for layer in reversed(model.layers) if layer.weights)
    for weight in head.weights:
        weight.assign(weight.value / std)
    return logits(weights())


def kernel_and_bias(layer):
    """The parameters of a convolution or dense layer; a depthwise kernel in the shape of a grouped
    convolution's."""
    kernel = layer.kernel.value
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        kernel = kernel.reshape(*kernel.shape[:2], 1, -1)
    return {"kernel": kernel} | ({"bias": layer.bias.value} if layer.use_bias else {})


def scale_and_statistics(layer, bias=0.0):
    """(parameters, moving statistics) of a BatchNorm; `bias` is that of a convolution before it,
    which ours doesn't have."""
    params = {"bias": layer.beta.value} | ({"scale": layer.gamma.value} if layer.scale else {})
    return params, {"mean": layer.moving_mean.value - bias, "var": layer.moving_variance.value}


def convolution_and_norm(convolution, norm):
    """(parameters, moving statistics) of a `ConvolutionNormActivation` that does what these two
    Keras layers do."""
    params = kernel_and_bias(convolution)
    norm_params, statistics = scale_and_statistics(norm, params.pop("bias", 0.0))
    return {"convolution": params, "norm": norm_params}, {"norm": statistics}


def assert_same_logits(model, carried, images, expected):
    """Holds our model, with the weights `carried` from Keras's, to the logits `expected`, to 1e-4
    where their std is 1."""
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    assert jax.tree.map(jnp.shape, carried) == jax.tree.map(jnp.shape, shapes)
    logits = jax.jit(lambda variables: model.apply(variables, images, train=False))(carried)
    assert 0.9 < float(expected.std()) < 1.1
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)
