"""What a record must be to be believed, checked once when it is read.

A record may come from anywhere. What is missing shows as a dash, and fields of later versions are
passed over; but what is there must be of the kind that a run writes, and must agree with the rest
of the record: a figure with the confusion matrix that it was counted on, the summary with the
configuration. `cnn_jax.records.metrics` says what each figure may be.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cnn_jax.data.scenes import SPLITS
from cnn_jax.errors import InputError
from cnn_jax.records import formats
from cnn_jax.records.metrics import FIGURES, Figure

if TYPE_CHECKING:
    from cnn_jax.records.scene_record import SceneRecord

MEND = "restore it, or run the experiment again."

_COUNTS = ("parameters", "steps", "evaluated_step", "multiply_adds", "step_memory_bytes")


def check_summary(path: Path, summary: Mapping[str, Any]) -> None:
    """Holds every figure to its kind and range.

    Raises:
        InputError: names the file and the figure.
    """
    for key, value in summary.items():
        must = None if value is None else _broken(key, value)
        if must:
            raise InputError(
                f"{path} has {_short(value)} as {key[:60]}, which must be {must}: {MEND}"
            )


def _broken(key, value) -> str | None:
    """What a value of a summary must be and isn't."""
    split, _, name = key.partition("/")
    if key == "parameters":
        return None if _whole(value) and value else "a whole number, 1 or more"
    if key in _COUNTS:
        return None if _whole(value) else "a whole number"
    if key == "wall_time_s":
        return None if _number(value) else "a number, 0 or more"
    if split not in SPLITS or not name:
        return None
    if name == "confusion":
        return None if is_confusion(value) else "a square table of whole numbers, 0 or more"
    if name == "calibration":
        must = "an object with count, confidence and correct, numbers for as many bins each"
        return None if _is_calibration(value) else must
    figure, part = FIGURES.get(name.partition("/")[0]), name.partition("/")[2]
    if figure is None and "/" not in name:
        of = FIGURES.get(name.removesuffix("_interval"))
        if of is None:
            return None
        pair = isinstance(value, list) and len(value) == 2 and all(map(is_finite, value))
        fits = pair and of.least <= value[0] <= value[1] <= of.most
        return None if fits else f"two numbers, the lesser first, each {_range(of)}"
    if figure is None:
        return None
    if part and not figure.of_classes and not re.fullmatch(r"[0-9]{1,6}", part):
        return "named by a number of pixels"
    return None if is_finite(value) and figure.least <= value <= figure.most else _range(figure)


def _range(figure: Figure) -> str:
    if math.isinf(figure.most):
        return f"a number, {figure.least:g} or more"
    return f"a number from {figure.least:g} to {figure.most:g}"


def check_origin(folder: Path, config: Mapping[str, Any], environment: Mapping[str, Any]) -> None:
    """Holds a configuration and an environment to the kinds of value that a run writes.

    Raises:
        InputError: names the file and the field.
    """

    def held(file, values, field, fits: Callable, must):
        found: Any = values
        for part in field.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
        if found is not None and not fits(found):
            raise InputError(
                f"{folder / file} has {_short(found)} as {field}, which must be {must}: {MEND}"
            )

    sections = ("data", "model", "augmentation", "loss", "optimizer", "training", "evaluation")
    for field in (*sections, "selection"):
        held("config.json", config, field, _is_object, "an object")
    for field in ("task", "experiment", "configuration", "variant", "data.source", "model.name"):
        held("config.json", config, field, _is_text, "text")
    held("config.json", config, "seed", _whole, "a whole number")
    for field in ("training.steps", "training.batch_size"):
        held("config.json", config, field, _positive, "a whole number, 1 or more")
    held("config.json", config, "data.crop_px", _is_size, "two whole numbers, 1 or more")
    for field in ("device_kind", "data_fingerprint", "data_digest", "digest"):
        held("environment.json", environment, field, _is_text, "text")
    held("environment.json", environment, "device_count", _positive, "a whole number, 1 or more")
    held(
        "environment.json",
        environment,
        "format",
        lambda value: _whole(value) and value > 1,  # format 1 named none
        "a whole number, 2 or more",
    )
    held("environment.json", environment, "outside_digest", _are_texts, "a list of fields")
    held("environment.json", environment, "absent_values", _is_object, "an object")


