"""What is pictured of a classifier's run: how it learnt, what it confuses, and what it looks at."""

import jax.numpy as jnp
import numpy as np

from cnn_jax.analysis import attribution
from cnn_jax.data.augmentation import scaled
from cnn_jax.reporting import figures, image_figures

LOOKED_AT = 8
"""Images whose evidence is drawn: half of them right, half wrong, where there are as many."""


def draw(task, folder, lines, evaluator, evaluation, variables) -> None:
    """Learning curves, confusion matrix, misclassified images, first-layer filters, feature maps
    and Grad-CAM, as PNG files.

    Args:
        task: a `Classification`.
        folder: where the files go.
        lines: of metrics.jsonl.
        evaluator: of the test split, and
        evaluation: what it found; both None where there is no test split, and then only the curves
            are drawn.
        variables: that predictions are made with.
    """
    best = None
    if task.config.training.patience:
        validated = [line for line in lines if line.get(task.headline) is not None]
        best = max(validated, key=lambda line: line[task.headline])["step"] if validated else None
    figures.learning_curves(lines, folder / "learning_curves.png", best_step=best)
    if evaluation is None:
        return
    prediction_pictures(
        task.names, folder, evaluator.images, evaluation, task.config.evaluation.pictured_images
    )

    model, images, names = task.model(), evaluator.images, task.names
    chosen = looked_at(evaluation)
    pictured = images.arrays(chosen)[0]
    seen = task.normalize(scaled(jnp.asarray(pictured), task.images.greatest))
    kernel = attribution.first_kernel(model, variables, seen)
    if kernel is not None:
        dense = (
            {"image_px": task.images.image_px, "channels": task.images.channels}
            if kernel.ndim == 2
            else {}
        )
        titles = names if kernel.ndim == 2 and kernel.shape[1] == len(names) else None
        image_figures.filters(np.asarray(kernel), folder / "filters.png", titles=titles, **dense)
    if not attribution.map_names(model, variables, seen):
        return  # softmax regression and perceptrons keep no places
    image_figures.feature_maps(
        pictured[0],
        attribution.feature_maps(model, variables, seen[0]),
        folder / "feature_maps.png",
    )
    truths, predictions = evaluation.labels[chosen], evaluation.predictions[chosen]
    heats = attribution.grad_cam(
        model, variables, jnp.concatenate([seen, seen]), np.concatenate([predictions, truths])
    )
    image_figures.grad_cam(
        list(pictured),
        list(heats[: len(chosen)]),
        list(heats[len(chosen) :]),
        truths,
        predictions,
        evaluation.probabilities[chosen],
        names,
        folder / "grad_cam.png",
    )


def prediction_pictures(
    names, folder, images, evaluation, count: int, score: str = "probability"
) -> None:
    """What needs predictions alone: the confusion matrix, and the misclassified images that the
    model was surest of, with their probability, or what else `score` calls it."""
    figures.confusion_matrix(
        evaluation.total, names, folder / "confusion_matrix.png", unit="examples"
    )
    found = evaluation.labels, evaluation.predictions, evaluation.probabilities
    image_figures.misclassified(
        _Pictured(images), *found, names, folder / "misclassified.png", count=count, score=score
    )


def looked_at(evaluation) -> list[int]:
    """Which test images are looked into: half of them the surest errors, the others right, of
    different classes first."""
    wrong = np.flatnonzero(evaluation.predictions != evaluation.labels)
    wrong = wrong[np.argsort(-evaluation.probabilities[wrong], kind="stable")][
        : LOOKED_AT // 2
    ].tolist()
    right, classes = [], set()
    for index in np.flatnonzero(evaluation.predictions == evaluation.labels).tolist():
        if evaluation.labels[index] not in classes:
            right.append(index)
            classes.add(evaluation.labels[index])
    right += [
        index
        for index in np.flatnonzero(evaluation.predictions == evaluation.labels)[
            :LOOKED_AT
        ].tolist()
        if index not in right
    ]
    return [*right[: LOOKED_AT - len(wrong)], *wrong]


class _Pictured:
    """Images without their labels, fetched when they are drawn."""

    def __init__(self, images):
        self._images = images

    def __len__(self):
        return len(self._images)

    def __getitem__(self, index):
        return self._images[index][0]
