"""Classification: each image gets its class."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from cnn_jax.configuration.schema import (
    ClassificationConfig,
    ImageAugmentationConfig,
    ImageDataConfig,
)
from cnn_jax.data import augmentation, resident
from cnn_jax.data.dataset_info import DatasetInfo
from cnn_jax.data.images import (
    ImageSet,
    ImageSource,
    LabelledImages,
    dataset_info,
    open_images,
)
from cnn_jax.errors import InputError
from cnn_jax.evaluation import metrics
from cnn_jax.evaluation.images import ImageEvaluation, ImageEvaluator, make_image_step
from cnn_jax.models import CLASSIFIERS
from cnn_jax.tasks import build_model
from cnn_jax.tasks.network import LastEvaluation, check_module, train_network
from cnn_jax.tasks.programs import shared
from cnn_jax.tasks.task import Report
from cnn_jax.training import losses
from cnn_jax.training.devices import Devices

MOST_CLASSES_TABLED = 100
"""A confusion matrix of more classes than this is left out of the summary: it would be a file of
megabytes."""


class ClassificationLearner:
    """A network that gives each image its class.

    Args:
        config: checked.
        info: of the images.

    Raises:
        InputError: the model doesn't take images of this size, or settings don't fit the images.
    """

    example, monitor = "images", "accuracy"
    fit = train_network

    def __init__(self, config: ClassificationConfig, info: DatasetInfo) -> None:
        self.config, self.info = config, info
        self.names = list(info.classes)
        assert info.image_px is not None  # images are made equal where they are opened
        self.image_px = info.image_px
        _check(self)
        self.evaluated = (*(("train",) if config.evaluation.train else ()), "validation", "test")
        weights = losses.class_weights(info.class_counts, config.loss.class_weights)
        self.loss = losses.of(config.loss, weights)

    def module(self, axis_name: str | None = None) -> nn.Module:
        """The Flax module; `axis_name` is the `pmap` axis."""
        return build_model(self.config.model, num_classes=len(self.names), axis_name=axis_name)

    @property
    def example_px(self) -> tuple[int, int, int]:
        """Height, width and channels of an image."""
        return (*self.image_px, self.info.channels)

    def prepare(
        self, keys: jax.Array, examples: Mapping[str, jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        """Training inputs: normalised images float32 `[batch, height, width, channels]`, class
        probabilities float32 `[batch, classes]`."""
        config = self.config.augmentation
        if "number" in examples:
            examples = resident.examples(examples)
        images = augment_images(keys, examples["image"], config, self.info.greatest)
        labels = jax.nn.one_hot(examples["label"], len(self.names))
        if config.mixup_alpha:
            images, labels = mixup(keys, images, labels, config.mixup_alpha)
        return augmentation.normalize(images, self.info.mean, self.info.std), labels

    def normalize(self, images: Any) -> jax.Array:
        """Images of the files' type as the network sees them, float32."""
        images = augmentation.scaled(images, self.info.greatest)
        return augmentation.normalize(images, self.info.mean, self.info.std)

    def loss_and_metrics(self, logits: jax.Array, labels: jax.Array) -> dict[str, tuple[Any, Any]]:
        """The loss and the share of images that are right, each as (sum, count)."""
        return {"loss": self.loss(logits, labels), "accuracy": losses.hits(logits, labels)}

    def image_step(self, devices: Devices) -> Callable:
        """`(variables, batch) -> results` of `make_image_step`, compiled once for all splits."""

        def make() -> Callable:
            step = make_image_step(self.module(), self.normalize, len(self.names))
            return devices.predict(step, self.config.model)

        return shared(self, "images", make, devices)

    def probabilities(self, variables: Any, images: jax.Array) -> jax.Array:
        """Probabilities of the classes, float32 `[batch, classes]`, of images as files store them;
        to be compiled."""
        logits = self.module().apply(variables, self.normalize(images), train=False)
        return jax.nn.softmax(cast(jax.Array, logits))


class ClassificationDataset:
    """Labelled images, by split.

    Attributes:
        info: of the images.
        images: split -> `LabelledImages`.
    """

    def __init__(self, config: ClassificationConfig) -> None:
        images = open_images(config.data)
        check_splits(config.data, images)
        best, patience = config.evaluation.weights == "best", config.training.patience
        if (best or patience) and not len(images.splits["validation"]):
            field = "evaluation.weights is 'best'" if best else "training.patience is not 0"
            raise InputError(
                f"{field}, but there is no validation split to choose by: raise"
                " data.validation_share."
            )
        self.images, self._evaluators = images.splits, {}
        counted = config.loss.class_weights != "none"
        self.info = dataset_info(config.data, images, counted=counted)

    def training_source(self, learner: ClassificationLearner) -> ImageSource:
        """Random access to the training images."""
        return ImageSource(self.images["train"])

    def resident(self, learner: ClassificationLearner) -> dict[str, np.ndarray]:
        """What lies on each device, so that an example need only say its number."""
        return resident.images(self.images["train"], learner.config.data.memory_budget_gib)

    def evaluator(
        self, learner: ClassificationLearner, split: str, devices: Devices
    ) -> "ClassificationEvaluator":
        """Evaluates a split on the devices."""
        key = learner, split, devices
        if key not in self._evaluators:
            self._evaluators[key] = ClassificationEvaluator(
                learner, self.images[split], split, devices
            )
        return self._evaluators[key]


