"""Keras's files, read and written as data, and the layers of its applications in the order that
Keras gives them.

A weights file of Keras is a list of layers: older ones (`.h5`) name each, newer ones
(`.weights.h5`, and what lies within `.keras`) number the layers of a kind. Keras itself assigns
them by their order, and so does this: names are numbered by a counter of the process, or have
changed since a file was published.
"""

import collections
import io
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util

from cnn_jax.errors import InputError
from cnn_jax.models.conventions import family
from cnn_jax.models.densenet import LAYERS
from cnn_jax.models.inception_v3 import MODULES
from cnn_jax.models.mobilenet import BLOCKS as MOBILENET_BLOCKS
from cnn_jax.models.mobilenet_v2 import BOTTLENECKS
from cnn_jax.models.resnet import BLOCKS as RESNET_BLOCKS
from cnn_jax.models.vgg import CONVOLUTIONS
from cnn_jax.models.xception import BLOCKS as XCEPTION_BLOCKS

MAGIC = b"\x89HDF\r\n\x1a\n"

_WITHIN = "model.weights.h5"
"""The weights in a `.keras` file."""

CONVOLUTION, DEPTHWISE, SEPARABLE, NORM, DENSE = (
    "conv2d",
    "depthwise_conv2d",
    "separable_conv2d",
    "batch_normalization",
    "dense",
)


@dataclass(frozen=True)
class Layer:
    """A layer with weights, as a file has it.

    Attributes:
        name: in the file.
        kind: Keras's class in lower case, such as `conv2d`; "" where the file doesn't say.
        arrays: in Keras's order: kernel and bias; scale, offset, mean and variance of a norm.
    """

    name: str
    kind: str
    arrays: tuple[np.ndarray, ...]


def read(path: Path) -> list[Layer]:
    """The layers of a file that have weights, in order; of `.weights.h5` and `.keras` kind by kind.

    Raises:
        InputError: it is damaged, points to other files, or holds no weights of Keras.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if _WITHIN not in archive.namelist():
                    raise ValueError(f"there is no {_WITHIN} in it")
                info = archive.getinfo(_WITHIN)
                _refuse_inflated(_WITHIN, info.file_size, info.compress_size)
                return _layers(io.BytesIO(archive.read(_WITHIN)), path.stat().st_size)
        return _layers(path, path.stat().st_size)
    except MemoryError:
        raise
    # h5py raises OSError, RuntimeError, KeyError, ValueError and more for what is damaged
    except Exception as error:
        if isinstance(error, OSError) and error.errno:
            raise InputError(f"{path} can't be read ({error.strerror}): check the path.") from error
        said = (" ".join(str(error).split()) or type(error).__name__)[:120]
        raise InputError(
            f"{path} is damaged or no file of Keras's weights ({said}): download or save it again."
        ) from error


def _layers(file, stored_bytes):
    import h5py

    array = _Arrays(stored_bytes)
    with h5py.File(file, "r") as held:
        root: Any = held.get("model_weights", held)
        if "layer_names" in root.attrs:
            return list(_named(root, array))
        _refuse_links(held)
        found: list[tuple[str, int, str, Any]] = []

        def visit(name, item):
            layer, _, last = name.rpartition("/")
            if last == "vars" and len(item) and not layer.startswith("optimizer"):
                kind, number = _counted(layer.rpartition("/")[2])
                found.append((kind, number, layer, item))

        held.visititems(visit)
        if not found:
            raise ValueError("it has no layers")
        return [
            Layer(name, kind, tuple(array(item[key]) for key in sorted(item, key=int)))
            for kind, _, name, item in sorted(found, key=lambda one: one[:3])
        ]


def _counted(name):
    """(class, number) of a layer, such as `conv2d_3`; the first has no number."""
    kind, _, number = name.rpartition("_")
    return (kind, int(number)) if number.isdigit() else (name, 0)


def _named(root, array) -> Iterator[Layer]:
    """The layers of the older format; of a model within the model, its own."""
    layers = collections.Counter(map(_text, root.attrs["layer_names"]))
    for name, count in layers.items():
        if count > 1:
            raise ValueError(f"layer_names has {name} {count} times")
        if not isinstance(root.get(name, getlink=True), _hard_link()):
            raise ValueError(f"{name} points to another file")
        group = root[name]
        _refuse_links(group)
        names = [_text(weight) for weight in group.attrs["weight_names"]]
        parts: dict[str, list[str]] = {}
        for weight in names:
            parts.setdefault(weight.rpartition("/")[0], []).append(weight)
        if len(parts) > 1 and all(len(held) <= 4 for held in parts.values()):
            for part, held in parts.items():
                yield Layer(part, "", tuple(array(group[weight]) for weight in held))
        elif names:
            yield Layer(name, "", tuple(array(group[weight]) for weight in names))


def _text(value):
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


def _hard_link():
    import h5py

    return h5py.HardLink


def _refuse_links(group):
    """An HDF5 file may say that a part of it lies in another file, which nobody handed over."""

    elsewhere = group.visititems_links(
        lambda name, link: None if isinstance(link, _hard_link()) else name
    )
    if elsewhere:
        raise ValueError(f"{elsewhere} points elsewhere")


class _Arrays:
    """Reads data sets, as long as all of them together aren't inflated."""

    def __init__(self, stored_bytes: int) -> None:
        self.stored_bytes, self.read_bytes = stored_bytes, 0

    def __call__(self, dataset) -> np.ndarray:
        if dataset.external or dataset.is_virtual:
            raise ValueError(f"{dataset.name} lies in another file")
        if dataset.dtype.kind not in "fiu":
            raise ValueError(f"{dataset.name} holds {dataset.dtype}")
        self.read_bytes += dataset.nbytes
        _refuse_inflated(f"what is read up to {dataset.name}", self.read_bytes, self.stored_bytes)
        return np.asarray(dataset)


