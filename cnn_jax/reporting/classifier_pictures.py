"""What is pictured of a classifier's run: how it learnt, what it confuses, and what it looks at."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from cnn_jax.analysis import attribution
from cnn_jax.reporting import figures, image_figures

LOOKED_AT = 8
"""Images whose evidence is drawn: half of them right, half wrong, where there are as many."""


def draw(learner: Any, folder: Path, images: Any, evaluation: Any, variables: Any) -> None:
    """Confusion matrix, misclassified images, first-layer filters, feature maps and Grad-CAM, as
    PNG files.

    Args:
        learner: a `ClassificationLearner`.
        folder: where the files go.
        images: the split.
        evaluation: of it.
        variables: that predictions are made with.
    """
    names, shown = learner.names, learner.config.evaluation.pictured_images
    prediction_pictures(names, folder, images, evaluation, shown)
    model = learner.module()
    chosen = looked_at(evaluation)
    pictured = images.arrays(chosen)[0]
    seen = learner.normalize(jnp.asarray(pictured))
    kernel = attribution.first_kernel(model, variables, seen)
    if kernel is not None:
        dense = (
            {"image_px": learner.info.image_px, "channels": learner.info.channels}
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
    names: Sequence[str],
    folder: Path,
    images: Any,
    evaluation: Any,
    count: int,
    score: str = "probability",
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


def looked_at(evaluation: Any) -> list[int]:
    """Which test images are looked into: half of them the surest errors, the others right, of
    different classes first."""
    wrong = np.flatnonzero(evaluation.predictions != evaluation.labels)
    surest = np.argsort(-evaluation.probabilities[wrong], kind="stable")[: LOOKED_AT // 2]
    wrong = wrong[surest].tolist()
    right = np.flatnonzero(evaluation.predictions == evaluation.labels)
    _, first = np.unique(evaluation.labels[right], return_index=True)
    in_order = dict.fromkeys([*right[np.sort(first)].tolist(), *right[:LOOKED_AT].tolist()])
    return [*list(in_order)[: LOOKED_AT - len(wrong)], *wrong]


class _Pictured:
    """Images without their labels, fetched when they are drawn."""

    def __init__(self, images):
        self._images = images

    def __len__(self):
        return len(self._images)

    def __getitem__(self, index):
        return self._images[index][0]
