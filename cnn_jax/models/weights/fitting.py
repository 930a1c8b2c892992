"""Published weights as one of our networks takes them: laid over its variables, and held to them
name by name and shape by shape."""

import collections
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from cnn_jax.errors import InputError
from cnn_jax.models import MODELS
from cnn_jax.models.conventions import family, options
from cnn_jax.models.encoders import ENCODERS
from cnn_jax.models.weights.preprocessing import Preprocessing

ModulePath = tuple[str, ...]

KERNELS = Path(__file__).with_name("kernels.txt")
"""The classifiers, one a line, with the sizes of their kernels: tracing them all takes minutes."""


@dataclass(frozen=True)
class Published:
    """The weights in a file, as one of our networks takes them.

    Attributes:
        path: of the file.
        digest: of its bytes, hexadecimal.
        model: name in `MODELS`.
        source: whose network it is, in `conventions.CONVENTIONS`.
        options: of the module, which make it compute what the source's network does.
        num_classes: of the head; 0 where the file has none.
        channels: of an image.
        variables: "params" and, with BatchNorm, "batch_stats": float32; without the head where the
            file has none.
        preprocessing: what the source's networks of this kind were trained to see.
        left_out: tensors of the file that our network has no place for, such as auxiliary heads.
    """

    path: Path
    digest: str
    model: str
    source: str
    options: Mapping[str, Any]
    num_classes: int
    channels: int
    variables: Any
    preprocessing: Preprocessing = Preprocessing((), (), (0, 0))
    left_out: tuple[str, ...] = ()

    @property
    def module(self) -> Any:
        """The Flax module that the variables are of."""
        return MODELS[self.model](num_classes=max(self.num_classes, 1), **self.options)


def abstract(
    model: str, num_classes: int, channels: int, given: Mapping[str, Any], px: int = 0
) -> Any:
    """Shapes of an architecture's variables, flat: (collection, module, ..., leaf) -> shape and
    type; for square images of `px`, or the paper's. Nothing is computed."""
    return _traced(model, num_classes, channels, tuple(sorted(given.items())), px)


@functools.lru_cache(64)  # tracing a deep network takes seconds
def _traced(model, num_classes, channels, given, px):
    module = MODELS[model](num_classes=num_classes, **dict(given))
    height, width = (px, px) if px else getattr(module, "paper_px", (224, 224, 3))[:2]
    image = jax.ShapeDtypeStruct((1, height, width, channels), np.float32)
    shapes: Any = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), image)
    return traverse_util.flatten_dict(shapes)


def depth_of(model: str) -> int:
    """Of a family's member, such as 50 of a ResNet-50; 0 where depth doesn't name it."""
    return getattr(MODELS[model], "keywords", {}).get("depth", 0)


def given_options(model: str, source: str) -> dict[str, Any]:
    """The options of a classifier that computes as the source's does."""
    given = options(model, source)
    make: Any = MODELS[model]
    fields = {field.name for field in dataclasses.fields(getattr(make, "func", make))}
    if "auxiliary" in fields and "auxiliary" not in given:
        given["auxiliary"] = False  # heads that only training sees
    return given


def modules_of(
    shapes: Mapping[tuple[str, ...], Any],
) -> dict[ModulePath, dict[str, tuple[str, ...]]]:
    """Module -> leaf -> its path: `depthwise_kernel` counts as a module."""
    found: dict[ModulePath, dict[str, tuple[str, ...]]] = {}
    for path in shapes:
        _, *module, leaf = path
        if leaf == "depthwise_kernel":
            module, leaf = [*module, leaf], "kernel"
        found.setdefault(tuple(module), {})[leaf] = path
    return found


_WIDTHS = {
    "mobilenet": (("block_13", "pointwise", "convolution"), 1024),
    "mobilenet_v2": (("stage_7_block_1", "convolution", "pointwise", "convolution"), 320),
}
"""Families that are published in several widths: a module, and its channels at width 1."""


def width_option(model: str, channels_of: Callable[[ModulePath], int | None]) -> dict[str, Any]:
    """The option `width` of a network that is narrower or wider than the paper's."""
    if model not in _WIDTHS:
        return {}
    module, usual = _WIDTHS[model]
    found = channels_of(module)
    return {} if found in (None, usual) else {"width": found / usual}


_FLATTENED = {"vgg": 512, "alexnet": 256}
"""Families whose first dense layer belongs to a size of image: the channels of the flattened
map."""


