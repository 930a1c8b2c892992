"""Calibration: whether a model is right as often as it is sure (Guo et al., 2017).

Pixels are binned by their confidence, the probability of the class that is predicted. Counts and
sums of bins add up over windows and scenes; every figure is a function of them.
"""

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from cnn_jax.training.losses import class_logits

BINS = 15
"""As in the paper."""


def calibration_counts(
    logits: jax.Array, labels: jax.Array, bins: int = BINS
) -> dict[str, jax.Array]:
    """What falls into bins of equal width of the confidence, on the device.

    Bin k holds confidences above k / bins, up to (k + 1) / bins.

    Args:
        logits: float32 `[batch, height, width, classes]`; one logit is that of the second of two
            classes (sigmoid).
        labels: int32 `[batch, height, width]`; values that are no class (such as `IGNORED`) are not
            counted.
        bins: their number.

    Returns:
        A dict of `[batch, bins]`: `count` int32, pixels; `confidence` float32, their sum of
        confidences; `correct` int32, how many of them are right.
    """
    logits = class_logits(logits.astype(jnp.float32))
    batch, classes = logits.shape[0], logits.shape[-1]
    logits, labels = logits.reshape(batch, -1, classes), labels.reshape(batch, -1)
    confidence = 1 / jnp.sum(jnp.exp(logits - logits.max(-1, keepdims=True)), axis=-1)
    number = jnp.clip(jnp.ceil(confidence * bins).astype(jnp.int32) - 1, 0, bins - 1)
    number = jnp.where(labels < classes, number, bins)  # in no bin
    correct = (logits.argmax(-1) == labels).astype(jnp.float32)
    inside = (number[:, :, None] == jnp.arange(bins)).astype(jnp.float32)
    values = jnp.stack([jnp.ones_like(confidence), confidence, correct], axis=-1)
    # One product of matrices, which CPUs do several times faster than sums; whole numbers are exact
    # up to 16 million pixels.
    sums = jnp.einsum("bpv,bpk->vbk", values, inside, precision="highest")
    return {
        "count": sums[0].astype(jnp.int32),
        "confidence": sums[1],
        "correct": sums[2].astype(jnp.int32),
    }


def expected_calibration_error(
    count: ArrayLike, confidence: ArrayLike, correct: ArrayLike
) -> float:
    """The distance between accuracy and mean confidence of a bin, averaged over all that was
    counted; NaN where nothing was.

    Args:
        count: `[bins]`, how many fell into each.
        confidence: `[bins]`, their sum of confidences.
        correct: `[bins]`, how many of them are right.
    """
    total = np.asarray(count).sum(dtype=np.int64)
    if not total:
        return float("nan")
    return float(
        np.abs(np.asarray(correct, np.float64) - np.asarray(confidence, np.float64)).sum() / total
    )
