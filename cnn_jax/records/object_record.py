"""Test images with objects one by one, kept beside a run's summary: what comparisons pair and show.

`objects.json` holds what each image adds to AP and, of some images, the objects themselves as
pictures draw them. The photographs of these lie in `scenes/`, as those of segmented scenes do (see
`scene_record`). A record without either loads and compares all the same.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cnn_jax.data import objects
from cnn_jax.data.objects import AnnotatedImage, Annotation
from cnn_jax.data.resizing import displayable
from cnn_jax.errors import InputError
from cnn_jax.evaluation import statistics
from cnn_jax.evaluation.coco import IOUS, KINDS, Counted, Matches
from cnn_jax.evaluation.drawn_ap import ap_of_draws
from cnn_jax.records import scene_record
from cnn_jax.records.checks import MEND, are_classes, is_finite
from cnn_jax.records.files import read_object, write_text

NAME = "objects.json"
MARKS = ("found", "false alarm", "missed", "counts nowhere", "true")
"""What an object in a picture is."""

_CORNERS = 60
"""An outline in a picture has no more than about so many."""

_BITS = 2 ** len(IOUS)


@dataclass(frozen=True)
class Mark:
    """An object as a picture draws it, in px of the image.

    Attributes:
        kind: of `MARKS`.
        label: its class.
        score: of a prediction, else None.
        box: left, top, right, bottom.
        outlines: of its mask, where there is one: x and y of corner after corner.
    """

    kind: str
    label: int
    score: float | None
    box: tuple[float, ...]
    outlines: tuple[tuple[float, ...], ...] = ()


@dataclass(frozen=True)
class ObjectRecord:
    """What a record says of each test image with objects.

    Attributes:
        classes: their names, in the order of their labels.
        colors: of each class, as `#RRGGBB`.
        names: of the images.
        sizes_px: height and width of each.
        counted: "box" and "mask", as far as the run has them, -> what each image adds to AP.
        marks: image -> its true objects, and what was found and missed; of those with pictures.
    """

    classes: tuple[str, ...]
    colors: tuple[str, ...]
    names: tuple[str, ...]
    sizes_px: tuple[tuple[int, int], ...]
    counted: Mapping[str, tuple[Counted, ...]]
    marks: Mapping[int, tuple[tuple[Mark, ...], tuple[Mark, ...]]]

    @cached_property
    def drawn_ap(self) -> dict[str, np.ndarray]:
        """Of "box" and "mask" the AP of the test split and of sets of its images drawn by
        `statistics.drawn`, float64 `[1 + draws]`: the same sets for every run on them."""
        times = statistics.drawn(len(self.names))
        return {kind: ap_of_draws(every, times) for kind, every in self.counted.items()}


def marks(
    truth: AnnotatedImage, found: Sequence[Annotation], matched: Matches, masks: bool
) -> tuple[tuple[Mark, ...], tuple[Mark, ...]]:
    """(the true objects, what was found and missed) of an image.

    Args:
        truth: the image.
        found: predictions that count in pictures.
        matched: which of them are right.
        masks: whether masks are outlined.
    """

    def mark(one, kind):
        box = tuple(round(side, 1) for side in one.box)
        score = None if one.score is None else round(one.score, 3)
        return Mark(kind, one.label, score, box, _outlines(one, truth) if masks else ())

    known = [mark(one, "counts nowhere" if one.crowd else "true") for one in truth.objects]
    return tuple(known), tuple(mark(*each) for each in told(truth, found, matched))


def told(
    truth: AnnotatedImage, found: Sequence[Annotation], matched: Matches
) -> list[tuple[Annotation, str]]:
    """Predictions in the order of their scores, then what they missed, each with its kind."""
    every = [
        (found[i], "counts nowhere" if ignored else "found" if hit >= 0 else "false alarm")
        for i, hit, ignored in zip(matched.order, matched.truth, matched.ignored, strict=True)
    ]
    return every + [(truth.objects[i], "missed") for i in matched.missed]


def _outlines(one, image) -> tuple[tuple[float, ...], ...]:
    """Of an object's mask: between its pixels, with fewer corners than these have."""
    from contourpy import contour_generator

    part, top, left = objects.part_of(one, image.height_px, image.width_px)
    if not part.size:
        return ()
    lines = contour_generator(z=np.pad(part, 1).astype(float)).lines(0.5)
    found = []
    for line in lines:
        assert isinstance(line, np.ndarray)
        turns = _turns(line[:-1])
        every = max(1, len(turns) // _CORNERS)
        corners = np.round(turns[::every] + np.array([left - 0.5, top - 0.5]), 1)
        if len(corners) >= 3:
            found.append(tuple(corners.ravel().tolist()))
    return tuple(found)


def _turns(line):
    """Of a closed line's points `[points, 2]` those that don't lie straight between the two beside
    them."""
    before, after = line - np.roll(line, 1, 0), np.roll(line, -1, 0) - line
    return line[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]]


