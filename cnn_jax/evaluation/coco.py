"""COCO's figures (Lin et al., 2014): average precision and recall of boxes and masks.

faster-coco-eval counts the twelve figures. What pictures and intervals are made of, which objects
were found, is matched here by the same rule, and gives the same AP (see `drawn_ap`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cnn_jax.data import objects
from cnn_jax.data.objects import AnnotatedImage, Annotation

KINDS: dict[str, Any] = {"box": "bbox", "mask": "segm"}
"""What figures are of, and what faster-coco-eval calls it."""

TWELVE = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
TWELVE += ("ar1", "ar10", "ar", "ar_small", "ar_medium", "ar_large")
"""The figures, in COCO's order; `ar` is of as many objects of a class as are counted."""

AREAS = ("all", "small", "medium", "large")
RECALLS = np.linspace(0, 1, 101)
IOUS = np.linspace(0.5, 0.95, 10)


@dataclass(frozen=True)
class CocoFigures:
    """What predictions of a split are worth; NaN where no true object is of a kind.

    Attributes:
        twelve: name of `TWELVE` -> value.
        by_class: "ap" and "ap50" of each class, float64 [classes].
        precision: at IoU 0.5 of each class at the recalls of `RECALLS`, float64 [classes, 101].
    """

    twelve: dict[str, float]
    by_class: dict[str, np.ndarray]
    precision: np.ndarray


