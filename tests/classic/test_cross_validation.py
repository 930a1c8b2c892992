"""Cross-validation against scikit-learn on the same folds."""

import numpy as np
import pytest
from sklearn.model_selection import PredefinedSplit, cross_val_score
from sklearn.neighbors import KNeighborsClassifier

from cnn_jax.classic.cross_validation import CrossValidation, cross_validate, folds_of
from cnn_jax.errors import InputError

pytestmark = pytest.mark.usefixtures("quick_compilation")


def test_accuracies_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 122)
    examples = rng.normal(size=(122, 6)).astype(np.float32) + labels[:, None]
    result = cross_validate(examples, labels, (1, 4, 15), ("l2", "l1"), folds=3, seed=7)
    split = PredefinedSplit(folds_of(122, 3, 7))
    assert result.accuracies.shape == (2, 3, 3)
    for row, metric in enumerate(("euclidean", "manhattan")):
        for column, k in enumerate((1, 4, 15)):
            reference = KNeighborsClassifier(k, algorithm="brute", metric=metric)
            expected = cross_val_score(reference, examples, labels, cv=split)
            np.testing.assert_allclose(result.accuracies[row, column], expected)
    assert 0.5 < result.accuracies.mean() < 1


def test_folds_divide_the_examples_evenly_and_by_seed():
    folds = folds_of(103, 5, 1)
    assert sorted(np.bincount(folds)) == [20, 20, 21, 21, 21]
    np.testing.assert_array_equal(folds, folds_of(103, 5, 1))
    assert (folds != folds_of(103, 5, 2)).any()


def test_best_is_the_highest_mean_and_the_first_of_equals():
    accuracies = np.array([[[0.5, 0.7], [0.8, 0.8]], [[0.9, 0.7], [1.0, 0.0]]])
    assert CrossValidation(("l1", "l2"), (1, 5), accuracies).best == ("l1", 5)


@pytest.mark.parametrize(
    ("ks", "folds", "word"), [((1,), 1, "folds is 1"), ((), 2, "ks"), ((9,), 2, "k is 9")]
)
def test_what_can_not_be_divided_is_refused(ks, folds, word):
    with pytest.raises(InputError, match=word):
        cross_validate(np.eye(10), np.arange(10), ks, folds=folds)
