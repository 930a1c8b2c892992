"""Images with crowds, and predictions near their objects and elsewhere."""

import dataclasses

import numpy as np

from cnn_jax.data import objects
from cnn_jax.data.objects import AnnotatedImage, Annotation

SIZE = 80, 120
CLASSES = 4


def blob(rng: np.random.Generator, label: int, **others) -> Annotation:
    """An ellipse somewhere."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    ry, rx = rng.uniform(2, 25, 2)
    at = rng.uniform(0, SIZE[0]), rng.uniform(0, SIZE[1])
    mask = ((y - at[0]) / ry) ** 2 + ((x - at[1]) / rx) ** 2 < 1
    mask[round(at[0]) % SIZE[0], round(at[1]) % SIZE[1]] = True
    return objects.of_mask(mask, label, **others)


def moved(rng: np.random.Generator, one: Annotation) -> Annotation:
    """A prediction near an object."""
    mask = objects.mask(one, *SIZE)
    mask = np.roll(mask, rng.integers(-3, 4, 2), (0, 1))
    label = one.label if rng.random() < 0.9 else int(rng.integers(CLASSES))
    return objects.of_mask(mask, label, score=float(rng.random()))


def case() -> tuple[list[AnnotatedImage], list[tuple[Annotation, ...]]]:
    """(images with their objects, predictions of each): twelve, crowds among their objects, one of
    them empty, a class that never occurs."""
    rng = np.random.default_rng(7)
    truths, predictions = [], []
    for number in range(12):
        count = 0 if number == 5 else rng.integers(1, 7)
        every = [
            blob(rng, int(rng.integers(CLASSES - 1)), crowd=bool(rng.random() < 0.15))
            for _ in range(count)
        ]
        truths.append(AnnotatedImage(f"{number}.png", *SIZE, tuple(every)))
        found = [moved(rng, one) for one in every for _ in range(rng.integers(0, 3))]
        found += [
            blob(rng, int(rng.integers(CLASSES)), score=float(rng.random())) for _ in range(2)
        ]
        predictions.append(tuple(found))
    return truths, predictions


def surer(one: Annotation) -> Annotation:
    """The same prediction with a greater score."""
    assert one.score is not None
    return dataclasses.replace(one, score=one.score**0.5)
