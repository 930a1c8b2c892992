"""A network's weights from the layers of a file of Keras, in the order of its application."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from flax import traverse_util

from cnn_jax.errors import InputError
from cnn_jax.models.weights import keras
from cnn_jax.models.weights.fitting import (
    Published,
    abstract,
    depth_of,
    flattened_side,
    fold_biases,
    given_options,
    modules_of,
    nearest_architecture,
    refuse,
    width_option,
)
from cnn_jax.models.weights.preprocessing import Preprocessing

_NORM_LEAVES = ("scale", "bias", "mean", "var")


def read(
    path: Path, digest: str, model: str, layers: Sequence[keras.Layer], head: bool
) -> Published:
    """The layers of a file as an architecture takes them; `head` says whether the classifier's head
    must be among them.

    Raises:
        InputError: they don't fit.
    """
    wanted = keras.expected(model, depth_of(model))
    if wanted is None:
        raise InputError(
            f"weights of Keras can't be read into {model}, which isn't one of its applications: see"
            " docs/weights.md."
        )
    given = given_options(model, "keras")
    found = _aligned(wanted, layers)
    headless, lacking = False, set()
    if not head:
        body = [one for one in wanted if not one.head]
        # Without its top a VGG has no dense layers either.
        for kept in (body, [one for one in body if one.kind != keras.DENSE]):
            if len(found) == len(kept):
                lacking = {path for one in wanted if one not in kept for path in one.paths}
                wanted, headless = kept, True
    every = [array for layer in layers for array in layer.arrays]
    if len(found) != len(wanted):
        raise InputError(
            f"{path} doesn't fit {model}: it has {len(found)} layers with weights, and Keras's"
            f" network {len(wanted)}; {nearest_architecture(model, every, _is_application)}."
        )
    num_classes = 0 if headless else int(found[-1].arrays[0].shape[-1])
    channels = int(found[0].arrays[0].shape[2]) if found[0].arrays[0].ndim == 4 else 3
    of_module = {one.paths[-1]: layer.arrays for one, layer in zip(wanted, found, strict=True)}
    given |= width_option(model, lambda module: int(of_module[module][-1].shape[-1]))
    dense = of_module.get(("dense_1",))
    px = 32 * flattened_side(model, None if dense is None else int(dense[0].shape[0]))
    shapes = abstract(model, max(num_classes, 1), channels, given, px)
    modules = modules_of(shapes)
    variables, biases, wrong = {}, {}, []

    def put(layer, place, value):
        shape = shapes[place].shape
        if value.size == np.prod(shape) and value.shape != shape:
            value = _same_numbers(value, shape)
        if value.shape != shape:
            wrong.append(f"{layer.name} is {list(value.shape)}, ours {list(shape)}")
        variables[place] = np.asarray(value, np.float32)

    for one, layer in zip(wanted, found, strict=True):
        arrays = list(layer.arrays)
        if one.kind == keras.NORM:
            leaves = [leaf for leaf in _NORM_LEAVES if leaf in modules[one.paths[0]]]
            if len(leaves) != len(arrays):
                wrong.append(f"{layer.name} has {len(arrays)} arrays, ours {len(leaves)}")
                continue
            for leaf, value in zip(leaves, arrays, strict=True):
                put(layer, modules[one.paths[0]][leaf], value)
            continue
        for module, value in zip(one.paths, arrays, strict=False):
            put(layer, modules[module]["kernel"], value)
        rest = arrays[len(one.paths) :]
        if rest and "bias" in modules[one.paths[-1]]:
            put(layer, modules[one.paths[-1]]["bias"], rest[0])
        elif rest:
            biases[one.paths[-1]] = np.asarray(rest[0], np.float32)
    fold_biases(biases, variables)
    missing = [
        "/".join(place) for place in shapes if place not in variables and place[1:-1] not in lacking
    ]
    refuse(path, model, missing, [], wrong, every, _is_application)
    return Published(
        path=path,
        digest=digest,
        model=model,
        source="keras",
        options=given,
        num_classes=num_classes,
        channels=channels,
        variables=traverse_util.unflatten_dict(variables),
        preprocessing=Preprocessing((), (), (px, px)),
    )


def _is_application(name):
    """Whether Keras has such a network."""
    return keras.expected(name, depth_of(name)) is not None


def _same_numbers(value, shape):
    """A depthwise kernel `[height, width, channels, 1]` as `[height, width, 1, channels]`, and a
    1x1 convolution as a dense layer."""
    if value.ndim == 4 and (value.shape[3], value.shape[2]) == shape[-2:]:
        return value.transpose(0, 1, 3, 2)
    return value.reshape(shape) if value.ndim == 4 and value.shape[:2] == (1, 1) else value


def _aligned(wanted, layers):
    """The file's layers in the order of Keras's network; a file that numbers them by kind has them
    kind by kind."""
    if not all(layer.kind for layer in layers):
        return layers
    of_kind: dict[str, Iterator[keras.Layer]] = {
        kind: iter([layer for layer in layers if layer.kind == kind])
        for kind in {layer.kind for layer in layers}
    }
    found = [next(of_kind.get(one.kind, iter(())), None) for one in wanted]
    rest = [layer for held in of_kind.values() for layer in held]
    return [layer for layer in found if layer is not None] + rest
