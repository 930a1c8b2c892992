"""Intervals of a mean against a worked example and their own promise."""

import math

import numpy as np
import pytest

from cnn_jax.evaluation.statistics import mean_interval


def test_worked_example():
    """Three values 1, 2, 3: mean 2, standard error 1/sqrt(3), t quantile of two degrees of freedom 4.302653."""
    mean, half = mean_interval([1, 2, 3])
    assert mean == 2
    assert half == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)


def test_one_value_has_no_interval():
    mean, half = mean_interval([0.5])
    assert mean == 0.5
    assert math.isnan(half)


def test_interval_holds_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    held = [abs(mean - 1) <= half for mean, half in (mean_interval(rng.normal(1, 2, 4)) for _ in range(2000))]
    assert 0.93 < np.mean(held) < 0.97
