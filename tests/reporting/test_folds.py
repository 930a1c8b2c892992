"""What holds from fold to fold, beside SciPy's paired t test."""

import re

import numpy as np
import pytest
import scipy.stats

from cnn_jax.reporting import folds
from tests.reporting.fake_records import write_run


@pytest.fixture
def found(tmp_path):
    """Function: variant -> its scores, `[folds, seeds]`, as records by fold."""

    def make(scores):
        every = {}
        for fold in range(max(len(values) for values in scores.values())):
            every[f"fold {fold}"] = [
                write_run(
                    tmp_path / f"fold{fold}" / f"{name}-seed{seed}",
                    name,
                    seed,
                    {"test/miou": value},
                )
                for name, values in scores.items()
                if fold < len(values)
                for seed, value in enumerate(values[fold])
            ]
        return every

    return make


def row(text, *names):
    line, *_ = (line for line in text.splitlines() if line.startswith(f"| {' | '.join(names)} |"))
    return [cell.strip() for cell in line.strip("|").split("|")][len(names) :]


def test_scores_and_differences_by_fold(found):
    rng = np.random.default_rng(0)
    scores = {name: rng.uniform(0.4, 0.6, (4, 2)) for name in ("a", "b", "c")}
    scores["b"] += 0.2
    text = folds.report(found(scores))
    means = {name: values.mean(1) for name, values in scores.items()}
    assert row(text, "c") == [
        *(f"{value:.4f}" for value in means["c"]),
        f"{means['c'].mean():.4f}",
        f"{means['c'].std(ddof=1):.4f}",
    ]
    corrected = []
    for name in "ac":  # Nadeau and Bengio's variance, of four folds of which two are for training
        differences = means["b"] - means[name]
        error = np.sqrt((1 / 4 + 1 / 2) * np.var(differences, ddof=1))
        corrected.append(2 * scipy.stats.t.sf(abs(differences.mean()) / error, 3))
        if name == "a":
            low, high = scipy.stats.t.interval(0.95, 3, differences.mean(), error)
    corrected = np.array(corrected)
    least = corrected.argmin()
    corrected[least] *= 2
    corrected[1 - least] = max(corrected)
    difference, interval, p, ahead = row(text, "b", "a")
    assert difference == f"{(means['b'] - means['a']).mean():.4f}"
    assert interval == f"{low:.4f} to {high:.4f}"
    assert float(re.sub(r"p (=|\\\\<) ", "", p)) == pytest.approx(corrected[0], rel=0.06)
    assert ahead == f"{(means['b'] > means['a']).sum()} of 4"


def test_what_lacks_a_fold_or_a_seed(found):
    """A variant without a fold is left out; seeds count that most have in every fold."""
    scores = {"a": [[0.5, 0.9], [0.5], [0.5]], "b": [[0.4], [0.3], [0.2]], "c": [[0.1]]}
    scores["d"] = [[0.6, 0.7]] * 3
    records = {
        fold: [one for one in of if (one.variant, one.config["seed"]) != ("d", 0)]
        for fold, of in found(scores).items()
    }
    text = folds.report(records)
    assert row(text, "a")[:4] == ["0.5000"] * 4
    assert "Without a score of seed 0 in every fold, and left out: c and d." in text
    assert row(text, "a", "b")[0] == "0.2000"


def test_variants_without_one_seed_in_every_fold_are_named(found):
    records = found({name: [[0.5, 0.6]] * 3 for name in "ab"})
    odd = {
        fold: [one for one in of if one.config["seed"] != number % 2]
        for number, (fold, of) in enumerate(records.items())
    }
    assert folds.report(odd) == (
        "# 0 variants, 3 folds\n\n"
        "Without a score of any one seed in every fold, and left out: a and b.\n"
    )
    less = {fold: [one for one in of if one.variant == "a"] for fold, of in records.items()}
    less["fold 0"] = records["fold 0"]
    assert "Without a score of seeds 0 and 1 in every fold, and left out: b." in folds.report(less)
