"""Tables made from records alone: a page for `results/`, a block for a README, and lines for a
terminal.

What a record doesn't hold shows as a dash.
"""

import math
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cnn_jax.data.scenes import SPLITS
from cnn_jax.errors import InputError
from cnn_jax.evaluation.statistics import mean_interval
from cnn_jax.records.files import write_text
from cnn_jax.records.metrics import FIGURES, NOTHING, Figure
from cnn_jax.records.run_record import RunRecord, rank, variants

_PLAIN = {"record", "data", "device"}
"""Columns of text; the others hold numbers and stand at the right."""

_BRIEF = {"record", "data", "device", "parameters", "steps", "seed", "training time, s"}
"""Columns of a README's table besides the leading figure's."""

_MOVED = "test/shifted_accuracy/"
MOST_CLASSES = 30
"""Tables and charts by class leave out more classes than this."""


def results_page(records: Sequence[RunRecord]) -> str:
    """The Markdown page of a results folder: for each experiment its records with their figures on
    the test split, in total and of each class.

    Records stand by data source, best first. Links are relative to the results folder.
    """
    parts = [
        (
            "<!-- Generated from the records by `python -m cnn_jax.commands.table`: do not edit,"
            " run the command again. -->"
        ),
        "# Results",
        "This page is generated from the records beside it by `python -m cnn_jax.commands.table`.",
        averaging_note(records),
    ]
    if not records:
        parts.append("There are no records yet.")
    for experiment, group in groupby(_ranked(records), lambda record: record.experiment):
        group = list(group)
        parts.append(f"## {escaped(experiment)}")
        beside = dict.fromkeys(
            record.location.rpartition("/")[0]
            for record in group
            if (record.folder.parent / "comparison.md").is_file()
        )
        links = [f"[comparison]({_link('', folder)}comparison.md)" for folder in beside if folder]
        if links:
            parts.append(f"Which differences are real: {', '.join(links)}.")
        if len(variants(group)) < len(group):
            parts += [headline_table(group, by_variant=True), "### Every run"]
        parts.append(headline_table(group))
        for source, same_data in groupby(group, lambda record: record.source):
            for figure, of_figure in groupby(same_data, lambda r: class_figure(r.summary, "test")):
                table = class_table(list(of_figure))
                if figure and table:
                    title = f"{capitalized(figure.label)} per class on the test split"
                    parts += [f"### {title} of {escaped(source)}", table]
    return "\n\n".join(parts) + "\n"


def averaging_note(records: Iterable[RunRecord], *, brief: bool = False) -> str:
    """A paragraph: how each figure is averaged that the records' tables show; `brief`: those that
    brief tables show."""
    records = list(records)
    ranking = {record.leading for record in records}
    figures = [f for f in shown_figures(records) if not brief or f.name in ranking]
    return (
        "Figures are taken from one confusion matrix over the whole test split, of all pixels that"
        " are not ignored or of all images, unless said otherwise."
        f" {averaging(figures)} Where a row stands for several seeds it gives means,"
        " and ± half the width of the 95% Student t interval of the mean."
    )


def best_of_each(records: Iterable[RunRecord]) -> list[RunRecord]:
    """Of each task and data source the best record, with all its seeds; whatever their
    experiments."""
    best: dict[tuple[str, str], list[RunRecord]] = {}
    for group in sorted(variants(records), key=lambda group: rank(group)[2:]):
        best.setdefault((group[0].task, group[0].source), group)
    return [record for group in best.values() for record in group]


def averaging(figures: Iterable[Figure]) -> str:
    """How figures are averaged, in a sentence; those that share a way are named together."""
    by_way: dict[str, list[str]] = {}
    for figure in figures:
        if figure.averaging:
            less = " (less is better)" if figure.higher_is_better is False else ""
            by_way.setdefault(figure.averaging, []).append(figure.label + less)
    ways = [f"{', '.join(labels)}: {way}" for way, labels in by_way.items()]
    return "; ".join(ways) + "." if ways else ""


