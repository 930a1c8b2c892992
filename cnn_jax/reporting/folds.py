"""A study that was repeated with other places as its test: what holds from fold to fold."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import scipy.special

from cnn_jax.evaluation.statistics import holm
from cnn_jax.records.metrics import leading
from cnn_jax.records.run_record import RunRecord
from cnn_jax.reporting.comparison_tables import markdown
from cnn_jax.reporting.verdicts import interval_text, listed, p_text


def report(folds: Mapping[str, Sequence[RunRecord]]) -> str:
    """Markdown: the leading score of each variant on the test of each fold, and how far the best
    is ahead of the others.

    A score of a fold is the mean over the seeds, the same in all folds: those that most variants
    have in every fold. The t test over folds is that of Nadeau and Bengio (2003), whose variance
    allows for training sets that have most of their scenes in common, corrected after Holm (1979)
    for the number of pairs. Variants without these seeds in every fold are left out, and named.

    Args:
        folds: name -> the finished records of the study on it; three folds at least.
    """
    first = next(record for records in folds.values() for record in records)
    figure = leading(first.task)
    assert figure is not None  # of every task that is trained in folds
    by_fold = [_scores(records, f"test/{figure.name}") for records in folds.values()]
    every = list(dict.fromkeys(one.variant for records in folds.values() for one in records))
    complete = {
        name: frozenset.intersection(*(frozenset(scores.get(name, ())) for scores in by_fold))
        for name in every
    }
    shared = max(
        complete.values(),
        key=lambda seeds: (
            bool(seeds),
            sum(seeds <= others for others in complete.values()),
            len(seeds),
        ),
    )
    names = [name for name in every if shared and shared <= complete[name]]
    values = np.array(
        [
            [np.mean([scores[name][s] for s in sorted(shared)]) for scores in by_fold]
            for name in names
        ]
    )
    worth = figure.sign * values
    order = np.argsort(-worth.mean(1), kind="stable") if names else []
    rows = [
        [
            names[at],
            *(f"{value:.4f}" for value in values[at]),
            f"{values[at].mean():.4f}",
            f"{values[at].std(ddof=1):.4f}",
        ]
        for at in order
    ]
    parts = [f"# {len(names)} {'variant' if len(names) == 1 else 'variants'}, {len(folds)} folds"]
    if rows:
        parts += [
            f"{figure.label} on the test of each fold, in the mean over seeds; the last column is"
            " the standard deviation between folds.",
            markdown(["variant", *folds, "mean", "between folds"], rows),
        ]
    if len(order) > 1:
        parts += _differences(figure.label, [names[at] for at in order], worth[order])
    lacking = [name for name in every if name not in names]
    if lacking:
        which = f"seed{'s' * (len(shared) > 1)} {listed([str(seed) for seed in sorted(shared)])}"
        which = which if shared else "any one seed"
        parts.append(f"Without a score of {which} in every fold, and left out: {listed(lacking)}.")
    return "\n\n".join(parts) + "\n"


def _scores(records, key):
    """Variant -> seed -> its score."""
    by_seed: dict[str, dict[int, float]] = {}
    for record in records:
        value = record.summary.get(key)
        if value is not None and np.isfinite(value):
            by_seed.setdefault(record.variant, {})[record.config["seed"]] = value
    return by_seed


def _differences(label, names, values):
    tests = [corrected_t_test(values[0] - other) for other in values[1:]]
    corrected = holm([p for _, p, _ in tests])
    rows = [
        [
            names[0],
            name,
            f"{difference:.4f}",
            interval_text(interval),
            p_text(p),
            f"{int((values[0] > other).sum())} of {values.shape[1]}",
        ]
        for name, other, (difference, _, interval), p in zip(
            names[1:], values[1:], tests, corrected, strict=True
        )
    ]
    header = ["best", "other", f"ahead in {label}", "95%, folds", "p, folds", "ahead in folds"]
    said = (
        "The test allows for what the training sets of two folds have in common (Nadeau and Bengio,"
        " 2003). The best was chosen by these scores, which p doesn't allow for."
    )
    return ["## The best against the others", markdown(header, rows, (0, 1, 4)), said]


def corrected_t_test(differences: np.ndarray) -> tuple[float, float, tuple[float, float]]:
    """(mean, two-sided p, 95% interval of the mean) of differences over the folds of a
    cross-validation, float64 `[folds]`, three at least.

    Of k folds one is the test, one validation, and k - 2 are for training: the mean's variance is
    the differences' times 1 / k + 1 / (k - 2) (Nadeau and Bengio, 2003), where independent samples
    would have 1 / k.
    """
    count, mean = len(differences), float(differences.mean())
    error = float(differences.std(ddof=1)) * math.sqrt(1 / count + 1 / max(count - 2, 1))
    if error < 1e-15:
        return mean, float(abs(mean) < 1e-15), (mean, mean)
    half = float(scipy.special.stdtrit(count - 1, 0.975)) * error
    p = float(2 * scipy.special.stdtr(count - 1, -abs(mean) / error))
    return mean, p, (mean - half, mean + half)
