"""A network's weights from tensors of PyTorch, by the names that its libraries give them."""

from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util

from cnn_jax.errors import InputError
from cnn_jax.models.conventions import family
from cnn_jax.models.weights import files, pytorch
from cnn_jax.models.weights.fitting import (
    Published,
    abstract,
    depth_of,
    first_kernel,
    flattened_side,
    fold_biases,
    given_options,
    modules_of,
    of_maps,
    refuse,
    width_option,
    without_head,
)


def read(
    path: Path,
    digest: str,
    model: str,
    tensors: dict[str, np.ndarray],
    head: bool,
    conventions: str,
) -> Published:
    """The tensors of a file as an architecture takes them; `head` says whether the classifier's
    head must be among them, `conventions` whose they are where their names don't tell.

    Raises:
        InputError: they don't fit.
    """
    tensors = {
        _today(name): value
        for name, value in tensors.items()
        if name.rpartition(".")[2] not in files.PASSED_OVER
    }
    namings = pytorch.namings(model, depth_of(model))
    if not namings:
        raise InputError(
            f"weights of PyTorch can't be read into {model}: docs/weights.md lists the"
            " architectures that take them; of a segmenter an experiment takes the encoder,"
            f" --initial {path} --initial_part encoder."
        )
    naming, prefix = _named_so(namings, model, tensors)
    source = naming.source
    if path.name.startswith(("resnetaa", "resnetblur")):
        raise InputError(
            f"{path} is of one of timm's ResNets that pool before each stride, as its name says,"
            f" and whose tensors look like a {model}'s: give the weights of a plain one."
        )
    if prefix:
        source = {"encoder.": "smp", "encoder.model.": "timm"}.get(prefix, source)
        beside = [name for name in tensors if not name.startswith(prefix)]
        tensors, head = files.without(tensors, prefix), False
    else:
        beside = []
    if source == "timm" and family(model) == "efficientnet_b":
        source = "timm_tf" if conventions or path.name.startswith("tf_") else source
    given = given_options(model, source)

    def shape(module, axis):
        value = tensors.get(f"{naming.names(module)}.weight")
        return int(value.shape[axis]) if value is not None and value.ndim > 1 else None

    given |= width_option(model, lambda module: shape(module, 0)) | _segmenter(model, tensors)
    if family(model) == "vgg" and any(name.endswith(".running_mean") for name in tensors):
        given["norm"] = "batch"  # without, as in the paper
    value = tensors.get(f"{naming.names(('dense_1',))}.weight") if naming.flattened else None
    side = flattened_side(model, int(np.prod(value.shape[1:])) if value is not None else None)
    if side and "pooled_px" in given:
        given["pooled_px"] = side
    found = _carry_pytorch(path, model, naming, tensors, given, head)
    variables, num_classes, channels, left_out = found
    return Published(
        path=path,
        digest=digest,
        model=model,
        source=source,
        options=given,
        num_classes=num_classes,
        channels=channels,
        variables=variables,
        left_out=(*left_out, *beside),
    )


def _segmenter(model, tensors) -> dict[str, Any]:
    """Backbone and auxiliary head of one of torchvision's segmenters, as the file has them."""
    if model not in ("dilated_fcn", "deeplabv3"):
        return {}
    deep = any(name.startswith("backbone.layer3.22.") for name in tensors)
    heads = any(name.startswith("aux_classifier.") for name in tensors)
    given: dict[str, Any] = {"encoder": "resnet101" if deep else "resnet50"}
    return given if heads else given | {"auxiliary_weight": 0.0}


def _today(name):
    """torchvision's first DenseNets have `norm.1` where its code has `norm1`."""
    if ".denselayer" not in name:  # MobileNetV2's names have `conv.1` by right
        return name
    for kind in ("norm", "conv"):
        for number in "12":
            name = name.replace(f".{kind}.{number}.", f".{kind}{number}.")
    return name