def write(
    folder: Path,
    record: ObjectRecord,
    images: Mapping[int, np.ndarray],
    shared: Path | None = None,
) -> None:
    """Writes objects.json, and the photographs that belong to its marks.

    Args:
        folder: of the run.
        record: what is written.
        images: `[height, width, channels]` of those with marks.
        shared: the `shared_folder` of runs on the same data; None: the run's own `scenes/`.

    Raises:
        OSError: the disk is full or the folder can't be written.
    """
    entries: list[dict[str, Any]] = []
    for index, (name, size) in enumerate(zip(record.names, record.sizes_px, strict=True)):
        entry: dict[str, Any] = {"name": name, "height_px": size[0], "width_px": size[1]}
        for kind, every in record.counted.items():
            entry[kind] = {key: value.tolist() for key, value in vars(every[index]).items()}
        if index in record.marks:
            known, told = record.marks[index]
            entry["truth"], entry["found"] = ([vars(mark) for mark in of] for of in (known, told))
        entries.append(entry)
    content = {
        "split": "test",
        "classes": list(record.classes),
        "colors": list(record.colors),
        "images": entries,
    }
    beside = folder / "scenes" if shared is None else shared
    beside.mkdir(parents=True, exist_ok=True)
    for index, image in images.items():
        if not (path := beside / f"{index:03d}-image.jpg").is_file():
            picture = scene_record.thumbnail(displayable(image))
            scene_record.save(path, Image.fromarray(picture), quality=80)
    write_text(folder / NAME, json.dumps(content, ensure_ascii=False) + "\n")


def read(folder: Path, summary: Mapping[str, Any]) -> ObjectRecord | None:
    """What the objects.json of a run says; None where there is none. Whether it gives the summary's
    AP is left to `verify`.

    Args:
        folder: of the run.
        summary: its figures, of as many images.

    Raises:
        InputError: it doesn't hold what a run writes there, or is of other images.
    """
    path = folder / NAME
    if not path.is_file():
        return None
    content = read_object(path)
    try:
        record = _record(content)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} doesn't hold what a run writes there: {MEND}") from error
    if summary.get("test/images", len(record.names)) != len(record.names):
        raise InputError(f"{path} and summary.json beside it are not of the same images: {MEND}")
    return record


def verify(folder: Path, record: ObjectRecord, summary: Mapping[str, Any]) -> None:
    """Counts the summary's AP from what each image adds to it. Of thousands of images that takes
    seconds: whoever uses the record does it, not whoever reads it.

    Args:
        folder: of the run.
        record: its objects.json, read.
        summary: its figures.

    Raises:
        InputError: the images give another AP.
    """
    for kind, every in record.counted.items():
        recorded = summary.get(f"test/{kind}_ap")
        value = float(ap_of_draws(every, np.ones((1, len(every)), int))[0]) if every else math.nan
        if (recorded is None) != math.isnan(value) or (
            recorded is not None and not math.isclose(recorded, value, abs_tol=1e-6)
        ):
            raise InputError(
                f"{folder / NAME} gives {value:.6f} as test/{kind}_ap, and summary.json beside it"
                f" has {recorded}: {MEND}"
            )


def _record(content: Mapping[str, Any]) -> ObjectRecord:
    """Raises KeyError, TypeError or ValueError for what no run writes."""
    classes, colors, images = content["classes"], content["colors"], content["images"]
    _require(
        are_classes(classes, colors)
        and isinstance(images, list)
        and all(isinstance(image["name"], str) for image in images)
        and all(_whole(image[side], 1) for image in images for side in ("height_px", "width_px"))
    )
    kinds = [kind for kind in KINDS if images and kind in images[0]]
    return ObjectRecord(
        tuple(classes),
        tuple(colors),
        tuple(image["name"] for image in images),
        tuple((image["height_px"], image["width_px"]) for image in images),
        {kind: tuple(_counted(image[kind], len(classes)) for image in images) for kind in kinds},
        {
            index: (
                tuple(_mark(one, len(classes)) for one in image["truth"]),
                tuple(_mark(one, len(classes)) for one in image["found"]),
            )
            for index, image in enumerate(images)
            if "truth" in image
        },
    )


def _counted(held: Mapping[str, Any], classes: int) -> Counted:
    labels, scores, right, ignored, wanted = (
        held[key] for key in ("labels", "scores", "right", "ignored", "wanted")
    )
    _require(
        len(labels) == len(scores) == len(right) == len(ignored)
        and len(wanted) == classes
        and all(_whole(value, 0, classes) for value in labels)
        and all(_whole(value, 0, _BITS) for value in (*right, *ignored))
        and all(_whole(value, 0) for value in wanted)
        and all(is_finite(value) for value in scores)
    )
    whole = [np.array(values, np.int64) for values in (labels, right, ignored, wanted)]
    return Counted(whole[0], np.array(scores, np.float64), *whole[1:])


def _mark(held: Mapping[str, Any], classes: int) -> Mark:
    kind, label, score, box = held["kind"], held["label"], held["score"], held["box"]
    outlines = held["outlines"]
    _require(
        kind in MARKS
        and _whole(label, 0, classes)
        and (score is None or is_finite(score))
        and len(box) == 4
        and all(map(is_finite, box))
        and all(is_finite(value) for outline in outlines for value in outline)
    )
    return Mark(kind, label, score, tuple(box), tuple(map(tuple, outlines)))


def _require(holds: bool) -> None:
    if not holds:
        raise ValueError


def _whole(value, least: int, end: int = 2**31) -> bool:
    return type(value) is int and least <= value < end
