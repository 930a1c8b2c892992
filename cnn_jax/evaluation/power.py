"""How much it takes to see a difference: the power of the t tests in `statistics`.

A test's power is the chance that it finds a difference that is there. With it a study is planned
before it is run: so many seeds for a difference of that size.
"""

import math
from collections.abc import Callable

import scipy

MOST = 100_000
"""Seeds or images beyond it are not counted."""


def of_pairs(
    difference: float, deviation: float, pairs: int, level: float, freedom: float | None = None
) -> float:
    """The power of a t test over pairs, as `statistics.paired_t_test` and, with its own degrees of
    freedom, `statistics.moderated_t_tests`.

    Args:
        difference: the true mean of the pairs' differences.
        deviation: the standard deviation of one pair's.
        pairs: their number.
        level: that the two-sided p value must stay below.
        freedom: degrees of freedom; None: one less than pairs.
    """
    freedom = pairs - 1 if freedom is None else freedom
    return _power(difference, deviation / math.sqrt(pairs), freedom, level)


def pairs_needed(
    difference: float,
    deviation: float,
    level: float,
    power: float,
    freedom: Callable[[int], float] = lambda pairs: pairs - 1,
) -> int | None:
    """The fewest pairs with which `of_pairs` reaches the power, where so many have these degrees of
    freedom; None beyond `MOST`."""
    return _fewest(lambda n: of_pairs(difference, deviation, n, level, freedom(n)) >= power)


def detectable(error: float, freedom: float, level: float, power: float) -> float:
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
    deviation: float, freedom: float, confidence: float = 0.95
) -> tuple[float, float]:
    """(low, high): the interval of a standard deviation that was estimated with so many degrees of
    freedom, from the chi-squared distribution."""
    tail = (1 - confidence) / 2
    high, low = (scipy.special.chdtri(freedom, p) for p in (1 - tail, tail))
    return deviation * math.sqrt(freedom / low), deviation * math.sqrt(freedom / high)


def _power(difference: float, error: float, freedom: float, level: float) -> float:
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