def _named_so(namings, model, tensors):
    """The naming that knows most of a file's tensors, and the prefix of an encoder within it."""
    shapes = abstract(model, 2, 3, {})
    modules = list(modules_of(shapes))
    best = (-1, namings[0], "")
    for naming in namings:
        names = [naming.names(module) for module in modules]
        for prefix in ("", "encoder.", "encoder.model.", "backbone."):
            known = sum(f"{prefix}{name}.weight" in tensors for name in names)
            if known > best[0]:
                best = (known, naming, prefix)
    return best[1:]


def _carry_pytorch(path, model, naming, tensors, given, head):
    used: set[str | None] = set()

    def tensor(module, leaf):
        name = naming.names(module)
        name = None if name is None else f"{name}.{leaf}"
        return (name, tensors.get(name)) if name in tensors else (name, None)

    of_head = {}
    if ("head",) in modules_of(abstract(model, 2, 3, given)):
        of_head = {leaf: tensor(("head",), leaf)[1] for leaf in ("weight", "bias")}
    head_weight = of_head.get("weight")
    num_classes = 0 if head_weight is None else int(head_weight.shape[0])
    channels = _channels(naming, model, given, tensors)
    shapes = abstract(model, max(num_classes, 1), channels, given)
    if not head and all(value is None for value in of_head.values()):
        shapes = without_head(shapes, model, channels, given)
        maps = of_maps(model, channels, given)
        beyond = {place[1:-1] for place in shapes if maps and place not in maps}
        if not any(tensor(module, "weight")[1] is not None for module in beyond):
            shapes = {place: leaf for place, leaf in shapes.items() if place[1:-1] not in beyond}
    flattened = dict(naming.flattened)
    missing, wrong, variables = [], [], {}
    biases = {}
    for module, leaves in modules_of(shapes).items():
        norm = "scale" in leaves or "mean" in leaves
        for leaf, place in leaves.items():
            theirs = {"kernel": "weight", "scale": "weight"}.get(leaf, leaf)
            theirs = {"mean": "running_mean", "var": "running_var"}.get(theirs, theirs)
            theirs = naming.layer_scale if leaf == "layer_scale" else theirs
            name, value = tensor(module, theirs)
            if value is None:
                missing.append(name or "/".join(place))
                continue
            used.add(name)
            value = _turned(value, shapes[place].shape, flattened.get(module))
            if value.shape != shapes[place].shape:
                wrong.append(f"{name} is {list(tensors[name].shape)}, ours {shapes[place].shape}")
            variables[place] = np.asarray(value, np.float32)
        if not norm and "bias" not in leaves:
            name, bias = tensor(module, "bias")
            if bias is not None:
                used.add(name)
                biases[module] = np.asarray(bias, np.float32)
    fold_biases(biases, variables)
    left = [name for name in tensors if name not in used]
    left_out = (
        [name for name in left if name.startswith(naming.left_out)] if naming.left_out else []
    )
    over = [name for name in left if name not in left_out]
    arrays = list(tensors.values())
    refuse(path, model, missing, over, wrong, arrays, lambda name: bool(pytorch.namings(name)))
    return traverse_util.unflatten_dict(variables), num_classes, channels, left_out


def _channels(naming, model, given, tensors):
    """Of an image: what the first kernel takes."""
    place = first_kernel(model, given)
    value = None if place is None else tensors.get(f"{naming.names(place[1:-1])}.weight")
    return int(value.shape[1]) if value is not None and value.ndim == 4 else 3


def _turned(value, shape, flattened):
    """A tensor of PyTorch in our order: kernels `[out, in, height, width]` become `[height, width,
    in, out]`, dense ones `[out, in]` become `[in, out]`."""
    if value.ndim == 4:
        value = value.transpose(2, 3, 1, 0)
        return value.reshape(-1, value.shape[-1]) if len(shape) == 2 else value
    if value.ndim == 2 and flattened and value.shape[1] % flattened == 0:
        side = round((value.shape[1] // flattened) ** 0.5)
        if side * side * flattened == value.shape[1]:
            value = value.reshape(-1, flattened, side, side)
            return value.transpose(2, 3, 1, 0).reshape(-1, value.shape[0])
    if value.ndim == 3 and value.shape[1:] == (1, 1):  # a number for each channel
        return value.reshape(-1)
    return value.T if value.ndim == 2 else value
