"""Pictures of a run that every task has: learning curves and the confusion matrix.

Which panels they have follows from what the run recorded: IoU by class for segmentation, accuracy
for classification.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator, PercentFormatter

from cnn_jax.evaluation.metrics import class_accuracy
from cnn_jax.evaluation.metrics import iou as class_iou
from cnn_jax.records.metrics import NOTHING
from cnn_jax.reporting.style import (
    DPI,
    TRAIN,
    VALIDATION,
    curve_style,
    label,
    legend_beside,
    note,
    percent,
    readable,
    save,
    style,
)

_MOST_CLASSES = 120
"""From more classes than this a matrix shows the most confused alone: names could no longer be
read."""

_SHOWN_OF_MANY = 30

Points = tuple[Sequence[float], Sequence[float]]
"""Steps, and a value for each."""


def learning_curves(
    metrics: Sequence[Mapping[str, float]], path: str | Path, best_step: int | None = None
) -> None:
    """Draw loss, learning rate and what validation says against the step.

    `metrics` holds the rows of a metrics.jsonl, in any order; each has `step` and any of the
    others. Validation is drawn by accuracy where any row has one, else by AP, else by IoU. Of two
    values for one step (a resumed run) the later row counts. Values that are null or not finite are
    left out, and the panel of the loss says at which step the first of them stood. `best_step`, the
    one that early stopping chose, is marked where it is given. The PNG is written to `path`.
    """
    with style():
        figure = Figure(figsize=(10, 5), dpi=DPI)
        grid = figure.add_gridspec(
            2, 2, width_ratios=(1, 1.25), height_ratios=(1.6, 1), hspace=0.28, wspace=0.18
        )
        loss = figure.add_subplot(grid[0, 0])
        rate = figure.add_subplot(grid[1, 0], sharex=loss)
        worth = figure.add_subplot(grid[:, 1], sharex=loss)

        loss.set_title("Loss")
        curve(loss, series(metrics, "train/loss"), label="train", **TRAIN)
        curve(loss, series(metrics, "validation/loss"), label="validation", **VALIDATION)
        if loss.lines:
            _legend_above(loss)
        else:
            note(loss, "no loss recorded")
        broken = _first_not_finite(metrics, "train/loss")
        if broken is not None:
            loss.annotate(
                f"not finite at step {broken:,}",
                (1, 0),
                (0, -5),
                xycoords="axes fraction",
                textcoords="offset points",
                ha="right",
                va="top",
            )
        loss.tick_params(labelbottom=False)

        rate.set_title("Learning rate")
        curve(
            rate, series(metrics, "train/learning_rate"), color="#333333", linestyle="-", marker=""
        )
        if not rate.lines:
            note(rate, "no learning rate recorded")
        rate.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
        rate.set_ylim(bottom=0)
        rate.set_xlabel("step")

        if any(key in row for row in metrics for key in ("train/accuracy", "validation/accuracy")):
            _draw_accuracy(worth, metrics)
        elif any("validation/box_ap" in row for row in metrics):
            _draw_precision(worth, metrics)
        else:
            _draw_iou(worth, metrics)
        worth.set_xlabel("step")
        if best_step is not None:
            for axes in (loss, worth):
                axes.axvline(best_step, color="black", linewidth=1, linestyle=":", zorder=1)
            late = best_step > 0.5 * max(row["step"] for row in metrics)
            worth.annotate(
                f"best step {best_step:,}",
                (best_step, 0),
                (-4 if late else 4, 4),
                xycoords=worth.get_xaxis_transform(),
                textcoords="offset points",
                ha="right" if late else "left",
                va="bottom",
            )
        loss.set_xlim(0, 1.02 * max([1, *(row["step"] for row in metrics)]))
        loss.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        loss.xaxis.set_major_formatter("{x:,.0f}")
        save(figure, path, tight=True)


def _draw_iou(axes: Axes, metrics: Sequence[Mapping[str, float]]) -> None:
    axes.set_title("IoU on validation")
    prefix = "validation/iou/"
    names = list(
        dict.fromkeys(
            key.removeprefix(prefix) for row in metrics for key in row if key.startswith(prefix)
        )
    )
    for index, name in enumerate(names):
        curve(axes, series(metrics, prefix + name), label=label(name, 26), **curve_style(index))
    curve(
        axes,
        series(metrics, "validation/miou"),
        label="mean (mIoU)",
        color="black",
        linewidth=2.6,
        marker="o",
        zorder=5,
    )
    axes.set_ylim(0, 1)
    if axes.lines:
        legend_beside(axes)
    else:
        note(axes, "no validation recorded")


def _draw_precision(axes: Axes, metrics: Sequence[Mapping[str, float]]) -> None:
    axes.set_title("Average precision on validation")
    shown = [("box_ap", "boxes, AP"), ("box_ap50", "boxes, AP50")]
    shown += [("mask_ap", "masks, AP"), ("mask_ap50", "masks, AP50")]
    for index, (name, text) in enumerate(shown):
        points = series(metrics, f"validation/{name}")
        if len(points[0]):
            curve(axes, points, label=text, **curve_style(index))
    axes.set_ylim(0, 1)
    if axes.lines:
        legend_beside(axes)


def _draw_accuracy(axes: Axes, metrics: Sequence[Mapping[str, float]]) -> None:
    axes.set_title("Accuracy")
    train = series(metrics, "train/accuracy")
    window, smooth = running_mean(train)
    if window > 1:
        curve(axes, train, **TRAIN, alpha=0.25)
    curve(
        axes, smooth, label=f"train, mean of {window} records" if window > 1 else "train", **TRAIN
    )
    curve(axes, series(metrics, "validation/accuracy"), label="validation", **VALIDATION)
    if not axes.lines:
        note(axes, "no accuracy recorded")
        return
    values = np.concatenate([line.get_ydata() for line in axes.lines])
    # A tenth of the values, those of the beginning, may lie below the axis.
    low, high = np.quantile(values, 0.1), values.max()
    margin = max(0.08 * (high - low), 0.005)
    axes.set_ylim(max(0, low - margin), min(1, high + margin))
    _legend_above(axes)


def _legend_above(axes: Axes) -> None:
    """Beside the title, where no curve runs."""
    axes.legend(
        loc="lower right", bbox_to_anchor=(1, 1), ncols=2, handlelength=3.5, borderaxespad=0.2
    )


def series(metrics: Sequence[Mapping[str, float]], key: str) -> Points:
    """Steps and finite values of one metric, in the order of the steps; the last row of a step
    counts."""
    values = {row["step"]: row[key] for row in metrics if key in row}
    finite = sorted(
        (step, value)
        for step, value in values.items()
        if value is not None and math.isfinite(value)
    )
    return [step for step, _ in finite], [value for _, value in finite]


def running_mean(points: Points) -> tuple[int, Points]:
    """The mean over a tenth of the points around each step: (how many they are, (steps, means)).

    What is recorded of single batches in training scatters more than the network learns between two
    of them.
    """
    window = max(1, len(points[0]) // 10)
    if window == 1:
        return window, points
    steps, means = (
        np.convolve(values, np.full(window, 1 / window), "valid").tolist() for values in points
    )
    return window, (steps, means)


def _first_not_finite(metrics: Sequence[Mapping[str, float]], key: str) -> float | None:
    values = {row["step"]: row[key] for row in metrics if key in row}
    return min(
        (step for step, value in values.items() if value is None or not math.isfinite(value)),
        default=None,
    )


def curve(axes: Axes, points: Points, **look: Any) -> None:
    """Draw steps and values with about ten markers, or nothing where there are none; a single point
    always shows."""
    steps, values = points
    if not len(steps):
        return
    if len(steps) == 1:
        look["marker"] = look.get("marker") or "o"
    look = {"linewidth": 1.3, "markersize": 4.5, "markevery": max(1, len(steps) // 10)} | look
    axes.plot(steps, values, **look)


def confusion_matrix(
    matrix: np.ndarray, class_names: Sequence[str], path: str | Path, unit: str = "pixels"
) -> None:
    """Draw a confusion matrix with a figure of merit of each class beside it.

    `matrix` is int64 [classes, classes], rows truth, columns prediction, counted in `unit`:
    "pixels" (segmentation; the IoU of each class stands beside) or "examples" (classification; the
    recall of each class, and the accuracy over all). A cell holds its share of the row (shaded) and
    its count. Rows without truth show a dash, as does the figure of a class that doesn't have one,
    which the mean leaves out. From 31 classes on cells are only shaded; of more than 120 classes
    only the 30 most confused with each other are drawn, the most frequent confusions first, with
    shares and means as for all. The PNG is written to `path`.

    Raises `ValueError` if the shape isn't square or doesn't match `class_names`, or if `unit` is
    another word.
    """
    matrix = np.asarray(matrix)
    classes = len(class_names)
    if classes == 0 or matrix.shape != (classes, classes):
        raise ValueError(
            f"a confusion matrix of {classes} classes has shape ({classes}, {classes}), not"
            f" {matrix.shape}"
        )
    if unit not in ("pixels", "examples"):
        raise ValueError(f"a confusion matrix counts pixels or examples, not {unit!r}")
    matrix = matrix.astype(np.float64)
    rows = matrix.sum(1)
    shares = np.divide(matrix, rows[:, None], out=np.zeros_like(matrix), where=rows[:, None] > 0)
    worth_name, worth = (
        ("IoU", class_iou(matrix)) if unit == "pixels" else ("Recall", class_accuracy(matrix))
    )
    mean = np.nanmean(worth) if np.isfinite(worth).any() else math.nan

    title = f"% of true class, {unit}"
    if classes > 30:
        title = "Share of true class, as shade"
    shown = np.arange(classes)
    if classes > _MOST_CLASSES:
        shown = _most_confused(matrix, _SHOWN_OF_MANY)
        title = (
            f"The {len(shown)} of {classes:,} classes most confused with each other: % of true"
            f" class, {unit}"
        )
    if unit == "examples" and rows.any():
        title += (
            f"\naccuracy {np.trace(matrix) / rows.sum():.4f} ({np.trace(matrix):,.0f} of"
            f" {rows.sum():,.0f} right)"
        )

    cells = np.ix_(shown, shown)
    matrix, shares, rows, worth = matrix[cells], shares[cells], rows[shown], worth[shown]
    count, numbered = len(shown), len(shown) <= 30
    names = [label(class_names[index], 24) for index in shown.tolist()]
    least_in = 2.2 if unit == "pixels" else 3.0  # the accuracy's line needs more
    cell_in = max(0.62 if count <= 12 else 0.5, least_in / count) if numbered else 0.095
    side_in, bar_in, gap_in = count * cell_in, 1.1, 0.18
    width_in = side_in + gap_in + bar_in
    small = 7 if count <= 12 else 5.5 if numbered else 4.5
    with style():
        figure = Figure(figsize=(width_in, side_in), dpi=DPI)
        axes = figure.add_axes((0, 0, side_in / width_in, 1))
        bars = figure.add_axes(((side_in + gap_in) / width_in, 0, bar_in / width_in, 1))

        axes.set_title(title)
        shade = _draw_shares(axes, shares, names, numbered)
        if numbered:
            _write_cells(axes, matrix, shares, rows, small)
        else:
            scale = figure.add_axes((1 + 0.3 / width_in, 0.6, 0.12 / width_in, 0.4))
            shares_told, percents = [0, 0.01, 0.05, 0.1, 0.25, 0.5, 1], PercentFormatter(1, 0)
            figure.colorbar(shade, scale, ticks=shares_told, format=percents)
        _draw_worth(bars, worth, small + 0.5)
        bars.set_title(worth_name)
        bars.set_xlabel(
            f"mean {NOTHING}" if math.isnan(mean) else f"mean {mean:.3f}", fontweight="bold"
        )
        save(figure, path, tight=True)


def _draw_shares(axes: Axes, shares: np.ndarray, names: Sequence[str], numbered: bool) -> AxesImage:
    """The matrix as shades, with names of classes; without numbers to tell small shares apart,
    these are brought out."""
    count = len(names)
    # Light for nothing, dark for all: little ink, and lightness alone carries the order. One in a
    # hundred is much where there are many classes: the root brings it out of the paper.
    norm = Normalize(0, 1) if numbered else PowerNorm(0.5, 0, 1)
    shade = axes.imshow(shares, cmap="Blues", norm=norm, aspect="auto")
    axes.set_xticks(
        range(count), names, rotation=40 if numbered else 90, ha="right", rotation_mode="anchor"
    )
    axes.set_yticks(range(count), names)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.set_xticks(np.arange(count + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(count + 1) - 0.5, minor=True)
    axes.grid(False)
    line = ("#BFBFBF", 0.5) if numbered else ("#E3E3E3", 0.3)
    axes.grid(True, which="minor", color=line[0], linewidth=line[1])
    axes.tick_params(which="both", length=0)
    if not numbered:
        axes.tick_params(labelsize=5)
    axes.spines[:].set_visible(False)
    return shade


def _draw_worth(bars: Axes, worth: np.ndarray, fontsize: float) -> None:
    """A bar a class, beside its row."""
    grey = {"facecolor": "#DDDDDD", "edgecolor": "#555555", "linewidth": 0.6}
    bars.barh(range(len(worth)), np.nan_to_num(worth), height=0.55, **grey)
    for row, value in enumerate(worth):
        text = NOTHING if np.isnan(value) else f"{value:.3f}"
        bars.text(0.04, row, text, va="center", fontsize=fontsize)
    bars.set_xlim(0, 1)
    bars.set_ylim(len(worth) - 0.5, -0.5)
    bars.set_yticks([])
    bars.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    bars.grid(False)


def _write_cells(
    axes: Axes, matrix: np.ndarray, shares: np.ndarray, rows: np.ndarray, fontsize: float
) -> None:
    for row in range(len(matrix)):
        for column in range(len(matrix)):
            share, counted = shares[row, column], matrix[row, column]
            text = f"{percent(share)}\n{readable(counted)}"
            if not counted:
                text = "0" if rows[row] else NOTHING
            look: dict[str, Any] = {"fontsize": fontsize, "ha": "center", "va": "center"}
            look["color"] = "white" if share > 0.72 else "black" if counted else "#777777"
            look["fontweight"] = "bold" if row == column else "normal"
            axes.text(column, row, text, **look)


def _most_confused(matrix: np.ndarray, count: int) -> np.ndarray:
    """The indices of `count` classes, pair by pair from the pair that is most often confused, in
    either direction."""
    pairs = np.triu(matrix + matrix.T, k=1)
    # So many pairs as `count` classes can't make among themselves hold enough classes.
    order = np.argsort(-pairs, axis=None, kind="stable")[: count**2]
    classes = np.stack(np.unravel_index(order, pairs.shape), 1).ravel().tolist()
    return np.array(list(dict.fromkeys(classes))[:count])
