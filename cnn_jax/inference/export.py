"""A run's network as one file for where networks are used: ONNX, StableHLO, Keras's applications.

All take float32 images `[batch, height, width, channels]`, already normalised, and give logits, as
`run.model.apply` does; the batch is free. Of runs that find objects they give one array of scores
and places, from which objects are to be picked: see `ObjectLearner.exported`.
"""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util

from cnn_jax.errors import InputError
from cnn_jax.inference import onnx
from cnn_jax.inference.predictor import Run
from cnn_jax.models.asymmetric_unet import AsymmetricUNet
from cnn_jax.models.conventions import family, options
from cnn_jax.models.mobilenet import MobileNet
from cnn_jax.models.mobilenet_v2 import MobileNetV2
from cnn_jax.models.unet import UNet
from cnn_jax.models.weights import keras
from cnn_jax.models.weights.preprocessing import values_of
from cnn_jax.records.metrics import OBJECT_TASKS
from cnn_jax.training.losses import class_logits

PARTS = ("normalization", "softmax")
"""What may be put inside the program: images then come as files store them, from 0 to the type's
greatest value, though as float32; what comes out are probabilities."""

PLATFORMS = ("cpu", "cuda", "tpu")
"""What a StableHLO program is lowered for, in one file."""


def network(run: Run, parts: Sequence[str] = ()) -> Callable[[jax.Array], jax.Array]:
    """The run's network as a function of images alone, its weights inside, computed in float32.

    Args:
        run: loaded.
        parts: of `PARTS`, what is done inside beside the network.
    """
    module = _in_float32(run.model)
    variables = jax.device_get(run.variables)

    def function(images: jax.Array) -> jax.Array:
        if "normalization" in parts:
            images = run.normalize(images)
        outputs = module.apply(variables, images, train=False)
        if run.config.task in OBJECT_TASKS:
            return run.learner.exported(outputs)
        if "softmax" not in parts:
            return outputs
        # Of two classes a segmenter may give one logit, whose softmax by itself is 1 everywhere.
        return jax.nn.softmax(
            class_logits(outputs) if run.config.task == "segmentation" else outputs
        )

    return function


def _in_float32(module: nn.Module) -> Any:
    """The same network computed in float32, with the one that it may hold, as that of instances."""
    changes: dict[str, Any] = {"dtype": "float32"} if hasattr(module, "dtype") else {}
    if isinstance(held := getattr(module, "segmenter", None), nn.Module):
        changes["segmenter"] = _in_float32(held)
    return module.clone(**changes)


def _check(run, parts, any_size):
    """Raises InputError for what a run that finds objects can't be asked for."""
    if run.config.task not in OBJECT_TASKS:
        return
    if "softmax" in parts:
        raise InputError(
            f"the run in {run.folder} is of {run.config.task}, which gives probabilities without"
            " --with softmax: leave it out."
        )
    if any_size and run.config.task == "detection":
        raise InputError(
            f"the run in {run.folder} is of detection, whose boxes are counted from an image's"
            " corner, cell by cell: leave out --any-size, and give --size-px."
        )


def image_px(run: Run) -> tuple[int, int]:
    """Height and width of what the run's network is given: an image, or evaluation's window."""
    if run.config.task in ("segmentation", *OBJECT_TASKS):
        height, width = run.config.evaluation.window_px
    else:
        assert run.info.image_px is not None  # of every classifier's data
        height, width = run.info.image_px
    return height, width


def free_stride(run: Run) -> int:
    """What height and width must be multiples of where they are free: as often as the network
    halves them."""
    module = getattr(run.model, "segmenter", run.model)  # of instances: what their heads stand on
    return 2**module.depth if isinstance(module, UNet | AsymmetricUNet) else 32


