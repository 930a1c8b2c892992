"""Figures of merit from a confusion matrix. Every ratio is a function of integer counts, so nothing
is averaged over batches.

A confusion matrix is int64 `[classes, classes]`: rows are the truth, columns the prediction,
entries pixels, or images where whole images are classified.

"Present" classes are those that occur in truth or prediction; a class that is absent from both is
not scored: it counts neither as 0 nor as 1.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike


def confusion(labels: jax.Array, predictions: jax.Array, classes: int) -> jax.Array:
    """Confusion matrices of a batch on the device: int32 `[batch, classes, classes]`.

    Args:
        labels: integers `[batch, height, width]`; values from `classes` on (such as `IGNORED`) are
            not counted.
        predictions: integers `[batch, height, width]` below `classes`.
        classes: their number.
    """
    truth = (labels.reshape(labels.shape[0], -1, 1) == jnp.arange(classes)).astype(jnp.int8)
    guess = (predictions.reshape(labels.shape[0], -1, 1) == jnp.arange(classes)).astype(jnp.int8)
    return jnp.einsum("bpt,bpg->btg", truth, guess, preferred_element_type=jnp.int32)


def _counts(matrix):
    """A confusion matrix on the host, whole numbers in 64 bits."""
    matrix = np.asarray(matrix)
    if matrix.ndim != 2 or len(set(matrix.shape)) != 1:  # of a batch, some shapes would broadcast
        raise ValueError(
            f"a confusion matrix is [classes, classes], and this one is {list(matrix.shape)}: add"
            " up those of a batch, matrices.sum(0)"
        )
    return matrix.astype(np.int64) if matrix.dtype.kind in "iu" else matrix


def _ratio(numerator, denominator):
    """float64, NaN where the denominator is 0."""
    return np.divide(
        numerator,
        denominator,
        out=np.full(np.shape(numerator), np.nan),
        where=np.asarray(denominator) > 0,
    )


def iou(matrix: np.ndarray) -> np.ndarray:
    """Intersection over union (Jaccard index) of each class, float64 `[classes]`; NaN for a class
    that is not present.

    Raises:
        ValueError: it is not one matrix, as of all these.
    """
    matrix = _counts(matrix)
    hits = np.diagonal(matrix)
    return _ratio(hits, matrix.sum(0) + matrix.sum(1) - hits)


def dice(matrix: np.ndarray) -> np.ndarray:
    """Dice coefficient, which is F1, of each class, float64 `[classes]`; NaN for a class that is
    not present."""
    matrix = _counts(matrix)
    return _ratio(2 * np.diagonal(matrix), matrix.sum(0) + matrix.sum(1))


def class_accuracy(matrix: np.ndarray) -> np.ndarray:
    """Share of each class's true pixels that are found (recall), float64 `[classes]`; NaN for a
    class without true pixels."""
    matrix = _counts(matrix)
    return _ratio(np.diagonal(matrix), matrix.sum(1))


def frequency_weighted_iou(matrix: np.ndarray) -> float:
    """IoU weighted by each class's share of the true pixels; NaN where none was counted."""
    matrix = _counts(matrix)
    share = _ratio(matrix.sum(1), matrix.sum())
    return float(np.sum(share * np.nan_to_num(iou(matrix))))


def pixel_accuracy(matrix: np.ndarray) -> float:
    """Share of pixels that are right; NaN where none was counted."""
    matrix = _counts(matrix)
    return float(_ratio(np.trace(matrix), matrix.sum()))


def mean_present(values: ArrayLike) -> float:
    """The mean over classes, or scenes, that have a value; NaN where none has."""
    values = np.asarray(values)[~np.isnan(values)]
    return float(values.mean()) if values.size else float("nan")


def miou(matrix: np.ndarray) -> float:
    """Mean IoU over the classes present in truth or prediction."""
    return mean_present(iou(matrix))


def scores(matrix: np.ndarray, class_names: Sequence[str], split: str) -> dict[str, float | None]:
    """Everything above, keyed `split/name` and `split/name/class`. Figures that don't exist (a
    class not present) are None.

    `miou` and `mean_dice` are means over the classes present in truth or prediction,
    `mean_class_accuracy` over those present in truth.
    """
    values = {
        "miou": miou(matrix),
        "frequency_weighted_iou": frequency_weighted_iou(matrix),
        "mean_dice": mean_present(dice(matrix)),
        "pixel_accuracy": pixel_accuracy(matrix),
        "mean_class_accuracy": mean_present(class_accuracy(matrix)),
    }
    for kind, by_class in (
        ("iou", iou(matrix)),
        ("dice", dice(matrix)),
        ("class_accuracy", class_accuracy(matrix)),
    ):
        values |= {
            f"{kind}/{name}": float(value)
            for name, value in zip(class_names, by_class, strict=True)
        }
    return {f"{split}/{key}": None if np.isnan(value) else value for key, value in values.items()}


def image_scores(
    matrix: np.ndarray, class_names: Sequence[str], split: str
) -> dict[str, float | None]:
    """What a confusion matrix of whole images says, keyed `split/name` and `split/name/class`; None
    for what doesn't exist.

    `accuracy` is the share of images that are right (micro average), `mean_class_accuracy` the mean
    recall over the classes present in truth, `mean_f1` the mean F1 over those present in truth or
    prediction.
    """
    values = {
        "accuracy": pixel_accuracy(matrix),
        "mean_class_accuracy": mean_present(class_accuracy(matrix)),
        "mean_f1": mean_present(dice(matrix)),
    }
    for kind, by_class in (("class_accuracy", class_accuracy(matrix)), ("f1", dice(matrix))):
        values |= {
            f"{kind}/{name}": float(value)
            for name, value in zip(class_names, by_class, strict=True)
        }
    return {f"{split}/{key}": None if np.isnan(value) else value for key, value in values.items()}
