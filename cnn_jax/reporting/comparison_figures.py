"""Charts of a comparison, as SVG for its page: small ones, so that they can be read on a phone.

Text stays text, in whatever plain font the reader has.
"""

import io
import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import ArrayLike

from cnn_jax.reporting.figures import Points, curve, running_mean, series
from cnn_jax.reporting.style import curve_style, label, note, style

_WIDTH_IN = 4.4
_HEIGHT_IN = 2.6
_FAR = 5.0
"""From this ratio between the largest and the smallest on, costs stand on a logarithmic axis."""


class Point(NamedTuple):
    """A variant among others: what it costs, its score, and the standard deviation of the score
    (NaN for one seed)."""

    cost: float
    score: float
    deviation: float


def learning_curves(
    runs: Mapping[str, Sequence[Sequence[Mapping[str, float]]]],
    key: str,
    looks: Mapping[str, int],
    ylabel: str,
    smooth: bool = False,
) -> str:
    """Draw a metric against the step: of each variant the mean over its seeds, in a band from the
    least to the greatest seed.

    Args:
        runs: variant -> the lines of metrics.jsonl of each of its runs.
        key: the metric.
        looks: variant -> the number of its look.
        ylabel: what the metric is called.
        smooth: draw running means over a tenth of each run's records.

    Returns:
        The SVG. Steps that not all seeds have are left out; without any value the chart says so.
    """
    with _style():
        figure, axes = _chart(legend_rows=math.ceil(len(runs) / 2))
        ends, values, last = {}, [], 1
        for name, histories in runs.items():
            steps, stack = _aligned([series(history, key) for history in histories], smooth)
            if not len(steps):
                continue
            look = curve_style(looks[name])
            mean = stack.mean(0)
            if len(stack) > 1:
                axes.fill_between(
                    steps, stack.min(0), stack.max(0), color=look["color"], alpha=0.14, linewidth=0
                )
            curve(axes, (list(steps), list(mean)), label=label(name, 26), **look)
            ends[name] = mean[-1]
            values.append(stack.ravel())
            last = max(last, steps[-1])
        axes.set_xlabel("step")
        axes.set_ylabel(ylabel)
        axes.set_xlim(0, 1.02 * last)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        axes.xaxis.set_major_formatter("{x:,.0f}")
        if not values:
            note(axes, "nothing recorded")
            return _svg(figure)
        values = np.concatenate(values)
        # A steep beginning would press the rest flat.
        falling = key.endswith("loss")
        low, high = (
            (values.min(), np.quantile(values, 0.97))
            if falling
            else (np.quantile(values, 0.03), values.max())
        )
        margin = max(0.05 * (high - low), 0.005)
        axes.set_ylim(max(0, low - margin), high + margin)
        # As the curves end, from top to bottom.
        order = np.argsort([-end for end in ends.values()], kind="stable")
        _legend(figure, [axes.lines[index] for index in order])
        return _svg(figure)


def _aligned(runs: Sequence[Points], smooth: bool) -> tuple[np.ndarray, np.ndarray]:
    """(steps that all runs have, values [run, step]); runs without any are passed over."""
    runs = [running_mean(points)[1] if smooth else points for points in runs if points[0]]
    if not runs:
        return np.empty(0), np.empty((0, 0))
    steps = sorted(set.intersection(*(set(points[0]) for points in runs)))
    lookups = [dict(zip(*points, strict=True)) for points in runs]
    return np.array(steps), np.array([[values[step] for step in steps] for values in lookups])


def against_cost(
    points: Mapping[str, Point],
    looks: Mapping[str, int],
    xlabel: str,
    ylabel: str,
    more_is_better: bool = False,
    *,
    lower_is_better: bool = False,
) -> str:
    """Draw scores against a cost, with their standard deviations, and the Pareto front: the
    variants that none beats at no more cost.

    `more_is_better` is for what isn't a cost but a speed, `lower_is_better` for scores such as a
    mean rank. The axis is logarithmic where costs differ by more than five times. Returns the SVG.
    """
    known = {
        name: p for name, p in points.items() if math.isfinite(p.cost) and math.isfinite(p.score)
    }
    with _style():
        figure, axes = _chart()
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
        if not known:
            note(axes, "nothing recorded")
            return _svg(figure)
        costs = np.array([p.cost for p in known.values()])
        far = costs.min() > 0 and costs.max() / costs.min() > _FAR
        if far:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(
                LogLocator(subs=(1, 2, 5) if costs.max() / costs.min() < 30 else (1,))
            )
            axes.xaxis.set_minor_formatter(NullFormatter())
        else:
            axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value)))
        front = pareto_front(known, more_is_better, lower_is_better)
        corners = np.array([(known[name].cost, known[name].score) for name in front])
        axes.plot(
            *corners.T,
            color="#888888",
            linewidth=1,
            linestyle="--",
            drawstyle="steps-post",
            zorder=1,
        )
        for name, p in known.items():
            look = curve_style(looks[name])
            deviation = p.deviation if math.isfinite(p.deviation) else 0
            axes.errorbar(
                p.cost,
                p.score,
                deviation,
                ecolor=look["color"],
                elinewidth=1,
                fmt="none",
                alpha=0.7,
            )
            face = look["color"] if name in front else "white"
            edge = {"markeredgecolor": look["color"], "markeredgewidth": 1.4}
            axes.plot(
                p.cost,
                p.score,
                marker=look["marker"],
                markersize=6.5,
                linestyle="",
                markerfacecolor=face,
                **edge,
            )
        axes.margins(0.12, 0.16)
        _name_points(figure, axes, known, corners)
        return _svg(figure)


