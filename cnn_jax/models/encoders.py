"""Classification networks as encoders: which there are, and how a segmenter makes one."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn

from cnn_jax.errors import InputError
from cnn_jax.models.classifiers import CLASSIFIERS
from cnn_jax.models.conventions import encoder_options


def _options(name):
    make = CLASSIFIERS[name]
    module, bound = getattr(make, "func", make), getattr(make, "keywords", {})
    return {option.name for option in dataclasses.fields(module)} - {*bound}


ENCODERS = tuple(
    name
    for name in CLASSIFIERS
    if name
    not in (
        "softmax_regression",
        "mlp",
        "cnn",
        "course_cnn",
        "course_cnn_dense",
        "course_cnn_pool",
        "lenet5",
    )
    and not name.startswith("alexnet")
)
"""Trunks that halve the resolution stage by stage, and hand out the last map at each output
stride."""

DILATED_ENCODERS = tuple(name for name in ENCODERS if "output_stride" in _options(name))
"""Those that can stop halving and dilate instead."""


def encoder(
    name: str,
    *,
    conventions: str = "ours",
    width: float = 1.0,
    norm: str,
    dtype: str,
    axis_name: str | None,
    output_stride: int | None = None,
) -> nn.Module:
    """The backbone of a segmenter, without its head: a module with `feature_maps=True`, named
    "encoder", for images of any size.

    Args:
        name: of `ENCODERS`, or of `DILATED_ENCODERS` where `output_stride` is given.
        conventions: of `CONVENTIONS`: whose padding and epsilon it has.
        width: multiplies the backbone's channels.
        norm, dtype, axis_name: of all its layers.
        output_stride: largest ratio of the image's side to a map's.

    Raises:
        InputError: an unknown backbone, or one that can't have this width or output stride.
    """
    known = ENCODERS if output_stride is None else DILATED_ENCODERS
    if name not in known:
        why = (
            "is no encoder" if name not in ENCODERS else f"can't have output stride {output_stride}"
        )
        raise InputError(f"model.encoder {name} {why}; it must be one of {', '.join(known)}.")
    options = _options(name)
    if width != 1 and "width" not in options:
        able = ", ".join(one for one in known if "width" in _options(one))
        raise InputError(
            f"model.encoder_width is {width}, but {name} has one width: set it to 1, or take one of"
            f" {able}."
        )
    wanted = {
        "width": width,
        "norm": norm,
        "dtype": dtype,
        "axis_name": axis_name,
        "padding": "SAME",
        "auxiliary": False,
        **encoder_options(name, conventions),
    }
    if output_stride is not None:
        wanted["output_stride"] = output_stride
    return CLASSIFIERS[name](
        num_classes=1,
        name="encoder",
        **{key: value for key, value in wanted.items() if key in options},
    )


def enlarged(images: jax.Array, least_px: int) -> jax.Array:
    """Images at least `least_px` high and wide: zeros are added below and on the right where they
    are smaller."""
    missing = [max(least_px - size, 0) for size in images.shape[1:3]]
    return (
        jnp.pad(images, ((0, 0), (0, missing[0]), (0, missing[1]), (0, 0)))
        if any(missing)
        else images
    )
