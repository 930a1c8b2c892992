"""Published weights as our networks take them: read as data, laid over our variables, and held to
them name by name and shape by shape."""

import collections
import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from cnn_jax.configuration.schema import nearest
from cnn_jax.errors import InputError
from cnn_jax.models import MODELS
from cnn_jax.models.classifiers import CLASSIFIERS
from cnn_jax.models.conventions import family, options
from cnn_jax.models.encoders import ENCODERS
from cnn_jax.models.weights import keras, pytorch, torch_files
from cnn_jax.models.weights.preprocessing import VALUES, Preprocessing, values_of

ModulePath = tuple[str, ...]

_NORM_LEAVES = ("scale", "bias", "mean", "var")
_PASSED_OVER = ("num_batches_tracked", "total_ops", "total_params", "n_averaged")
"""Last parts of names of tensors that are no weights."""

UNTOLD = ("timm_tf",)
"""Of `conventions.CONVENTIONS`, those that the names of a file's tensors don't tell."""


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
    held = _read(path)
    digest = digest_of(path)
    if isinstance(held, list):
        found = _of_keras(path, digest, model, held, head)
    elif any(name.startswith("params/") for name in held):
        found = _of_ours(path, digest, model, held)
    else:
        found = _of_pytorch(path, digest, model, held, head, conventions)
    if conventions not in ("", found.source):
        raise InputError(f"--conventions {conventions} is of timm's EfficientNets: leave it out.")
    _check_finite(found)
    if found.source == "ours":
        return found
    return _seeing(found, values or values_of(found.source, family(model)))


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


def digest_of(path: Path) -> str:
    """32 hexadecimal digits of a file's bytes; of an index, those of its shards too."""
    found = hashlib.blake2b(digest_size=16)
    for part in [path, *(_shards(path) if path.name.endswith(".json") else ())]:
        with part.open("rb") as file:
            while data := file.read(2**20):
                found.update(data)
    return found.hexdigest()


# ---- what kind of file it is


def _read(path) -> "list[keras.Layer] | dict[str, np.ndarray]":
    """The layers of a file of Keras, or the tensors of another."""
    try:
        if path.is_dir():
            raise InputError(f"{path} is a folder: give the file of the weights.")
        with path.open("rb") as file:
            start = file.read(max(len(torch_files.MAGIC), 16))
    except OSError as error:
        raise InputError(f"{path} can't be read ({error.strerror}): check the path.") from error
    if path.name.endswith(".json"):
        found: dict[str, np.ndarray] = {}
        for shard in _shards(path):
            found |= _safetensors(shard) if shard.suffix == ".safetensors" else _tensors(shard)
        return _unprefixed(found)
    if start.startswith(keras.MAGIC):
        return keras.read(path)
    if start.startswith(b"PK"):
        import zipfile

        try:
            names = zipfile.ZipFile(path).namelist()
        except zipfile.BadZipFile as error:
            raise InputError(f"{path} is damaged ({error}): download it again.") from error
        return keras.read(path) if "config.json" in names else _unprefixed(_tensors(path))
    if start.startswith(torch_files.MAGIC):
        return _unprefixed(_tensors(path))
    if start[8:9] == b"{":
        return _unprefixed(_safetensors(path))
    raise InputError(
        f"{path} is no file of weights that is known (it begins with {start[:8]!r}): give one of"
        " Keras (.h5, .keras), PyTorch (.pth, .th, .bin) or safetensors; see docs/weights.md."
    )


def _shards(path) -> list[Path]:
    """The files that an index lists."""
    try:
        listed = json.loads(path.read_bytes())["weight_map"].values()
        names = sorted(set(listed))
        if not all(isinstance(name, str) and Path(name).name == name for name in names):
            raise ValueError("a shard isn't named by a file beside it")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{path} is no index of shards ({str(error)[:80]}): give the one that was published"
            " beside them."
        ) from error
    for name in names:
        if not (path.parent / name).is_file():
            raise InputError(
                f"{path} lists {name}, which isn't beside it: download that shard too."
            )
    return [path.parent / name for name in names]


def _safetensors(path):
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            return {name: file.get_tensor(name) for name in sorted(file.keys())}
    except (OSError, SafetensorError, TypeError, ValueError) as error:
        raise InputError(
            f"{path} is damaged or no safetensors ({error}): download it again."
        ) from error


