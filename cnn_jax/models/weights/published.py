"""Published weights: read from a file of Keras, PyTorch, safetensors or our own as one of our
networks takes them."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util

from cnn_jax.configuration.schema import nearest
from cnn_jax.errors import InputError
from cnn_jax.models import MODELS
from cnn_jax.models.conventions import family
from cnn_jax.models.weights import files, from_keras, from_pytorch
from cnn_jax.models.weights.fitting import Published, abstract, first_kernel, refuse
from cnn_jax.models.weights.preprocessing import VALUES, Preprocessing, values_of

UNTOLD = ("timm_tf",)
"""Of `conventions.CONVENTIONS`, those that the names of a file's tensors don't tell."""


def read(
    path: str | Path, model: str, *, head: bool = True, values: str = "", conventions: str = ""
) -> Published:
    """Reads the weights of a published network.

    Args:
        path: a file of Keras (`.h5`, `.weights.h5`, `.keras`), PyTorch (`.pth`, `.th`, `.bin`),
            or safetensors, of which an `.index.json` may list several. What it is is told from its
            content. Nothing in it is run, and nothing but it is read.
        model: the architecture, a name in `MODELS`.
        head: whether the file must hold the classifier's head.
        values: what it was trained on, of `preprocessing.VALUES`; empty: as its source's networks
            are.
        conventions: of `UNTOLD`, whose network it is; empty: of whom its tensors are named by,
            timm's EfficientNets whose file's name begins with tf_ being timm_tf.

    Raises:
        InputError: the file can't be read, or doesn't fit the architecture: tensors are missing,
            left over or of other shapes; values or conventions aren't known, or the file is of
            other conventions.

    Example:
        published = weights.read("resnet50-0676ba61.pth", "resnet50")
        published.module.apply(published.variables, images, train=False)
    """
    path = Path(path).expanduser()
    if model not in MODELS:
        raise InputError(f"{model!r} is no architecture: {nearest(model, MODELS)}.")
    for name, given, known in (
        ("values", values, VALUES),
        ("conventions", conventions, UNTOLD),
    ):
        if given and given not in known:
            raise InputError(f"{name} {given!r} isn't known: {nearest(given, known)}.")
    held = files.read(path)
    digest = files.digest_of(path)
    if isinstance(held, list):
        found = from_keras.read(path, digest, model, held, head)
    elif any(name.startswith("params/") for name in held):
        found = _of_ours(path, digest, model, held)
    else:
        found = from_pytorch.read(path, digest, model, held, head, conventions)
    if conventions not in ("", found.source):
        raise InputError(f"--conventions {conventions} is of timm's EfficientNets: leave it out.")
    _check_finite(found)
    if found.source != "ours":
        return _seeing(found, values or values_of(found.source, family(model)))
    if values:  # kernels are ours already, and take red, green, blue
        mean, std = VALUES[values]
        seen = dataclasses.replace(found.preprocessing, mean=mean, std=std)
        found = dataclasses.replace(found, preprocessing=seen)
    return found


def _check_finite(found):
    """Raises InputError for weights of a training that diverged: a rectifier or a pooling may turn
    NaN into a number, so that answers don't show it."""
    flat: dict[Any, Any] = traverse_util.flatten_dict(found.variables)
    for place, value in flat.items():
        if not np.isfinite(value).all():
            raise InputError(
                f"{found.path} has NaN or infinity in what is {'/'.join(place)} here: give weights"
                " from before the training diverged."
            )


def _of_ours(path, digest, model, tensors):
    """What `cnn-jax export` wrote; which options its network had, the record beside it knows."""
    found = {tuple(name.split("/")): np.asarray(v, np.float32) for name, v in tensors.items()}
    one, other = (abstract(model, classes, 3, {}) for classes in (2, 3))
    head = next((found.get(name) for name in one if one[name].shape != other[name].shape), None)
    num_classes = 1 if head is None else int(head.shape[-1])
    place = first_kernel(model, {})
    channels = int(found[place].shape[2]) if place in found and found[place].ndim == 4 else 3
    shapes = abstract(model, num_classes, channels, {})
    missing = ["/".join(name) for name in shapes if name not in found]
    over = ["/".join(name) for name in found if name not in shapes]
    wrong = [
        f"{'/'.join(name)} is {list(found[name].shape)}, ours {list(leaf.shape)}"
        for name, leaf in shapes.items()
        if name in found and found[name].shape != leaf.shape
    ]
    options = "if its network had other options, give the folder of its run, which knows them"
    refuse(path, model, missing, over, wrong, list(found.values()), lambda _: True, options)
    usual = (0.5,) * channels, (0.25,) * channels
    image_px = getattr(MODELS[model](num_classes=1), "paper_px", (224, 224, 3))[:2]
    return Published(
        path=path,
        digest=digest,
        model=model,
        source="ours",
        options={},
        num_classes=num_classes,
        channels=channels,
        variables=traverse_util.unflatten_dict(found),
        preprocessing=Preprocessing(*usual, image_px, 1.0),
    )


def _seeing(found: Published, values: str) -> Published:
    """The same with its preprocessing; kernels for blue, green, red turned to red, green, blue."""
    variables = found.variables
    if values == "caffe" and found.channels == 3:
        flat: dict[Any, Any] = traverse_util.flatten_dict(variables)
        place = first_kernel(found.model, found.options)
        flat[place] = np.ascontiguousarray(flat[place][:, :, ::-1])
        variables = traverse_util.unflatten_dict(flat)
    preprocessing = _preprocessing(found.model, values, found.preprocessing.image_px)
    return dataclasses.replace(found, variables=variables, preprocessing=preprocessing)


def _preprocessing(model, values, image_px):
    module = MODELS[model](num_classes=1)
    height, width = image_px if any(image_px) else getattr(module, "paper_px", (224, 224, 3))[:2]
    mean, std = VALUES[values]
    share = 1.0 if height < 64 else 0.875
    return Preprocessing(mean, std, (height, width), share)
