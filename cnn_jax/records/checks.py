"""What tables and comparisons take for granted of a record, checked once when it is read.

A record may come from anywhere. What is missing shows as a dash, and fields of later versions are
passed over; but what is there must be of the kind that a run writes, or a table would stop half way
or, worse, say something that no run did.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cnn_jax.data.scenes import SPLITS
from cnn_jax.errors import InputError
from cnn_jax.records.metrics import FIGURES

MEND = "restore it, or run the experiment again."

_ABOVE_ONE = ("loss", "scenes", "images", "pixels", "images_per_second")
"""Figures of a split that are no share of something."""

_COUNTS = ("parameters", "steps", "evaluated_step", "multiply_adds", "step_memory_bytes")


def check_summary(path: Path, summary: Mapping[str, Any]) -> None:
    """Raises InputError, naming the file and the figure, for one that no run writes."""

    def refuse(key, must):
        raise InputError(
            f"{path} has {_short(summary[key])} as {key[:60]}, which must be {must}: {MEND}"
        )

    for key, value in summary.items():
        split, _, name = key.partition("/")
        if value is None:
            continue
        if key in _COUNTS:
            if not _whole(value):
                refuse(key, "a whole number")
        elif key == "wall_time_s":
            if not _number(value):
                refuse(key, "a number, 0 or more")
        elif split not in SPLITS or not name:
            continue
        elif name == "confusion":
            if not is_confusion(value):
                refuse(key, "a square table of whole numbers, 0 or more")
        elif name == "calibration":
            if not _is_calibration(value):
                refuse(
                    key,
                    "an object with count, confidence and correct, numbers for as many bins each",
                )
        elif name.endswith("_interval"):
            if not (isinstance(value, list) and len(value) == 2 and all(map(_number, value))):
                refuse(key, "two numbers")
        elif not _number(value) or (name not in _ABOVE_ONE and value > _most(name)):
            above_one = name in _ABOVE_ONE or _most(name) == np.inf
            refuse(key, f"a number{', 0 or more' if above_one else f' from 0 to {_most(name):g}'}")
        elif name.startswith("shifted_accuracy/") and not re.fullmatch(
            r"[0-9]{1,6}", name.partition("/")[2]
        ):
            refuse(key, "named by a number of pixels")


def check_origin(folder: Path, config: Mapping[str, Any], environment: Mapping[str, Any]) -> None:
    """Raises InputError, naming the file and the field, for a configuration or an environment that
    no run writes."""

    def held(file, values, field, fits: Callable, must):
        found: Any = values
        for part in field.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
        if found is not None and not fits(found):
            raise InputError(
                f"{folder / file} has {_short(found)} as {field}, which must be {must}: {MEND}"
            )

    for field in (
        "data",
        "model",
        "augmentation",
        "loss",
        "optimizer",
        "training",
        "evaluation",
        "selection",
    ):
        held("config.json", config, field, lambda value: isinstance(value, Mapping), "an object")
    for field in ("task", "experiment", "configuration", "variant", "data.source"):
        held("config.json", config, field, lambda value: isinstance(value, str), "text")
    held("config.json", config, "seed", _whole, "a whole number")
    for field in ("training.steps", "training.batch_size"):
        held(
            "config.json",
            config,
            field,
            lambda value: _whole(value) and value,
            "a whole number, 1 or more",
        )
    held("config.json", config, "data.crop_px", _is_size, "two whole numbers, 1 or more")
    for field in ("device_kind", "data_fingerprint", "digest"):
        held("environment.json", environment, field, lambda value: isinstance(value, str), "text")
    held(
        "environment.json",
        environment,
        "device_count",
        lambda value: _whole(value) and value,
        "a whole number, 1 or more",
    )


def is_confusion(value: Any, classes: int | None = None) -> bool:
    """Whether this is a square table (of so many classes) of whole numbers, 0 or more."""
    if not isinstance(value, list) or not value or len(value) != (classes or len(value)):
        return False
    return all(
        isinstance(row, list) and len(row) == len(value) and all(map(_whole, row)) for row in value
    )


def _is_calibration(value):
    if not isinstance(value, Mapping) or not value.keys() >= {"count", "confidence", "correct"}:
        return False
    bins = [value[name] for name in ("count", "confidence", "correct")]
    return all(
        isinstance(of, list) and len(of) == len(bins[0]) > 0 and all(map(_number, of))
        for of in bins
    )


def _is_size(value):
    return (
        isinstance(value, list) and len(value) == 2 and all(_whole(side) and side for side in value)
    )


def _number(value):
    return type(value) in (int, float) and 0 <= value < np.inf


def _most(name: str) -> float:
    figure = FIGURES.get(name.partition("/")[0])
    return figure.most if figure else 1


def _whole(value):
    return type(value) is int and value >= 0


def _short(value):
    text = value if isinstance(value, str) else repr(value)
    return repr(text[:60]) if isinstance(value, str) else text[:60]
