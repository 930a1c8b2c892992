"""Classic classifiers that train and predict as the networks do: from uint8 images and int32 labels
to int32 labels.

A method is its options; `fit` returns what has been learnt, a `Fitted`.
"""

# Field types are read at run time, so annotations must stay real types here.

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from cnn_jax.classic import needed
from cnn_jax.classic.descriptors import describe
from cnn_jax.classic.neighbours import DISTANCES, nearest, votes
from cnn_jax.errors import InputError

FEATURES = {
    "pixels": ("pixels",),
    "hog": ("hog",),
    "topological": ("topological",),
    "geometric": ("geometric",),
    "statistical": ("statistical",),
    "shape": ("topological", "geometric", "statistical"),
    "all": ("hog", "topological", "geometric", "statistical"),
}
"""What a method may look at: a name, and the kinds of descriptors it stands for."""


@dataclass(frozen=True)
class Fitted:
    """What a method has learnt.

    Attributes:
        represent: from uint8 images to the features learnt from.
        score: from features to float `[images, classes]`, larger being likelier.
        classes: int32 `[classes]`, the label of each column, rising.
    """

    represent: Callable
    score: Callable
    classes: np.ndarray

    def scores(self, images: np.ndarray) -> np.ndarray:
        """float32 `[images, classes]` in the order of `classes`; what they mean is said by the
        method."""
        return np.asarray(self.score(self.represent(images)), np.float32)

    def predict(self, images: np.ndarray) -> np.ndarray:
        """int32 `[images]`: the class of the highest score, ties going to the smallest label."""
        return self.classes[np.argmax(self.score(self.represent(images)), axis=1)]


@dataclass(frozen=True)
class KNearestNeighbours:
    """k nearest neighbours (Cover and Hart, 1967); scores are shares of the votes. Nothing is
    random.

    Attributes:
        features: what distances are taken of; pixels as they are, other features standardised.
        k: neighbours that vote.
        distance: l1 (sum of absolute differences) or l2 (Euclidean).
    """

    features: str = field(default="pixels", metadata={"choices": tuple(FEATURES)})
    k: int = field(default=5, metadata={"at_least": 1})
    distance: str = field(default="l2", metadata={"choices": DISTANCES})

    def fit(self, images: np.ndarray, labels: ArrayLike, seed: int) -> Fitted:
        """Keeps uint8 images `[images, height, width, channels]` and their int labels `[images]`.

        Raises:
            InputError: more neighbours than images, or a library is absent.
        """
        if self.k > len(images):
            raise InputError(
                f"model.k is {self.k} and there are {len(images)} training images; lower it."
            )
        represent, train = (lambda images: images), images
        if self.features != "pixels":
            represent, train = _standardised(self.features, images)
        classes, numbers = np.unique(np.asarray(labels, np.int32), return_inverse=True)

        def score(queries):
            indices, _ = nearest(train, queries, self.k, self.distance)
            return votes(numbers, indices, len(classes)) / self.k

        return Fitted(represent, score, classes)


@dataclass(frozen=True)
class SupportVectorMachine:
    """A support vector machine (Cortes and Vapnik, 1995); scores are margins. Nothing is random.

    With the Gaussian kernel classes are told apart in pairs (libsvm: Chang and Lin, 2011), in a
    time that grows faster than the number of images; linear ones are told each from the rest
    (liblinear: Fan et al., 2008).

    Attributes:
        features: what is separated, standardised.
        kernel: linear, or rbf (Gaussian, its gamma one over the number of features times their
            variance).
        penalty: C, what an image on the wrong side costs; larger fits the training set more
            closely.
    """

    features: str = field(default="hog", metadata={"choices": tuple(FEATURES)})
    kernel: str = field(default="rbf", metadata={"choices": ("linear", "rbf")})
    penalty: float = field(default=1.0, metadata={"at_least": 1e-9})

    def fit(self, images: np.ndarray, labels: ArrayLike, seed: int) -> Fitted:
        """Learns from uint8 images `[images, height, width, channels]` and their int labels
        `[images]`.

        Raises:
            InputError: all images are of one class, or a library is absent.
        """
        try:
            from sklearn.svm import SVC, LinearSVC
        except ImportError as error:
            raise needed("A support vector machine", error) from error
        if self.kernel == "linear":
            # scikit-learn has no types: that of a default is taken for all there is
            estimator = LinearSVC(
                C=self.penalty,
                dual=False,  # pyright: ignore[reportArgumentType]
            )
        else:
            estimator = SVC(C=self.penalty, cache_size=1000)
        return _fitted(self.features, estimator, images, labels)


@dataclass(frozen=True)
class RandomForest:
    """A random forest (Breiman, 2001); scores are mean class shares in the leaves.

    Attributes:
        features: what trees split by.
        trees: how many trees.
        depth: the deepest a tree may grow; 0 is without limit.
    """

    features: str = field(default="pixels", metadata={"choices": tuple(FEATURES)})
    trees: int = field(default=100, metadata={"at_least": 1})
    depth: int = field(default=0, metadata={"at_least": 0})

    def fit(self, images: np.ndarray, labels: ArrayLike, seed: int) -> Fitted:
        """Learns from uint8 images `[images, height, width, channels]` and their int labels
        `[images]`.

        Raises:
            InputError: all images are of one class, or a library is absent.
        """
        try:
            from sklearn.ensemble import RandomForestClassifier
        except ImportError as error:
            raise needed("A random forest", error) from error
        estimator = RandomForestClassifier(
            self.trees, max_depth=self.depth or None, n_jobs=-1, random_state=seed
        )
        return _fitted(self.features, estimator, images, labels)


