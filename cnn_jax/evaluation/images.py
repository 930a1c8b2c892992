"""What a classifier's predictions on labelled images are worth: every image once."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from cnn_jax.data.images import LabelledImages
from cnn_jax.data.pipeline import in_order, read_ahead


@dataclass(frozen=True)
class ImageEvaluation:
    """Predictions for a split, in its order.

    `labels` and `predictions` int32 `[images]`; `probabilities` float32 `[images]`, what the model
    gives the class it predicts (of a classic method its score); `loss` the mean cross-entropy in
    nats, without class weights or label smoothing, so that runs with and without compare; None
    where there are no images; `within_five` how many images have their class among the five most
    probable.
    """

    classes: int
    labels: np.ndarray
    predictions: np.ndarray
    probabilities: np.ndarray
    loss: float | None = None
    within_five: int | None = None

    @property
    def total(self) -> np.ndarray:
        """The confusion matrix, int64 `[classes, classes]`: rows truth, columns prediction, entries
        images."""
        pairs = self.labels.astype(np.int64) * self.classes + self.predictions
        return np.bincount(pairs, minlength=self.classes**2).reshape(self.classes, self.classes)


def make_image_step(model: nn.Module, normalize: Callable, classes: int) -> Callable:
    """`(variables, batch) -> results`, to be compiled; one row of each result is one image.

    A batch holds `image` uint8 `[batch, height, width, channels]`, `label` int32 `[batch]` (-1: not
    counted) and `shift_px` int32 `[batch, 2]`, how far the image is moved down and to the right,
    zeros coming in. Results: `prediction` int32, `probability` and `loss` (cross-entropy, nats)
    float32, `within_five` bool, all `[batch]`.
    """

    def image_step(variables, batch):
        images = jax.vmap(shifted)(batch["image"], batch["shift_px"])
        logits = cast(jax.Array, model.apply(variables, normalize(images), train=False))
        labels = jax.nn.one_hot(batch["label"], classes)  # a label of -1 is all zeros
        of_label = jnp.sum(logits * labels, axis=-1, keepdims=True)
        return {
            "prediction": logits.argmax(-1).astype(jnp.int32),
            "probability": jax.nn.softmax(logits).max(-1),
            "within_five": jnp.sum(logits > of_label, axis=-1) < 5,
            "loss": optax.softmax_cross_entropy(logits, labels),
        }

    return image_step


def shifted(image: jax.Array, shift_px: jax.Array) -> jax.Array:
    """An image `[height, width, channels]` moved by `shift_px` (down, right; integers of either
    sign); zeros come in."""
    height, width, _ = image.shape
    rows, columns = jnp.arange(height) - shift_px[0], jnp.arange(width) - shift_px[1]
    inside = ((rows >= 0) & (rows < height))[:, None] & ((columns >= 0) & (columns < width))[
        None, :
    ]
    return jnp.where(inside[..., None], jnp.roll(image, shift_px, (0, 1)), 0)


class ImageEvaluator:
    """Evaluates one split again and again, with one compiled step.

    Args:
        images: the split.
        image_step: compiled, of `make_image_step`.
        devices: where batches go.
        batch_size: images at once, rounded up to divide among the devices.
        classes: their number.
    """

    def __init__(
        self,
        images: LabelledImages,
        image_step: Callable,
        devices: Any,
        batch_size: int,
        classes: int,
    ) -> None:
        self.images, self.image_step, self.devices, self.classes = (
            images,
            image_step,
            devices,
            classes,
        )
        self.batch_size = -(-batch_size // devices.count) * devices.count

    def evaluate(
        self, variables: Any, check: Callable = lambda: None, shift_px: tuple[int, int] = (0, 0)
    ) -> ImageEvaluation:
        """Predicts every image once, moved by `shift_px` (down, right). `check` is called before
        each batch and may raise to stop."""

        count, share = len(self.images), self.devices.share(self.batch_size)

        def read(numbers):
            mine, size = numbers[share], share.stop - share.start
            images, labels = self.images.arrays(mine or numbers[:1])
            images, labels, short = images[: len(mine)], labels[: len(mine)], size - len(mine)
            return {
                "image": np.pad(images, ((0, short), (0, 0), (0, 0), (0, 0))),
                "label": np.pad(labels, (0, short), constant_values=-1),
                "shift_px": np.tile(np.array(shift_px, np.int32), (size, 1)),
            }

        batches = in_order(count, self.batch_size, read)
        results = []
        for batch in read_ahead(batches, 0, self.devices.place, prefetch_batches=2):
            check()
            results.append(self.image_step(variables, batch))
            if len(results) > 1:  # fetched one batch late, so that devices don't wait for the host
                results[-2] = jax.device_get(results[-2])
        joined = {
            key: np.concatenate([np.asarray(r[key]) for r in results])[:count] for key in results[0]
        }
        return ImageEvaluation(
            self.classes,
            np.asarray(self.images.labels),
            joined["prediction"],
            joined["probability"],
            float(joined["loss"].mean(dtype=np.float64)) if count else None,
            int(joined["within_five"].sum()),
        )
