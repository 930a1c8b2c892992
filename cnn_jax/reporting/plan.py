"""A study planned from the records seen so far: how many seeds a difference of a given size takes,
what the test images allow, and whether the runs were long enough.

Everything is of the tests that `comparison` makes. The seeds are those at the strictest step of
Holm's correction, the level divided by the number of pairs: fewer do where other pairs differ too.
"""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cnn_jax.evaluation import power
from cnn_jax.evaluation.statistics import mean_interval, moderated_variances
from cnn_jax.reporting.comparison import OF_SCENES
from cnn_jax.reporting.verdicts import LEVEL, Comparison, Group, Variant, listed

POWER = 0.8
"""The chance to find a difference that is there."""

_DOUBLINGS = 6
"""So many times longer runs are looked ahead at."""


class Seeds(NamedTuple):
    """What a group's seeds are worth.

    Attributes:
        deviation: of one seed's difference between two variants, of the group's middle pair, as the
            test takes it.
        freedom: its degrees of freedom, with the seeds seen.
        needed: seeds a variant for the difference; None: more than `power.MOST`.
        range: the same for the ends of the deviation's 95% interval.
        least: the difference that the seeds seen so far can tell.
        seen: their number.
    """

    deviation: float
    freedom: float
    needed: int | None
    range: tuple[int | None, int | None]
    least: float
    seen: int


class Images(NamedTuple):
    """What the test images are worth, of the group's middle pair.

    Attributes:
        deviation: of one image's difference between two variants, averaged over seeds.
        seen: how many images there are.
        least: the difference that they can tell.
        needed: images for the difference; None: more than `power.MOST`.
    """

    deviation: float
    seen: int
    least: float
    needed: int | None


class Rise(NamedTuple):
    """What validation gained when the steps were doubled, a mean over runs.

    Attributes:
        steps: of the runs.
        last: from half of the steps to all.
        half: half the width of its 95% interval.
        before: from a quarter to half; NaN where there was no validation by then.
        flat: the steps from which another doubling would gain less than the difference, if gains go
            on to shrink as they did, or nothing; None: they don't shrink yet.
    """

    steps: int
    last: float
    half: float
    before: float
    flat: int | None


def seeds(tables: np.ndarray, difference: float, pairs: int = 0) -> Seeds | None:
    """From scores float64 `[variants, seeds]`; None for fewer than two of either. `pairs` are those
    of the group, where it has more variants than scores were seen of."""
    variants, seen = tables.shape
    if variants < 2 or seen < 2:
        return None
    own = _variances(tables)
    variances, gained = moderated_variances(own, [seen - 1] * len(own))
    deviation, level = math.sqrt(np.median(variances)), LEVEL / (pairs or len(own))

    def freedom(seeds: int) -> float:
        return min(gained + seeds - 1, (variants - 1) * (seeds - 1))

    def needed(deviation: float) -> int | None:
        return power.pairs_needed(difference, deviation, level, POWER, freedom)

    low, high = power.deviation_interval(deviation, freedom(seen))
    least = power.detectable(deviation / math.sqrt(seen), freedom(seen), level, POWER)
    range = needed(low), needed(high)
    return Seeds(deviation, freedom(seen), needed(deviation), range, least, seen)


def images(scores: np.ndarray, difference: float) -> Images | None:
    """From each image's score, averaged over seeds, float64 `[variants, images]`, where NaN stands
    for an image that is ignored; None for fewer than two variants or images."""
    scores = scores[:, np.isfinite(scores).all(0)]
    variants, seen = scores.shape
    if variants < 2 or seen < 2:
        return None
    variances = _variances(scores)
    deviation, level = math.sqrt(np.median(variances)), LEVEL / len(variances)
    least = power.detectable(deviation / math.sqrt(seen), seen - 1, level, POWER)
    needed = power.pairs_needed(difference, deviation, level, POWER)
    return Images(deviation, seen, least, needed)


def _variances(table: np.ndarray) -> list[float]:
    """Of the differences between any two rows."""
    return [float(np.var(one - other, ddof=1)) for one, other in itertools.combinations(table, 2)]


def rise(curves: Sequence[Sequence[tuple[float, float]]], difference: float) -> Rise | None:
    """From validations (step, score) of runs of one length, where more is better; None where no run
    was validated by half of its steps."""
    runs = [np.array(curve, np.float64) for curve in curves if len(curve) > 1]
    runs = [run for run in runs if run[0, 0] <= run[-1, 0] / 2]
    if not runs:
        return None
    steps = int(max(run[-1, 0] for run in runs))

    def at(run: np.ndarray, share: float) -> float:
        step = share * run[-1, 0]
        return float(np.interp(step, *run.T)) if run[0, 0] <= step else math.nan

    last, half = mean_interval([at(run, 1) - at(run, 0.5) for run in runs])
    before = float(np.mean([at(run, 0.5) - at(run, 0.25) for run in runs]))
    flat = None
    if last < difference:
        flat = steps
    elif before > last:
        shrinks = last / before
        doublings = math.ceil(math.log(difference / last) / math.log(shrinks) - 1e-9)
        flat = steps * 2**doublings if doublings <= _DOUBLINGS else None
    return Rise(steps, last, half, before, flat)


