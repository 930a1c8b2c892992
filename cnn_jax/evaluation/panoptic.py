"""Panoptic quality (Kirillov et al., 2019) of the objects in images, and how many there are."""

from collections.abc import Sequence

import numpy as np

from cnn_jax.data import objects
from cnn_jax.data.objects import AnnotatedImage, Annotation


def panoptic_counts(
    truth: AnnotatedImage, predictions: Sequence[Annotation], classes: int
) -> np.ndarray:
    """What an image adds to panoptic quality: of each class the sum of the IoUs of pairs, pairs,
    false alarms and misses, float64 `[classes, 4]`.

    A prediction and an object of one class are a pair where their IoU exceeds 0.5. Each pixel
    belongs to one object: of predictions the one with the highest score keeps it, of true objects
    the smaller. Pixels of crowds count nowhere, and predictions that lie there for more than half
    are no false alarms.
    """
    size = truth.height_px, truth.width_px
    numbers = objects.number_map(truth)
    ours = [one.label for one in truth.objects]
    theirs = np.zeros(size, np.int32)
    order = sorted(range(len(predictions)), key=lambda i: predictions[i].score or 0.0)
    for index in order:  # the best last, on top
        theirs[objects.mask(predictions[index], *size)] = index + 1

    nowhere = numbers == objects.NOWHERE
    pairs = np.maximum(numbers, 0).astype(np.int64) * (len(predictions) + 1) + theirs
    both = np.bincount(pairs[~nowhere], minlength=(len(ours) + 1) * (len(predictions) + 1))
    both = both.reshape(len(ours) + 1, len(predictions) + 1)
    in_crowd = np.bincount(theirs[nowhere], minlength=len(predictions) + 1)
    area_true, area_found = both.sum(1), both.sum(0)

    found = np.zeros((classes, 4))
    paired_true, paired_found = set(), set()
    for row, column in np.argwhere(both[1:, 1:] > 0) + 1:
        label = ours[row - 1]
        if predictions[column - 1].label != label:
            continue
        overlap = both[row, column]
        iou = overlap / (area_true[row] + area_found[column] - overlap)
        if iou > 0.5:
            found[label, :2] += iou, 1
            paired_true.add(row)
            paired_found.add(column)
    for row, one in enumerate(truth.objects, 1):
        if row not in paired_true and not one.crowd and area_true[row]:
            found[one.label, 3] += 1
    for column, one in enumerate(predictions, 1):
        whole = area_found[column] + in_crowd[column]
        if column not in paired_found and whole and in_crowd[column] <= 0.5 * whole:
            found[one.label, 2] += 1
    return found


def panoptic_quality(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Of sums of `panoptic_counts` float64 `[classes, 4]`: "pq", and its factors "sq" (the mean
    IoU of pairs) and "rq" (F1 of finding objects), each float64 `[classes]`; NaN of classes that
    occur neither in truth nor in predictions."""
    iou, pairs, alarms, misses = counts.T
    with np.errstate(invalid="ignore", divide="ignore"):
        found = pairs + 0.5 * alarms + 0.5 * misses
        return {"pq": iou / found, "sq": iou / pairs, "rq": pairs / found}


def object_counts(
    truth: AnnotatedImage, predictions: Sequence[Annotation], classes: int
) -> np.ndarray:
    """How many objects of each class there are and were found, int64 `[classes, 2]`; crowds, which
    nobody counted, are left out, and predictions whose middle lies in a crowd and in no object."""
    found = np.zeros((classes, 2), np.int64)
    crowded = any(one.crowd for one in truth.objects)
    numbers = objects.number_map(truth) if crowded else None  # it decodes every mask
    for one in truth.objects:
        found[one.label, 0] += not one.crowd
    for one in predictions:
        left, top, right, bottom = one.box
        x = min(max(int((left + right) / 2), 0), truth.width_px - 1)
        y = min(max(int((top + bottom) / 2), 0), truth.height_px - 1)
        found[one.label, 1] += numbers is None or numbers[y, x] != objects.NOWHERE
    return found
