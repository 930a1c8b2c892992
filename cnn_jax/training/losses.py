"""Losses over pixels or images, each as a sum and a count, so that what is ignored or padded can't
be forgotten.

A mean over a batch, over accumulated parts or over devices is the sum of the sums divided by the
sum of the counts. So that losses can be added up too, the count is the same for all: each pixel
that is counted weighs what its class does, or 1.

Losses of regions (Tversky, Dice, Jaccard, Lovász) say one thing of a whole image, not of its
pixels: it enters the sum as often as the image has counted pixels, so that an image weighs the same
in every loss. An image is what the model sees at once: a crop in training, a window in evaluation.
Windows of another size therefore make another loss.

One logit is that of the second of two classes (sigmoid), the foreground. A loss of pixels is then
that of the logits 0 and z; a loss of regions looks at the foreground alone.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from numpy.typing import ArrayLike

from cnn_jax.configuration.schema import LossConfig
from cnn_jax.data.scenes import IGNORED


def class_logits(logits: jax.Array) -> jax.Array:
    """Logits `[..., classes]`; of a single logit, of the second of two classes, those of both: 0
    and it, whose softmax is its sigmoid."""
    if logits.shape[-1] > 1:
        return logits
    return jnp.concatenate([jnp.zeros_like(logits), logits], axis=-1)


def _of_classes(logits):
    """float32 `[..., classes]`: one logit becomes two, of which the first is 0."""
    return class_logits(logits.astype(jnp.float32))


def check_labels(logits: Any, labels: Any, *, spread: bool = False) -> None:
    """Holds labels to what a loss takes; their values where they are known, not while a program is
    traced.

    Args:
        logits: `[..., classes]`, or one.
        labels: class indices or `IGNORED`, of the logits' shape without the last axis; or, if
            `spread`, also probabilities of the classes.
        spread: whether the loss takes probabilities.

    Raises:
        ValueError: labels of another shape or type, or values that are neither.
    """
    classes = max(logits.shape[-1], 2)
    hard, soft = logits.shape[:-1], (*logits.shape[:-1], classes)
    kind = "b" if labels.dtype == bool else "i" if jnp.issubdtype(labels.dtype, jnp.integer) else ""
    as_hard, as_soft = labels.shape == hard and kind, labels.shape == soft and not kind
    if not (as_hard or (spread and as_soft)):
        wanted = f"whole numbers of shape {hard}"
        wanted += f", or probabilities of shape {soft}" if spread else ""
        raise ValueError(f"labels are {labels.dtype} of shape {labels.shape}; this takes {wanted}")
    if as_hard and classes > IGNORED:
        raise ValueError(
            f"labels of {classes} classes can't be whole numbers, among which {IGNORED} is ignored"
            + ("; give probabilities" if spread else "")
        )
    if isinstance(labels, Tracer):
        return
    values = np.asarray(labels)
    if as_soft:
        sums = values.sum(-1, dtype=np.float64)
        wrong = (values < 0).any(-1) | ~((np.abs(sums - 1) < 1e-2) | (sums == 0))
        if wrong.any():
            raise ValueError(
                f"labels have probabilities {values[wrong][0]}; they must be 0 or more and sum to"
                " 1, or all be 0 where ignored"
            )
        return
    wrong = (values != IGNORED) & ((values < 0) | (values >= classes))
    if wrong.any():
        raise ValueError(
            f"labels have {values[wrong][0]}, which is neither a class (0 to {classes - 1}) nor"
            f" {IGNORED}, which is ignored"
        )


def _cross_entropies(logits, labels, label_smoothing):
    """Of each pixel, float32 `[...]`."""
    log_probabilities = jax.nn.log_softmax(logits)
    if labels.ndim == logits.ndim:
        losses = -(1 - label_smoothing) * jnp.sum(log_probabilities * labels, axis=-1)
    else:
        target = labels[..., None] == jnp.arange(logits.shape[-1])  # all False where ignored
        losses = -(1 - label_smoothing) * jnp.sum(log_probabilities, axis=-1, where=target)
    return losses - label_smoothing * jnp.mean(log_probabilities, axis=-1)


def _weights(labels, logits, class_weights):
    """What each pixel counts, float32 `[...]`: the weight of its class, 0 where ignored."""
    if labels.ndim == logits.ndim:
        return jnp.sum(
            labels if class_weights is None else labels * jnp.asarray(class_weights, jnp.float32),
            axis=-1,
        )
    weights = (labels != IGNORED).astype(jnp.float32)
    if class_weights is not None:
        target = labels[..., None] == jnp.arange(logits.shape[-1])
        weights *= jnp.sum(target * jnp.asarray(class_weights, jnp.float32), axis=-1)
    return weights


def cross_entropy(
    logits: jax.Array, labels: jax.Array, *, class_weights: Any = None, label_smoothing: float = 0.0
) -> tuple[jax.Array, jax.Array]:
    """Softmax cross-entropy in nats.

    Args:
        logits: float32 `[..., classes]`, or one.
        labels: int32 `[...]`, class indices or `IGNORED`; or float32 `[..., classes]`, the
            probability of each class (as mixup makes them), all zero where ignored.
        class_weights: float32 `[classes]`; a pixel weighs what its class does. None: 1 each.
        label_smoothing: this share of the target is spread evenly over all classes (Szegedy et al.,
            2016). A pixel's whole loss is weighted by its own class; PyTorch weighs the spread part
            class by class instead.

    Returns:
        (sum of weighted losses, sum of weights), both float32 scalars; ignored pixels weigh
        nothing.
    """
    check_labels(logits, labels, spread=True)
    logits = _of_classes(logits)
    losses = _cross_entropies(logits, labels, label_smoothing)
    weights = _weights(labels, logits, class_weights)
    return jnp.sum(losses * weights), jnp.sum(weights)


def focal(
    logits: jax.Array,
    labels: jax.Array,
    *,
    class_weights: Any = None,
    label_smoothing: float = 0.0,
    gamma: float = 2.0,
) -> tuple[jax.Array, jax.Array]:
    """Focal loss: cross-entropy in which a pixel that is nearly right counts less, by (1 - p) **
    gamma (Lin et al., 2017).

    The paper takes one sigmoid a class and its own weight alpha of the foreground; here p is the
    softmax's, and the weights of classes are `class_weights`. Of a target that is spread over
    classes, by smoothing or by mixup, -log p is the cross-entropy, so that p is a geometric mean.
    With gamma 0 it is `cross_entropy`.

    Args:
        logits: as `cross_entropy` takes them.
        labels: as `cross_entropy` takes them.
        class_weights: as `cross_entropy` takes them.
        label_smoothing: this share of the target is spread evenly over all classes.
        gamma: at least 0.

    Returns:
        (sum of weighted losses, sum of weights), both float32 scalars.
    """
    check_labels(logits, labels, spread=True)
    logits = _of_classes(logits)
    losses = _cross_entropies(logits, labels, label_smoothing)
    losses *= (
        jnp.maximum(-jnp.expm1(-losses), 1e-8) ** gamma
    )  # at 0 the slope of a root is infinite
    weights = _weights(labels, logits, class_weights)
    return jnp.sum(losses * weights), jnp.sum(weights)


def near_another_class(labels: jax.Array, distance_px: int) -> jax.Array:
    """Which pixels lie within a distance of a pixel of another class: bool `[..., height, width]`.

    As `evaluation.boundaries.boundary`, on the device: the distance is the greater of the vertical
    and the horizontal one; ignored pixels and the edge of the image are no other class.

    Args:
        labels: int32 `[..., height, width]`, class indices or `IGNORED`.
        distance_px: at least 1.
    """
    ignored = labels == IGNORED

    def spread(values, reduce, start):
        for axis in (values.ndim - 2, values.ndim - 1):
            window = tuple(2 * distance_px + 1 if k == axis else 1 for k in range(values.ndim))
            values = jax.lax.reduce_window(
                values, np.int32(start), reduce, window, (1,) * values.ndim, "SAME"
            )
        return values

    labels = labels.astype(jnp.int32)
    least = spread(labels, jax.lax.min, IGNORED)
    greatest = spread(jnp.where(ignored, -1, labels), jax.lax.max, -1)
    return (least != greatest) & ~ignored


def boundary(
    logits: jax.Array,
    labels: jax.Array,
    *,
    class_weights: Any = None,
    label_smoothing: float = 0.0,
    distance_px: int = 3,
    weight: float = 5.0,
) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy in which pixels near a pixel of another class weigh more than others.

    As the map of weights of U-Net (Ronneberger et al., 2015) it draws the attention to borders.
    There weights fall off smoothly with the distances to the two nearest cells, so that the gap
    between touching cells, of one class, is what counts, and they come with the weights of classes;
    here is one step at a chessboard distance from any other class, which needs no instances and is
    found on the device after augmentation, and classes are weighted apart.

    An image's weights are divided by their mean, weighted by class: what it counts is the same with
    and without a border, and the same as in other losses.

    Args:
        logits: float32 `[..., height, width, classes]`, or one.
        labels: int32 `[..., height, width]`, class indices or `IGNORED`.
        class_weights: as `cross_entropy` takes them.
        label_smoothing: as `cross_entropy` takes it.
        distance_px: pixels so near to another class weigh more, by the greater of the vertical and
            the horizontal distance.
        weight: of these pixels; others weigh 1. With 0, an image in which all are near a border has
            no loss.

    Returns:
        (sum of weighted losses, sum of weights), both float32 scalars.
    """
    check_labels(logits, labels)
    logits = _of_classes(logits)
    losses = _cross_entropies(logits, labels, label_smoothing)
    weights = _weights(labels, logits, class_weights)
    near = weights * jnp.where(near_another_class(labels, distance_px), weight, 1.0)
    count, total = (jnp.sum(x, axis=(-2, -1)) for x in (weights, near))
    share = _ratio(jnp.sum(losses * near, axis=(-2, -1)), total)
    return jnp.sum(share * count), jnp.sum(weights)