def check_digest(folder: Path, config: Mapping[str, Any], environment: Mapping[str, Any]) -> None:
    """Holds a configuration, as written, to the digest in the environment beside it.

    Raises:
        InputError: the record has a later format, or config.json isn't what the run was made with.
    """
    since_2 = ("format", "outside_digest", "absent_values", "data_digest")
    needed = ("digest", *(since_2 if any(name in environment for name in since_2) else ()))
    missing = [name for name in needed if environment.get(name) is None]
    if missing:
        raise InputError(f"{folder / 'environment.json'} has no {missing[0]}: {MEND}")
    version = formats.format_of(environment)
    if version > formats.FORMAT:
        raise InputError(
            f"{folder / 'environment.json'} has format {version}, which is later than this version"
            f" of cnn_jax knows ({formats.FORMAT}): read the record with a newer one."
        )
    found = formats.digest_as_written(config, environment)
    if found != environment["digest"]:
        raise InputError(
            f"{folder / 'config.json'} is not what the run was made with: its digest is {found},"
            f" and environment.json has {environment['digest'][:60]!r}: restore it."
        )


def check_agreement(
    folder: Path,
    config: Mapping[str, Any],
    environment: Mapping[str, Any],
    summary: Mapping[str, Any],
    classes: Sequence[str],
    scenes: "SceneRecord | None",
) -> None:
    """Holds a summary to the configuration, to its own confusion matrices and to the scenes beside
    it; each file by itself has been checked.

    Args:
        folder: of the run.
        config: as recorded, by today's names.
        environment: as recorded.
        summary: as recorded.
        classes: their names, empty where the record doesn't say.
        scenes: the test scenes one by one, where there are any.

    Raises:
        InputError: names what disagrees.
    """
    path = folder / "summary.json"
    for key in ("experiment", "configuration", "variant", "seed", "digest"):
        recorded = (environment if key == "digest" else config).get(key)
        if summary.get(key) is not None and summary[key] != recorded:
            file = "environment.json" if key == "digest" else "config.json"
            raise InputError(
                f"{path} has {_short(summary[key])} as {key}, and {file} has {_short(recorded)}:"
                f" {MEND}"
            )
    steps = (config.get("training") or {}).get("steps")
    for key, most, of in (
        ("steps", steps, "training.steps"),
        ("evaluated_step", summary.get("steps"), "steps"),
    ):
        if summary.get(key) is not None and most is not None and summary[key] > most:
            raise InputError(f"{path} has {summary[key]} as {key}, beyond {of}, {most}: {MEND}")
    for split in SPLITS:
        _check_split(path, summary, split, classes)
    if scenes is not None:
        _check_scenes(folder, summary, scenes)


def _check_split(path, summary, split, classes):
    """Holds the figures of a split to its confusion matrix and its bins of confidence."""
    from cnn_jax.evaluation import metrics  # imports JAX, which a test of one file needn't
    from cnn_jax.evaluation.calibration import expected_calibration_error

    expected: dict[str, Any] = {}
    table = summary.get(f"{split}/confusion")
    if table:
        matrix = np.array(table, np.int64)
        names = list(classes) or classes_of(summary, split) or list(map(str, range(len(table))))
        if len(names) != len(matrix):
            raise InputError(
                f"{path} has a {split}/confusion of {len(matrix)} classes, and the record has"
                f" {len(names)}: {MEND}"
            )
        expected = metrics.scores(matrix, names, split) | metrics.image_scores(matrix, names, split)
        expected |= dict.fromkeys((f"{split}/pixels", f"{split}/images"), int(matrix.sum()))
        for key in summary:
            kind = key.removeprefix(f"{split}/").partition("/")[0]
            if f"{split}/{kind}/{names[0]}" in expected and key not in expected:
                raise InputError(
                    f"{path} has {key[:60]}, a class that the record doesn't have: {MEND}"
                )
    if summary.get(f"{split}/calibration"):
        bins = summary[f"{split}/calibration"]
        error = expected_calibration_error(
            **{name: np.array(bins[name], float) for name in ("count", "confidence", "correct")}
        )
        expected[f"{split}/expected_calibration_error"] = None if math.isnan(error) else error
    boundary = {k: v for k, v in summary.items() if k.startswith(f"{split}/boundary_iou/")}
    if boundary:
        known = [value for value in boundary.values() if value is not None]
        expected[f"{split}/boundary_miou"] = float(np.mean(known)) if known else None
    _hold(path, summary, expected, f"the counts beside it in {split} give")