@dataclass(frozen=True)
class LogisticRegression:
    """Multinomial logistic regression; scores are probabilities. Nothing is random.

    Attributes:
        features: what is weighed, standardised.
        penalty: C, the inverse of the weight of the squared norm.
        iterations: of L-BFGS at most; it stops there, converged or not.
    """

    features: str = field(default="pixels", metadata={"choices": tuple(FEATURES)})
    penalty: float = field(default=1.0, metadata={"at_least": 1e-9})
    iterations: int = field(default=100, metadata={"at_least": 1})

    def fit(self, images: np.ndarray, labels: ArrayLike, seed: int) -> Fitted:
        """Learns from uint8 images `[images, height, width, channels]` and their int labels
        `[images]`.

        Raises:
            InputError: all images are of one class, or a library is absent.
        """
        try:
            from sklearn.linear_model import LogisticRegression
        except ImportError as error:
            raise needed("Logistic regression", error) from error
        estimator = LogisticRegression(C=self.penalty, max_iter=self.iterations)
        return _fitted(self.features, estimator, images, labels)


@dataclass(frozen=True)
class KMeans:
    """k-means (Lloyd, 1982; k-means++ beginnings) as a classifier: a cluster has the label that
    most of its training images have.

    Scores are the classes' shares among the training images of the nearest cluster.

    Attributes:
        features: what is clustered, standardised.
        clusters: how many; as many as there are images, where these are fewer.
        iterations: of Lloyd's algorithm at most.
    """

    features: str = field(default="pixels", metadata={"choices": tuple(FEATURES)})
    clusters: int = field(default=100, metadata={"at_least": 1})
    iterations: int = field(default=100, metadata={"at_least": 1})

    def fit(self, images: np.ndarray, labels: ArrayLike, seed: int) -> Fitted:
        """Learns from uint8 images `[images, height, width, channels]` and their int labels
        `[images]`.

        Raises:
            InputError: a library is absent.
        """
        try:
            from sklearn.cluster import KMeans
        except ImportError as error:
            raise needed("k-means", error) from error
        represent, features = _standardised(self.features, images)
        # scikit-learn has no types: that of a default is taken for all there is
        estimator = KMeans(
            min(self.clusters, len(features)),
            n_init=1,  # pyright: ignore[reportArgumentType]
            max_iter=self.iterations,
            random_state=seed,
        )
        with _one_thread():
            cluster = estimator.fit_predict(features)
        classes, numbers = np.unique(np.asarray(labels, np.int32), return_inverse=True)
        counts = np.zeros((estimator.n_clusters, len(classes)))
        np.add.at(counts, (cluster, numbers), 1)
        shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        return Fitted(represent, lambda features: shares[estimator.predict(features)], classes)


METHODS = {
    "knn": KNearestNeighbours,
    "svm": SupportVectorMachine,
    "random_forest": RandomForest,
    "logistic_regression": LogisticRegression,
    "k_means": KMeans,
}


def _standardised(features, images):
    """(function from images to float32 features, those of `images`), which have mean 0 and
    deviation 1; what is constant in `images` becomes 0."""
    kinds = FEATURES[features]
    values, _ = describe(images, kinds)
    mean, deviation = values.mean(0, dtype=np.float64), values.std(0, dtype=np.float64)
    scale = np.where(
        deviation > 1e-6 * np.maximum(np.abs(mean), 1e-6), 1 / np.maximum(deviation, 1e-30), 0
    )

    def standardised(values):
        return ((values - mean) * scale).astype(np.float32)

    return lambda images: standardised(describe(images, kinds)[0]), standardised(values)


def _one_thread():
    """A context in which linear algebra keeps to one thread.

    Threads add up in the order they finish, and sums of floats differ by their order. Nor do they
    gain much here: products are small, and on cores that others use too, threads that wait for each
    other took ten times as long as one.
    """
    from threadpoolctl import threadpool_limits

    return threadpool_limits(1)


def _fitted(features, estimator, images, labels):
    """A scikit-learn classifier with probabilities or margins, learnt from standardised features.

    Raises:
        InputError: all images are of one class.
    """
    from sklearn.exceptions import ConvergenceWarning

    if len(np.unique(labels)) < 2:
        raise InputError(
            "the training images are all of one class, and there is nothing to tell apart: raise"
            " data.train_examples, or add images of other classes."
        )
    represent, described = _standardised(features, images)
    with warnings.catch_warnings(), _one_thread():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the number of iterations is an option
        estimator.fit(described, np.asarray(labels, np.int32))

    if hasattr(estimator, "predict_proba"):
        return Fitted(represent, estimator.predict_proba, estimator.classes_)

    def margins(features):
        values = estimator.decision_function(features)
        return (
            np.stack([-values, values], axis=1) if values.ndim == 1 else values
        )  # of two classes there is one margin

    return Fitted(represent, margins, estimator.classes_)
