"""What is particular to classifying images: how examples become inputs, how predictions are
counted, scored and pictured."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax import configuration
from cnn_jax.configuration import Config
from cnn_jax.data import augmentation, resident
from cnn_jax.data.images import ImageSet, ImageSource, open_images
from cnn_jax.data.normalization import normalization
from cnn_jax.data.scenes import SPLITS
from cnn_jax.errors import InputError
from cnn_jax.evaluation import images as evaluate
from cnn_jax.evaluation import metrics
from cnn_jax.tracing_cache import NOT_KEPT
from cnn_jax.training import losses, optimizer, state

MOST_CLASSES_TABLED = 100
"""A confusion matrix of more classes than this is left out of the summary: it would be a file of
megabytes."""


class Classification:
    """The task that a configuration and a set of labelled images make.

    Args:
        config: checked.
        images: the splits.
        tracings: where what is traced is kept.

    Raises:
        InputError: the model doesn't take images of this size, a split that is needed is empty, or
            settings don't fit the images.
    """

    headline = "validation/accuracy"
    accuracy = "accuracy"
    example = "images"

    def __init__(self, config: Config, images: ImageSet, tracings=NOT_KEPT):
        check(config, images)
        self.config, self.images, self._tracings = config, images, tracings
        self.names = list(images.classes)
        self.fingerprint = images.fingerprint
        self.sizes = {split: len(images.splits[split]) for split in SPLITS}
        self.optimizer = optimizer.make_optimizer(config.optimizer, config.training.steps)
        self._image_steps = {}

    @staticmethod
    def open(config: Config) -> ImageSet:
        """The data of a configuration."""
        return open_images(config.data)

    def model(self, axis_name: str | None = None):
        """The Flax module; `axis_name` is the `pmap` axis."""
        return configuration.build_model(
            self.config.model, num_classes=len(self.names), axis_name=axis_name
        )

    def initial_state(self) -> state.TrainState:
        """The state before step 0, drawn from the seed."""
        averaged = self.config.optimizer.ema_decay > 0
        draw = state.Initializer(
            self.model(),
            self.optimizer,
            self.example_px,
            averaged=averaged,
            tracings=self._tracings,
        )
        return draw(self.config.seed)

    @functools.cached_property
    def class_weights(self) -> np.ndarray | None:
        """What an image of each class counts in the loss, float32 `[classes]`; None: all alike."""
        name = self.config.loss.class_weights
        if name == "none":
            return None
        return losses.class_weights(
            np.bincount(self.images.splits["train"].labels, minlength=len(self.names)), name
        )

    @functools.cached_property
    def loss(self):
        """`(logits, labels) -> (sum, count)` with the class weights of the training images."""
        return losses.of(self.config.loss, self.class_weights)

    @property
    def evaluated(self) -> tuple[str, ...]:
        """The splits that are counted at the end, the test last."""
        return (*(("train",) if self.config.evaluation.train else ()), "validation", "test")

    @functools.cached_property
    def training_source(self):
        """Random access to the training examples."""
        return ImageSource(self.images.splits["train"])

    def resident(self) -> dict[str, np.ndarray]:
        """What lies on each device, so that an example need only say its number."""
        return resident.images(self.images.splits["train"], self.config.data.memory_budget_gib)

    def augment(self, keys, examples):
        """Training inputs: normalised images float32 `[batch, height, width, channels]`, class
        probabilities float32 `[batch, classes]`."""
        config = self.config.augmentation
        if "number" in examples:
            examples = resident.examples(examples)
        images = augment_images(keys, examples["image"], config)
        labels = jax.nn.one_hot(examples["label"], len(self.names))
        if config.mixup_alpha:
            images, labels = mixup(keys, images, labels, config.mixup_alpha)
        return self.normalize(images), labels

    def normalize(self, images):
        """Images from 0 to 1 as the model sees them."""
        return augmentation.normalize(images, *self._normalization)

    @functools.cached_property
    def _normalization(self):
        train = self.images.splits["train"]
        return normalization(self.config.data, self.images.channels, self.images.greatest, train)

    def evaluator(self, split: str, devices) -> evaluate.ImageEvaluator:
        """Evaluates a split on the devices."""
        if devices not in self._image_steps:  # one for all splits, so that it is compiled once
            step = evaluate.make_image_step(self.model(), self.normalize, len(self.names))
            self._image_steps[devices] = devices.predict(step)
        size = self.config.evaluation.batch_size
        return evaluate.ImageEvaluator(
            self.images.splits[split], self._image_steps[devices], devices, size, len(self.names)
        )

    def scores(self, evaluation: evaluate.ImageEvaluation, split: str) -> dict:
        """Loss and accuracies, keyed by split and averaging."""
        values = {f"{split}/loss": evaluation.loss}
        if len(self.names) >= MOST_CLASSES_TABLED and len(evaluation.labels):
            values[f"{split}/top5_accuracy"] = evaluation.within_five / len(evaluation.labels)
        return values | metrics.image_scores(evaluation.total, self.names, split)

    def summary(
        self, evaluator: evaluate.ImageEvaluator, variables, split: str, check=lambda: None
    ):
        """(scores and what they were counted on, the evaluation): images, the confusion matrix, and
        accuracies on moved test images."""
        evaluation = evaluator.evaluate(variables, check)
        summary = self.scores(evaluation, split) | {f"{split}/images": len(evaluation.labels)}
        if len(self.names) <= MOST_CLASSES_TABLED:
            summary[f"{split}/confusion"] = evaluation.total.tolist()
        if split == "test":
            for size in self.config.evaluation.shifts_px:
                moves = [(size, 0), (-size, 0), (0, size), (0, -size)]
                moved = [evaluator.evaluate(variables, check, move) for move in moves]
                summary[f"test/shifted_accuracy/{size}"] = float(
                    np.mean([np.mean(m.predictions == m.labels) for m in moved])
                )
        return summary, evaluation

    def record(self, folder, evaluator, evaluation) -> None:
        """Nothing beside the summary."""

    @property
    def example_px(self) -> tuple[int, int, int]:
        """Height, width and channels of a training example."""
        return (*self.images.image_px, self.images.channels)

    def pictures(self, folder, lines, evaluator, evaluation, variables) -> None:
        """Learning curves, confusion matrix, misclassified images, filters, feature maps and
        Grad-CAM, as PNG files in `folder`."""
        from cnn_jax.reporting import classifier_pictures

        classifier_pictures.draw(self, folder, lines, evaluator, evaluation, variables)


def check(config: Config, images: ImageSet) -> None:
    """Holds a configuration to the images. Raises InputError, naming the field and the mend."""
    source = config.data.source
    if not len(images.splits["train"]):
        raise InputError(
            f"no images of {source} are left to train on: lower data.validation_share."
        )
    for name in ("mean", "std"):
        count = len(getattr(config.data, name))
        if getattr(config.data, name) != "auto" and count not in (1, images.channels):
            raise InputError(
                f"data.{name} has {count} values, but the images of {source} have {images.channels}"
                " channels; give one, or one a channel."
            )
    if config.task == "classic":
        if images.dtype != "uint8" or images.channels not in (1, 3):
            raise InputError(
                f"{source} has images of {images.channels} channels of {images.dtype}; classic"
                " methods take 8 bits, grey or red, green and blue."
            )
        return
    if config.evaluation.weights == "best" or config.training.patience:
        field = (
            "evaluation.weights is 'best'"
            if config.evaluation.weights == "best"
            else "training.patience is not 0"
        )
        if not len(images.splits["validation"]):
            raise InputError(
                f"{field}, but there is no validation split to choose by: raise"
                " data.validation_share."
            )
    augmentation.check(config.augmentation)
    augmentation.check_channels(config.augmentation, images.channels, images.dtype, source)
    changes = config.evaluation.shifts_px or config.augmentation.shift_px
    if config.data.permuted and changes:
        raise InputError(
            "data.permuted scatters each image's pixels, and moving such an image says nothing:"
            " leave evaluation.shifts_px empty and augmentation.shift_px 0."
        )
    height, width = images.image_px
    if config.augmentation.quarter_turn_probability and height != width:
        raise InputError(
            f"augmentation.quarter_turn_probability needs square images, not {height}x{width} px:"
            " set it to 0."
        )
    if max(config.evaluation.shifts_px, default=0) >= min(images.image_px):
        raise InputError(
            f"evaluation.shifts_px is {config.evaluation.shifts_px}; images are only"
            f" {height}x{width} px."
        )
    module = configuration.build_model(config.model, num_classes=len(images.classes))
    inputs = jax.ShapeDtypeStruct((1, height, width, images.channels), jnp.float32)
    if min(images.image_px) < module.least_px:
        stem = (
            ", or choose --config.model.stem=small"
            if getattr(module, "stem", "") == "imagenet"
            else ""
        )
        raise InputError(
            f"{config.model.name} takes images of at least {module.least_px}x{module.least_px} px,"
            f" and those of {source} are {height}x{width}: enlarge them with"
            f" --config.data.image_px=({module.least_px},{module.least_px}){stem}."
        )
    # What the module itself refuses is refused before the run has a folder; nothing is computed.
    jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), inputs)


def augment_images(keys, images, config):
    """Random changes of whole images, by the warp and the colours that crops of scenes get.

    Args:
        keys: one an image.
        images: `[batch, height, width, channels]` as stored.
        config: the `augmentation` section.

    Returns:
        float32 of the same shape, scaled (uint8: 0 to 1). What a shift, a turn or a zoom brings in
        from outside is black.
    """
    probabilities = (value for name, value in vars(config).items() if name.endswith("_probability"))
    if not config.shift_px and not any(probabilities):
        return augmentation.scaled(images)
    batch, height, width, _ = images.shape
    # One black pixel more than any shift needs: it is what is repeated beyond the image.
    rim = config.shift_px + 1
    padded = jnp.pad(images, ((0, 0), (rim, rim), (rim, rim), (0, 0)))
    rows, columns = padded.shape[1:3]
    middle, shift = (rows // 2, columns // 2), config.shift_px
    cell = jnp.array(
        [middle[0] - shift, middle[1] - shift, middle[0] + shift + 1, middle[1] + shift + 1],
        jnp.int32,
    )
    examples = {
        "image": padded,
        "mask": jnp.zeros(padded.shape[:3], jnp.uint8),
        "cell_px": jnp.tile(cell, (batch, 1)),
        "extent_px": jnp.tile(jnp.array([rows, columns], jnp.int32), (batch, 1)),
    }
    return augmentation.augment_examples(keys, examples, config, (height, width))[0]


def mixup(keys, images, labels, alpha: float):
    """Each image blended with another of the batch, and their labels with them (Zhang et al.,
    2018).

    The share is one draw of Beta(alpha, alpha) an image, where the paper draws one a batch; the
    partner is the image as far from the batch's end as this one is from its start. So the result
    depends on which images share a batch (under `pmap` a device's part of it, with `accumulate` one
    of its parts).

    Args:
        keys: one an image.
        images: float32 `[batch, height, width, channels]`.
        labels: float32 `[batch, classes]`.
        alpha: above 0; 1 is uniform.
    """
    # A number no augmentation's draw has: fold_in(key, i) is split(key, n)[i].
    share = jax.vmap(lambda key: jax.random.beta(jax.random.fold_in(key, 1000), alpha, alpha))(keys)
    of_images, of_labels = share[:, None, None, None], share[:, None]
    return (
        of_images * images + (1 - of_images) * images[::-1],
        of_labels * labels + (1 - of_labels) * labels[::-1],
    )