def shown_figures(records: Iterable[RunRecord]) -> list[Figure]:
    """The figures that tables compare records by and any of them has of the test split."""
    held = {key for record in records for key in record.summary}
    return [f for f in FIGURES.values() if f.compared and f"test/{f.name}" in held]


def number_format(figure: Figure) -> str:
    """Four places for a share, three for what may exceed 1."""
    return ".4f" if figure.most <= 1 else ",.3f"


def headline_table(
    records: Iterable[RunRecord],
    *,
    link_base: str = "",
    brief: bool = False,
    by_variant: bool = False,
) -> str:
    """A Markdown table: what was run on what, the headline metrics of the test split, speed and
    training time.

    Rows stand by experiment and data source, best first by mIoU or accuracy. Accuracies on moved
    test images, and on the training images at the end, have columns where a record has them.
    `link_base` is the path from the page to the results folder. `by_variant` gives runs that differ
    in their seed one row. `brief`, for a README, does so too, leaves some columns out, writes the
    experiment before each name, and says in each row what its score is where that isn't the same
    in all. Training time covers the steps, with their compilation and the validations between them.
    """
    records = list(records)
    kinds = sorted({record.leading for record in records}, key=[*FIGURES, ""].index)
    figures = shown_figures(records)
    further = {
        key: f"moved by {key.removeprefix(_MOVED)} px"
        for key in sorted(
            {key for record in records for key in record.summary if key.startswith(_MOVED)},
            key=lambda key: int(key.removeprefix(_MOVED)),
        )
    }
    further |= {
        key: "on training images"
        for kind in kinds
        if any((key := f"train/{kind}") in record.summary for record in records)
    }
    columns = _BRIEF | {FIGURES[kind].label for kind in kinds if kind and len(kinds) == 1}
    groups = variants(records) if brief or by_variant else [[r] for r in _ranked(records)]
    rows = []
    for group in groups:
        first = group[0]
        name, location = _named(group)
        seeds = f"{len(group)} seeds" if len(group) > 1 else first.config.get("seed", NOTHING)
        row = {
            "record": _linked(f"{first.experiment}/{name}" if brief else name, location, link_base),
            "data": escaped(first.source),
            "parameters": _mean(group, "parameters", ",.0f"),
            "steps": _mean(group, "steps", ",.0f"),
            "seed": escaped(str(seeds)),
            "device": escaped(first.device),
            **{f.label: _worth(group, f) for f in figures},
            **{title: _mean(group, key, ".4f") for key, title in further.items()},
            "training images/s": _mean(group, "train/images_per_second", ",.1f"),
            "training time, s": _mean(group, "wall_time_s", ",.0f"),
        }
        if brief:
            order = ["record", "data", "device", *row]
            row = {title: row[title] for title in order if title in columns}
            if len(kinds) > 1:
                figure = FIGURES.get(first.leading)
                worth = f"{_worth(group, figure)} {figure.label}" if figure else NOTHING
                seconds = row.pop("training time, s")
                row |= {"score": worth, "training time, s": seconds}
        rows.append(row)
    header = list(rows[0]) if rows else ["record"]
    text = {index for index, title in enumerate(header) if title in _PLAIN}
    return markdown(header, [list(row.values()) for row in rows], text_columns=text)


def _worth(group: Sequence[RunRecord], figure: Figure) -> str:
    return _mean(group, f"test/{figure.name}", number_format(figure))


def _named(group: Sequence[RunRecord]) -> tuple[str, str]:
    """(what a record or several seeds of a variant are called, where they lie)."""
    first = group[0]
    if len(group) == 1:
        return first.name, first.location
    return first.variant, first.location.rpartition("/")[0]


