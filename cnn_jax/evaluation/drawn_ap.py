"""COCO's AP of sets of the same images: drawn again and again, or with two runs' detections
swapped. What intervals and tests over images are made of."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from cnn_jax.evaluation.coco import IOUS, RECALLS, Counted

_AT_ONCE = 2_000_000
"""Numbers that are held for the draws that are counted together."""


def ap_of_draws(every: Sequence[Counted], times: np.ndarray, ious: ArrayLike = IOUS) -> np.ndarray:
    """COCO's AP of sets of images, float64 `[draws]`: the mean over IoUs and the classes that a
    set's truths hold; NaN of sets without any.

    Args:
        every: of each image.
        times: how often each image stands in each set, int `[draws, images]`.
        ious: those of `IOUS` that count; 0.5 alone gives AP50.
    """
    times = np.asarray(times)
    bits = np.flatnonzero(np.isclose(IOUS[:, None], ious).any(1))
    wanted = times @ np.stack([one.wanted for one in every])  # [draws, classes]
    labels, scores, right, ignored = (
        np.concatenate([getattr(one, name) for one in every])
        for name in ("labels", "scores", "right", "ignored")
    )
    image = np.repeat(np.arange(len(every)), [len(one.labels) for one in every])
    found = np.full(wanted.shape, np.nan)
    for label in range(wanted.shape[1]):
        of = np.flatnonzero(labels == label)
        of = of[np.argsort(-scores[of], kind="stable")]
        chunk = max(1, _AT_ONCE // max(len(of), 1))
        for first in range(0, len(times), chunk):
            part = slice(first, first + chunk)
            counts = times[part][:, image[of]].astype(np.float64)
            found[part, label] = _mean_precision(
                counts, right[of], ignored[of], wanted[part, label], bits
            )
    known = np.isfinite(found)
    total = np.where(known, found, 0).sum(1)
    return np.divide(total, known.sum(1), out=np.full(len(times), np.nan), where=known.any(1))


def _mean_precision(counts, right, ignored, wanted, bits) -> np.ndarray:
    """AP of one class in sets of images `[draws]`; `counts` is how often each prediction, best
    first, stands in each `[draws, n]`, `bits` are the IoUs' places. NaN where nothing is wanted."""
    found = np.zeros(len(counts))
    for bit in bits:
        weight = counts * ((ignored >> bit) & 1 == 0)
        true = np.cumsum(weight * ((right >> bit) & 1), 1)
        precision = true / np.maximum(np.cumsum(weight, 1), 1e-12)
        precision = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
        precision = np.pad(precision, ((0, 0), (0, 1)))
        recall = true / np.maximum(wanted, 1)[:, None]
        for draw, (rises, values) in enumerate(zip(recall, precision, strict=True)):
            found[draw] += values[np.searchsorted(rises, RECALLS, side="left")].mean()
    return np.where(wanted > 0, found / len(bits), np.nan)


def swapped_differences(
    ours: Sequence[Counted], theirs: Sequence[Counted], swaps: np.ndarray
) -> np.ndarray:
    """AP of one run less that of another, float64 `[ways]`, where what they found in some images
    has changed places.

    Args:
        ours: what each image adds to the AP of the one.
        theirs: the same images, with the same true objects, of the other.
        swaps: which images change, int `[ways, images]`, as `statistics.swaps` gives them.
    """
    both, stays = [*ours, *theirs], 1 - swaps
    return ap_of_draws(both, np.hstack([stays, swaps])) - ap_of_draws(
        both, np.hstack([swaps, stays])
    )
