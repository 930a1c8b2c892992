"""What several runs, or the scenes of one, say together: intervals, and tests of differences."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import scipy  # imports its parts when they are first used; scipy.stats would take half a second
from numpy.typing import ArrayLike

_NO_CHANCE = 1e-15
"""Deviations below it are of rounding."""


def mean_interval(values: ArrayLike, confidence: float = 0.95) -> tuple[float, float]:
    """(mean, half the width of its Student t interval): the seeds are taken as independent draws
    from a normal distribution.

    One value has no interval: its half width is NaN.
    """
    values = np.asarray(values, float)
    if len(values) < 2:
        return float(values.mean()), math.nan
    return float(values.mean()), float(
        scipy.special.stdtrit(len(values) - 1, (1 + confidence) / 2) * _standard_error(values)
    )


def bootstrap_interval(
    confusions: ArrayLike,
    statistic: Callable[[np.ndarray], float],
    *,
    confidence: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """(low, high): percentile bootstrap interval of a figure of a set of scenes (Efron, 1979).

    Scenes are drawn with replacement, as many as there are; the figure is that of the sum of their
    confusion matrices. It says what other scenes of the same kind might have given, with this
    model. Draws of which the figure does not exist are left out.

    One scene has no interval: both are NaN.

    Args:
        confusions: int64 `[scenes, classes, classes]`, or `[scenes, ..., classes, classes]`, of
            which the statistic is of all.
        statistic: of one confusion matrix, or of `[..., classes, classes]`, such as `metrics.miou`.
        confidence: the share of draws within.
        draws: their number.
        seed: of the draws; the same seed gives the same interval.
    """
    confusions = np.asarray(confusions, np.int64)
    scenes = len(confusions)
    if scenes < 2:
        return math.nan, math.nan
    times = np.random.default_rng(seed).multinomial(scenes, np.full(scenes, 1 / scenes), size=draws)
    # One draw at a time: of 150 classes all of them at once are gigabytes.
    values = np.array(
        [statistic(np.tensordot(drawn, confusions, axes=1)) for drawn in times], np.float64
    )
    return percentile_interval(values, confidence)


def percentile_interval(values: ArrayLike, confidence: float = 0.95) -> tuple[float, float]:
    """(low, high) of a figure's values in drawn sets: those that aren't finite are left out, and
    without any both are NaN."""
    values = np.asarray(values, np.float64)
    values = values[np.isfinite(values)]
    if not values.size:
        return math.nan, math.nan
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def drawn(count: int, draws: int = 2000, seed: int = 0) -> np.ndarray:
    """How often each of so many things stands in a set, int64 `[1 + draws, count]`: once in the
    first, as drawn with replacement in the others. Of one thing there is no other set."""
    if count < 2:
        return np.ones((1, count), np.int64)
    times = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=draws)
    return np.concatenate([np.ones((1, count), np.int64), times])


def paired_bootstrap(
    a: ArrayLike, b: ArrayLike, confidence: float = 0.95
) -> tuple[float, tuple[float, float]]:
    """(difference a - b, percentile interval) of a figure of two things over the same drawn sets
    (Efron, 1979).

    It gives no p value: of few things drawn sets differ too little for one (see `swap_test`).
    Without draws there is no interval: NaN.

    Args:
        a: the figure of each set that `drawn` gives, float64 `[1 + draws]`, or `[seeds, 1 + draws]`
            of which the mean counts.
        b: the same of the other.
        confidence: the share of draws within the interval.
    """
    each = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    each = each.mean(0) if each.ndim == 2 else each
    return float(each[0]), percentile_interval(each[1:], confidence)


def swaps(count: int, draws: int = 2000, seed: int = 0) -> np.ndarray:
    """Which of so many pairs change places, int64 of 0 and 1 `[ways, count]`: none in the first
    row; all 2^count ways where these are at most `draws`, else so many random ones besides."""
    if 2**count <= draws:
        return np.arange(2**count)[:, None] >> np.arange(count) & 1
    random = np.random.default_rng(seed).integers(0, 2, (draws, count))
    return np.concatenate([np.zeros((1, count), np.int64), random])


def swap_test(differences: ArrayLike) -> float:
    """Two-sided p of a difference between two things over the same pairs (Fisher, 1935): the share
    of the ways to swap pairs that give at least as large a one. Where it could as well be either
    thing that gave what was seen of a pair, p falls below a level no more often than that says.

    Args:
        differences: of each way that `swaps` gives, float64 `[ways]`; NaN where there is none.
    """
    sizes = np.abs(np.asarray(differences, np.float64))
    # What sums in another order give counts as the same.
    return float(np.mean(sizes >= sizes[0] - 1e-9)) if math.isfinite(sizes[0]) else math.nan


def paired_t_test(
    a: Sequence[float], b: Sequence[float], confidence: float = 0.95
) -> tuple[float, float, tuple[float, float]]:
    """(mean of a - b, two-sided p, Student t interval of that mean), where values at the same place
    belong together.

    Differences that are all the same leave nothing to chance: p is 1 where they are zero, else 0,
    and the interval is the mean. Fewer than two pairs have neither p nor interval: NaN.

    Raises:
        ValueError: a and b are of different lengths.
    """
    if len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} values are no pairs")
    differences = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    if len(differences) < 2:
        return (
            float(differences.mean()) if len(differences) else math.nan,
            math.nan,
            (math.nan, math.nan),
        )
    error = float(_standard_error(differences))
    return _t_test(float(differences.mean()), error, len(differences) - 1, confidence)


def moderated_t_tests(
    samples: Sequence[ArrayLike], freedom: int, confidence: float = 0.95
) -> list[tuple[float, float, tuple[float, float]]]:
    """(mean, two-sided p, interval of the mean) of each of several samples, such as the differences
    between the pairs of a group from seed to seed.

    The moderated t test (Smyth, 2004): a sample's variance is drawn towards what all of them have
    in common, the further the better they agree (`moderated_variances`). Few seeds see small
    differences so, where a t test of each has two degrees of freedom; where variances differ, each
    sample stands nearly by itself. Of all pairs of a table without gaps, whose variances agree, it
    is the analysis of a randomised block design (Fisher, 1935); a sample alone has its t test.

    Args:
        samples: float64 `[values]` each, two at least.
        freedom: the most degrees of freedom that all samples together have; pairs of one group
            repeat each other, so that it is less than the sum of theirs.
        confidence: of the intervals.
    """
    values = [np.asarray(sample, np.float64) for sample in samples]
    own = [len(of) - 1 for of in values]
    variances, shared = moderated_variances([float(np.var(of, ddof=1)) for of in values], own)
    return [
        _t_test(
            float(of.mean()),
            math.sqrt(variance / len(of)),
            min(shared + alone, max(freedom, alone)),
            confidence,
        )
        for of, variance, alone in zip(values, variances, own, strict=True)
    ]


def moderated_variances(
    variances: Sequence[float], freedoms: Sequence[int]
) -> tuple[list[float], float]:
    """(variances, degrees of freedom gained): each estimate drawn towards what they have in common,
    the scaled inverse chi-squared distribution that they may be from (Smyth, 2004, section 6.2).

    They are their mean, and gain infinitely many, where they differ no more than chance would have
    it. They stay as they are, and gain none, where there are fewer than two or most are zero.

    Args:
        variances: unbiased estimates.
        freedoms: the degrees of freedom of each.
    """
    s2, own = np.asarray(variances, np.float64), np.asarray(freedoms, np.float64)
    if len(s2) < 2 or np.median(s2) < _NO_CHANCE**2:
        return s2.tolist(), 0.0
    # As in the author's limma, those far below the others count as a little above zero.
    logs = np.log(np.maximum(s2, 1e-5 * np.median(s2)))
    logs -= scipy.special.digamma(own / 2) - np.log(own / 2)
    beyond = float(np.var(logs, ddof=1) - scipy.special.polygamma(1, own / 2).mean())
    if beyond < 1e-9:
        return [float(s2.mean())] * len(s2), math.inf
    gained = 2 * float(
        scipy.optimize.brentq(lambda x: scipy.special.polygamma(1, x) - beyond, 1e-4, 1e12)
    )
    shift = scipy.special.digamma(gained / 2) - math.log(gained / 2)
    common = math.exp(float(logs.mean() + shift))
    return ((gained * common + own * s2) / (gained + own)).tolist(), gained


def holm(p_values: Sequence[float]) -> np.ndarray:
    """P values corrected for their number: float64, in the order given (Holm, 1979).

    To reject what stays below a level keeps the chance of any false rejection below it. A NaN stays
    one and does not count.
    """
    corrected = np.array(p_values, np.float64)
    tested = np.flatnonzero(~np.isnan(corrected))
    order = tested[np.argsort(corrected[tested], kind="stable")]
    corrected[order] = np.minimum(
        np.maximum.accumulate(corrected[order] * np.arange(len(order), 0, -1)), 1
    )
    return corrected


def _t_test(mean: float, error: float, freedom: float, confidence: float):
    """(mean, two-sided p, interval) of a mean with this standard error."""
    if error < _NO_CHANCE:
        return mean, float(abs(mean) < _NO_CHANCE), (mean, mean)
    half = float(scipy.special.stdtrit(freedom, (1 + confidence) / 2)) * error
    p = float(2 * scipy.special.stdtr(freedom, -abs(mean) / error))
    return mean, p, (mean - half, mean + half)


def _standard_error(values):
    """Of the mean."""
    return np.std(values, ddof=1) / math.sqrt(len(values))