def class_table(records: Sequence[RunRecord]) -> str:
    """A Markdown table of the IoU, or of images the recall, of each class on the test split, means
    over seeds; "" if no record holds any, or there are more than 30 classes."""
    names = list(
        dict.fromkeys(name for record in records for name in scored_classes(record.summary, "test"))
    )
    if not names or len(names) > MOST_CLASSES:
        return ""
    rows = []
    for group in variants(records):
        figure = class_figure(group[0].summary, "test")
        keys = [f"test/{figure.name}/{name}" if figure else "" for name in names]
        values = [_mean(group, key, ".4f", interval=False) for key in keys]
        rows.append([_linked(*_named(group), ""), *values])
    return markdown(["record", *map(escaped, names)], rows, text_columns={0})


def summary_table(summary: Mapping[str, Any]) -> str:
    """The metrics of a summary as aligned plain text for a terminal: of each class IoU and Dice, or
    recall and F1, then the headline figures.

    Each split that was scored has its own part; a summary without any gives "". More than 30
    classes are left out.
    """
    parts = []
    for split in SPLITS:
        totals = [
            (figure.label, _number(summary[f"{split}/{figure.name}"], number_format(figure)))
            for figure in FIGURES.values()
            if figure.compared and f"{split}/{figure.name}" in summary
        ]
        if split == "test":
            totals += [
                (f"moved by {key.removeprefix(_MOVED)} px", _number(value, ".4f"))
                for key, value in summary.items()
                if key.startswith(_MOVED)
            ]
        names = scored_classes(summary, split)
        names = names if len(names) <= MOST_CLASSES else []
        if not totals and not names:
            continue
        rows: list[tuple[str, ...]] = []
        if names:
            figures = _of_classes(summary, split)
            rows.append(("class", *(figure.label for figure in figures)))
            for name in names:
                keys = [f"{split}/{figure.name}/{name}" for figure in figures]
                rows.append((name, *(_number(summary.get(key), ".4f") for key in keys)))
        rows += totals
        width = max(_columns(row[0]) for row in rows)
        room = max([8, *(_columns(cell) + 2 for row in rows for cell in row[1:])])
        lines = [
            _padded(row[0], width) + "".join(f"{cell:>{room}}" for cell in row[1:]) for row in rows
        ]
        if names:
            rule = "-" * max(map(_columns, lines))
            lines[1:1] = [rule]
            lines[len(names) + 2 : len(names) + 2] = [rule] if totals else []
        parts.append("\n".join([split, *lines]))
    return "\n\n".join(parts)


def variants_table(records: Sequence[RunRecord]) -> str:
    """The variants of a study as aligned plain text for a terminal, best first: the leading metric,
    parameters, training time."""
    figure = FIGURES.get(records[0].leading)
    score = figure.label if figure else "score"
    rows = []
    for group in variants(records):
        worth = _mean(group, f"test/{group[0].leading}", number_format(figure) if figure else ".4f")
        cost = _mean(group, "parameters", ",.0f"), _mean(group, "wall_time_s", ",.0f")
        rows.append((group[0].variant, str(len(group)), worth, *cost))
    if any("±" in worth for _, _, worth, *_ in rows):
        score += " ± 95%"  # half of the interval, where comparison.md has the deviation
    rows.insert(0, ("variant", "seeds", score, "parameters", "training, s"))
    widths = [max(map(_columns, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            [
                _padded(name, widths[0]),
                *(cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)),
            ]
        )
        for name, *cells in rows
    )


