"""A classic method's run, from configuration to record: the same splits, figures and pictures as a
network's."""

import dataclasses
import time
from collections.abc import Callable

import numpy as np

from cnn_jax import configuration
from cnn_jax.classic.cross_validation import cross_validate
from cnn_jax.configuration import ClassicConfig
from cnn_jax.data.images import open_images
from cnn_jax.errors import InputError
from cnn_jax.evaluation import metrics
from cnn_jax.evaluation.images import ImageEvaluation
from cnn_jax.tasks.classification import MOST_CLASSES_TABLED, check, info_of

BATCH = 1000
"""Images predicted at once."""


def fit_and_evaluate(config: ClassicConfig, record, command: str, stopped: Callable) -> dict:
    """Fits on the training images, predicts validation and test, writes the record, and returns its
    summary.

    Args:
        config: checked.
        record: entered.
        command: what to type to run this again.
        stopped: called between batches; may raise Stopped.

    Raises:
        InputError: what the user can mend.
    """
    from cnn_jax.records import run_directory as records
    from cnn_jax.records.files import pictures_can_be_written
    from cnn_jax.reporting import classifier_pictures, study_figures

    data = open_images(config.data)
    check(config, data)
    if len(np.unique(data.splits["train"].labels)) < 2:
        raise InputError(
            f"the training images of {config.data.source} are all of one class: use more of them,"
            " or other data."
        )
    environment = records.environment(config, data.fingerprint, command)
    record.begin(environment, info_of(config, data))
    record.rewind(lambda line: False)
    names = list(data.classes)
    images, labels = data.splits["train"].arrays()
    sizes = ", ".join(f"{len(images):,} {split}" for split, images in data.splits.items())
    print(
        f"{config.data.source}: {sizes}; {config.model.name}, seed {config.seed}, in"
        f" {record.workdir}",
        flush=True,
    )

    summary, method = configuration.identity(config), configuration.build_model(config.model)
    start, selection, found = time.perf_counter(), config.selection, None
    if selection.ks:
        count = min(selection.examples, len(images))
        some = np.random.default_rng(config.seed).permutation(len(images))[
            :count
        ]  # folders store their images by class
        found = cross_validate(
            images[some], labels[some], selection.ks, folds=selection.folds, seed=config.seed
        )
        distance, k = found.best
        print(
            f"chosen by {selection.folds}-fold cross-validation on {count:,} training images:"
            f" k={k}, {distance}",
            flush=True,
        )
        method = dataclasses.replace(method, k=k, distance=distance)
        summary["cross_validation"] = {
            "ks": list(found.ks),
            "examples": count,
            "accuracy": {
                d: a.tolist() for d, a in zip(found.distances, found.accuracies, strict=True)
            },
            "chosen": {"distance": distance, "k": k},
        }
        stopped()
    fitted = method.fit(images, labels, config.seed)
    summary["wall_time_s"] = time.perf_counter() - start
    evaluation = None
    for split in ("validation", "test"):
        if len(data.splits[split]):
            evaluation, seconds = _evaluate(fitted, data.splits[split], len(names), stopped)
            summary |= metrics.image_scores(evaluation.total, names, split) | {
                f"{split}/images": len(evaluation.labels)
            }
            summary[f"{split}/images_per_second"] = len(evaluation.labels) / seconds
            if len(names) <= MOST_CLASSES_TABLED:
                summary[f"{split}/confusion"] = evaluation.total.tolist()
    with pictures_can_be_written(record.workdir / "figures"):
        if found is not None:
            accuracies = dict(zip(found.distances, found.accuracies, strict=True))
            study_figures.cross_validation(
                found.ks, accuracies, record.figures / "cross_validation.png", chosen=found.best
            )
        if len(data.splits["test"]):
            score = "margin" if config.model.name == "svm" else "share"
            classifier_pictures.prediction_pictures(
                names, record.figures, data.splits["test"], evaluation, 24, score
            )
    record.finish(summary)
    return summary


def _evaluate(fitted, images, classes: int, stopped: Callable) -> tuple[ImageEvaluation, float]:
    """(the evaluation, seconds that predicting took). In place of probabilities it has the method's
    scores: shares or margins."""
    scores, seconds = [], 0.0
    fitted.scores(images.arrays(range(min(BATCH, len(images))))[0])  # compiles, untimed
    for first in range(0, len(images), BATCH):
        stopped()
        some, _ = images.arrays(range(first, min(first + BATCH, len(images))))
        start = time.perf_counter()
        scores.append(fitted.scores(some))
        seconds += time.perf_counter() - start
    scores = np.concatenate(scores)
    predictions = fitted.classes[scores.argmax(1)].astype(np.int32)
    return ImageEvaluation(classes, np.asarray(images.labels), predictions, scores.max(1)), seconds
