"""A plan says what the tests of the comparison would find."""

import math

import numpy as np
import pytest
from scipy import stats

from cnn_jax.evaluation import power
from cnn_jax.records.run_record import read
from cnn_jax.reporting import plan
from cnn_jax.reporting.comparison import compare
from tests.reporting.fake_records import write_run, write_scenes


def test_the_spread_is_what_a_least_squares_fit_of_both_leaves():
    """Of variants that scatter alike; a difference varies by sqrt(2) of it."""
    rng = np.random.default_rng(0)
    table = rng.normal(size=(4, 1)) + rng.normal(size=(1, 5)) + 0.1 * rng.normal(size=(4, 5))
    rows, columns = np.meshgrid(range(4), range(5), indexing="ij")
    design = np.c_[np.eye(4)[rows.ravel()], np.eye(5)[columns.ravel()]]
    _, _, rank, _ = fit = np.linalg.lstsq(design, table.ravel(), rcond=None)
    rest = table.ravel() - design @ fit[0]
    found = plan.seeds(table, 0.2)
    assert found.freedom == table.size - rank
    assert found.deviation == pytest.approx(math.sqrt(2 * rest @ rest / found.freedom))
    bounds = (
        math.sqrt(found.freedom)
        * found.deviation
        / np.sqrt(stats.chi2.ppf([0.975, 0.025], found.freedom))
    )

    def needed(difference, deviation):
        return power.pairs_needed(difference, deviation, 0.05 / 6, 0.8, lambda n: 3 * (n - 1))

    assert found.range == tuple(needed(0.2, bound) for bound in bounds)
    assert found.range[0] <= found.needed <= found.range[1]
    # What the seeds seen can tell is what as many are needed for.
    assert needed(1.0001 * found.least, found.deviation) == 5
    assert plan.seeds(table[:1], 0.2) is None
    assert plan.seeds(table[:, :1], 0.2) is None


def test_one_variant_that_scatters_does_not_make_others_need_more_seeds():
    rng = np.random.default_rng(0)
    table = 0.01 * rng.normal(size=(5, 5))
    alike = plan.seeds(table[:4], 0.02)
    table[4] *= 20
    found = plan.seeds(table, 0.02)
    assert 4 < found.freedom < 16
    assert found.needed < 2.5 * alike.needed


def test_images_that_are_ignored_do_not_count():
    scores = np.array([[0.1, 0.2, 0.4, np.nan], [0.2, 0.2, 0.3, 0.5], [0.1, 0.2, 0.4, 0.1]])
    found = plan.images(scores, 0.1)
    assert found.seen == 3
    assert found.deviation == pytest.approx(0.1)  # of two pairs; the third's is 0
    assert found.needed == power.pairs_needed(0.1, 0.1, 0.05 / 3, 0.8)


def curve(*scores):
    return [(100 * (number + 1), score) for number, score in enumerate(scores)]


def test_gains_that_halve_are_flat_after_two_more_doublings():
    found = plan.rise([curve(0.1, 0.26, 0.3, 0.34), curve(0.2, 0.36, 0.4, 0.44)], 0.02)
    assert (found.steps, found.last, found.before) == (
        400,
        pytest.approx(0.08),
        pytest.approx(0.16),
    )
    assert found.half == pytest.approx(0, abs=1e-9)
    assert found.flat == 1600  # 0.08, 0.04, 0.02


def test_curves_that_do_not_shrink_promise_nothing():
    assert plan.rise([curve(0.1, 0.2, 0.3, 0.4)], 0.02).flat is None
    assert plan.rise([curve(0.1, 0.2, 0.21, 0.21)], 0.02).flat == 400
    unknown = plan.rise([[(200, 0.2), (400, 0.4)]], 0.02)
    assert math.isnan(unknown.before)
    assert unknown.flat is None
    assert plan.rise([[(300, 0.2), (400, 0.4)], []], 0.02) is None


def test_runs_that_fall_are_not_called_flat(tmp_path):
    lines = [
        {"step": step, "validation/miou": score, "elapsed_s": step}
        for step, score in curve(0.2, 0.5, 0.4, 0.35)
    ]
    records = [write_run(tmp_path / "s" / "a0", "a", 0, {"test/miou": 0.5}, lines=lines)]
    said = plan.text(compare(records), 0.02, 1500)
    assert "changed by -0.150 (from a quarter to half, +0.300): it falls, and longer runs" in said
    assert "flat" not in said


def test_a_variant_of_one_seed_does_not_hide_what_others_tell(tmp_path):
    scores = {"a": (0.5, 0.52, 0.51), "b": (0.6, 0.61, 0.63), "c": (0.4, 0.42, 0.41), "d": (0.7,)}
    records = [
        write_run(tmp_path / "s" / f"{name}{seed}", name, seed, {"test/miou": value})
        for name, values in scores.items()
        for seed, value in enumerate(values)
    ]
    said = plan.text(compare(records), 0.02, 0)
    expected = plan.seeds(np.array([scores[name] for name in "abc"]), 0.02, pairs=6)
    assert "All variants: 4 variants, 6 pairs" in said
    assert f"seeds: {expected.needed} a variant" in said
    assert f"varies by {expected.deviation:.3f}, of b, a and c alone)" in said
    assert expected.needed > plan.seeds(np.array([scores[name] for name in "abc"]), 0.02).needed


def test_the_words_are_of_each_group(tmp_path):
    rng = np.random.default_rng(0)
    records = []
    for name, level in (("a", 0.5), ("b", 0.45), ("c", 0.3)):
        for seed in (0, 1, 2):
            folder = tmp_path / "study" / f"{name}{seed}"
            lines = [
                {"step": step, "validation/miou": score, "elapsed_s": step}
                for step, score in curve(0.1, 0.3, 0.3, 0.31)
            ]
            summary = {"test/miou": level + 0.02 * rng.normal(), "wall_time_s": 150.0}
            write_run(folder, name, seed, summary, lines=lines)
            write_scenes(folder, rng.integers(1, 100, (4, 5, 5)))
            records.append(read(folder))
    said = plan.text(compare(records, groups={"two": ("a", "b"), "one": ("c",)}), 0.05, 3000)
    assert "To tell a difference of 0.05 mIoU with power 0.8" in said
    two = said[said.index("two: 2 variants, 1 pair") : said.index("one: 1 variant, ")]
    values = np.array([[r.summary["test/miou"] for r in records[i : i + 3]] for i in (0, 3)])
    expected = plan.seeds(values, 0.05)
    assert f"seeds: {expected.needed} a variant" in two
    hours = 2 * expected.needed * 150 / 1500 * 3000 / 3600
    assert f"{2 * expected.needed} of 3,000 steps, {hours:.1f} h" in two
    assert "images: 4 can tell" in two
    assert "from 200 to 400 validation mIoU changed by +0.010 ± 0.000" in two
    assert "flat within 0.05" in two
    assert "seeds: not known" in said[said.index("one: 1 variant, ") :]


def test_without_scores_of_the_test_split_the_steps_are_still_told(tmp_path):
    lines = [{"step": s, "validation/miou": 0.1, "elapsed_s": s} for s in (500, 1000, 1500)]
    records = [
        write_run(tmp_path / "s" / f"{name}{seed}", name, seed, {}, lines=lines)
        for name in "ab"
        for seed in (0, 1)
    ]
    said = plan.text(compare(records), 0.02, 1500)
    assert "seeds: not known" in said
    assert "flat within 0.02" in said