def _refuse_inflated(name, size_bytes, stored_bytes):
    """What a file says without holding it, or holds compressed a hundredfold, would fill memory."""
    if size_bytes > 2**24 and size_bytes > 100 * stored_bytes:
        raise ValueError(f"{name} is {size_bytes:,} bytes made of {stored_bytes:,}")


# ---- written


def written(layers: Sequence[Layer]) -> bytes:
    """A file in the older format, `.h5`, as weights are published: Keras's `load_weights` takes it
    layer by layer."""
    import h5py

    file = io.BytesIO()
    with h5py.File(file, "w") as held:
        # Without them older versions turn kernels as the first one had them.
        held.attrs["keras_version"], held.attrs["backend"] = b"2.4.0", b"tensorflow"
        held.attrs["layer_names"] = [layer.name.encode() for layer in layers]
        for layer in layers:
            names = [f"{layer.name}/{number}" for number in range(len(layer.arrays))]
            group = held.create_group(layer.name)
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name, array in zip(names, layer.arrays, strict=True):
                group[name] = array
    return file.getvalue()


def laid_out(model: str, depth: int, variables: Any) -> list[Layer]:
    """A network of ours as the layers of Keras's application: `published.read` backwards.

    Args:
        model: name in `MODELS`, which Keras has (see `expected`).
        depth: of the module; 0 where it has none.
        variables: "params" and "batch_stats", of a module with Keras's conventions.
    """
    flat: dict[Any, Any] = traverse_util.flatten_dict(variables)

    def kernel(path):
        if path[-1] == "depthwise_kernel":
            return np.asarray(flat["params", *path]).transpose(0, 1, 3, 2)
        return np.asarray(flat["params", *path, "kernel"])

    layers = []
    for one in expected(model, depth) or ():
        last = one.paths[-1]
        if one.kind == NORM:
            places = [("params", *last, leaf) for leaf in ("scale", "bias")]
            places += [("batch_stats", *last, leaf) for leaf in ("mean", "var")]
            arrays = [flat[place] for place in places if place in flat]
        else:
            arrays = [kernel(path) for path in one.paths]
            if one.kind == CONVOLUTION and arrays[-1].ndim == 2:  # the head of MobileNet
                arrays[-1] = arrays[-1][None, None]
            if ("params", *last, "bias") in flat:
                arrays.append(flat["params", *last, "bias"])
            elif family(model) == "resnet":  # whose biases the norms take out again
                arrays.append(np.zeros(arrays[-1].shape[-1], np.float32))
        name = "_".join(last)
        layers.append(Layer(name, one.kind, tuple(np.asarray(a, np.float32) for a in arrays)))
    return layers