def _ratio(numerator, denominator):
    """0, without a slope, where the denominator is."""
    return jnp.where(denominator > 0, numerator, 0) / jnp.where(denominator > 0, denominator, 1)


def _regions(logits, labels):
    """Of each image: probabilities float32 and truth bool, both `[images, pixels, classes]`, and
    whether a pixel is counted, bool `[images, pixels, 1]`. Of one logit, the foreground alone."""
    logits = logits.astype(jnp.float32)
    classes, pixels = logits.shape[-1], logits.shape[-3] * logits.shape[-2]
    labels = labels.reshape(-1, pixels, 1)
    if classes == 1:
        return jax.nn.sigmoid(logits).reshape(-1, pixels, 1), labels == 1, labels != IGNORED
    probabilities = jnp.exp(jax.nn.log_softmax(logits)).reshape(
        -1, pixels, classes
    )  # slopes cost half of the softmax's
    return probabilities, labels == jnp.arange(classes), labels != IGNORED


def _over_images(losses, regions, logits, labels, class_weights):
    """(sum, count) of the losses of each image's classes, `[images, classes]`: their mean over the
    classes that are present in its truth, weighted by class."""
    probabilities, truth, counted = regions
    present = jnp.any(truth, axis=1)
    if logits.shape[-1] == 1:
        claimed = _ratio(jnp.sum(probabilities, axis=1, where=counted), jnp.sum(counted, axis=1))
        losses = jnp.where(present, losses, claimed)[:, 0]
    else:
        of_class = present * (
            1.0 if class_weights is None else jnp.asarray(class_weights, jnp.float32)
        )
        losses = _ratio(jnp.sum(losses * of_class, axis=-1), jnp.sum(of_class, axis=-1))
    weights = _weights(labels, _of_classes(logits), class_weights)
    return jnp.sum(losses * jnp.sum(weights, axis=(-2, -1)).reshape(-1)), jnp.sum(weights)


