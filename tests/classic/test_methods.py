"""Classic classifiers on images that can be told apart, against scikit-learn and by hand."""

import dataclasses
import sys
from unittest.mock import MagicMock

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC

from cnn_jax.classic.descriptors import describe
from cnn_jax.classic.methods import (
    FEATURES,
    METHODS,
    KMeans,
    KNearestNeighbours,
    SupportVectorMachine,
)
from cnn_jax.configuration.schema import ClassicConfig
from cnn_jax.errors import InputError
from cnn_jax.tasks import model_config
from cnn_jax.tasks.classic import ClassicLearner

pytestmark = pytest.mark.usefixtures("quick_compilation")

SMALL = {
    "knn": {"k": 3},
    "svm": {},
    "random_forest": {"trees": 20},
    "logistic_regression": {"iterations": 30},
    "k_means": {"clusters": 40},
}
LABELS = (2, 5, 9)  # neither from zero nor without gaps


def bars_squares_and_rings(count, seed):
    """Noisy images `[count, 16, 16, 1]` of bars, squares and rings at random places, and their
    labels."""
    rng = np.random.default_rng(seed)
    images, labels = (
        rng.integers(0, 60, (count, 16, 16, 1)),
        rng.choice(LABELS, count).astype(np.int32),
    )
    for image, label in zip(images, labels, strict=True):
        y, x = rng.integers(0, 3, 2) + 2
        if label == 2:
            image[y : y + 10, x + 4 : x + 6] += 180
        else:
            image[y : y + 9, x : x + 9] += 180
        if label == 9:
            image[y + 2 : y + 7, x + 2 : x + 7] -= 180
    return np.clip(images, 0, 255).astype(np.uint8), labels


TRAIN, TEST = bars_squares_and_rings(150, 0), bars_squares_and_rings(60, 1)


def test_every_method_is_made_small_here():
    assert SMALL.keys() == METHODS.keys()


@pytest.mark.parametrize("name", METHODS)
def test_what_can_be_told_apart_is_told_apart_and_again_the_same(name):
    method = METHODS[name](**SMALL[name])
    fitted = method.fit(*TRAIN, seed=3)
    predicted, scores = fitted.predict(TEST[0]), fitted.scores(TEST[0])
    assert predicted.dtype == np.int32
    assert (predicted == TEST[1]).mean() > 0.9
    np.testing.assert_array_equal(fitted.classes, LABELS)
    assert scores.shape == (60, 3)
    np.testing.assert_array_equal(fitted.classes[scores.argmax(1)], predicted)
    np.testing.assert_array_equal(method.fit(*TRAIN, seed=3).scores(TEST[0]), scores)


@pytest.mark.parametrize("name", ["random_forest", "k_means"])
def test_another_seed_is_another_fit(name):
    one, other = (
        METHODS[name](**SMALL[name]).fit(*TRAIN, seed=seed).scores(TEST[0]) for seed in (0, 1)
    )
    assert (one != other).any()


@pytest.mark.parametrize("name", METHODS)
def test_options_are_documented_and_typed(name):
    section = {option.name: option for option in dataclasses.fields(model_config(name))}
    for option in dataclasses.fields(METHODS[name]):
        assert section[option.name].metadata["help"]
        assert type(option.default) is option.type
        assert option.default in option.metadata.get("choices", [option.default])


@pytest.mark.parametrize("features", FEATURES)
def test_features_serve_a_method_and_are_standardised_by_the_training_images_alone(features):
    fitted = KNearestNeighbours(features=features, k=1).fit(*TRAIN, seed=0)
    np.testing.assert_array_equal(
        fitted.predict(TRAIN[0]), TRAIN[1]
    )  # each image is its own neighbour
    if features != "pixels":
        values, represented = (
            describe(TRAIN[0], FEATURES[features])[0].astype(float),
            fitted.represent(TRAIN[0]),
        )
        varies = values.std(0) > 0
        np.testing.assert_allclose(represented.std(0), varies, atol=1e-3)
        one = fitted.represent(TEST[0][:1])[0]
        expected = (describe(TEST[0][:1], FEATURES[features])[0][0] - values.mean(0)) / np.where(
            varies, values.std(0), np.inf
        )
        np.testing.assert_allclose(one, expected, rtol=1e-3, atol=1e-4)


