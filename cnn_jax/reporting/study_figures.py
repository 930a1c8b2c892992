"""Pictures that compare several runs: what a choice is worth, and how much of the difference is
chance."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, MaxNLocator, NullFormatter, NullLocator

from cnn_jax.evaluation.statistics import mean_interval
from cnn_jax.reporting.figures import Points, curve, running_mean, series
from cnn_jax.reporting.style import (
    DPI,
    TRAIN,
    VALIDATION,
    curve_style,
    label,
    legend_beside,
    note,
    save,
    style,
)

_GREY = "#A6A6A6"


def cross_validation(
    ks: Sequence[int],
    accuracies: Mapping[str, np.ndarray],
    path: str | Path,
    chosen: tuple[str, int] | None = None,
) -> None:
    """Draw the accuracy of k nearest neighbours against k, for each distance: every fold a dot, the
    mean over folds a line.

    `ks` are the numbers of neighbours, `accuracies` holds for each distance an array [k, fold].
    `chosen` is (distance, k); without it the best mean is marked, the smallest k of equals. The
    folds share most of their training examples, so that no interval is drawn. The PNG is written to
    `path`.

    Raises `ValueError` if an array doesn't have one row for each k, or `chosen` isn't among them.
    """
    ks = list(ks)
    accuracies = {name: np.asarray(values, np.float64) for name, values in accuracies.items()}
    for name, values in accuracies.items():
        if values.ndim != 2 or len(values) != len(ks):
            raise ValueError(
                f"the accuracies of {name} are [k, fold] with {len(ks)} rows, not {values.shape}"
            )
    if chosen is None:
        candidates = [
            (-values[row].mean(), ks[row], name)
            for name, values in accuracies.items()
            for row in range(len(ks))
        ]
        _, k, name = min(candidates)
        chosen = name, k
    if chosen[0] not in accuracies or chosen[1] not in ks:
        raise ValueError(
            f"{chosen} is none of the distances {list(accuracies)} with one of the k {ks}"
        )
    spread, best = 1.02, math.nan
    with style():
        figure = Figure(figsize=(7, 4), dpi=DPI)
        axes = figure.add_subplot()
        axes.set_xscale("log")
        for index, (name, values) in enumerate(accuracies.items()):
            look = curve_style(index)
            # Beside each other, so that dots of different distances don't hide each other.
            places = np.array(ks) * spread ** (index - (len(accuracies) - 1) / 2)
            axes.plot(
                np.repeat(places, values.shape[1]),
                values.ravel(),
                ".",
                color=look["color"],
                alpha=0.45,
                markersize=4,
            )
            axes.plot(
                places, values.mean(1), label=label(name, 30), linewidth=1.5, markersize=5, **look
            )
            if name == chosen[0]:
                best = values[ks.index(chosen[1])].mean()
                ring: dict[str, Any] = {"markerfacecolor": "none", "markeredgecolor": "black"}
                place = places[ks.index(chosen[1])]
                axes.plot(place, best, marker="o", markersize=15, zorder=5, **ring)
        folds = max(values.shape[1] for values in accuracies.values())
        axes.set_title(
            f"{folds}-fold cross-validation; ringed: {label(chosen[0], 30)}, k = {chosen[1]}, mean"
            f" {best:.4f}"
        )
        axes.set_xlabel("k, neighbours (logarithmic)")
        axes.set_ylabel("accuracy")
        axes.xaxis.set_major_locator(FixedLocator(_apart(ks)))
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.xaxis.set_minor_locator(NullLocator())
        legend_beside(axes)
        save(figure, path, tight=True)


def _apart(ks: Sequence[int]) -> list[int]:
    """Those ks whose labels don't touch on a logarithmic axis."""
    kept = []
    least = 0.04 * math.log(max(ks) / min(ks))
    for k in sorted(ks):
        if not kept or math.log(k / kept[-1]) >= max(least, 1e-9):
            kept.append(k)
    return kept