def to_onnx(
    run: Run,
    *,
    size_px: Sequence[int] = (),
    any_size: bool = False,
    parts: Sequence[str] = (),
) -> Any:
    """The run's network as an `onnx.ModelProto`, checked by `onnx.checker`.

    Its metadata hold what `about` says, each as JSON.

    Args:
        run: loaded.
        size_px: height and width of an image; empty: `image_px`.
        any_size: height and width are free, as multiples of `free_stride`.
        parts: of `PARTS`.

    Raises:
        InputError: onnx isn't installed, or can't hold the network: which operation, and where; or
            a size that its layers don't take, or a part that the run's task doesn't allow.
    """
    _check(run, parts, any_size)
    stride = free_stride(run) if any_size else None
    size = tuple(size_px) or image_px(run)
    with _of_another_size(run, size, any_size):
        model = onnx.translated(network(run, parts), (*size, run.info.channels), stride=stride)
    held = about(run, parts, stride)
    library = onnx.library()
    library.helper.set_model_props(
        model, {name: json.dumps(value, ensure_ascii=False) for name, value in held.items()}
    )
    library.checker.check_model(model, full_check=True)
    return model


def to_stablehlo(
    run: Run,
    *,
    size_px: Sequence[int] = (),
    any_size: bool = False,
    parts: Sequence[str] = (),
) -> bytes:
    """The run's network as a serialised `jax.export.Exported`, for `PLATFORMS` at once.

    `jax.export.deserialize(bytes).call(images)` computes it, in a process that has JAX alone.

    Args:
        run: loaded.
        size_px: height and width of an image; empty: `image_px`.
        any_size: height and width are free, as multiples of `free_stride`.
        parts: of `PARTS`.

    Raises:
        InputError: the network takes images of one size and another is asked for, or a part is that
            the run's task doesn't allow.
    """
    from jax import export

    _check(run, parts, any_size)
    try:
        import flatbuffers  # noqa: F401
    except ImportError as error:
        raise InputError(
            "StableHLO needs the package flatbuffers, which isn't installed: pip install"
            " 'cnn_jax[stablehlo]'."
        ) from error
    height, width = tuple(size_px) or image_px(run)
    sizes = f"{height}, {width}"
    if any_size:
        stride = free_stride(run)
        sizes = f"{stride}*height, {stride}*width"
    shape = export.symbolic_shape(f"batch, {sizes}, {run.info.channels}")
    function = jax.jit(network(run, parts))
    images = jax.ShapeDtypeStruct(shape, jnp.float32)
    with _of_another_size(run, (height, width), any_size):
        exported = export.export(function, platforms=PLATFORMS)(images)
    return bytes(exported.serialize())


@contextlib.contextmanager
def _of_another_size(run, size, any_size):
    """Turns what JAX and Flax raise of layers made for the run's size into one sentence."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if not any_size and tuple(size) == image_px(run):
            raise
        raise InputError(
            f"this {run.config.model.name} is of images of {' x '.join(map(str, image_px(run)))} px"
            f" and can't be exported for others ({onnx.reason(error)}): leave"
            f" out {'--any-size' if any_size else '--size-px'}."
        ) from error


def to_keras(run: Run) -> bytes:
    """The run's weights as a file for the architecture's function in `keras.applications`.

    `keras.applications.ResNet50(weights=FILE, ...)` computes the run's logits; of VGG and ResNet it
    takes blue, green, red, as Keras's own do.

    Args:
        run: loaded.

    Raises:
        InputError: Keras has no such network, or builds it otherwise than the run did.
    """
    name, module = run.config.model.name, cast(Any, run.model)
    other = "export it with --format onnx or stablehlo"
    if name not in keras.NAMES:
        raise InputError(f"{name} isn't one of Keras's applications: {other}.")
    size, least = image_px(run), keras.LEAST_PX.get(name, 32)
    if min(size) < least:
        raise InputError(
            f"Keras's {keras.NAMES[name]} takes images of {least} px or more, and the run's have"
            f" {size[0]} x {size[1]}: {other}."
        )
    of_keras = _options_in_keras(module, options(name, "keras"), all(px % 32 == 0 for px in size))
    for option, value in of_keras.items():
        ours = getattr(module, option)
        if ours != value and option != "epsilon":
            raise InputError(
                f"model.{option} is {ours!r}, and Keras's {keras.NAMES[name]} has {value!r}:"
                f" {other}."
            )
    variables = jax.device_get(run.variables)
    if of_keras.get("epsilon", 0) != getattr(module, "epsilon", 0):  # both are added to variances
        flat: dict[Any, Any] = traverse_util.flatten_dict(variables)
        more = np.float32(module.epsilon - of_keras["epsilon"])
        flat = {key: value + more if key[-1] == "var" else value for key, value in flat.items()}
        variables = traverse_util.unflatten_dict(flat)
    layers = keras.laid_out(name, getattr(module, "depth", 0), variables)
    if _turned_in_keras(run):
        kernel, *rest = layers[0].arrays
        turned = np.ascontiguousarray(kernel[:, :, ::-1])
        layers[0] = dataclasses.replace(layers[0], arrays=(turned, *rest))
    return keras.written(layers)


_FREE = ("num_classes", "depth", "dtype", "axis_name", "dropout", "auxiliary", "parent", "name")
"""Fields of modules that change nothing in what given weights compute, or that Keras's name has."""

