"""The power of the tests, by simulation with the very tests, and beside SciPy's distributions."""

import math

import numpy as np
import pytest
from scipy import stats

from cnn_jax.evaluation import power
from cnn_jax.evaluation.statistics import holm, moderated_t_tests, paired_t_test


@pytest.mark.parametrize("difference", [0.01, 0.05, 0.2])
@pytest.mark.parametrize(
    ("freedom", "pairs", "level"), [(8, 3, 0.005), (2.5, 3, 0.05), (7, 8, 0.05)]
)
def test_the_power_is_that_of_the_noncentral_t(difference, freedom, pairs, level):
    distribution = stats.nct(freedom, difference / (0.07 / math.sqrt(pairs)))
    bound = stats.t.isf(level / 2, freedom)
    expected = distribution.sf(bound) + distribution.cdf(-bound)
    found = power.of_pairs(difference, 0.07, pairs, level, freedom)
    assert found == pytest.approx(expected, 1e-6)
    if freedom == pairs - 1:
        assert power.of_pairs(difference, 0.07, pairs, level) == found


@pytest.mark.parametrize("times", [40, 50, 1e11, 1e15])
def test_a_difference_far_beyond_chance_is_found(times):
    """By so many standard errors, with 10 and with 40 degrees of freedom: SciPy's other function
    says 1 as well, up to its own limits."""
    for freedom, pairs in ((10, 2), (40, 5)):
        error = 0.01 / math.sqrt(pairs)
        found = power.of_pairs(times * error, 0.01, pairs, 0.05, freedom)
        assert found == pytest.approx(1, abs=1e-12)
        if times < 1e3:
            expected = stats.nct.sf(stats.t.isf(0.025, freedom), freedom, times)
            assert found == pytest.approx(expected, abs=1e-12)


def test_less_chance_needs_no_more_seeds():
    needed = [
        power.pairs_needed(0.02, d, 0.05 / 45, 0.8, lambda seeds: 9 * (seeds - 1))
        for d in np.geomspace(1, 1e-17, 200)
    ]
    assert needed == sorted(needed, reverse=True)
    assert needed[-1] == 2


def test_simulated_studies_find_the_difference_as_often():
    rng = np.random.default_rng(0)
    variants, seeds, deviation, difference = 4, 6, 0.03, 0.06
    means = np.array([difference, difference / 2, difference / 2, 0])
    pairs = [(i, j) for i in range(variants) for j in range(i + 1, variants)]
    level, found, after_holm, draws = 0.05 / len(pairs), 0, 0, 600
    for _ in range(draws):
        blocks = 0.1 * rng.standard_normal(seeds)  # hard seeds are hard for all
        table = means[:, None] + blocks + deviation * rng.standard_normal((variants, seeds))
        differences = [table[one] - table[other] for one, other in pairs]
        p = [p for _, p, _ in moderated_t_tests(differences, (variants - 1) * (seeds - 1))]
        found += p[pairs.index((0, 3))] < level
        after_holm += holm(p)[pairs.index((0, 3))] < 0.05
    freedom = (variants - 1) * (seeds - 1)
    expected = power.of_pairs(difference, math.sqrt(2) * deviation, seeds, level, freedom)
    assert 0.5 < expected < 0.9
    assert found / draws == pytest.approx(expected, abs=0.05)
    assert after_holm >= found, "Holm's first step is its strictest"


def test_simulated_images_find_the_difference_as_often():
    rng = np.random.default_rng(1)
    values = 0.05 + 0.06 * rng.standard_normal((800, 12))
    found = np.mean([paired_t_test(row, np.zeros(12))[1] < 0.02 for row in values])
    assert found == pytest.approx(power.of_pairs(0.05, 0.06, 12, 0.02), abs=0.05)


def test_the_fewest_are_just_enough():
    deviation = 0.05 * math.sqrt(2)

    def freedom(seeds):
        return 4 * (seeds - 1)

    seeds = power.pairs_needed(0.02, deviation, 0.005, 0.8, freedom)
    assert power.of_pairs(0.02, deviation, seeds, 0.005, freedom(seeds)) >= 0.8
    assert power.of_pairs(0.02, deviation, seeds - 1, 0.005, freedom(seeds - 1)) < 0.8
    # The normal approximation of textbooks, two samples: 2 (z_a + z_b)^2 (s / d)^2.
    z = stats.norm.isf([0.0025, 0.2]).sum()
    assert seeds == pytest.approx(2 * z**2 * (0.05 / 0.02) ** 2, abs=2)
    images = power.pairs_needed(0.02, 0.05, 0.05, 0.8)
    assert (
        power.of_pairs(0.02, 0.05, images, 0.05)
        >= 0.8
        > power.of_pairs(0.02, 0.05, images - 1, 0.05)
    )
    assert images == 52  # G*Power's: paired, d = 0.4, two-sided, 0.05, 0.8
    assert power.pairs_needed(0.02, 0.0, 0.005, 0.8, freedom) == 2
    assert power.pairs_needed(1e-6, 1.0, 0.005, 0.8, freedom) is None


def test_the_least_difference_is_found_with_that_power():
    least = power.detectable(0.05 / math.sqrt(3), 8, 0.005, 0.8)
    assert power.of_pairs(least, 0.05, 3, 0.005, 8) == pytest.approx(0.8, abs=1e-6)
    assert power.detectable(0.0, 8, 0.005, 0.8) == 0


def test_the_interval_of_a_deviation():
    low, high = power.deviation_interval(2.0, 8)
    assert low == pytest.approx(2 * math.sqrt(8 / 17.5345), 1e-4)  # tables of chi-squared
    assert high == pytest.approx(2 * math.sqrt(8 / 2.1797), 1e-4)