def pareto_front(
    points: Mapping[str, Point], more_is_better: bool = False, lower_is_better: bool = False
) -> list[str]:
    """The names of the points that no other beats, from the worst score on: none is as good in
    both and better in one."""
    cost_sign, score_sign = (-1 if more_is_better else 1), (-1 if lower_is_better else 1)
    ordered = sorted(
        points.items(), key=lambda item: (cost_sign * item[1].cost, -score_sign * item[1].score)
    )
    front, best = [], -math.inf
    for name, point in ordered:
        if score_sign * point.score > best:
            front.append(name)
            best = score_sign * point.score
    return front


def _tick(value: float) -> str:
    size, unit = next(
        ((size, unit) for size, unit in ((1e9, " G"), (1e6, " M"), (1e4, " k")) if value >= size),
        (1, ""),
    )
    size = 1e3 if unit == " k" else size
    return f"{value / size:,g}{unit}"


def _name_points(
    figure: Figure, axes: Axes, points: Mapping[str, Point], front: np.ndarray
) -> None:
    """Write each point's name beside it, where it covers no point, bar, name or line of the front;
    farther off with a thin line."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    places = {name: axes.transData.transform((p.cost, p.score)) for name, p in points.items()}
    frame = axes.get_window_extent(renderer)
    taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in places.values()]
    for p in points.values():
        if math.isfinite(p.deviation):
            (x, low), (_, high) = (
                axes.transData.transform((p.cost, p.score + sign * p.deviation)) for sign in (-1, 1)
            )
            taken.append((x - 1, low, x + 1, high))
    for (x, y), (right, top) in itertools.pairwise(axes.transData.transform(front)):
        taken += [(min(x, right), y - 1, max(x, right), y + 1), (right - 1, y, right + 1, top)]
    directions = [(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1)]
    candidates = [(dx * r, dy * r) for r in (8, 15, 24, 34, 46, 60) for dx, dy in directions]
    for name, (x, y) in sorted(places.items(), key=lambda item: -item[1][1]):
        text = axes.annotate(
            label(name, 26),
            (points[name].cost, points[name].score),
            (0, 0),
            textcoords="offset pixels",
            fontsize=7.5,
        )
        extent = text.get_window_extent(renderer)
        size = extent.width, extent.height
        dx, dy = min(
            candidates,
            key=lambda shift, at=(x, y), size=size: _nuisance(at, shift, size, taken, frame),
        )
        taken.append(_box((x, y), (dx, dy), size))
        text.set_position((dx, dy))
        text.set_horizontalalignment("left" if dx > 0 else "right" if dx < 0 else "center")
        text.set_verticalalignment("bottom" if dy > 0 else "top" if dy < 0 else "center")
        if math.hypot(dx, dy) > 20:
            line = {"color": "#999999", "linewidth": 0.6, "shrinkA": 0, "shrinkB": 4}
            axes.annotate(
                "",
                (points[name].cost, points[name].score),
                (dx, dy),
                textcoords="offset pixels",
                arrowprops={"arrowstyle": "-", **line},
            )


def _box(at, shift, size) -> tuple[float, float, float, float]:
    """What a name so large covers that begins at a point's side: left, bottom, right, top."""
    (x, y), (dx, dy), (width, height) = at, shift, size
    left = x + dx - (0 if dx > 0 else width if dx < 0 else width / 2)
    bottom = y + dy - (0 if dy > 0 else height if dy < 0 else height / 2)
    return left, bottom, left + width, bottom + height


def _nuisance(at, shift, size, taken, frame) -> float:
    """How badly a name stands: what it covers of what is taken, what lies outside of the frame, how
    far it is from its point."""
    box = _box(at, shift, size)
    covered = sum(_overlap(box, other) for other in taken)
    room = frame.x0, frame.y0, frame.x1 + 6, frame.y1 + 4
    outside = math.prod(size) - _overlap(box, room)
    return 2 * covered + 3 * outside + 0.04 * math.hypot(*shift) ** 2


def _overlap(a: Sequence[float], b: Sequence[float]) -> float:
    """The area two boxes (left, bottom, right, top) share."""
    return max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))