def tversky(
    logits: jax.Array,
    labels: jax.Array,
    *,
    class_weights: Any = None,
    alpha: float = 0.3,
    beta: float = 0.7,
) -> tuple[jax.Array, jax.Array]:
    """1 - the Tversky index of each class, TP / (TP + alpha FP + beta FN), of probabilities (Salehi
    et al., 2017).

    An image's loss is the mean over the classes that are present in its truth, each weighing what
    `class_weights` say. What goes to another class is missed in these. Labels are not smoothed: the
    overlap with a smeared truth is no overlap.

    Of one logit only the foreground is looked at. Where an image's truth has none, every overlap is
    0, whatever is predicted, and its slope too; the loss is then the mean probability of
    foreground, which is 0 where nothing is claimed and has the same slope at every pixel.

    Args:
        logits: float32 `[..., height, width, classes]`, or one.
        labels: int32 `[..., height, width]`, class indices or `IGNORED`.
        class_weights: float32 `[classes]`. None: 1 each.
        alpha: what a false positive weighs.
        beta: what a false negative weighs.

    Returns:
        (sum over images of their loss times their counted pixels' weights, sum of weights), both
        float32 scalars.
    """
    check_labels(logits, labels)
    probabilities, truth, counted = regions = _regions(logits, labels)
    right = jnp.sum(probabilities, axis=1, where=truth)
    wrong = alpha * jnp.sum(probabilities, axis=1, where=counted & ~truth)
    wrong += beta * jnp.sum(
        1 - probabilities, axis=1, where=truth
    )  # a difference of sums would lose digits
    losses = wrong / jnp.maximum(right + wrong, 1e-6)
    return _over_images(losses, regions, logits, labels, class_weights)


