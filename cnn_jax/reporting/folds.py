"""A study that was repeated with other places as its test: what holds from fold to fold."""

from collections.abc import Mapping, Sequence

import numpy as np

from cnn_jax.evaluation.statistics import holm, paired_t_test
from cnn_jax.records.metrics import leading
from cnn_jax.records.run_record import RunRecord
from cnn_jax.reporting.comparison_tables import markdown
from cnn_jax.reporting.verdicts import interval_text, listed, p_text


def report(folds: Mapping[str, Sequence[RunRecord]]) -> str:
    """Markdown: the leading score of each variant on the test of each fold, and how far the best
    is ahead of the others.

    A score of a fold is the mean over the seeds that all its variants have. Folds are the sample: a
    paired t test over them, corrected after Holm (1979), says what to expect of another place of
    the same kind. Variants that lack a fold are left out, and named.

    Args:
        folds: name -> the finished records of the study on it; two folds at least.
    """
    first = next(record for records in folds.values() for record in records)
    figure = leading(first.task)
    assert figure is not None  # of every task that is trained in folds
    by_fold = [_scores(records, f"test/{figure.name}") for records in folds.values()]
    every = list(dict.fromkeys(name for scores in by_fold for name in scores))
    names = [name for name in every if all(name in scores for scores in by_fold)]
    values = np.array([[scores[name] for scores in by_fold] for name in names])
    sign = 1.0 if figure.higher_is_better else -1.0
    order = np.argsort(-sign * values.mean(1), kind="stable") if names else []
    rows = [
        [
            names[at],
            *(f"{value:.4f}" for value in values[at]),
            f"{values[at].mean():.4f}",
            f"{values[at].std(ddof=1):.4f}",
        ]
        for at in order
    ]
    parts = [
        f"# {len(names)} variants, {len(folds)} folds",
        f"{figure.label} on the test of each fold, in the mean over seeds; the last column is the"
        " standard deviation between folds.",
        markdown(["variant", *folds, "mean", "between folds"], rows),
    ]
    if len(order) > 1:
        parts += _differences(figure.label, [names[at] for at in order], sign * values[order])
    lacking = [name for name in every if name not in names]
    if lacking:
        parts.append(f"Not in every fold, and left out: {listed(lacking)}.")
    return "\n\n".join(parts) + "\n"


def _scores(records, key):
    """Variant -> its mean over the seeds that all variants of the fold have."""
    by_seed: dict[str, dict[int, float]] = {}
    for record in records:
        value = record.summary.get(key)
        if value is not None and np.isfinite(value):
            by_seed.setdefault(record.variant, {})[record.config["seed"]] = value
    shared = set.intersection(*map(set, by_seed.values())) if by_seed else set()
    return {
        name: float(np.mean([values[seed] for seed in sorted(shared)]))
        for name, values in by_seed.items()
        if shared
    }


def _differences(label, names, values):
    tests = [paired_t_test(values[0], other) for other in values[1:]]
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
    return ["## The best against the others", markdown(header, rows, (0, 1, 4))]