def flattened_side(model: str, inputs: int | None) -> int:
    """Side of the map that is flattened for the first dense layer, from its inputs; 0 where there
    is no such layer."""
    channels = _FLATTENED.get(family(model))
    if channels is None or inputs is None:
        return 0
    side = round((inputs / channels) ** 0.5)
    return side if side * side * channels == inputs else 0


def first_kernel(model: str, given: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The variable whose shape depends on an image's channels."""
    shapes, other = (abstract(model, 2, channels, given) for channels in (3, 4))
    return next((name for name, leaf in shapes.items() if leaf.shape != other[name].shape), None)


def without_head(
    shapes: Mapping[tuple[str, ...], Any], model: str, channels: int, given: Mapping[str, Any]
) -> dict[tuple[str, ...], Any]:
    """What doesn't depend on the number of classes."""
    other = abstract(model, 7, channels, given)
    return {path: leaf for path, leaf in shapes.items() if leaf.shape == other[path].shape}


def of_maps(model: str, channels: int, given: Mapping[str, Any]) -> set[tuple[str, ...]]:
    """The names of what an encoder's feature maps are made with, without what only a classifier
    has, such as VGG's dense layers; none of what is no encoder."""
    if model not in ENCODERS:
        return set()
    module = MODELS[model](num_classes=1, **given)
    px = getattr(module, "paper_px", (224,))[0]
    image = jax.ShapeDtypeStruct((1, px, px, channels), np.float32)
    init = functools.partial(module.init, train=False, feature_maps=True)
    shapes: Any = jax.eval_shape(lambda x: init(jax.random.key(0), x), image)
    return set(traverse_util.flatten_dict(shapes))


def fold_biases(
    biases: Mapping[ModulePath, np.ndarray], variables: dict[tuple[str, ...], np.ndarray]
) -> None:
    """Biases of convolutions that a BatchNorm follows, which ours lack: x + b less a mean is x less
    (mean - b). In training BatchNorm takes them out again."""
    for module, bias in biases.items():
        *where, last = module
        norm = (*where, last.replace("convolution", "norm"))
        place = ("batch_stats", *norm, "mean")
        if place in variables:
            variables[place] = variables[place] - bias


NONE = "no architecture here has most of its shapes"
"""What is said of a file that is of nothing that is known."""


def refuse(
    path: Path,
    model: str,
    missing: Sequence[str],
    over: Sequence[str],
    wrong: Sequence[str],
    arrays: Sequence[np.ndarray],
    able: Callable[[str], bool],
    otherwise: str = NONE,
) -> None:
    """Raises InputError unless everything has its place: names that are missing, left over, and of
    other shapes. `arrays` are the file's and `able` says of which architectures it may be, for what
    might be meant; `otherwise` is said where none is."""
    said = []
    if missing:
        said.append(f"{len(missing)} tensors are missing ({_few(missing)})")
    if over:
        said.append(f"{len(over)} are left over ({_few(over)})")
    if wrong:
        said.append(f"{len(wrong)} have other shapes ({_few(wrong)})")
    if said:
        meant = nearest_architecture(model, arrays, able, otherwise)
        raise InputError(f"{path} doesn't fit {model}: {'; '.join(said)}; {meant}.")


def _few(names: Sequence[str], count: int = 3) -> str:
    shown = ", ".join(names[:count])
    return shown if len(names) <= count else f"{shown}, ..."


@functools.cache
def _kernels() -> dict[str, collections.Counter[int]]:
    """Classifier -> how many kernels it has of so many numbers."""
    found = {}
    for line in KERNELS.read_text(encoding="utf-8").splitlines():
        name, *sizes = line.split()
        pairs = (size.split("*") for size in sizes)
        found[name] = collections.Counter({int(size): int(count) for size, count in pairs})
    return found


def nearest_architecture(
    model: str,
    arrays: Sequence[np.ndarray],
    able: Callable[[str], bool],
    otherwise: str = NONE,
) -> str:
    """Which architecture has kernels of the same sizes, of those that such a file may be of;
    `otherwise` if none has most of them."""
    ours: collections.Counter[int] = collections.Counter(
        int(array.size) for array in arrays if array.ndim > 1
    )
    best, share = "", 0.5
    # The one that was asked for first: what is damaged or lacks a head is nearest to itself.
    for other, theirs in sorted(_kernels().items(), key=lambda held: held[0] != model):
        if not able(other):
            continue
        found = (ours & theirs).total() / max(ours.total(), theirs.total(), 1)
        if found > share:
            best, share = other, found
    if not best:
        return otherwise
    if best == model:
        return f"no other has more of its shapes: save all of a {model}'s tensors, and only these"
    return f"{share:.0%} of its kernels have the shapes of {best}: ask for {best}"
