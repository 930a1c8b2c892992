"""The order of training examples, beside Grain's."""

import grain
import numpy as np
import pytest
from grain.experimental import index_shuffle
from hypothesis import given, settings
from hypothesis import strategies as st

from cnn_jax.data.order import Order, permutation


@pytest.mark.parametrize("length", [1, 2, 11, 54_000])
@pytest.mark.parametrize("seed", [0, 2**32 - 1])
def test_the_order_is_grains(length, seed):
    """Records tell a run's seed; the order that it stands for must not change."""
    grains = grain.MapDataset.range(length).seed(seed).shuffle().repeat()
    order = Order(length, seed)
    for start in (0, 3 * length - 2, 10**9):
        positions = range(max(start, 0), start + 40)
        assert order(positions).tolist() == [grains[position] for position in positions]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 2**19), st.integers(0, 2**32 - 1), st.data())
def test_permutations_are_grains(length, seed, data):
    numbers = permutation(length, seed)
    if length - 1 not in (2**16, 2**18):
        for index in data.draw(st.lists(st.integers(0, length - 1), min_size=1, max_size=20)):
            assert numbers[index] == index_shuffle(index, length - 1, seed, 4)
    np.testing.assert_array_equal(np.sort(numbers), np.arange(length))


def test_each_number_is_there_where_grain_loses_one():
    length = 2**16 + 1
    np.testing.assert_array_equal(np.sort(permutation(length, 7)), np.arange(length))
    assert len({index_shuffle(index, length - 1, 7, 4) for index in range(length)}) == length - 1
