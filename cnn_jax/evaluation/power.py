"""How much it takes to see a difference: the power of the t tests in `statistics`.

A test's power is the chance that it finds a difference that is there. With it a study is planned
before it is run: so many seeds for a difference of that size.
"""

import math
from collections.abc import Callable

import scipy

MOST = 100_000
"""Seeds or images beyond it are not counted."""


def of_blocks(difference: float, deviation: float, rows: int, columns: int, level: float) -> float:
    """The power of `statistics.blocked_t_test` between two rows of a table.

    Args:
        difference: of the two rows' true means.
        deviation: the standard deviation of what is left of a value when its row's and its column's
            mean are taken away.
        rows: of the table (variants).
        columns: of the table (seeds).
        level: that the two-sided p value must stay below.
    """
    freedom = (rows - 1) * (columns - 1)
    return _power(difference, deviation * math.sqrt(2 / columns), freedom, level)


def of_pairs(difference: float, deviation: float, pairs: int, level: float) -> float:
    """The power of `statistics.paired_t_test`; `deviation` is that of one pair's difference."""
    return _power(difference, deviation / math.sqrt(pairs), pairs - 1, level)


def columns_needed(
    difference: float, deviation: float, rows: int, level: float, power: float
) -> int | None:
    """The fewest columns with which `of_blocks` reaches the power; None beyond `MOST`."""
    return _fewest(lambda n: of_blocks(difference, deviation, rows, n, level) >= power)


def pairs_needed(difference: float, deviation: float, level: float, power: float) -> int | None:
    """The fewest pairs with which `of_pairs` reaches the power; None beyond `MOST`."""
    return _fewest(lambda n: of_pairs(difference, deviation, n, level) >= power)


def detectable(error: float, freedom: int, level: float, power: float) -> float:
    """The least difference that a t test finds with this power.

    Args:
        error: the standard error of the mean difference.
        freedom: its degrees of freedom.
        level: that the two-sided p value must stay below.
        power: the chance to find it.
    """
    if error == 0:
        return 0.0
    most = 1.0
    while _power(most, 1, freedom, level) < power:
        most *= 2
    found = scipy.optimize.brentq(lambda d: _power(d, 1, freedom, level) - power, 0, most)
    return float(found) * error


def deviation_interval(
    deviation: float, freedom: int, confidence: float = 0.95
) -> tuple[float, float]:
    """(low, high): the interval of a standard deviation that was estimated with so many degrees of
    freedom, from the chi-squared distribution."""
    tail = (1 - confidence) / 2
    high, low = (scipy.special.chdtri(freedom, p) for p in (1 - tail, tail))
    return deviation * math.sqrt(freedom / low), deviation * math.sqrt(freedom / high)


def _power(difference: float, error: float, freedom: int, level: float) -> float:
    """The two-sided test's power, from the noncentral t distribution."""
    if difference == 0:
        return level
    if error == 0:
        return 1.0
    bound = float(scipy.special.stdtrit(freedom, 1 - level / 2))
    shift = abs(difference) / error
    missed = float(scipy.special.nctdtr(freedom, shift, bound))
    if math.isnan(missed):  # SciPy's series for what is far less than a double holds
        missed = 0.0
    # Beyond 5 the other tail is below 1e-6, and SciPy's series for it fails now and then.
    wrong_side = float(scipy.special.nctdtr(freedom, shift, -bound)) if shift < 5 else 0.0
    return 1 - missed + wrong_side


def _fewest(enough: Callable[[int], bool]) -> int | None:
    """The least number from 2 on that is enough, where every greater one is too."""
    high = 2
    while not enough(high):
        if high >= MOST:
            return None
        high = min(2 * high, MOST)
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return max(high, 2)