# ---- Keras's applications

NAMES = {
    "vgg16": "VGG16",
    "vgg19": "VGG19",
    "inception_v3": "InceptionV3",
    "xception": "Xception",
    **{f"resnet{depth}": f"ResNet{depth}" for depth in (50, 101, 152)},
    "mobilenet": "MobileNet",
    "mobilenet_v2": "MobileNetV2",
    **{f"densenet{depth}": f"DenseNet{depth}" for depth in (121, 169, 201)},
}
"""Our name -> that of `keras.applications`."""

LEAST_PX = {"inception_v3": 75, "xception": 71}
"""Least side of an image that Keras takes, where it isn't 32."""


@dataclass(frozen=True)
class Expected:
    """A layer of Keras's network, and what it is in ours.

    Attributes:
        kind: as in `Layer`.
        paths: of our module that has its weights: one, but of a separable convolution the
            depthwise and the pointwise part's.
        head: whether it belongs to one number of classes.
    """

    kind: str
    paths: tuple[tuple[str, ...], ...]
    head: bool = False


def expected(model: str, depth: int = 0) -> list[Expected] | None:
    """The layers with weights of one of Keras's applications, in its order; None where Keras has no
    such network, or builds it otherwise."""
    name = family(model)
    if name not in _FAMILIES or (name == "resnet" and depth < 50) or depth in (11, 13):
        return None
    return list(_FAMILIES[name](depth))


def _convolution(*path):
    return Expected(CONVOLUTION, ((*path, "convolution"),))


def _norm(*path):
    return Expected(NORM, ((*path, "norm"),))


def _vgg(depth):
    for block, convolutions in enumerate(CONVOLUTIONS[depth], 1):
        for number in range(1, convolutions + 1):
            yield _convolution(f"block_{block}_convolution_{number}")
    for name in ("dense_1", "dense_2"):
        yield Expected(DENSE, ((name,),))
    yield Expected(DENSE, (("head",),), head=True)


def _mobilenet(_):
    yield _convolution("stem")
    yield _norm("stem")
    for number in range(1, len(MOBILENET_BLOCKS) + 1):
        yield from _mobile(f"block_{number}")
    yield Expected(CONVOLUTION, (("head",),), head=True)


def _mobile(*path):
    yield Expected(DEPTHWISE, ((*path, "depthwise_kernel"),))
    yield Expected(NORM, ((*path, "depthwise_norm"),))
    yield _convolution(*path, "pointwise")
    yield _norm(*path, "pointwise")


def _mobilenet_v2(_):
    yield _convolution("stem")
    yield _norm("stem")
    for stage, (expansion, _, blocks, _) in enumerate(BOTTLENECKS, 1):
        for number in range(1, blocks + 1):
            block = f"stage_{stage}_block_{number}"
            if expansion > 1:
                yield _convolution(block, "expansion")
                yield _norm(block, "expansion")
            yield from _mobile(block, "convolution")
    yield _convolution("last")
    yield _norm("last")
    yield Expected(DENSE, (("head",),), head=True)


