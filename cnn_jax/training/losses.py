"""Losses over pixels or images, each as a sum and a count, so that what is ignored or padded can't be forgotten.

A mean over a batch, over accumulated parts or over devices is the sum of the sums divided by the sum of the counts.
"""

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax.data.scenes import IGNORED


def cross_entropy(logits, labels, *, class_weights=None, label_smoothing: float = 0.0):
    """Softmax cross-entropy in nats.

    Args:
        logits: float32 `[..., classes]`.
        labels: int32 `[...]`, class indices or `IGNORED`; or float32 `[..., classes]`, the probability of each class (as mixup
            makes them), all zero where ignored.
        class_weights: float32 `[classes]`; a pixel weighs what its class does. None: 1 each.
        label_smoothing: this share of the target is spread evenly over all classes (Szegedy et al., 2016). A pixel's whole
            loss is weighted by its own class; PyTorch weighs the spread part class by class instead.

    Returns:
        (sum of weighted losses, sum of weights), both float32 scalars; ignored pixels weigh nothing.
    """
    classes = logits.shape[-1]
    log_probabilities = jax.nn.log_softmax(logits.astype(jnp.float32))
    if labels.ndim == logits.ndim:
        losses = -(1 - label_smoothing) * jnp.sum(log_probabilities * labels, axis=-1)
        losses -= label_smoothing * jnp.mean(log_probabilities, axis=-1)
        weights = jnp.sum(labels if class_weights is None else labels * jnp.asarray(class_weights, jnp.float32), axis=-1)
        return jnp.sum(losses * weights), jnp.sum(weights)
    target = labels[..., None] == jnp.arange(classes)  # all False where ignored
    losses = -(1 - label_smoothing) * jnp.sum(log_probabilities, axis=-1, where=target)
    losses -= label_smoothing * jnp.mean(log_probabilities, axis=-1)
    weights = (labels != IGNORED).astype(jnp.float32)
    if class_weights is not None:
        weights *= jnp.sum(target * jnp.asarray(class_weights, jnp.float32), axis=-1)
    return jnp.sum(losses * weights), jnp.sum(weights)


def hits(logits, labels):
    """How many predictions (the greatest logit) are the label, and how many are counted: two float32 scalars.

    Args:
        logits: float32 `[..., classes]`.
        labels: as `cross_entropy` takes them; of probabilities the greatest counts.
    """
    if labels.ndim == logits.ndim:
        counted = jnp.any(labels > 0, axis=-1)
        right = counted & (logits.argmax(-1) == labels.argmax(-1))
        return jnp.sum(right.astype(jnp.float32)), jnp.sum(counted.astype(jnp.float32))
    correct = jnp.sum((logits.argmax(-1) == labels).astype(jnp.float32))
    return correct, jnp.sum((labels < logits.shape[-1]).astype(jnp.float32))


LOSSES = {"cross_entropy": cross_entropy}


def class_weights(counts, kind: str):
    """Weights of classes from their pixels in training: float32 `[classes]`, or None for "none".

    "inverse": total / (classes * count), as scikit-learn's "balanced". "median": median frequency / frequency (Eigen and Fergus,
    2015), with frequencies over all training pixels. A class without a pixel weighs nothing.

    Args:
        counts: int64 `[classes]`, pixels of each class.
        kind: "none", "inverse" or "median".
    """
    if kind == "none":
        return None
    counts = np.asarray(counts, np.float64)
    present = counts > 0
    scale = {"inverse": counts.sum() / len(counts), "median": np.median(counts[present])}[kind]
    return np.where(present, scale / np.where(present, counts, 1), 0).astype(np.float32)
