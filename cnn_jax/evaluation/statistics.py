"""What several runs that differ in their seed say together."""

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """(mean, half the width of its Student t interval): the seeds are taken as independent draws from a normal distribution.

    One value has no interval: its half width is NaN.
    """
    values = np.asarray(values, float)
    if len(values) < 2:
        return float(values.mean()), math.nan
    return float(values.mean()), float(stats.t.ppf((1 + confidence) / 2, len(values) - 1) * stats.sem(values))
