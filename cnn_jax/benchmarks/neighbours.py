"""Classifying by the five nearest neighbours, beside scikit-learn's brute force.

Images of Fashion-MNIST, every pixel a value; both find the exact nearest of all training images for
each query, by the sum of absolute differences (l1) or the Euclidean distance (l2), and take the
vote. scikit-learn works on all cores. Reading the images, and our compilation, are left out. The
record holds the share of predictions in which the sides agree.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cnn_jax.benchmarks import measuring
from cnn_jax.configuration.schema import setting
from cnn_jax.errors import InputError

if TYPE_CHECKING:
    import numpy as np

NEEDS = ("sklearn",)
EXTRA = "classic"
SIDES = ("cnn_jax", "scikit_learn")
K = 5
METRICS = {"l1": "manhattan", "l2": "euclidean"}


@dataclass
class Options(measuring.Options):
    """How many images."""

    directory: str = setting("", "where TFDS sets are prepared; empty: TFDS's own", path=True)
    train: int = setting(50_000, "training images", at_least=K)
    queries: int = setting(1_000, "test images classified", at_least=1)


def measure(options: Options) -> Iterator[dict]:
    """A row a distance."""
    try:  # in the sides' processes a missing set would be a failure of theirs
        read({"train": 1, "queries": 1, "directory": options.directory})
    except InputError as error:
        raise InputError(str(error).replace("--data.directory", "--directory")) from error
    for distance in METRICS:
        settings = {"distance": distance, "train": options.train, "queries": options.queries}
        case = measuring.Case(
            f"{distance}, {options.queries:,} among {options.train:,}",
            settings,
            options.queries,
            "images",
        )
        yield measuring.compare(
            __name__, case, SIDES, options, note=_note, hidden={"directory": options.directory}
        )


def _note(facts):
    predictions = [known.pop("predictions") for known in facts.values()]
    if len(predictions) < 2:
        return ""
    return (
        f"{sum(a == b for a, b in zip(*predictions, strict=True)) / len(predictions[0]):.2%} of"
        " predictions equal"
    )


def prepare(side: str, settings: dict) -> tuple[Callable, dict]:
    """(run, facts) of a side, as the package asks for."""
    classify = {"cnn_jax": _ours, "scikit_learn": _theirs}[side](
        settings["distance"], *read(settings)
    )

    def run(times):
        for _ in range(times):
            classify()

    return run, {"predictions": classify().tolist()}


def read(settings: dict) -> "tuple[np.ndarray, np.ndarray, np.ndarray]":
    """(training images uint8 `[train, 784]`, their labels int32, queries uint8 `[queries,
    784]`)."""
    from cnn_jax.configuration.schema import ImageDataConfig
    from cnn_jax.data.images import open_images

    config = ImageDataConfig(
        source="fashion_mnist", directory=settings["directory"], validation_share=0.0
    )
    splits = open_images(config).splits
    images, labels = splits["train"].arrays(range(min(settings["train"], len(splits["train"]))))
    queries, _ = splits["test"].arrays(range(min(settings["queries"], len(splits["test"]))))
    return images.reshape(len(images), -1), labels, queries.reshape(len(queries), -1)


def _ours(distance, images, labels, queries):
    from cnn_jax.classic.neighbours import classify, nearest

    return lambda: classify(labels, nearest(images, queries, K, distance)[0])


def _theirs(distance, images, labels, queries):
    import numpy as np
    from sklearn.neighbors import KNeighborsClassifier

    classifier = KNeighborsClassifier(K, algorithm="brute", metric=METRICS[distance], n_jobs=-1)
    classifier.fit(images.astype(np.float32), labels)
    queries = queries.astype(np.float32)
    return lambda: classifier.predict(queries)