_WRAPPERS = (
    *("state_dict_ema", "model_ema", "ema_state_dict", "ema"),
    *("state_dict", "model_state_dict", "model", "net"),
)
"""Averages of weights first, which their networks are evaluated with."""


def _tensors(path):
    """A state_dict without what training loops wrap it in."""
    found = torch_files.read(path)
    for wrapper in _WRAPPERS:
        within = _without(found, f"{wrapper}.")
        if within:
            found = within
            break
    return found


def _unprefixed(found):
    """Tensors by the names that a network gives them, where modules that hold it have put their own
    before all: DistributedDataParallel, `torch.compile`, Lightning's, in any order."""
    prefixes = ("module.", "_orig_mod.", "model.")
    while True:
        # Averages of weights say beside them how many they are of.
        named = [name for name in found if name.rpartition(".")[2] not in _PASSED_OVER]
        shared = [p for p in prefixes if named and all(name.startswith(p) for name in named)]
        if not shared:
            return found
        found = _without(found, shared[0])


def _without(tensors, prefix):
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


# ---- our own variables, as shapes


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


def _depth(model) -> int:
    return getattr(MODELS[model], "keywords", {}).get("depth", 0)


def _given(model, source):
    """The options of a classifier that computes as the source's does."""
    given = options(model, source)
    make: Any = MODELS[model]
    fields = {field.name for field in dataclasses.fields(getattr(make, "func", make))}
    if "auxiliary" in fields and "auxiliary" not in given:
        given["auxiliary"] = False  # heads that only training sees
    return given


def _modules(shapes) -> dict[ModulePath, dict[str, tuple[str, ...]]]:
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

_FLATTENED = {"vgg": 512, "alexnet": 256}
"""Families whose first dense layer belongs to a size of image: the channels of the flattened
map."""


def _segmenter(model, tensors) -> dict[str, Any]:
    """Backbone and auxiliary head of one of torchvision's segmenters, as the file has them."""
    if model not in ("dilated_fcn", "deeplabv3"):
        return {}
    deep = any(name.startswith("backbone.layer3.22.") for name in tensors)
    heads = any(name.startswith("aux_classifier.") for name in tensors)
    given: dict[str, Any] = {"encoder": "resnet101" if deep else "resnet50"}
    return given if heads else given | {"auxiliary_weight": 0.0}


def _width(model, channels_of: Callable[[ModulePath], int | None]) -> dict[str, Any]:
    """The option `width` of a network that is narrower or wider than the paper's."""
    if model not in _WIDTHS:
        return {}
    module, usual = _WIDTHS[model]
    found = channels_of(module)
    return {} if found in (None, usual) else {"width": found / usual}


def _side(model, inputs: int | None) -> int:
    """Side of the map that is flattened for the first dense layer, from its inputs; 0 where there
    is no such layer."""
    channels = _FLATTENED.get(family(model))
    if channels is None or inputs is None:
        return 0
    side = round((inputs / channels) ** 0.5)
    return side if side * side * channels == inputs else 0


def _first_kernel(model, given) -> tuple[str, ...] | None:
    """The variable whose shape depends on an image's channels."""
    shapes, other = (abstract(model, 2, channels, given) for channels in (3, 4))
    return next((name for name, leaf in shapes.items() if leaf.shape != other[name].shape), None)


def _without_head(shapes, model, channels, given):
    """What doesn't depend on the number of classes."""
    other = abstract(model, 7, channels, given)
    return {path: leaf for path, leaf in shapes.items() if leaf.shape == other[path].shape}


def _of_maps(model, channels, given):
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


# ---- our own


def _of_ours(path, digest, model, tensors):
    """What `cnn-jax export` wrote; which options its network had, the record beside it knows."""
    found = {tuple(name.split("/")): np.asarray(v, np.float32) for name, v in tensors.items()}
    one, other = (abstract(model, classes, 3, {}) for classes in (2, 3))
    head = next((found.get(name) for name in one if one[name].shape != other[name].shape), None)
    num_classes = 1 if head is None else int(head.shape[-1])
    place = _first_kernel(model, {})
    channels = int(found[place].shape[2]) if place in found and found[place].ndim == 4 else 3
    shapes = abstract(model, num_classes, channels, {})
    missing = ["/".join(name) for name in shapes if name not in found]
    over = ["/".join(name) for name in found if name not in shapes]
    wrong = [
        f"{'/'.join(name)} is {list(found[name].shape)}, ours {list(leaf.shape)}"
        for name, leaf in shapes.items()
        if name in found and found[name].shape != leaf.shape
    ]
    arrays = list(found.values())
    _refuse(path, model, missing, over, wrong, lambda: _nearest(model, arrays, lambda _: True))
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