def class_scores(
    scores: Mapping[str, tuple[float, float]],
    looks: Mapping[str, int],
    xlabel: str,
    limits: tuple[float, float],
) -> str:
    """Draw one class's score of each variant, in the order given: (mean, standard deviation),
    either NaN. Returns the SVG.

    `limits` are those of the axis, the same for all classes.
    """
    with _style():
        width, height = 0.8 * _WIDTH_IN, 0.55 + 0.2 * len(scores)
        names = [label(name, 22) for name in scores]
        left = 0.15 + 0.068 * max(map(len, names))
        figure = Figure(figsize=(width, height))
        axes = figure.add_axes(
            (left / width, 0.48 / height, 1 - (left + 0.5) / width, 1 - 0.52 / height)
        )
        for row, (name, (mean, deviation)) in enumerate(scores.items()):
            look = curve_style(looks[name])
            if not math.isfinite(mean):
                axes.text(
                    limits[0],
                    row,
                    " none",
                    va="center",
                    color="#555555",
                    fontstyle="italic",
                    fontsize=7.5,
                )
                continue
            if math.isfinite(deviation):
                axes.plot(
                    [mean - deviation, mean + deviation],
                    [row, row],
                    color=look["color"],
                    linewidth=1.4,
                )
            axes.plot(mean, row, marker=look["marker"], color=look["color"], markersize=5.5)
            axes.annotate(
                f"{mean:.3f}",
                (1.01, row),
                xycoords=axes.get_yaxis_transform(),
                va="center",
                fontsize=7.5,
            )
        axes.set_yticks(range(len(scores)), names)
        axes.set_ylim(len(scores) - 0.5, -0.5)
        axes.set_xlim(*limits)
        axes.tick_params(axis="y", length=0)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
        axes.set_xlabel(xlabel)
        return _svg(figure)


def precision_recall(curves: Mapping[str, np.ndarray], looks: Mapping[str, int]) -> str:
    """Draw precision against recall, a curve a variant: float64 `[101]` at recalls from 0 to 1.
    Returns the SVG."""
    with _style():
        figure, axes = _chart(legend_rows=math.ceil(len(curves) / 2))
        for name, values in curves.items():
            look = {**curve_style(looks[name]), "marker": ""}
            axes.plot(np.linspace(0, 1, len(values)), values, label=label(name, 26), **look)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.02)
        axes.set_xlabel("recall")
        axes.set_ylabel("precision")
        _legend(figure, axes.lines)
        return _svg(figure)


def reliability(count: ArrayLike, confidence: ArrayLike, correct: ArrayLike) -> str:
    """Draw accuracy against confidence by bins of confidence, below them the share of predictions
    in each. Returns the SVG.

    `confidence` are sums over the predictions of a bin, `correct` the number of them that are
    right.
    """
    counts, confidences, right = (
        np.asarray(values, np.float64) for values in (count, confidence, correct)
    )
    held = counts > 0
    edges = np.linspace(0, 1, len(counts) + 1)
    with _style():
        figure = Figure(figsize=(2.5, 2.8), layout="constrained")
        axes, bars = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
        axes.plot([0, 1], [0, 1], color="#888888", linewidth=1, linestyle="--")
        axes.plot(
            confidences[held] / counts[held],
            right[held] / counts[held],
            color="#0072B2",
            marker="o",
            markersize=3.5,
            linewidth=1.3,
        )
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.set_ylabel("accuracy")
        bars.bar(
            edges[:-1],
            counts / max(counts.sum(), 1),
            np.diff(edges),
            align="edge",
            color="#0072B2",
            alpha=0.45,
        )
        bars.yaxis.set_major_locator(MaxNLocator(nbins=2))
        bars.set_ylabel("share")
        bars.set_xlabel("confidence")
        figure.align_ylabels()
        return _svg(figure)


def _chart(legend_rows: int = 0) -> tuple[Figure, Axes]:
    """A figure with axes of one size whatever stands beside them, so that charts in a row agree,
    and room for a legend below."""
    below = 0.5 + 0.2 * legend_rows
    height = _HEIGHT_IN + below
    figure = Figure(figsize=(_WIDTH_IN, height), dpi=72)  # SVG's: what is measured is what is drawn
    return figure, figure.add_axes(
        (0.58 / _WIDTH_IN, below / height, 1 - 0.68 / _WIDTH_IN, 1 - (below + 0.08) / height)
    )


def _legend(figure: Figure, lines: Sequence) -> None:
    figure.legend(
        handles=lines,
        loc="lower left",
        bbox_to_anchor=(0.03, 0),
        ncols=2,
        handlelength=3.4,
        borderaxespad=0,
        columnspacing=1.4,
    )


@contextmanager
def _style() -> Iterator[None]:
    """The look of all pictures, but transparent, and with text that stays text in the reader's own
    plain font."""
    own: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": "cnn_jax",
        "font.family": ["sans-serif"],
        "savefig.transparent": True,
        "font.size": 8.5,
        "axes.labelsize": 8.5,
    }
    with style(), matplotlib.rc_context(own):
        yield


def _svg(figure: Figure) -> str:
    """Without date, XML declaration and trailing blanks: the same values give the same text."""
    text = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(text, format="svg", metadata=nothing)
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    return re.sub(
        r"\s*\n\s*", "\n", re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    ).strip()