def dice(
    logits: jax.Array, labels: jax.Array, *, class_weights: Any = None
) -> tuple[jax.Array, jax.Array]:
    """1 - the Dice coefficient, 2 TP / (2 TP + FP + FN), of probabilities: `tversky` of 1/2 and 1/2
    (Milletari et al., 2016).

    The paper squares probabilities in the denominator; here they are plain, as in most of what
    followed. For the rest see `tversky`.
    """
    return tversky(logits, labels, class_weights=class_weights, alpha=0.5, beta=0.5)


def jaccard(
    logits: jax.Array, labels: jax.Array, *, class_weights: Any = None
) -> tuple[jax.Array, jax.Array]:
    """1 - intersection over union, TP / (TP + FP + FN), of probabilities: `tversky` of 1 and 1
    (Rahman and Wang, 2016)."""
    return tversky(logits, labels, class_weights=class_weights, alpha=1.0, beta=1.0)


def lovasz_softmax(
    logits: jax.Array, labels: jax.Array, *, class_weights: Any = None
) -> tuple[jax.Array, jax.Array]:
    """Lovász-Softmax: the convex extension of 1 - intersection over union to probabilities (Berman
    et al., 2018).

    Per image and over the classes present in its truth, as the paper's code with `per_image` and
    `classes="present"`; where pixels are predicted with certainty it is 1 - IoU. Of one logit it is
    taken of the foreground's probability; the paper's code for two classes takes a hinge. An image
    without foreground is dealt with as in `tversky`.

    Each class's errors are sorted: n log n for n pixels, and the greater part of the cost.

    Args:
        logits: as `tversky` takes them.
        labels: as `tversky` takes them.
        class_weights: as `tversky` takes them.

    Returns:
        (sum over images of their loss times their counted pixels' weights, sum of weights), both
        float32 scalars.
    """
    check_labels(logits, labels)
    probabilities, truth, counted = regions = _regions(logits, labels)
    errors = jnp.where(counted, jnp.abs(truth - probabilities), 0)
    errors, truth = (x.swapaxes(1, 2) for x in (errors, truth))
    order = _descending(jax.lax.stop_gradient(errors))
    errors, truth = (jnp.take_along_axis(x, order, axis=-1) for x in (errors, truth))
    size = jnp.sum(truth, axis=-1, keepdims=True)
    intersection = size - jnp.cumsum(
        truth, axis=-1
    )  # of class and prediction, if all down to this pixel are wrong
    union = intersection + 1 + jnp.arange(truth.shape[-1])
    # How the Jaccard loss grows with this pixel. The paper's code subtracts neighbouring losses: of
    # large images few digits remain.
    slopes = jnp.where(truth, 1 / union, intersection / (union * jnp.maximum(union - 1.0, 1)))
    return _over_images(jnp.sum(errors * slopes, axis=-1), regions, logits, labels, class_weights)