# ---- PyTorch


def _of_pytorch(path, digest, model, tensors, head, conventions):
    tensors = {
        _today(name): value
        for name, value in tensors.items()
        if name.rpartition(".")[2] not in _PASSED_OVER
    }
    namings = pytorch.namings(model, _depth(model))
    if not namings:
        raise InputError(
            f"weights of PyTorch can't be read into {model}: docs/weights.md lists the"
            " architectures that take them; of a segmenter an experiment takes the encoder,"
            f" --initial {path} --initial_part encoder."
        )
    naming, prefix = _named_so(namings, model, tensors)
    source = naming.source
    if prefix:
        source = {"encoder.": "smp", "encoder.model.": "timm"}.get(prefix, source)
        beside = [name for name in tensors if not name.startswith(prefix)]
        tensors, head = _without(tensors, prefix), False
    else:
        beside = []
    if source == "timm" and family(model) == "efficientnet_b":
        source = "timm_tf" if conventions or path.name.startswith("tf_") else source
    given = _given(model, source)

    def shape(module, axis):
        value = tensors.get(f"{naming.names(module)}.weight")
        return int(value.shape[axis]) if value is not None and value.ndim > 1 else None

    given |= _width(model, lambda module: shape(module, 0)) | _segmenter(model, tensors)
    if family(model) == "vgg" and any(name.endswith(".running_mean") for name in tensors):
        given["norm"] = "batch"  # without, as in the paper
    value = tensors.get(f"{naming.names(('dense_1',))}.weight") if naming.flattened else None
    side = _side(model, int(np.prod(value.shape[1:])) if value is not None else None)
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
    modules = list(_modules(shapes))
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
    if ("head",) in _modules(abstract(model, 2, 3, given)):
        of_head = {leaf: tensor(("head",), leaf)[1] for leaf in ("weight", "bias")}
    head_weight = of_head.get("weight")
    num_classes = 0 if head_weight is None else int(head_weight.shape[0])
    channels = _channels(naming, model, given, tensors)
    shapes = abstract(model, max(num_classes, 1), channels, given)
    if not head and all(value is None for value in of_head.values()):
        shapes = _without_head(shapes, model, channels, given)
        maps = _of_maps(model, channels, given)
        beyond = {place[1:-1] for place in shapes if maps and place not in maps}
        if not any(tensor(module, "weight")[1] is not None for module in beyond):
            shapes = {place: leaf for place, leaf in shapes.items() if place[1:-1] not in beyond}
    flattened = dict(naming.flattened)
    missing, wrong, variables = [], [], {}
    biases = {}
    for module, leaves in _modules(shapes).items():
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
    _fold(biases, variables, missing)
    left = [name for name in tensors if name not in used]
    left_out = (
        [name for name in left if name.startswith(naming.left_out)] if naming.left_out else []
    )
    over = [name for name in left if name not in left_out]
    _refuse(
        path,
        model,
        missing,
        over,
        wrong,
        lambda: _nearest(model, list(tensors.values()), lambda name: bool(pytorch.namings(name))),
    )
    return traverse_util.unflatten_dict(variables), num_classes, channels, left_out


def _channels(naming, model, given, tensors):
    """Of an image: what the first kernel takes."""
    place = _first_kernel(model, given)
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


def _fold(biases, variables, missing):
    """Biases of convolutions that a BatchNorm follows, which ours lack: x + b less a mean is x less
    (mean - b). In training BatchNorm takes them out again."""
    for module, bias in biases.items():
        *where, last = module
        norm = (*where, last.replace("convolution", "norm"))
        place = ("batch_stats", *norm, "mean")
        if place in variables:
            variables[place] = variables[place] - bias


