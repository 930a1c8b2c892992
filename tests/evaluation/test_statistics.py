"""Intervals and tests against worked examples, SciPy and their own promise."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats

from cnn_jax.evaluation.metrics import miou, pixel_accuracy
from cnn_jax.evaluation.statistics import (
    bootstrap_interval,
    holm,
    mean_interval,
    moderated_t_tests,
    moderated_variances,
    paired_t_test,
    swap_test,
    swaps,
)


def test_worked_example():
    """Three values 1, 2, 3: mean 2, standard error 1/sqrt(3), t quantile of two degrees of freedom
    4.302653."""
    mean, half = mean_interval([1, 2, 3])
    assert mean == 2
    assert half == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)


def test_one_value_has_no_interval():
    mean, half = mean_interval([0.5])
    assert mean == 0.5
    assert math.isnan(half)


def test_interval_holds_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    held = [
        abs(mean - 1) <= half
        for mean, half in (mean_interval(rng.normal(1, 2, 4)) for _ in range(2000))
    ]
    assert 0.93 < np.mean(held) < 0.97


def test_bootstrap_of_two_scenes_by_hand():
    """One scene all right, one all wrong: of two draws the share that is right is 0, 1/2 or 1, at
    chances 1/4, 1/2, 1/4."""
    matrices = np.array([[[4, 0], [0, 0]], [[0, 4], [0, 0]]])
    assert bootstrap_interval(matrices, pixel_accuracy) == (0, 1)
    assert bootstrap_interval(matrices, pixel_accuracy, confidence=0.4) == (0.5, 0.5)


def test_bootstrap_is_scipys():
    """SciPy draws scenes one by one from the same distribution: the same interval, to what chance
    leaves of 4,000 draws."""
    rng = np.random.default_rng(0)
    matrices = rng.integers(0, 1000, (12, 3, 3)) + 1500 * np.eye(3, dtype=int)
    expected = scipy.stats.bootstrap(
        (np.arange(12),),
        lambda chosen: miou(matrices[chosen].sum(0)),
        n_resamples=4000,
        method="percentile",
        vectorized=False,
        rng=np.random.default_rng(1),
    ).confidence_interval
    got = bootstrap_interval(matrices, miou, draws=4000)
    np.testing.assert_allclose(got, expected, atol=0.05 * (expected.high - expected.low))
    assert got[0] < miou(matrices.sum(0)) < got[1]


def test_bootstrap_is_the_same_for_the_same_seed_and_large_counts_stay_exact():
    matrices = np.random.default_rng(0).integers(0, 2**40, (40, 3, 3))
    first, again, other = (bootstrap_interval(matrices, miou, seed=seed) for seed in (0, 0, 1))
    assert first == again != other
    same = np.tile(matrices[:1], (4, 1, 1))
    assert bootstrap_interval(same, miou) == (miou(matrices[0]),) * 2


def test_bootstrap_of_one_scene_or_of_nothing_counted_has_no_interval():
    assert np.isnan(bootstrap_interval(np.ones((1, 2, 2), int), miou)).all()
    assert np.isnan(bootstrap_interval(np.zeros((0, 2, 2), int), miou)).all()
    assert np.isnan(bootstrap_interval(np.zeros((3, 2, 2), int), miou)).all()
    assert np.isfinite(
        bootstrap_interval(np.array([np.zeros((2, 2), int), np.eye(2, dtype=int)]), miou)
    ).all()


def test_paired_t_test_by_hand():
    """Differences 1, 2, 3: t = 2 sqrt(3) with two degrees of freedom, of which p = 1 - t / sqrt(t^2
    + 2)."""
    mean, p, (low, high) = paired_t_test([11, 22, 33], [10, 20, 30])
    assert mean == 2
    t = 2 * math.sqrt(3)
    assert p == pytest.approx(1 - t / math.sqrt(t**2 + 2))
    assert (low, high) == pytest.approx(
        (2 - 4.302653 / math.sqrt(3), 2 + 4.302653 / math.sqrt(3)), rel=1e-6
    )


def test_paired_t_test_is_scipys_and_its_interval_leaves_zero_out_where_p_is_small():
    rng = np.random.default_rng(0)
    for shift in (0, 1, 3):
        a, b = rng.normal(shift, 1, 6), rng.normal(0, 1, 6)
        expected = scipy.stats.ttest_rel(a, b)
        mean, p, interval = paired_t_test(a, b)
        assert p == pytest.approx(expected.pvalue)
        assert interval == pytest.approx(tuple(expected.confidence_interval()))
        assert (interval[0] <= 0 <= interval[1]) == (p > 0.05)
        assert paired_t_test(b, a)[:2] == pytest.approx((-mean, p))


def test_paired_t_test_without_chance_or_without_pairs():
    assert paired_t_test([1, 2], [1, 2]) == (0, 1, (0, 0))
    assert paired_t_test([2, 3], [1, 2]) == (1, 0, (1, 1))
    mean, *rest = paired_t_test([2], [1.5])
    assert mean == 0.5
    assert np.isnan([rest[0], *rest[1], paired_t_test([], [])[0]]).all()
    with pytest.raises(ValueError, match="2 and 3"):
        paired_t_test([1, 2], [1, 2, 3])


def test_holm_by_hand():
    """Sorted 0.01, 0.02, 0.03, 0.9 times 4, 3, 2, 1, never falling, at most 1."""
    np.testing.assert_allclose(holm([0.9, 0.01, 0.03, 0.02]), [0.9, 0.04, 0.06, 0.06])
    np.testing.assert_allclose(holm([0.6, 0.7]), [1, 1])
    np.testing.assert_allclose(holm([math.nan, 0.04, 0.01]), [math.nan, 0.04, 0.02])
    assert holm([]).shape == (0,)


def test_holm_keeps_false_rejections_to_its_level():
    """Twenty true hypotheses: uncorrected, two families of three would hold a p below 0.05."""
    p_values = np.random.default_rng(0).random((4000, 20))
    rejected = np.mean([holm(family).min() < 0.05 for family in p_values])
    assert 0.035 < rejected < 0.06


def pairs_of(table):
    """The differences between any two rows."""
    return [one - other for one, other in itertools.combinations(np.asarray(table), 2)]


def test_one_sample_has_its_t_test():
    one, other = np.array([[0.52, 0.61, 0.55, 0.58], [0.50, 0.57, 0.54, 0.51]])
    (moderated,), paired = moderated_t_tests([one - other], 3), paired_t_test(one, other)
    np.testing.assert_allclose(moderated[:2], paired[:2], rtol=1e-12)
    np.testing.assert_allclose(moderated[2], paired[2], rtol=1e-12)


def test_pairs_that_agree_are_an_analysis_of_variance_by_least_squares():
    """The same contrast from a linear model with a coefficient for each row and each column but the
    first."""
    rng = np.random.default_rng(3)
    table = rng.normal(size=(4, 3)) + np.arange(4)[:, None] * 0.7 + 5 * rng.normal(size=3)
    design = np.array(
        [
            [*(row == r for r in range(4)), *(column == c for c in (1, 2))]
            for row in range(4)
            for column in range(3)
        ],
        float,
    )
    coefficients, squares, *_ = np.linalg.lstsq(design, table.ravel())
    contrast = np.array([1.0, 0, 0, -1, 0, 0])
    freedom = 12 - 6
    error = np.sqrt(squares[0] / freedom * contrast @ np.linalg.inv(design.T @ design) @ contrast)
    t = contrast @ coefficients / error
    mean, p, (low, high) = moderated_t_tests(pairs_of(table), freedom)[2]
    assert mean == pytest.approx(contrast @ coefficients)
    assert p == pytest.approx(2 * scipy.stats.t.sf(abs(t), freedom))
    assert (high - low) / 2 == pytest.approx(scipy.stats.t.ppf(0.975, freedom) * error)


def test_variances_are_drawn_together_as_by_limma():
    """The common variance and the degrees of freedom it is worth are those of limma's fitFDist, of
    which each is the weighted mean."""
    variances, freedoms = [0.1689, 0.2289, 0.1138, 0.511, 8.404, 0.2851], [4, 4, 3, 3, 4, 2]
    common, gained = 0.35552418236932615, 2.204453712485125
    found = moderated_variances(variances, freedoms)
    assert found[1] == pytest.approx(gained, rel=1e-6)
    expected = [
        (gained * common + own * variance) / (gained + own)
        for variance, own in zip(variances, freedoms, strict=True)
    ]
    np.testing.assert_allclose(found[0], expected, rtol=1e-6)
    alike = moderated_variances([1.0, 1.1, 0.9, 1.2], [4, 4, 4, 4])
    assert alike == ([pytest.approx(1.05)] * 4, math.inf)


def test_the_common_variance_is_that_which_variances_were_drawn_from():
    """Of variances from 3 / chi-squared with six degrees of freedom, known with four each: half of
    3 in common, worth six."""
    rng = np.random.default_rng(0)
    true = 3 / rng.chisquare(6, 20_000)
    seen = true * rng.chisquare(4, true.size) / 4
    found, gained = moderated_variances(seen, [4] * true.size)
    assert gained == pytest.approx(6, rel=0.05)
    common = (found[0] * (gained + 4) - 4 * seen[0]) / gained
    assert common == pytest.approx(0.5, rel=0.02)
    assert np.std(np.log(found / true)) < 0.7 * np.std(np.log(seen / true))


@pytest.mark.parametrize("spread", [[1, 1, 1, 1, 1], [1, 1, 1, 1, 4], [10, 1, 1, 1, 1]])
def test_a_group_finds_no_difference_where_there_is_none(spread):
    """Of 600 tables of five rows that don't differ, however far one of them scatters, in about 5%
    at most any difference is found: as an analysis of variance of all rows it is up to 13%."""
    rng, found = np.random.default_rng(0), 0
    for _ in range(600):
        table = rng.normal(size=(5, 5)) * np.array(spread)[:, None]
        found += holm([p for _, p, _ in moderated_t_tests(pairs_of(table), 16)]).min() < 0.05
    assert found / 600 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 600)


def test_a_row_that_scatters_does_not_hide_what_others_show():
    """Three standard deviations apart, beside a row that scatters ten times as far."""
    rng, found = np.random.default_rng(0), 0
    for _ in range(200):
        table = rng.normal(size=(3, 5)) * np.array([1, 1, 10])[:, None]
        table[0] += 3
        found += moderated_t_tests(pairs_of(table), 8)[0][1] < 0.05
    assert found > 150


def test_pairs_without_chance():
    table = np.array([[0.5, 0.6], [0.4, 0.5], [0.5, 0.6]])
    first, same, _ = moderated_t_tests(pairs_of(table), 2)
    assert same[:2] == (0, 1)
    mean, p, interval = first
    assert (p, interval) == (0, (mean, mean))
    # One that always gives the same is known as well as its neighbours let it be.
    _, p, _ = moderated_t_tests([[0.1, 0.1, 0.1], [0.2, 0.5, 0.1], [0.3, 0.1, 0.2]], 4)[0]
    assert 0 < p < 0.05


@pytest.mark.parametrize("count", [3, 6, 10, 15])
def test_swaps_find_no_difference_where_there_is_none(count):
    """Of 400 pairs that differ by chance alone about 5% at most are found to differ; 15 things are
    swapped in random ways, fewer in all."""
    rng, signs = np.random.default_rng(count), 1 - 2 * swaps(count)
    trials = rng.standard_t(3, (400, count))
    p = np.array([swap_test(signs @ differences / count) for differences in trials])
    share = (p < 0.05).mean()
    assert share <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)
    if count > 5:
        assert share > 0.01
    else:
        assert p.min() == 2 / 2**count


def test_swaps_are_scipys_permutation_test():
    differences = np.array([0.3, -0.1, 0.2, 0.4, 0.05, -0.02, 0.1])
    wanted = scipy.stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=np.inf
    )
    assert len({tuple(way) for way in swaps(7)}) == 2**7
    assert not swaps(7)[0].any()
    found = swap_test((1 - 2 * swaps(7)) @ differences)
    assert found == pytest.approx(wanted.pvalue)
    assert swap_test((1 - 2 * swaps(20)) @ np.full(20, 0.1)) == 1 / 2001
    assert swap_test(np.zeros(8)) == 1
    assert math.isnan(swap_test([math.nan] * 8))