class ClassificationEvaluator:
    """Evaluates the images of one split, every image once."""

    def __init__(
        self, learner: ClassificationLearner, images: LabelledImages, split: str, devices: Devices
    ) -> None:
        self.learner, self.images, self.split = learner, images, split
        step, size = learner.image_step(devices), learner.config.evaluation.batch_size
        self.evaluator = ImageEvaluator(images, step, devices, size, len(learner.names))
        self._last = LastEvaluation()

    def scores(
        self, variables: Any, check: Callable = lambda: None, last: bool = False
    ) -> dict[str, Any]:
        """Loss and accuracies, keyed by split and averaging."""
        evaluation = self.evaluator.evaluate(variables, check)
        self._last.keep(variables, evaluation)
        return self._scores(evaluation)

    def _scores(self, evaluation: ImageEvaluation) -> dict[str, Any]:
        values = {f"{self.split}/loss": evaluation.loss}
        within_five, many = evaluation.within_five, len(self.learner.names) >= MOST_CLASSES_TABLED
        if many and within_five is not None and len(evaluation.labels):
            share = within_five / len(evaluation.labels)
            values[f"{self.split}/top5_accuracy"] = share
        return values | metrics.image_scores(evaluation.total, self.learner.names, self.split)

    def report(self, variables: Any, check: Callable = lambda: None) -> Report:
        """The scores, what they were counted from, and accuracies on moved test images."""
        evaluation = self._last.of(variables)
        if evaluation is None:
            evaluation = self.evaluator.evaluate(variables, check)
        figures = self._scores(evaluation) | counted(evaluation, self.split)
        if self.split == "test":
            for size in self.learner.config.evaluation.shifts_px:
                moves = [(size, 0), (-size, 0), (0, size), (0, -size)]
                moved = [self.evaluator.evaluate(variables, check, move) for move in moves]
                right = [np.mean(one.predictions == one.labels) for one in moved]
                figures[f"test/shifted_accuracy/{size}"] = float(np.mean(right))
        return Report(figures, evaluation)

    def keep(self, record: Any, report: Report) -> None:
        """Nothing beside the summary."""

    def draw(self, folder: Path, lines: list[dict], report: Report, variables: Any) -> None:
        """Confusion matrix, misclassified images, filters, feature maps and Grad-CAM."""
        from cnn_jax.reporting import classifier_pictures

        classifier_pictures.draw(self.learner, folder, self.images, report.evaluation, variables)


class Classification:
    """The task: configurations, models, learners and data of classification."""

    configuration = ClassificationConfig
    models: Mapping[str, Callable] = CLASSIFIERS

    def learner(self, config: ClassificationConfig, info: DatasetInfo) -> ClassificationLearner:
        """Of the configuration's model."""
        return ClassificationLearner(config, info)

    def dataset(
        self, config: ClassificationConfig, description: Mapping[str, Any] | None = None
    ) -> ClassificationDataset:
        """Images of TFDS, or of a folder."""
        return ClassificationDataset(config)


def check_splits(data: ImageDataConfig, images: ImageSet) -> None:
    """Says what people should know of the splits. Raises InputError where none is left to train
    on."""
    if not len(images.splits["train"]):
        raise InputError(
            f"no images of {data.source} are left to train on: lower data.validation_share."
        )
    for sentence in images.notes:
        print(f"note: {sentence}", flush=True)


def counted(evaluation: ImageEvaluation, split: str) -> dict[str, Any]:
    """What the figures of a split were counted from."""
    figures: dict[str, Any] = {f"{split}/images": len(evaluation.labels)}
    if evaluation.classes <= MOST_CLASSES_TABLED:
        figures[f"{split}/confusion"] = evaluation.total.tolist()
    return figures


def _check(learner: ClassificationLearner) -> None:
    """Raises InputError where settings and images don't fit each other."""
    config, info = learner.config, learner.info
    augmentation.check(config.augmentation)
    augmentation.check_channels(config.augmentation, info.channels, info.dtype, info.source)
    if config.data.permuted and (config.evaluation.shifts_px or config.augmentation.shift_px):
        raise InputError(
            "data.permuted scatters each image's pixels, and moving such an image says nothing:"
            " leave evaluation.shifts_px empty and augmentation.shift_px 0."
        )
    height, width = learner.image_px
    if config.augmentation.quarter_turn_probability and height != width:
        raise InputError(
            "augmentation.quarter_turn_probability needs square images, not"
            f" {height}x{width} px: set it to 0."
        )
    if max(config.evaluation.shifts_px, default=0) >= min(height, width):
        raise InputError(
            f"evaluation.shifts_px is {config.evaluation.shifts_px}; images are only"
            f" {height}x{width} px."
        )
    module = learner.module()
    if min(height, width) < module.least_px:
        small = getattr(module, "stem", "") == "imagenet"
        stem = ", or choose --model.stem small" if small else ""
        raise InputError(
            f"{config.model.name} takes images of at least {module.least_px}x{module.least_px} px,"
            f" and those of {info.source} are {height}x{width}: enlarge them with"
            f" --data.image_px {module.least_px} {module.least_px}{stem}."
        )
    check_module(learner)


def augment_images(
    keys: jax.Array,
    images: jax.Array,
    config: ImageAugmentationConfig,
    greatest: float | None = None,
) -> jax.Array:
    """Random changes of whole images, by the warp and the colours that crops of scenes get.

    Args:
        keys: one an image.
        images: `[batch, height, width, channels]` as stored.
        config: the `augmentation` section.
        greatest: the value that becomes 1; None: that of the type.

    Returns:
        float32 of the same shape, scaled (uint8: 0 to 1). What a shift, a turn or a zoom brings in
        from outside is black.
    """
    probabilities = (value for name, value in vars(config).items() if name.endswith("_probability"))
    if not config.shift_px and not any(probabilities):
        return augmentation.scaled(images, greatest)
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
    size = height, width
    return augmentation.augment_examples(keys, examples, config, size, greatest)[0]


def mixup(
    keys: jax.Array, images: jax.Array, labels: jax.Array, alpha: float
) -> tuple[jax.Array, jax.Array]:
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