_ALIKE = {"rounding": {"up", "down"}, "padding": {"SAME", "END"}}
"""Option -> values that are one where the sides of images are multiples of 32."""


def _options_in_keras(
    module: Any, conventions: Mapping[str, Any], multiples: bool
) -> dict[str, Any]:
    """The options of a module, with the values that make it Keras's network; `multiples`: images
    have sides that are multiples of 32."""
    found = {}
    for field in dataclasses.fields(module):
        if field.name in _FREE or (field.name == "width" and isinstance(module, _OF_ANY_WIDTH)):
            continue
        ours, value = getattr(module, field.name), conventions.get(field.name, field.default)
        same = multiples and {ours, value} <= _ALIKE.get(field.name, set())
        found[field.name] = ours if same else value
    return found


_OF_ANY_WIDTH = (MobileNet, MobileNetV2)
"""Whose width Keras takes as `alpha`."""


def about(run: Run, parts: Sequence[str] = (), stride: int | None = None) -> dict[str, Any]:
    """What whoever uses an exported network needs beside it, as JSON holds it."""
    info = run.info
    held = {
        "task": run.config.task,
        "model": run.config.model.name,
        "classes": list(info.classes),
        "colors": [list(color) for color in info.colors],
        "dtype": info.dtype,
        "greatest": info.greatest,
        "mean": list(info.mean),
        "std": list(info.std),
        "inside": list(parts),
        "digest": run.digest,
        "step": run.summary["evaluated_step"],
    }
    if run.config.task in OBJECT_TASKS:
        held |= {"colors": list(map(list, run.learner.colors)), "objects": run.learner.picking}
    if info.bands:
        held["bands"] = list(info.bands)
    return held | ({"multiple_px": stride} if stride else {})


def described(
    run: Run, size_px: Sequence[int] = (), any_size: bool = False, parts: Sequence[str] = ()
) -> str:
    """What an exported network takes and gives, in a sentence."""
    size = " x ".join(map(str, tuple(size_px) or image_px(run)))
    if any_size:
        size = f"multiples of {free_stride(run)}"
    values = f"from 0 to {run.info.greatest:g}" if "normalization" in parts else "normalised"
    gives = {
        "detection": "cells [batch, cells, classes + 4]: scores; left, top, right, bottom in px",
        "instances": "pixels [batch, height, width, 1 + classes + 3]: probabilities of no class and"
        " of each, nearness of a centre, and px down and to the right to the object's centre",
    }.get(run.config.task, "probabilities" if "softmax" in parts else "logits")
    bands = ", ".join(map(str, run.info.bands))
    return (
        f"float32 images [batch, height, width, {run.info.channels}]"
        f"{f' of the bands {bands}' if bands else ''}, {size} px, {values}, to {gives}."
    )


def described_for_keras(run: Run) -> str:
    """What Keras's network with the exported weights takes and gives, in a sentence."""
    turned = _turned_in_keras(run)
    order = ", channels in the order blue, green, red" if turned else ""
    return (
        f"float32 images [batch, height, width, {run.info.channels}], normalised{order}, to logits."
    )


def _turned_in_keras(run: Run) -> bool:
    """Whether Keras's own weights of the architecture take blue, green, red."""
    values = values_of("keras", family(run.config.model.name))
    return values == "caffe" and run.info.channels == 3