def coco_figures(
    truths: Sequence[AnnotatedImage],
    predictions: Sequence[Sequence[Annotation]],
    classes: int,
    kind: str = "box",
    most: int = 100,
) -> CocoFigures:
    """The twelve figures. Each is a mean over the classes that the truths hold, each counting the
    same, and over the IoUs 0.5, 0.55, ... 0.95 but for `ap50` and `ap75`.

    Args:
        truths: images with their objects; crowds count as COCO has it.
        predictions: of each image, with scores.
        classes: their number.
        kind: "box" or "mask".
        most: objects of each class that count in an image, those with the highest scores; 100 is
            COCO's.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    found = COCOeval_faster(
        COCO(dataset(truths, [one.objects for one in truths], classes, kind)),
        COCO(dataset(truths, predictions, classes, kind, found=True)),
        KINDS[kind],
    )
    found.params.maxDets = sorted({min(1, most), min(10, most), most})
    found.evaluate()
    found.accumulate()
    precision = np.asarray(found.eval["precision"])  # [IoU, recall, class, area, most]
    recall = np.asarray(found.eval["recall"])  # [IoU, class, area, most]
    by_area = [_mean(precision[:, :, :, area, -1]) for area in range(4)]
    twelve = {
        "ap": by_area[0],
        "ap50": _mean(precision[0, :, :, 0, -1]),
        "ap75": _mean(precision[5, :, :, 0, -1]),
        **{f"ap_{AREAS[area]}": by_area[area] for area in (1, 2, 3)},
        "ar1": _mean(recall[:, :, 0, 0]),
        "ar10": _mean(recall[:, :, 0, min(1, recall.shape[-1] - 1)]),
        "ar": _mean(recall[:, :, 0, -1]),
        **{f"ar_{AREAS[area]}": _mean(recall[:, :, area, -1]) for area in (1, 2, 3)},
    }
    by_class = {
        "ap": np.array([_mean(precision[:, :, label, 0, -1]) for label in range(classes)]),
        "ap50": np.array([_mean(precision[0, :, label, 0, -1]) for label in range(classes)]),
    }
    curves = np.where(precision[0, :, :, 0, -1] < 0, np.nan, precision[0, :, :, 0, -1])
    return CocoFigures(twelve, by_class, curves.T)


def _mean(values: np.ndarray) -> float:
    """Over those that are there; COCO marks others with -1."""
    known = values[values > -1]
    return float(known.mean()) if known.size else float("nan")


def dataset(
    images: Sequence[AnnotatedImage],
    every: Sequence[Sequence[Annotation]],
    classes: int,
    kind: str,
    found: bool = False,
) -> dict[str, Any]:
    """COCO's JSON of objects, as evaluators take it; images and classes are numbered from 1.

    Sizes are those by which COCO calls objects small: of a true object its mask's, where it has
    one; of what is `found` that of what is compared, which of a box is the box's.
    """
    annotations = []
    for number, (image, of_image) in enumerate(zip(images, every, strict=True), 1):
        size = image.height_px, image.width_px
        for one in of_image:
            left, top, right, bottom = one.box
            raw: dict[str, Any] = {
                "id": len(annotations) + 1,
                "image_id": number,
                "category_id": one.label + 1,
                "bbox": [left, top, right - left, bottom - top],
                "area": one.box_area,
                "iscrowd": int(one.crowd),
            }
            if kind == "mask" or (one.shape is not None and not found):
                rle = objects.rle(one, *size)
                raw["area"] = objects.area(rle["counts"], *size)
                if kind == "mask":
                    raw["segmentation"] = rle
            if one.score is not None:
                raw["score"] = one.score
            annotations.append(raw)
    return {
        "info": {},
        "images": [
            {"id": number, "height": image.height_px, "width": image.width_px}
            for number, image in enumerate(images, 1)
        ],
        "annotations": annotations,
        "categories": [{"id": label + 1, "name": str(label)} for label in range(classes)],
    }


@dataclass(frozen=True)
class Matches:
    """Which predictions of an image are right, in the order of their scores, best first.

    Attributes:
        order: their places in the image's predictions, int [n].
        labels: of each, int [n].
        scores: of each, float64 [n].
        truth: the true object that each found, -1: none, int [n].
        ignored: whether each counts neither for nor against, bool [n].
        missed: the true objects that none found, int [m].
        wanted: true objects of each class, crowds left out, int64 [classes].
    """

    order: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    truth: np.ndarray
    ignored: np.ndarray
    missed: np.ndarray
    wanted: np.ndarray


def matches(
    truth: AnnotatedImage,
    predictions: Sequence[Annotation],
    classes: int,
    kind: str = "box",
    iou: float = 0.5,
    most: int = 100,
) -> Matches:
    """Pairs predictions and true objects of a class as COCO does: by score, each prediction takes
    the free object that it overlaps most, and a crowd takes any number.

    Args:
        truth: the image.
        predictions: with scores.
        classes: their number.
        kind: "box" or "mask".
        iou: least intersection over union of a pair; with a crowd over the prediction's area.
        most: predictions of a class that count.
    """
    found: list[tuple[int, int, int, bool]] = []
    missed: list[int] = []
    for label, ours, theirs, crowds, overlaps in _by_class(truth, predictions, kind, most):
        paired = _paired(overlaps, crowds, iou)
        for index, column in zip(theirs, paired, strict=True):
            crowd = column >= 0 and bool(crowds[column])
            hit = -1 if column < 0 or crowd else ours[column]
            found.append((index, label, hit, crowd))
        missed += [i for c, i in enumerate(ours) if c not in paired and not crowds[c]]
    found.sort(key=lambda one: -(predictions[one[0]].score or 0.0))
    columns = list(zip(*found, strict=True)) or [(), (), (), ()]
    order, labels, paired, ignored = columns
    return Matches(
        np.array(order, int),
        np.array(labels, int),
        np.array([predictions[i].score or 0.0 for i in order], float),
        np.array(paired, int),
        np.array(ignored, bool),
        np.array(sorted(missed), int),
        _wanted(truth, classes),
    )


def _wanted(truth, classes) -> np.ndarray:
    """True objects of each class, crowds left out."""
    return np.bincount([one.label for one in truth.objects if not one.crowd], minlength=classes)


def _by_class(truth, predictions, kind, most):
    """Of each class that occurs: its label, the places of true objects, crowds last, and of
    predictions, best first, at most `most`; which true objects are crowds; and overlaps."""
    size = truth.height_px, truth.width_px
    for label in sorted({one.label for one in (*truth.objects, *predictions)}):
        ours = [i for i, one in enumerate(truth.objects) if one.label == label]
        ours.sort(key=lambda i: truth.objects[i].crowd)
        theirs = [i for i, one in enumerate(predictions) if one.label == label]
        theirs.sort(key=lambda i: -(predictions[i].score or 0.0))
        theirs = theirs[:most]
        crowds = np.array([truth.objects[i].crowd for i in ours], bool)
        overlaps = _overlaps(
            [predictions[i] for i in theirs], [truth.objects[i] for i in ours], kind, size
        )
        yield label, ours, theirs, crowds, overlaps


def _paired(overlaps: np.ndarray, crowds: np.ndarray, iou: float) -> list[int]:
    """The column that each row takes, -1: none; `crowds` are the last columns."""
    taken, paired = np.zeros(len(crowds), bool), []
    for row in overlaps:
        best, least = -1, min(iou, 1 - 1e-10)
        for column in range(len(crowds)):
            if taken[column] and not crowds[column]:
                continue
            if best >= 0 and not crowds[best] and crowds[column]:
                break
            if row[column] < least:
                continue
            best, least = column, row[column]
        if best >= 0:
            taken[best] = True
        paired.append(best)
    return paired


def _overlaps(predictions, truths, kind, size) -> np.ndarray:
    """IoUs float64 [predictions, truths], of crowds over the prediction."""
    if not predictions or not truths:
        return np.zeros((len(predictions), len(truths)))
    from faster_coco_eval.core import mask

    if kind == "mask":
        ours, theirs = ([objects.rle(one, *size) for one in of] for of in (truths, predictions))
    else:
        ours, theirs = (
            np.array([[a, b, c - a, d - b] for a, b, c, d in (one.box for one in of)])
            for of in (truths, predictions)
        )
    crowds = [int(one.crowd) for one in truths]
    return np.asarray(mask.iou(theirs, ours, crowds)).reshape(len(predictions), len(truths))


@dataclass(frozen=True)
class Counted:
    """What an image adds to AP, whichever images stand beside it.

    Attributes:
        labels: of each prediction, int64 [n].
        scores: of each, float64 [n].
        right: bit i says that it found an object at `IOUS[i]`, int64 [n].
        ignored: bit i says that it counts neither for nor against there, int64 [n].
        wanted: true objects of each class, crowds left out, int64 [classes].
    """

    labels: np.ndarray
    scores: np.ndarray
    right: np.ndarray
    ignored: np.ndarray
    wanted: np.ndarray


def counted(
    truth: AnnotatedImage,
    predictions: Sequence[Annotation],
    classes: int,
    kind: str = "box",
    most: int = 100,
) -> Counted:
    """Pairs predictions and true objects as `matches` does, at each of `IOUS`."""
    rows: list[tuple[int, float, int, int]] = []
    for label, _, theirs, crowds, overlaps in _by_class(truth, predictions, kind, most):
        right, ignored = np.zeros((2, len(theirs)), np.int64)
        for bit, iou in enumerate(IOUS):
            for row, column in enumerate(_paired(overlaps, crowds, iou)):
                if column >= 0:
                    (ignored if crowds[column] else right)[row] |= 1 << bit
        scores = [predictions[i].score or 0.0 for i in theirs]
        rows += zip([label] * len(theirs), scores, right.tolist(), ignored.tolist(), strict=True)
    labels, scores, right, ignored = zip(*rows, strict=True) if rows else ((),) * 4
    whole = (np.array(values, np.int64) for values in (labels, right, ignored))
    labels, right, ignored = whole
    scores = np.array(scores, np.float64)
    return Counted(labels, scores, right, ignored, _wanted(truth, classes))


def precision_curves(every: Sequence[Counted]) -> np.ndarray:
    """Precision at IoU 0.5 of each class at `RECALLS`, made to fall with recall, float64 `[classes,
    101]`; NaN of classes without true objects."""
    wanted = np.sum([one.wanted for one in every], 0)
    labels, scores, right, ignored = (
        np.concatenate([getattr(one, name) for one in every])
        for name in ("labels", "scores", "right", "ignored")
    )
    found = np.full((len(wanted), len(RECALLS)), np.nan)
    for label in np.flatnonzero(wanted):
        of = np.flatnonzero((labels == label) & (ignored & 1 == 0))
        of = of[np.argsort(-scores[of], kind="stable")]
        true = np.cumsum(right[of] & 1)
        precision = true / np.arange(1, len(of) + 1)
        precision = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0)
        found[label] = precision[np.searchsorted(true / wanted[label], RECALLS, side="left")]
    return found