def _check_scenes(folder, summary, scenes):
    """Holds the figures of the test split to its scenes."""
    from cnn_jax.evaluation import boundaries, metrics

    path = folder / "summary.json"
    total = summary.get("test/confusion")
    if total is not None and scenes.confusions.sum(0).tolist() != total:
        raise InputError(
            f"{folder / 'scenes.json'} and summary.json beside it are not of the same scenes:"
            f" {MEND}"
        )
    expected: dict[str, Any] = {"test/scenes": len(scenes.names)}
    if len(scenes.names):
        by_scene = metrics.mean_present([metrics.miou(matrix) for matrix in scenes.confusions])
        expected["test/image_miou"] = None if math.isnan(by_scene) else by_scene
    if scenes.boundaries is not None and len(scenes.names):
        by_class = boundaries.boundary_iou(scenes.boundaries.sum(0))
        figures = {
            f"test/boundary_iou/{c}": v for c, v in zip(scenes.classes, by_class, strict=True)
        }
        figures["test/boundary_miou"] = metrics.mean_present(by_class)
        expected |= {k: None if math.isnan(v) else float(v) for k, v in figures.items()}
    _hold(path, summary, expected, "scenes.json gives")


def _hold(path, summary, expected, who):
    for key, value in expected.items():
        found = summary.get(key, value)
        same = found == value or (
            None not in (found, value) and math.isclose(found, value, rel_tol=1e-7, abs_tol=1e-9)
        )
        if not same:
            raise InputError(
                f"{path} has {_short(found)} as {key[:60]}, and {who} {_short(value)}: {MEND}"
            )


def classes_of(summary: Mapping[str, Any], split: str) -> list[str]:
    """The classes that a summary has figures of in a split, in the order of their labels."""
    for kind in ("iou", "class_accuracy"):
        prefix = f"{split}/{kind}/"
        names = [key.removeprefix(prefix) for key in summary if key.startswith(prefix)]
        if names:
            return names
    return []


def is_confusion(value: Any, classes: int | None = None) -> bool:
    """Whether this is a square table (of so many classes) of whole numbers, 0 or more."""
    if not isinstance(value, list) or not value or len(value) != (classes or len(value)):
        return False
    return all(
        isinstance(row, list) and len(row) == len(value) and all(map(_whole, row)) for row in value
    )


def are_classes(names: Any, colors: Any) -> bool:
    """Whether these are classes' names, no two the same, and as many colours as `#RRGGBB`."""
    return (
        _are_texts(names)
        and _are_texts(colors)
        and len(names) == len(colors) == len({*names})
        and all(re.fullmatch("#[0-9A-Fa-f]{6}", color) for color in colors)
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


def is_finite(value: Any) -> bool:
    """Whether this is a number, as JSON has it, and no boolean."""
    return type(value) in (int, float) and math.isfinite(value)


def _number(value):
    return is_finite(value) and value >= 0


def _whole(value):
    return type(value) is int and value >= 0


def _positive(value):
    return _whole(value) and value > 0


def _is_text(value):
    return isinstance(value, str)


def _is_object(value):
    return isinstance(value, Mapping)


def _are_texts(value):
    return isinstance(value, list) and all(map(_is_text, value))


def _short(value):
    return repr(value[:60]) if isinstance(value, str) else repr(value)[:60]