def overfitting(
    runs: Mapping[str, Sequence[Mapping[str, float]]],
    final: Mapping[str, tuple[float, float]],
    path: str | Path,
    baseline: str | None = None,
) -> None:
    """Draw accuracy and loss of several runs against the step, a variant a panel, with the baseline
    in grey behind each.

    `runs` holds the rows of each run's metrics.jsonl (`step`, `train/accuracy`,
    `validation/accuracy`, `train/loss`, `validation/loss`, any of them missing), `final` its
    accuracy on training and on test images at the end, both without dropout or
    augmentation: these stand over each panel with their difference; where training images were not
    counted their accuracy is NaN, and the other stands alone. `baseline` names one of the runs.
    Curves of training are running means over a tenth of the records, as they were recorded: under
    augmentation, mixup and dropout where the run has them. The PNG is written to `path`.

    Raises `ValueError` if there is no run, or none is called `baseline`.
    """
    if not runs or (baseline is not None and baseline not in runs):
        raise ValueError(f"there is no run {baseline!r} among {list(runs)}")
    columns = min(len(runs), 4)
    lines = math.ceil(len(runs) / columns)
    last = max([1, *(row["step"] for rows in runs.values() for row in rows)])
    with style():
        figure = Figure(figsize=(2.6 * columns + 0.6, 3.7 * lines), dpi=DPI)
        outer = figure.add_gridspec(lines, columns, hspace=0.32, wspace=0.1)
        all_axes = {"accuracy": [], "loss": []}
        for index, (name, rows) in enumerate(runs.items()):
            inner = outer[index // columns, index % columns].subgridspec(2, 1, hspace=0.12)
            for place, kind in enumerate(("accuracy", "loss")):
                axes = figure.add_subplot(inner[place])
                if baseline is not None and name != baseline:
                    for split, look in (("train", TRAIN), ("validation", VALIDATION)):
                        behind = {**look, "color": _GREY, "marker": "", "linewidth": 1, "zorder": 1}
                        curve(axes, _smooth(runs[baseline], split, kind), **behind)
                for split, look in (("train", TRAIN), ("validation", VALIDATION)):
                    curve(axes, _smooth(rows, split, kind), **{**look, "markersize": 3.5})
                if not axes.lines:
                    note(axes, f"no {kind} recorded")
                axes.set_xlim(0, 1.02 * last)
                axes.xaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
                axes.xaxis.set_major_formatter("{x:,.0f}")
                axes.tick_params(labelleft=index % columns == 0, labelbottom=kind == "loss")
                if index % columns == 0:
                    axes.set_ylabel(kind)
                if kind == "loss" and index + columns >= len(runs):
                    axes.set_xlabel("step")
                all_axes[kind].append(axes)
            all_axes["accuracy"][-1].set_title(label(name, 26), pad=16)
            train, test = final[name]
            text = f"train {train:.3f}, test {test:.3f}, gap {train - test:+.3f}"
            if math.isnan(train):
                text = f"test {test:.3f}"
            all_axes["accuracy"][-1].annotate(
                text, (0, 1), (0, 4), "axes fraction", textcoords="offset points", fontsize=7
            )
        for kind, bounds in (("accuracy", (0, 1)), ("loss", (0, math.inf))):
            low, high = _limits([runs[name] for name in runs], kind, bounds)
            for axes in all_axes[kind]:
                axes.set_ylim(low, high)
        handles = [
            Line2D([], [], label="train", **TRAIN),
            Line2D([], [], label="validation", markersize=3.5, **VALIDATION),
        ]
        if baseline is not None and len(runs) > 1:
            handles.append(
                Line2D([], [], color=_GREY, linewidth=1, label=f"the same of {label(baseline, 30)}")
            )
        figure.legend(
            handles=handles,
            loc="lower left",
            bbox_to_anchor=(0.12, 0.88 + 0.36 / (3.7 * lines)),
            ncols=3,
            handlelength=4,
        )
        save(figure, path, tight=True)


def _smooth(rows: Sequence[Mapping[str, float]], split: str, kind: str) -> Points:
    """Validation as it is, training as a running mean."""
    points = series(rows, f"{split}/{kind}")
    return running_mean(points)[1] if split == "train" else points


def _limits(
    runs: Sequence[Sequence[Mapping[str, float]]], kind: str, bounds: tuple[float, float]
) -> tuple[float, float]:
    """The range of a kind of value in all runs, but for the steep tenth at the beginning of
    training, within `bounds`."""
    values = [
        value
        for rows in runs
        for split in ("train", "validation")
        for value in series(rows, f"{split}/{kind}")[1]
    ]
    if not values:
        return 0, 1
    low, high = (
        (np.quantile(values, 0.1), max(values))
        if kind == "accuracy"
        else (min(values), np.quantile(values, 0.97))
    )
    margin = max(0.06 * (high - low), 0.005)
    return max(bounds[0], low - margin), min(bounds[1], high + margin)


def seeds(values: Mapping[str, Sequence[float]], path: str | Path, label: str = "accuracy") -> None:
    """Draw variants below each other, the best on top: each seed a dot, the mean a line, its 95%
    confidence interval a bar.

    `values` holds the results of each variant's seeds, `label` says what they are. Beside stands
    the mean, the half-width of the interval (Student's t) and the number of seeds; one seed has no
    interval. The PNG is written to `path`.

    Raises `ValueError` if there is no variant, or one has no value.
    """
    _check_values(values)
    order = sorted(values, key=lambda name: np.mean(values[name]))
    with style():
        figure = Figure(figsize=(6, 0.5 + 0.32 * len(order)), dpi=DPI)
        axes = figure.add_subplot()
        for row, name in enumerate(order):
            mean, half = mean_interval(values[name])
            axes.plot(
                values[name],
                [row] * len(values[name]),
                "o",
                color="#0072B2",
                alpha=0.55,
                markersize=5,
                markeredgewidth=0,
            )
            if math.isfinite(half):
                axes.plot(
                    [mean - half, mean + half],
                    [row, row],
                    color="black",
                    linewidth=1.4,
                    solid_capstyle="butt",
                )
            axes.plot([mean], [row], "|", color="black", markersize=12, markeredgewidth=1.8)
            spread = f" ± {half:.4f}" if math.isfinite(half) else ""
            text = f"{mean:.4f}{spread} ({len(values[name])})"
            axes.annotate(text, (1.02, row), xycoords=axes.get_yaxis_transform(), va="center")
        axes.set_yticks(range(len(order)), [_short(name) for name in order])
        axes.set_ylim(-0.6, len(order) - 0.4)
        axes.tick_params(axis="y", length=0)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6))
        axes.set_xlabel(label)
        axes.set_title("Each seed, mean and 95% interval")
        save(figure, path, tight=True)


