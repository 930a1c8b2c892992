"""Boundary IoU: how well the pixels near the borders of classes are found (Cheng et al., 2021).

IoU is ruled by the inside of large regions; this counts, of each class, only its pixels within a
distance of another class. As other figures it is a function of integer counts, so scenes add up.

We differ from the authors' code in what lies outside: there an image is surrounded by background,
so that a region cut by the edge of the image has a boundary there. Scenes are cut from a larger
world at no border of anything: here the edge is no boundary.
"""

import numpy as np
import scipy
from numpy.typing import ArrayLike

from cnn_jax.data.scenes import IGNORED

STRIP_PX = 2**25
"""So many pixels of a scene are counted at once, with the rows above and below that matter to them:
beside its arguments `boundary_counts` takes less than 1 GiB, whatever the size of the scene."""


def default_distance_px(height_px: int, width_px: int) -> int:
    """2% of the image's diagonal, as in the paper, rounded; at least 1."""
    return max(1, round(0.02 * float(np.hypot(height_px, width_px))))


def boundary(mask: np.ndarray, distance_px: int) -> np.ndarray:
    """Which pixels lie within a distance of a pixel of another class: bool `[height, width]`.

    The distance is the greater of the vertical and the horizontal one (chessboard), as so many
    erosions by 3 x 3 pixels take away. Ignored pixels are of no class: they are in no boundary, and
    make none.

    Args:
        mask: uint8 `[height, width]`, class indices or `IGNORED`.
        distance_px: at least 1.
    """
    mask = np.asarray(mask, np.uint8)
    ignored = mask == IGNORED
    size = 2 * distance_px + 1
    least = scipy.ndimage.minimum_filter(
        mask, size, mode="nearest"
    )  # ignored pixels are the greatest value, and here the least
    greatest = scipy.ndimage.maximum_filter(
        np.where(ignored, np.uint8(0), mask), size, mode="nearest"
    )
    return (least != greatest) & ~ignored


def boundary_counts(
    truth: np.ndarray, prediction: np.ndarray, classes: int, distance_px: int | None = None
) -> np.ndarray:
    """Intersection and union of the boundary regions of each class: int64 `[classes, 2]`.

    Args:
        truth: uint8 `[height, width]`, class indices or `IGNORED`.
        prediction: uint8 `[height, width]`. Where the truth is ignored it is ignored too: it counts
            nowhere and makes no boundary.
        classes: their number.
        distance_px: None: 2% of the diagonal.
    """
    truth, prediction = np.asarray(truth, np.uint8), np.asarray(prediction, np.uint8)
    height, width = truth.shape
    if distance_px is None:
        distance_px = default_distance_px(height, width)
    rows = max(
        STRIP_PX // width, distance_px
    )  # no strip is less than a third of what is looked at for it
    counts = np.zeros((classes, 2), np.int64)
    for top in range(0, height, rows):
        first = max(top - distance_px, 0)
        seen = slice(first, top + rows + distance_px)
        counts += _strip_counts(
            truth[seen],
            prediction[seen],
            slice(top - first, top - first + rows),
            classes,
            distance_px,
        )
    return counts


def _strip_counts(truth, prediction, counted, classes, distance_px):
    """As `boundary_counts`, of the rows `counted` alone."""
    prediction = np.where(truth == IGNORED, np.uint8(IGNORED), prediction)
    in_truth, in_prediction = (boundary(mask, distance_px)[counted] for mask in (truth, prediction))
    truth, prediction = truth[counted], prediction[counted]

    def pixels(mask, where):
        return np.bincount(mask[where], minlength=classes)

    intersection = pixels(truth, in_truth & in_prediction & (truth == prediction))
    union = pixels(truth, in_truth) + pixels(prediction, in_prediction) - intersection
    return np.stack([intersection, union], axis=1)


def boundary_iou(counts: ArrayLike) -> np.ndarray:
    """Boundary IoU of each class, float64 `[classes]`; NaN for a class that has no boundary in
    truth or prediction.

    Args:
        counts: int64 `[classes, 2]`, of one scene or summed over scenes.
    """
    intersection, union = np.asarray(counts, np.float64).T
    return np.divide(intersection, union, out=np.full_like(union, np.nan), where=union > 0)