def test_neighbours_of_pixels_are_those_of_scikit_learn():
    reference = KNeighborsClassifier(5, algorithm="brute", metric="manhattan").fit(
        TRAIN[0].reshape(150, -1) / 255, TRAIN[1]
    )
    expected = reference.predict_proba(TEST[0].reshape(60, -1) / 255)
    np.testing.assert_allclose(
        KNearestNeighbours(distance="l1").fit(*TRAIN, seed=0).scores(TEST[0]), expected
    )


def test_support_vectors_are_those_of_scikit_learn_on_standardised_features():
    """Of pixels standardised by hand; the one of two classes has one margin, which is told for
    both."""
    train, test = (images.reshape(len(images), -1) / 1.0 for images in (TRAIN[0], TEST[0]))
    mean, deviation = train.mean(0), train.std(0)
    for known in (LABELS, LABELS[:2]):
        rows = np.isin(TRAIN[1], known)
        fitted = SupportVectorMachine("pixels", penalty=2.0).fit(TRAIN[0][rows], TRAIN[1][rows], 0)
        mean, deviation = train[rows].mean(0), train[rows].std(0)
        reference = SVC(C=2.0).fit((train[rows] - mean) / deviation, TRAIN[1][rows])
        expected = reference.decision_function((test - mean) / deviation)
        scores = fitted.scores(TEST[0])
        np.testing.assert_allclose(scores if len(known) == 3 else scores[:, 1], expected, atol=2e-3)
        assert scores.shape == (60, len(known))
        np.testing.assert_array_equal(
            fitted.predict(TEST[0]), reference.predict((test - mean) / deviation)
        )


def test_the_rbf_kernel_bends_what_a_line_can_not():
    rng = np.random.default_rng(4)
    grey = rng.integers(0, 256, 300)
    images = np.broadcast_to(grey[:, None, None, None], (300, 8, 8, 1)).astype(np.uint8)
    labels = ((grey > 85) & (grey < 170)).astype(np.int32)  # the middle against both ends
    right = {
        kernel: (
            (
                SupportVectorMachine("pixels", kernel).fit(images, labels, 0).predict(images)
                == labels
            ).mean()
        )
        for kernel in ("linear", "rbf")
    }
    assert right["linear"] < 0.75
    assert right["rbf"] > 0.95


def test_clusters_have_the_label_of_their_majority():
    levels = np.array([10, 11, 12, 200, 201, 202, 203], np.uint8)
    images = np.broadcast_to(levels[:, None, None, None], (7, 2, 2, 1))
    fitted = KMeans(features="pixels", clusters=2).fit(images, np.array([4, 4, 7, 7, 7, 7, 4]), 0)
    np.testing.assert_array_equal(fitted.predict(images), [4, 4, 4, 7, 7, 7, 7])
    np.testing.assert_allclose(
        fitted.scores(images[[0, 3]]), [[2 / 3, 1 / 3], [1 / 4, 3 / 4]], rtol=1e-6
    )


@pytest.mark.parametrize("name", ["svm", "random_forest", "logistic_regression"])
def test_one_class_alone_is_refused(name):
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 1), np.uint8)
    with pytest.raises(InputError, match=r"all of one class.*data\.train_examples"):
        METHODS[name]().fit(images, np.full(4, 3, np.int32), 0)


def test_more_neighbours_than_images_are_refused():
    with pytest.raises(InputError, match=r"model\.k is 9"):
        KNearestNeighbours(k=9).fit(TRAIN[0][:8], TRAIN[1][:8], 0)


def test_a_run_of_more_clusters_than_images_says_so(capsys):
    config = ClassicConfig(model=model_config("k_means", clusters=9))
    learner, dataset = ClassicLearner(config, MagicMock()), MagicMock()
    note = "note: model.clusters is 9, and there are 8 training images: each is one."
    for count, said in ((8, f"{note}\n"), (9, "")):
        dataset.images["train"].arrays.return_value = TRAIN[0][:count], TRAIN[1][:count]
        learner.fit(dataset, MagicMock())
        assert capsys.readouterr().out == said


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("svm", "sklearn.svm"),
        ("random_forest", "sklearn.ensemble"),
        ("logistic_regression", "sklearn.linear_model"),
        ("k_means", "sklearn.cluster"),
    ],
)
def test_absent_libraries_are_named_with_the_mend(name, module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        InputError, match=r"needs scikit-image and scikit-learn.*pip install 'cnn_jax\[classic\]'"
    ):
        METHODS[name](features="pixels").fit(*TRAIN, seed=0)