def against_shift(values: Mapping[str, Mapping[int, Sequence[float]]], path: str | Path) -> None:
    """Draw accuracy against how far the test images are shifted: each seed a dot, the mean a line,
    its 95% interval a bar.

    `values` holds for each variant, for each shift in pixels, the accuracies of its seeds. One seed
    has no interval. The PNG is written to `path`.

    Raises `ValueError` if there is no variant, or one has no value.
    """
    _check_values(values)
    for by_shift in values.values():
        _check_values(by_shift)
    with style():
        figure = Figure(figsize=(7, 4), dpi=DPI)
        axes = figure.add_subplot()
        shifts = sorted({shift for by_shift in values.values() for shift in by_shift})
        nearest = min(np.diff(shifts), default=1)
        for index, (name, by_shift) in enumerate(values.items()):
            look = curve_style(index)
            # Beside each other by a tenth of a step, so that bars don't hide each other.
            aside = 0.1 * nearest * (index - (len(values) - 1) / 2) / max(1, (len(values) - 1) / 2)
            means, halves = np.array(
                [mean_interval(by_shift[shift]) for shift in sorted(by_shift)]
            ).T
            places = np.array(sorted(by_shift)) + aside
            for place, shift in zip(places, sorted(by_shift), strict=True):
                axes.plot(
                    [place] * len(by_shift[shift]),
                    by_shift[shift],
                    ".",
                    color=look["color"],
                    alpha=0.45,
                    markersize=4,
                )
            axes.errorbar(
                places,
                means,
                np.nan_to_num(halves),
                fmt="none",
                ecolor=look["color"],
                elinewidth=1.1,
                capsize=2.5,
            )
            axes.plot(places, means, label=_short(name), linewidth=1.5, markersize=4.5, **look)
        axes.set_xticks(shifts)
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("shift of the test images, px")
        axes.set_ylabel("accuracy")
        axes.set_title("Each seed, mean and 95% interval")
        legend_beside(axes)
        save(figure, path, tight=True)


def _short(name: str) -> str:
    return label(name, 40)


def _check_values(values: Mapping) -> None:
    empty = [name for name, of_name in values.items() if not len(of_name)]
    if not values or empty:
        raise ValueError(f"nothing to draw for {empty[0] if empty else 'no variant'}")