def _nearest_pytorch(model, tensors):
    arrays = list(tensors.values())
    return _nearest(model, arrays, lambda name: bool(pytorch.namings(name, _depth(name))))


# ---- Keras


def _of_keras(path, digest, model, layers, head):
    wanted = keras.expected(model, _depth(model))
    if wanted is None:
        raise InputError(
            f"weights of Keras can't be read into {model}, which isn't one of its applications: see"
            " docs/weights.md."
        )
    given = _given(model, "keras")
    found = _aligned(wanted, layers)
    headless, lacking = False, set()
    if not head:
        body = [one for one in wanted if not one.head]
        # Without its top a VGG has no dense layers either.
        for kept in (body, [one for one in body if one.kind != keras.DENSE]):
            if len(found) == len(kept):
                lacking = {path for one in wanted if one not in kept for path in one.paths}
                wanted, headless = kept, True
    if len(found) != len(wanted):
        raise InputError(
            f"{path} doesn't fit {model}: it has {len(found)} layers with weights, and Keras's"
            f" network {len(wanted)}; {_nearest_keras(model, layers)}."
        )
    num_classes = 0 if headless else int(found[-1].arrays[0].shape[-1])
    channels = int(found[0].arrays[0].shape[2]) if found[0].arrays[0].ndim == 4 else 3
    of_module = {one.paths[-1]: layer.arrays for one, layer in zip(wanted, found, strict=True)}
    given |= _width(model, lambda module: int(of_module[module][-1].shape[-1]))
    dense = of_module.get(("dense_1",))
    px = 32 * _side(model, None if dense is None else int(dense[0].shape[0]))
    shapes = abstract(model, max(num_classes, 1), channels, given, px)
    modules = _modules(shapes)
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
    _fold(biases, variables, [])
    missing = [
        "/".join(place) for place in shapes if place not in variables and place[1:-1] not in lacking
    ]
    _refuse(path, model, missing, [], wrong, lambda: _nearest_keras(model, layers))
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


def _nearest_keras(model, layers):
    arrays = [array for layer in layers for array in layer.arrays]
    return _nearest(model, arrays, lambda name: keras.expected(name, _depth(name)) is not None)


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


# ---- both


def _seeing(found: Published, values: str) -> Published:
    """The same with its preprocessing; kernels for blue, green, red turned to red, green, blue."""
    variables = found.variables
    if values == "caffe" and found.channels == 3:
        flat: dict[Any, Any] = traverse_util.flatten_dict(variables)
        place = _first_kernel(found.model, found.options)
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


def _refuse(path, model, missing, over, wrong, nearest: Callable[[], str]) -> None:
    """Raises InputError unless everything has its place."""
    said = []
    if missing:
        said.append(f"{len(missing)} tensors are missing ({_few(missing)})")
    if over:
        said.append(f"{len(over)} are left over ({_few(over)})")
    if wrong:
        said.append(f"{len(wrong)} have other shapes ({_few(wrong)})")
    if said:
        raise InputError(f"{path} doesn't fit {model}: {'; '.join(said)}; {nearest()}.")


def _few(names: Sequence[str], count: int = 3) -> str:
    shown = ", ".join(names[:count])
    return shown if len(names) <= count else f"{shown}, ..."


def _nearest(model: str, arrays: Sequence[np.ndarray], able: Callable[[str], bool]) -> str:
    """Which architecture has kernels of the same sizes, of those that such a file may be of."""
    ours: collections.Counter[int] = collections.Counter(
        int(array.size) for array in arrays if array.ndim > 1
    )
    best, share = "", 0.5
    # The one that was asked for first: what is damaged or lacks a head is nearest to itself.
    for other in sorted(CLASSIFIERS, key=lambda name: name != model):
        if not able(other):
            continue
        shapes = abstract(other, 1000, 3, _given(other, ""))
        theirs = collections.Counter(
            int(np.prod(leaf.shape)) for leaf in shapes.values() if len(leaf.shape) > 1
        )
        found = (ours & theirs).total() / max(ours.total(), theirs.total(), 1)
        if found > share:
            best, share = other, found
    if not best:
        return "no architecture here has most of its shapes"
    if best == model:
        return f"no other has more of its shapes: save all of a {model}'s tensors, and only these"
    return f"{share:.0%} of its kernels have the shapes of {best}: ask for {best}"