def text(comparison: Comparison, difference: float, steps: int) -> str:
    """The plan in words, a paragraph a group.

    Args:
        comparison: of the records seen so far.
        difference: of the leading score, that is to be told.
        steps: of the runs to come; 0 for methods that take none.
    """
    label = comparison.score
    parts = [
        f"To tell a difference of {difference:g} {label} with power {POWER:g}, at {LEVEL:g} after"
        f" Holm over the pairs of a group.\nSeen so far: {comparison.title}; {comparison.budget}."
    ]
    parts += [_group(comparison, group, difference, steps) for group in comparison.groups]
    if steps:
        parts.append(
            "The spread is that of the runs seen: longer runs mostly spread less, so plan again"
            " after the first seeds at another budget. Learning rates that fall to the last step"
            " let validation rise until then, however many steps there are."
        )
    return "\n\n".join(parts)


def _group(comparison: Comparison, group: Group, difference: float, steps: int) -> str:
    members = [variant for variant in comparison.variants if variant.name in group.variants]
    title = group.title or "All variants"
    pairs = math.comb(len(members), 2)
    many = "variant" if len(members) == 1 else "variants"
    lines = [f"{title}: {len(members)} {many}, {pairs} {'pair' if pairs == 1 else 'pairs'}"]
    known = [v for v in members if len(v.scores[comparison.leading].values) > 1]
    of_seeds = seeds(_scores(comparison, known), difference, pairs)
    if of_seeds is None:
        lines.append("seeds: not known, for it takes two variants with two seeds that both have")
    else:
        low, high = (_count(needed) for needed in of_seeds.range)
        of = f", of {listed([v.name for v in known])} alone" if len(known) < len(members) else ""
        lines.append(
            f"seeds: {_count(of_seeds.needed)} a variant ({low} to {high}, as the spread is known);"
            f" the {of_seeds.seen} seen can tell {of_seeds.least:.3f} (one seed's difference varies"
            f" by {of_seeds.deviation:.3f}{of})"
        )
        lines.append(f"runs:  {_runs(members, of_seeds.needed, steps)}")
    of_images = images(_of_images(comparison, members), difference)
    if of_images is not None:
        lines.append(
            f"images: {of_images.seen} can tell {of_images.least:.3f}, however many seeds there"
            f" are; {difference:g} takes {_count(of_images.needed)} (one image's difference varies"
            f" by {of_images.deviation:.3f})"
        )
    if steps:
        lines.append(f"steps: {_steps(_curves(comparison, members), difference, comparison.score)}")
    return "\n  ".join(lines)


def _runs(members: Sequence[Variant], needed: int | None, steps: int) -> str:
    known = [
        record.summary["wall_time_s"] / record.config["training"]["steps"]
        for variant in members
        for record in variant.records
        if record.summary.get("wall_time_s") and record.config.get("training", {}).get("steps")
    ]
    if needed is None:
        return "more than anybody makes"
    count = f"{needed * len(members):,}"
    if not known:
        return count
    hours = float(np.mean(known)) * steps * needed * len(members) / 3600
    return f"{count} of {steps:,} steps, {hours:,.1f} h of training on what the seen ones ran on"


def _steps(curves: Sequence[Sequence[tuple[float, float]]], difference: float, label: str) -> str:
    risen = rise(curves, difference)
    if risen is None:
        return "not known, for no run was validated by half of its steps"
    interval = f" ± {risen.half:.3f}" if math.isfinite(risen.half) else ""
    before = (
        f" (from a quarter to half, {risen.before:+.3f})" if math.isfinite(risen.before) else ""
    )
    says = (
        f"from {risen.steps // 2:,} to {risen.steps:,} validation {label} changed by"
        f" {risen.last:+.3f}{interval}{before}"
    )
    if risen.last <= -difference:
        return f"{says}: it falls, and longer runs would gain nothing"
    if risen.flat == risen.steps:
        return f"{says}: flat within {difference:g}"
    if risen.flat is None:
        return f"{says}: not flat, and gains don't shrink yet; double the steps and plan again"
    return f"{says}: not flat; at this rate from about {risen.flat:,} steps on"


def _scores(comparison: Comparison, members: Sequence[Variant]) -> np.ndarray:
    """[variants, seeds], of the seeds that all have."""
    key = f"test/{comparison.leading}"
    found = [
        {seed: record.summary.get(key) for seed, record in variant.by_seed.items()}
        for variant in members
    ]
    found = [{s: v for s, v in of.items() if v is not None} for of in found]
    shared = [seed for seed in found[0] if all(seed in of for of in found)] if found else []
    values = [of[seed] for of in found for seed in shared]
    return np.array(values).reshape(len(found), len(shared))


def _of_images(comparison: Comparison, members: Sequence[Variant]) -> np.ndarray:
    """[variants, images], the mean over seeds; no image where the variants' differ."""
    of = [list(variant.scenes.values()) for variant in members if variant.scenes]
    names = {scenes.names for each in of for scenes in each}
    if comparison.leading != OF_SCENES or len(names) != 1:
        return np.empty((0, 0))
    return np.array([np.mean([scenes.mious for scenes in each], axis=0) for each in of])


def _curves(comparison: Comparison, members: Sequence[Variant]) -> list[list[tuple[float, float]]]:
    """Validations of every run; where less is better, with the other sign."""
    sign, key = comparison.figure.sign, f"validation/{comparison.leading}"
    return [
        [(line["step"], sign * line[key]) for line in record.metrics if line.get(key) is not None]
        for variant in members
        for record in variant.records
    ]


def _count(needed: int | None) -> str:
    return f"{needed:,}" if needed is not None else f"more than {power.MOST:,}"
