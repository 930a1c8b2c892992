"""Classic methods, without a network: the same splits, figures and pictures as classification."""

import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cnn_jax.classic.cross_validation import cross_validate
from cnn_jax.classic.methods import METHODS
from cnn_jax.configuration.schema import ClassicConfig
from cnn_jax.data.dataset_info import DatasetInfo
from cnn_jax.data.images import LabelledImages, dataset_info, open_images
from cnn_jax.errors import InputError
from cnn_jax.evaluation import metrics
from cnn_jax.evaluation.images import ImageEvaluation
from cnn_jax.runtime import processes
from cnn_jax.tasks import build_model
from cnn_jax.tasks.classification import check_splits, counted
from cnn_jax.tasks.task import Fitted, Report, Session

BATCH = 1000
"""Images predicted at once."""


class ClassicLearner:
    """A classic method that gives each image its class.

    Args:
        config: checked.
        info: of the images.
    """

    example, monitor, evaluated = "images", "accuracy", ("validation", "test")

    def __init__(self, config: ClassicConfig, info: DatasetInfo) -> None:
        self.config, self.info, self.names = config, info, list(info.classes)

    def fit(self, dataset: "ClassicDataset", session: Session) -> Fitted:
        """Fits on the training images, with k and distance chosen by cross-validation where that is
        asked for.

        Raises:
            InputError: several processes, or what the method refuses.
        """
        config, selection = self.config, self.config.selection
        if processes.several():
            raise InputError(f"{config.model.name} is fitted by one process: omit --distributed.")
        images, labels = dataset.images["train"].arrays()
        session.record.rewind(lambda line: False)
        method, figures, start = build_model(config.model), {}, time.perf_counter()
        if selection.ks:
            count, folds = min(selection.examples, len(images)), selection.folds
            if folds > count:
                raise InputError(
                    f"selection.folds is {folds} for {count} examples to train on: lower it."
                )
            left = count - -(-count // folds)  # beside the largest fold
            if max(selection.ks) > left:
                raise InputError(
                    f"selection.ks is {selection.ks}, and beside a fold there are {left} training"
                    " images: give no more."
                )
            # Folders store their images by class.
            some = np.random.default_rng(config.seed).permutation(len(images))[:count]
            found = cross_validate(
                images[some], labels[some], selection.ks, folds=folds, seed=config.seed
            )
            distance, k = found.best
            print(
                f"chosen by {folds}-fold cross-validation on {count:,} training images:"
                f" k={k}, {distance}",
                flush=True,
            )
            method = dataclasses.replace(method, k=k, distance=distance)
            by_distance = zip(found.distances, found.accuracies, strict=True)
            figures["cross_validation"] = {
                "ks": list(found.ks),
                "examples": count,
                "accuracy": {name: accuracies.tolist() for name, accuracies in by_distance},
                "chosen": {"distance": distance, "k": k},
            }
            session.stop.raise_if_set()
        if (clusters := getattr(method, "clusters", 0)) > len(images):
            print(
                f"note: model.clusters is {clusters}, and there are {len(images)} training images:"
                " each is one.",
                flush=True,
            )
        fitted = method.fit(images, labels, config.seed)
        figures["wall_time_s"] = time.perf_counter() - start
        if selection.ks:
            _draw_selection(session.record.figures, figures["cross_validation"])
        return Fitted(fitted, figures)


class ClassicDataset:
    """Labelled images, by split.

    Attributes:
        info: of the images.
        images: split -> `LabelledImages`.
    """

    def __init__(self, config: ClassicConfig) -> None:
        images = open_images(config.data)
        check_splits(config.data, images)
        if images.dtype != "uint8" or images.channels not in (1, 3):
            raise InputError(
                f"{config.data.source} has images of {images.channels} channels of {images.dtype};"
                " classic methods take 8 bits, grey or red, green and blue."
            )
        if len(np.unique(images.splits["train"].labels)) < 2:
            raise InputError(
                f"the training images of {config.data.source} are all of one class: use more of"
                " them, or other data."
            )
        self.images, self.info = images.splits, dataset_info(config.data, images, counted=False)

    def training_source(self, learner: ClassicLearner) -> LabelledImages:
        """The training images."""
        return self.images["train"]

    def resident(self, learner: ClassicLearner) -> dict[str, Any]:
        """Nothing."""
        return {}

    def evaluator(self, learner: ClassicLearner, split: str, devices: Any) -> "ClassicEvaluator":
        """Evaluates a split."""
        return ClassicEvaluator(learner, self.images[split], split)


class ClassicEvaluator:
    """Evaluates the images of one split with a fitted method."""

    def __init__(self, learner: ClassicLearner, images: LabelledImages, split: str) -> None:
        self.learner, self.images, self.split = learner, images, split

    def scores(
        self, variables: Any, check: Callable = lambda: None, last: bool = False
    ) -> dict[str, Any]:
        """Accuracies, keyed by split and averaging."""
        return dict(self.report(variables, check).figures)

    def report(self, variables: Any, check: Callable = lambda: None) -> Report:
        """Accuracies, what they were counted from, and images predicted per second."""
        scores, seconds, images = [], 0.0, self.images
        variables.scores(images.arrays(range(min(BATCH, len(images))))[0])  # compiles, untimed
        for first in range(0, len(images), BATCH):
            check()
            some, _ = images.arrays(range(first, min(first + BATCH, len(images))))
            start = time.perf_counter()
            scores.append(variables.scores(some))
            seconds += time.perf_counter() - start
        scores = np.concatenate(scores)
        # In place of probabilities stand the method's scores: shares of votes, or margins.
        predictions = variables.classes[scores.argmax(1)].astype(np.int32)
        names = self.learner.names
        labels = np.asarray(images.labels)
        evaluation = ImageEvaluation(len(names), labels, predictions, scores.max(1))
        figures = metrics.image_scores(evaluation.total, names, self.split)
        figures[f"{self.split}/images_per_second"] = len(labels) / seconds
        return Report(figures | counted(evaluation, self.split), evaluation)

    def keep(self, record: Any, report: Report) -> None:
        """Nothing beside the summary."""

    def draw(self, folder: Path, lines: list[dict], report: Report, variables: Any) -> None:
        """Confusion matrix and misclassified images."""
        from cnn_jax.reporting import classifier_pictures

        score = "margin" if self.learner.config.model.name == "svm" else "share"
        classifier_pictures.prediction_pictures(
            self.learner.names, folder, self.images, report.evaluation, 24, score
        )


class Classic:
    """The task: configurations, methods, learners and data of classic methods."""

    configuration = ClassicConfig
    models: Mapping[str, Callable] = METHODS

    def learner(self, config: ClassicConfig, info: DatasetInfo) -> ClassicLearner:
        """Of the configuration's method."""
        return ClassicLearner(config, info)

    def dataset(
        self, config: ClassicConfig, description: Mapping[str, Any] | None = None
    ) -> ClassicDataset:
        """Images of TFDS, or of a folder."""
        return ClassicDataset(config)


def _draw_selection(folder: Path, found: Mapping[str, Any]) -> None:
    from cnn_jax.reporting import study_figures

    accuracies = {name: np.array(values) for name, values in found["accuracy"].items()}
    chosen = found["chosen"]["distance"], found["chosen"]["k"]
    path = folder / "cross_validation.png"
    study_figures.cross_validation(found["ks"], accuracies, path, chosen=chosen)
