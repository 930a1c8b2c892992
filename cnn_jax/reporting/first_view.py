"""What a comparison's page opens with: where each variant stands (a forest plot), and which pairs
really differ (a matrix a group).

Both are tables that CSS draws: they read aloud, print, and follow the reader's light or dark. A
variant's number is its rank, and the same in every picture of the page.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.ticker import MaxNLocator

from cnn_jax.records.metrics import NOTHING
from cnn_jax.reporting import table
from cnn_jax.reporting.comparison_tables import named
from cnn_jax.reporting.verdicts import Comparison, Pair, Spread, Variant


class Tick(NamedTuple):
    """A place on an axis in percent of its length, and what stands there."""

    at: float
    text: str


class Row(NamedTuple):
    """A variant in the forest plot: places in percent of the axis.

    `low` and `high` are the ends of the mean's interval, None without one; `open_low` and
    `open_high` say that it goes on beyond the axis. `mean` is None where there is no score.
    """

    number: int
    name: str
    mean: float | None
    low: float | None
    high: float | None
    open_low: bool
    open_high: bool
    seeds: Sequence[float]
    text: str
    interval: str


class Forest(NamedTuple):
    """A row a variant, best first, and the ticks of their common axis."""

    rows: Sequence[Row]
    ticks: Sequence[Tick]


class Cell(NamedTuple):
    """A pair in a matrix: the row's variant over the column's.

    `shade` is its difference in percent of the greatest one on the page; `ahead` is False where the
    column's variant is the better one over the seeds that both have.
    """

    of: str
    text: str
    shade: float
    ahead: bool
    verdict: str
    sentence: str


class Line(NamedTuple):
    """A row of a matrix: a variant, and a cell for each one after it; None: not compared, or not
    above the diagonal."""

    number: int
    name: str
    cells: Sequence[Cell | None]


class Matrix(NamedTuple):
    """The pairs of a group, and how many of them are real, in words."""

    title: str
    says: str
    lines: Sequence[Line]


def numbers(comparison: Comparison) -> dict[str, int]:
    """The rank of each variant, from 1."""
    return {variant.name: rank for rank, variant in enumerate(comparison.variants, 1)}


def headline(comparison: Comparison) -> str:
    """Which variant is best, and how many differences are real, in a sentence or two."""
    best = comparison.variants[0]
    spread = best.scores[comparison.leading]
    if not spread.values or len(comparison.variants) < 2:
        return ""
    form = _form(comparison)
    interval = f" (95%: {spread.interval_text(form)})" if len(spread.values) > 1 else ""
    says = f"{best.name} leads with {comparison.score} {spread.mean:{form}}{interval}."
    pairs = [pair for group in comparison.groups for pair in group.pairs]
    return f"{says} {_says(pairs)}" if pairs else says


def forest(comparison: Comparison) -> Forest:
    """The forest plot of the leading score on the test split.

    The axis holds every seed. An interval may add as much again on either side: those of two seeds
    would press everything else flat.
    """
    figure, form = comparison.figure, _form(comparison)
    spreads = [variant.scores[comparison.leading] for variant in comparison.variants]
    values = np.array([value for spread in spreads for value in spread.values])
    if not len(values):
        nothing = Spread((), 0)
        ranked = _ranked(comparison)
        return Forest([_row(rank, named(v), nothing, (0, 1), form) for v, rank in ranked], ())
    reach = max(np.ptp(values), 0.02 * abs(values.max()), 1e-6)
    ends = [s.mean + sign * s.half for s in spreads if math.isfinite(s.half) for sign in (-1, 1)]
    low = max(min([values.min(), *ends]), values.min() - reach, figure.least)
    high = min(max([values.max(), *ends]), values.max() + reach, figure.most)
    margin = (0.05 if ends else 0.25) * reach
    limits = max(low - margin, figure.least), min(high + margin, figure.most)
    for most in (5, 2):  # of long labels fewer, or one would cover the next
        marks = MaxNLocator(nbins=most, steps=[1, 2, 5, 10]).tick_values(*limits)
        digits = max(0, math.ceil(-math.log10(marks[1] - marks[0]) - 1e-9))
        if digits < 3:
            break
    ticks = [
        Tick(_place(mark, limits), f"{abs(mark) if mark == 0 else mark:.{digits}f}")
        for mark in marks
        if limits[0] <= mark <= limits[1]
    ]
    return Forest(
        [
            _row(rank, named(v), v.scores[comparison.leading], limits, form)
            for v, rank in _ranked(comparison)
        ],
        ticks,
    )


def matrices(comparison: Comparison) -> list[Matrix]:
    """A matrix a group that has pairs."""
    rank = numbers(comparison)
    differences = [pair.difference for group in comparison.groups for pair in group.pairs]
    most = max(differences, default=0) or 1
    found = []
    for group in comparison.groups:
        if not group.pairs:
            continue
        pairs = {frozenset((pair.better, pair.worse)): pair for pair in group.pairs}
        lines = []
        for place, name in enumerate(group.variants):
            cells: list[Cell | None] = [None] * place
            for other in group.variants[place + 1 :]:
                pair = pairs.get(frozenset((name, other)))
                cells.append(
                    pair
                    and Cell(
                        f"{rank[name]} {rank[other]}",
                        f"{pair.difference:{_form(comparison)}}",
                        100 * pair.difference / most,
                        pair.better == name or not pair.difference,
                        pair.verdict,
                        pair.sentence,
                    )
                )
            lines.append(Line(rank[name], name, cells))
        found.append(Matrix(group.title, _says(group.pairs), lines))
    return found


def _says(pairs: Sequence[Pair]) -> str:
    counts = Counter(pair.verdict for pair in pairs)
    tested = sum(counts.values()) - counts["untested"]
    if not tested:
        return "No pair was tested across seeds: it takes two that both have."
    some = counts["seeds"] + counts["images"]
    if not any(pair.images for pair in pairs):  # none can be real
        one = "differs" if some else "isn't shown to differ"
        many = f"{some or 'None'} of {tested} tested pairs {'differs' if some == 1 else 'differ'}"
        said = f"The one tested pair {one}" if tested == 1 else many
        return f"{said} across seeds; none was tested across test images."
    if tested == 1:
        alone = "differs by one of two tests alone" if some else "doesn't really differ"
        return f"The one tested pair {'really differs' if counts['real'] else alone}."
    partly = f"; {some} by one of two tests alone" if some else ""
    return f"{counts['real'] or 'None'} of {tested} tested pairs really differ{partly}."


def _ranked(comparison: Comparison) -> Iterator[tuple[Variant, int]]:
    return ((variant, rank) for rank, variant in enumerate(comparison.variants, 1))


def _row(number: int, name: str, spread: Spread, limits: tuple[float, float], form: str) -> Row:
    if not spread.values:
        return Row(number, name, None, None, None, False, False, (), NOTHING, "")
    ends = [spread.mean - spread.half, spread.mean + spread.half]
    known = math.isfinite(spread.half)
    low, high = (
        _place(min(max(end, limits[0]), limits[1]), limits) if known else None for end in ends
    )
    return Row(
        number,
        name,
        _place(spread.mean, limits),
        low,
        high,
        known and ends[0] < limits[0],
        known and ends[1] > limits[1],
        [_place(value, limits) for value in spread.values] if known else (),
        f"{spread.mean:{form}}",
        spread.interval_text(form) if known else "",
    )


def _place(value: float, limits: tuple[float, float]) -> float:
    return round(100 * (value - limits[0]) / (limits[1] - limits[0]), 2)


def _form(comparison: Comparison) -> str:
    """Accuracies over thousands of images differ in the fourth place."""
    form = table.number_format(comparison.figure)
    return ".3f" if "segmentation" in comparison.figure.tasks and form == ".4f" else form