def update_block(readme_path: str | Path, marker: str, text: str) -> bool:
    """Replace what stands between `<!-- marker -->` and `<!-- /marker -->` in a file by `text`; the
    rest stays, byte for byte.

    Returns whether the file has such a block; without one it is left alone. Raises `InputError` if
    the file can't be read or written, or if it has only one of the two comments or has them more
    than once.
    """
    path = Path(readme_path)
    try:
        page = path.read_bytes().decode()
    except OSError as error:
        raise InputError(
            f"{path} can't be read ({error.strerror}): give a file that exists."
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text: save it as UTF-8.") from error
    start, end = f"<!-- {marker} -->", f"<!-- /{marker} -->"
    if start not in page and end not in page:
        return False
    if page.count(start) != 1 or page.count(end) != 1 or page.index(start) > page.index(end):
        raise InputError(
            f"{path} must hold {start} once and {end} once after it: mend the two comments."
        )
    newline = "\r\n" if "\r\n" in page else "\n"
    before, after = page.index(start) + len(start), page.index(end)
    block = f"\n\n{text.strip()}\n\n".replace("\n", newline)
    write_text(path.resolve(), page[:before] + block + page[after:])
    return True


def relative_link(page: str | Path, folder: str | Path) -> str:
    """The path from the folder of a page to another folder, with forward slashes, as a link needs
    it."""
    return Path(os.path.relpath(folder, Path(page).parent)).as_posix()


def _ranked(records: Iterable[RunRecord]) -> list[RunRecord]:
    """By experiment and data source, best first, records without a score last."""
    return sorted(records, key=lambda record: rank([record]))


def class_figure(summary: Mapping[str, Any], split: str) -> Figure | None:
    """The first figure of which a summary has the values of the split's classes."""
    return next(iter(_of_classes(summary, split)), None)


def _of_classes(summary: Mapping[str, Any], split: str) -> list[Figure]:
    """The two figures of classes that stand side by side: the first that a summary has, and the
    next of the same tasks."""
    figures = [figure for figure in FIGURES.values() if figure.of_classes]
    for index, figure in enumerate(figures):
        if any(key.startswith(f"{split}/{figure.name}/") for key in summary):
            later = (f for f in figures[index + 1 :] if set(f.tasks) <= set(figure.tasks))
            return [figure, *list(later)[:1]]
    return []


def scored_classes(summary: Mapping[str, Any], split: str) -> list[str]:
    """The classes with a figure of their own, in the order of the summary, which is the order of
    the data."""
    figure = class_figure(summary, split)
    prefix = f"{split}/{figure.name}/" if figure else ""
    return [key.removeprefix(prefix) for key in summary if figure and key.startswith(prefix)]


def _mean(group: Sequence[RunRecord], key: str, form: str, interval: bool = True) -> str:
    """A figure of one record, or the mean over several; of scores with its interval."""
    values = [value for record in group if (value := record.summary.get(key)) is not None]
    if len(group) == 1 or len(values) < len(group):
        return _number(values[0] if len(group) == 1 and values else None, form)
    mean, half = mean_interval(values)
    spread = f" ± {half:{form}}" if interval and key.startswith("test/") else ""
    return _number(mean, form) + spread


def _number(value: float | None, form: str) -> str:
    return NOTHING if value is None or not math.isfinite(value) else format(value, form)


def markdown(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, text_columns: set[int]
) -> str:
    """A table of cells that are Markdown already; columns that aren't of text are set to the
    right."""
    rule = ["---" if column in text_columns else "---:" for column in range(len(header))]
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, rule, *rows))


def escaped(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return re.sub(r"([\\`*\[\]<>|&]|\b_|_\b)", r"\\\1", " ".join(text.split()))


def capitalized(text: str) -> str:
    """A label at the beginning of a sentence: `Recall`, but `mIoU` as it is."""
    return text[0].upper() + text[1:] if text.islower() else text


def _link(base: str, location: str) -> str:
    return quote(f"{base}/{location}/" if base else f"{location}/")


def _linked(name: str, location: str, base: str) -> str:
    return f"[{escaped(name)}]({_link(base, location)})"


def _columns(text: str) -> int:
    """How many columns a terminal gives the text: accents of their own none, wide characters
    two."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


def _padded(text: str, columns: int) -> str:
    return text + " " * (columns - _columns(text))
