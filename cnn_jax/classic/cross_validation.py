"""Choosing k and the distance of nearest neighbours by cross-validation (Stone, 1974)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from cnn_jax.classic.neighbours import DISTANCES, nearest, votes
from cnn_jax.errors import InputError


@dataclass(frozen=True)
class CrossValidation:
    """Accuracies by distance, k and fold: what a choice is made from, and what its plot shows.

    Attributes:
        distances: names of the distances.
        ks: the numbers of neighbours.
        accuracies: float64 `[distances, ks, folds]`, 0 to 1, each of the fold that was left out.
    """

    distances: tuple[str, ...]
    ks: tuple[int, ...]
    accuracies: np.ndarray

    @property
    def best(self) -> tuple[str, int]:
        """The distance and k of the highest mean accuracy over folds; the first listed where means
        are equal."""
        means = self.accuracies.mean(2)
        distance, k = np.unravel_index(means.argmax(), means.shape)
        return self.distances[distance], self.ks[k]


def folds_of(count: int, folds: int, seed: int) -> np.ndarray:
    """int64 `[count]`: the fold of each example, in random order by `seed`; sizes differ by one at
    most."""
    return np.random.default_rng(seed).permutation(np.arange(count) % folds)


def cross_validate(
    examples: ArrayLike,
    labels: ArrayLike,
    ks: Sequence[int],
    distances: Sequence[str] = DISTANCES,
    *,
    folds: int = 5,
    seed: int = 0,
) -> CrossValidation:
    """Classifies each fold by the others' examples, for every distance and k.

    Neighbours are sought once a fold and distance, for the largest k; smaller ones take the first
    of them.

    Args:
        examples: uint8 or float `[examples, ...]`.
        labels: int `[examples]`, from 0.
        ks: numbers of neighbours to try.
        distances: of "l1", "l2".
        folds: parts that the examples are divided into, at random and not by class.
        seed: of that division.

    Raises:
        InputError: fewer than two folds, more folds than examples, no k, or a k that the other
            folds don't hold.
    """
    examples, labels = np.asarray(examples), np.asarray(labels)
    if not 2 <= folds <= len(examples):
        raise InputError(
            f"folds is {folds} for {len(examples)} examples; it must lie between 2 and their"
            " number."
        )
    if not len(ks) or not len(distances):
        raise InputError("ks and distances must each name at least one value to try.")
    fold, classes = folds_of(len(examples), folds, seed), int(labels.max()) + 1
    accuracies = np.empty((len(distances), len(ks), folds))
    for left_out in range(folds):
        train, held = fold != left_out, fold == left_out
        for row, distance in enumerate(distances):
            indices, _ = nearest(examples[train], examples[held], max(ks), distance)
            for column, k in enumerate(ks):
                predicted = votes(labels[train], indices[:, :k], classes).argmax(1)
                accuracies[row, column, left_out] = (predicted == labels[held]).mean()
    return CrossValidation(tuple(distances), tuple(ks), accuracies)
