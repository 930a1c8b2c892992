"""Nearest neighbours against brute force in NumPy and in scikit-learn."""

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from cnn_jax.classic import neighbours
from cnn_jax.classic.neighbours import classify, nearest, votes
from cnn_jax.errors import InputError

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture
def small_tiles(monkeypatch):
    """Tiles of 32 examples and blocks of 64 queries, so that a small set takes many of them."""
    monkeypatch.setattr(neighbours, "TILE", {"l1": 32, "l2": 32})
    monkeypatch.setattr(neighbours, "QUERIES_AT_ONCE", 64)


def brute(train, queries, k, distance):
    difference = train.astype(np.float64).reshape(1, len(train), -1) - queries.astype(
        np.float64
    ).reshape(len(queries), 1, -1)
    distances = np.abs(difference).sum(-1) if distance == "l1" else np.sqrt((difference**2).sum(-1))
    order = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(distances, order, 1)


def examples(count, dtype, seed, values=50):
    rng = np.random.default_rng(seed)
    if dtype == np.uint8:
        return rng.integers(0, 256, (count, values), np.uint8)
    return (1000 + 100 * rng.normal(size=(count, values))).astype(
        dtype
    )  # far from 0, where a careless expansion cancels


@pytest.mark.parametrize("distance", ["l1", "l2"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize(
    ("count", "k"), [(101, 5), (96, 40), (7, 7)]
)  # uneven tiles; k beyond a tile; every example
def test_neighbours_are_those_of_brute_force(small_tiles, distance, dtype, count, k):
    train, queries = examples(count, dtype, 0), examples(70, dtype, 1)
    indices, distances = nearest(train, queries, k, distance)
    expected, expected_distances = brute(train, queries, k, distance)
    assert (indices.dtype, distances.dtype) == (np.int32, np.float32)
    np.testing.assert_array_equal(indices, expected)
    np.testing.assert_allclose(distances, expected_distances, rtol=1e-6)


@pytest.mark.parametrize("distance", ["l1", "l2"])
def test_ties_go_to_the_smaller_index(small_tiles, distance):
    rng = np.random.default_rng(2)
    train = rng.integers(
        0, 2, (150, 4), np.uint8
    )  # sixteen rows, each about nine times, over five tiles
    queries = rng.integers(0, 2, (70, 4), np.uint8)
    np.testing.assert_array_equal(
        nearest(train, queries, 12, distance)[0], brute(train, queries, 12, distance)[0]
    )


@pytest.mark.parametrize("distance", ["l1", "l2"])
def test_identical_rows_of_floats_come_in_order(small_tiles, distance):
    rows = examples(10, np.float32, 6)
    train, queries = (
        rows[np.random.default_rng(7).permutation(150) % 10],
        examples(70, np.float32, 8),
    )
    np.testing.assert_array_equal(
        nearest(train, queries, 3, distance)[0], brute(train, queries, 3, distance)[0]
    )


@pytest.mark.parametrize("distance", ["l1", "l2"])
def test_extreme_bytes_of_many_values_are_exact(distance):
    white, black = np.full((2, 33, 45, 3), 255, np.uint8), np.zeros((1, 33, 45, 3), np.uint8)
    indices, distances = nearest(
        np.concatenate([white, black]), np.concatenate([black, white[:1]]), 3, distance
    )
    far = 255 * 33 * 45 * 3 if distance == "l1" else 255 * (33 * 45 * 3) ** 0.5
    np.testing.assert_array_equal(indices, [[2, 0, 1], [0, 1, 2]])
    np.testing.assert_allclose(distances, [[0, far, far], [0, 0, far]], rtol=1e-7)


@pytest.mark.parametrize(("distance", "metric"), [("l1", "manhattan"), ("l2", "euclidean")])
def test_classes_are_those_of_scikit_learn(distance, metric):
    rng = np.random.default_rng(3)
    # Floats, since of bytes equally far scikit-learn doesn't say which it takes.
    train, queries, labels = (
        examples(300, np.float32, 4),
        examples(90, np.float32, 5),
        rng.integers(0, 4, 300),
    )
    reference = KNeighborsClassifier(4, algorithm="brute", metric=metric).fit(
        train.astype(float), labels
    )
    indices, _ = nearest(train, queries, 4, distance)
    counts = votes(labels, indices, 4)
    assert (
        (counts == counts.max(1, keepdims=True)).sum(1) > 1
    ).sum() > 10  # ties of votes do occur
    np.testing.assert_array_equal(
        classify(labels, indices), reference.predict(queries.astype(float))
    )
    np.testing.assert_allclose(counts / 4, reference.predict_proba(queries.astype(float)))


def test_votes_by_hand():
    labels = np.array([2, 0, 2, 1])
    np.testing.assert_array_equal(
        votes(labels, np.array([[0, 1, 2], [3, 1, 0]]), 4), [[1, 0, 2, 0], [1, 1, 1, 0]]
    )
    np.testing.assert_array_equal(classify(labels, np.array([[0, 1, 2], [3, 1, 0]])), [2, 0])


@pytest.mark.parametrize(
    ("train", "queries", "k", "distance", "word"),
    [
        (np.zeros((3, 2)), np.zeros((1, 2)), 4, "l2", "k is 4"),
        (np.zeros((3, 2)), np.zeros((1, 2)), 0, "l2", "k is 0"),
        (np.zeros((3, 2)), np.zeros((1, 2)), 1, "cosine", "distance is 'cosine'"),
        (np.zeros((3, 2)), np.zeros((1, 3)), 1, "l2", "3 values"),
        (np.full((3, 2), np.nan), np.zeros((1, 2)), 1, "l2", "train holds"),
        (np.zeros((3, 2)), np.zeros((0, 2)), 1, "l2", "queries has the shape"),
    ],
)
def test_what_can_not_be_sought_is_refused(train, queries, k, distance, word):
    with pytest.raises(InputError, match=word):
        nearest(train, queries, k, distance)