def _descending(errors):
    """The order of numbers from 0 to 1 along the last axis, the greatest first: int32 `[...,
    pixels]`.

    A radix sort by two digits of float32's bits. XLA sorts single integers on CPUs six times faster
    than pairs, so each key holds a digit and a position. Beyond 2**17 pixels the digits hold fewer
    bits of a number: 28 of 30 of 512 x 512 pixels, 20 of 2048 x 2048.
    """
    pixels = errors.shape[-1]
    places = max(pixels - 1, 1).bit_length()
    width = min(32 - places, 15)
    one, bits = (
        jax.lax.bitcast_convert_type(x, jnp.uint32)
        for x in (jnp.float32(1), jnp.minimum(errors, 1))
    )
    bits = (one - bits) >> (30 - 2 * width)
    order = jnp.broadcast_to(jnp.arange(pixels, dtype=jnp.uint32), errors.shape)
    for digit in (bits & (2**width - 1), bits >> width):
        keys = jnp.take_along_axis(digit, order, axis=-1) << places | jnp.arange(
            pixels, dtype=jnp.uint32
        )
        order = jnp.take_along_axis(order, jnp.sort(keys, axis=-1) & (2**places - 1), axis=-1)
    return order.astype(jnp.int32)


LOSSES = {
    "cross_entropy": cross_entropy,
    "focal": focal,
    "dice": dice,
    "jaccard": jaccard,
    "tversky": tversky,
    "lovasz_softmax": lovasz_softmax,
    "boundary": boundary,
}


SMOOTHED = ("cross_entropy", "focal", "boundary")
"""The losses whose target `loss.label_smoothing` spreads."""


def tell_of_smoothing(config: Any) -> None:
    """Prints that labels are not smoothed, where a configuration asks for it and none of its losses
    does it."""
    if getattr(config, "label_smoothing", 0) and not {config.name, *config.further} & {*SMOOTHED}:
        print(
            f"note: loss.label_smoothing={config.label_smoothing} changes nothing in"
            f" {', '.join((config.name, *config.further))}."
        )


def of(config: LossConfig, class_weights: Any = None) -> Callable:
    """`(logits, labels) -> (sum, count)`: the weighted sum of the losses that a configuration
    names.

    Args:
        config: checked.
        class_weights: float32 `[classes]`, or None.
    """
    smoothing = {"label_smoothing": config.label_smoothing}
    options = {
        "cross_entropy": smoothing,
        "focal": smoothing | {"gamma": config.focal_gamma},
        "tversky": {"alpha": config.tversky_alpha, "beta": config.tversky_beta},
        "boundary": (
            smoothing | {"distance_px": config.boundary_px, "weight": config.boundary_weight}
        ),
    }
    names = (config.name, *config.further)
    terms = [
        functools.partial(LOSSES[name], class_weights=class_weights, **options.get(name, {}))
        for name in names
    ]
    weights = config.weights or (1.0,) * len(terms)
    if len(terms) == 1 and weights == (1.0,):
        return terms[0]

    def loss(logits, labels):
        sums, counts = zip(*(term(logits, labels) for term in terms), strict=True)
        return sum(weight * value for weight, value in zip(weights, sums, strict=True)), counts[0]

    return loss


def hits(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """How many predictions (the greatest logit) are the label, and how many are counted: two
    float32 scalars.

    Args:
        logits: float32 `[..., classes]`; one is that of the second of two classes, which is
            predicted where it is positive.
        labels: as `cross_entropy` takes them; of probabilities the greatest counts.
    """
    check_labels(logits, labels, spread=True)
    logits = _of_classes(logits)
    if labels.ndim == logits.ndim:
        counted = jnp.any(labels > 0, axis=-1)
        right = counted & (logits.argmax(-1) == labels.argmax(-1))
        return jnp.sum(right.astype(jnp.float32)), jnp.sum(counted.astype(jnp.float32))
    correct = jnp.sum((logits.argmax(-1) == labels).astype(jnp.float32))
    return correct, jnp.sum((labels < logits.shape[-1]).astype(jnp.float32))


def class_weights(counts: ArrayLike | None, kind: str) -> np.ndarray | None:
    """Weights of classes from their pixels in training: float32 `[classes]`, or None for "none".

    "inverse": total / (classes * count), as scikit-learn's "balanced". "median": median frequency /
    frequency (Eigen and Fergus,
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