def _resnet(depth):
    yield _convolution("stem")
    yield _norm("stem")
    for stage, blocks in enumerate(RESNET_BLOCKS[depth], 1):
        for number in range(1, blocks + 1):
            block = f"stage_{stage}_block_{number}"
            for part in ("convolution_1", "convolution_2"):
                yield _convolution(block, part)
                yield _norm(block, part)
            # The shortcut and the last convolution are equally far from the end.
            last = (*(("shortcut",) if number == 1 else ()), "convolution_3")
            yield from (_convolution(block, part) for part in last)
            yield from (_norm(block, part) for part in last)
    yield Expected(DENSE, (("head",),), head=True)


def _densenet(depth):
    yield Expected(CONVOLUTION, (("stem_convolution",),))
    yield Expected(NORM, (("stem_norm",),))
    for block, layers in enumerate(LAYERS[depth], 1):
        for number in range(1, layers + 1):
            for part in (1, 2):
                name = f"block_{block}_layer_{number}"
                yield Expected(NORM, ((f"{name}_norm_{part}",),))
                yield Expected(CONVOLUTION, ((f"{name}_convolution_{part}",),))
        yield Expected(NORM, ((f"block_{block}_norm",),))
        if block < len(LAYERS[depth]):
            yield Expected(CONVOLUTION, ((f"transition_{block}_convolution",),))
    yield Expected(DENSE, (("head",),), head=True)


def _xception(_):
    for number in (1, 2):
        yield _convolution(f"block_1_convolution_{number}")
        yield _norm(f"block_1_convolution_{number}")
    for block, (features, stride) in enumerate(XCEPTION_BLOCKS, 2):
        parts = range(1, len(features) + 1)
        for part in parts:
            yield _separable(f"block_{block}", f"convolution_{part}")
            yield _norm(f"block_{block}", f"convolution_{part}", "pointwise")
        if stride > 1:  # the shortcut is as far from the end as the last norm and the pooling
            yield _convolution(f"block_{block}", "shortcut")
            yield _norm(f"block_{block}", "shortcut")
    for part in (1, 2):
        yield _separable(f"block_14_convolution_{part}")
        yield _norm(f"block_14_convolution_{part}", "pointwise")
    yield Expected(DENSE, (("head",),), head=True)


def _separable(*path):
    return Expected(SEPARABLE, ((*path, "depthwise_kernel"), (*path, "pointwise", "convolution")))


def _inception_v3(_):
    for number in range(1, 6):
        yield _convolution(f"stem_convolution_{number}")
        yield _norm(f"stem_convolution_{number}")
    for mixed, (branches, _, projection) in enumerate(MODULES):
        # Keras orders layers by how far from the end they are, and those equally far by branch.
        far: list[tuple[int, int, Expected]] = []
        for branch, layers in enumerate(branches, 1):
            further = 0
            for number in range(len(layers), 0, -1):
                kernels = len(layers[number - 1]) - 1
                further += 1 if kernels > 1 else 0  # their maps are joined by a layer
                for letter in "ab"[:kernels] if kernels > 1 else ("",):
                    name = f"branch_{branch}_convolution_{number}{letter}"
                    far.append((further + 2, branch, _norm(f"mixed_{mixed}", name)))
                    far.append((further + 3, branch, _convolution(f"mixed_{mixed}", name)))
                further += 3
        if projection is not None:
            far.append((2, 9, _norm(f"mixed_{mixed}", "pool_projection")))
            far.append((3, 9, _convolution(f"mixed_{mixed}", "pool_projection")))
        yield from (one for _, _, one in sorted(far, key=lambda held: (-held[0], held[1])))
    yield Expected(DENSE, (("head",),), head=True)


_FAMILIES = {
    "vgg": _vgg,
    "mobilenet": _mobilenet,
    "mobilenet_v2": _mobilenet_v2,
    "resnet": _resnet,
    "densenet": _densenet,
    "xception": _xception,
    "inception_v3": _inception_v3,
}
