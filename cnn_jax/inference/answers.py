"""What a segmenter's answers for whole scenes are worth, as `cnn-jax predict` gives them: windows
blended, and averaged over flips and quarter turns if asked for."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cnn_jax.data.scenes import IGNORED
from cnn_jax.evaluation import metrics, statistics
from cnn_jax.inference.predictor import Predictor
from cnn_jax.inference.windows import steps

STEPS_PX = 2048
"""So much of a scene's height and width `largest_steps` looks at."""


def confusions(
    predictor: Predictor,
    scenes: Sequence[tuple[np.ndarray, np.ndarray]],
    *,
    augment: bool = False,
    blend: str = "gaussian",
    check: Callable[[], None] = lambda: None,
) -> np.ndarray:
    """A confusion matrix a scene, int64 `[scenes, classes, classes]`, rows truth.

    Args:
        predictor: a loaded run, or an ensemble.
        scenes: (image, mask) by index.
        augment: as in `Predictor.predict`.
        blend: likewise.
        check: called before each scene; may raise to stop.
    """
    classes = len(predictor.info.classes)
    counts = np.zeros((len(scenes), classes, classes), np.int64)
    for index in range(len(scenes)):
        check()
        image, mask = scenes[index]
        rows = predictor.predict_rows(
            lambda first, last, image=image: image[first:last],
            *image.shape[:2],
            augment=augment,
            blend=blend,
        )
        for first, part in rows:
            truth = mask[first : first + len(part)]
            counted = truth != IGNORED
            entries = truth[counted].astype(np.int64) * classes + part.argmax(-1)[counted]
            counts[index] += np.bincount(entries, minlength=classes**2).reshape(classes, classes)
    return counts


def largest_steps(
    predictor: Predictor,
    scenes: Sequence[tuple[np.ndarray, np.ndarray]],
    blends: Sequence[str],
    check: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """The most that neighbouring pixels' probabilities lie apart because windows change between
    them, over all scenes: blend -> 0 to 1; see `windows.steps`.

    Args:
        predictor: a loaded run, or an ensemble.
        scenes: (image, mask) by index. What the windows of a scene say is kept until it is done,
            and so no more than its first `STEPS_PX` rows and columns are looked at.
        blends: of `windows.BLENDS`, but for "uniform".
        check: called before each scene; may raise to stop.
    """
    most = dict.fromkeys(blends, 0.0)
    for index in range(len(scenes)):
        check()
        image = scenes[index][0][:STEPS_PX, :STEPS_PX]
        said: dict[bytes, np.ndarray] = {}
        for blend in blends:
            down, across = predictor.axes(len(image), image.shape[1], blend)
            for rows, columns in ((down, steps(across)), (steps(down), across)):
                found = _steps_of(predictor, image, rows, columns, said)
                most[blend] = max(most[blend], found)
    return most


def _steps_of(predictor, image, rows, columns, said):
    """The greatest amount in the sum over windows. What these say is taken from `said`, or
    predicted and added there."""

    def read(first, last):
        return image[first:last]

    def predict(windows):
        key = hashlib.blake2b(windows, digest_size=16).digest()
        if key not in said:
            said[key] = np.asarray(predictor.probabilities(windows))
        return said[key]

    parts = predictor.over_windows(read, predict, rows, columns)
    return max(float(np.abs(part).max()) for _, part in parts)


def compared(answers: np.ndarray, others: np.ndarray) -> dict[str, Any]:
    """mIoU over all scenes of both, their difference, and its interval at 95%, the scenes with a
    labelled pixel drawn with replacement (None for one); `scenes` is their number.

    Args:
        answers: of `confusions`.
        others: of the same scenes.
    """
    both = np.stack([answers, others], 1)
    both = both[both.any((1, 2, 3))]

    def gain(summed):
        return metrics.miou(summed[0]) - metrics.miou(summed[1])

    low, high = statistics.bootstrap_interval(both, gain)
    return {
        "miou": metrics.miou(answers.sum(0)),
        "other_miou": metrics.miou(others.sum(0)),
        "difference": gain(both.sum(0)),
        "interval": None if np.isnan(low) else [low, high],
        "scenes": len(both),
    }
