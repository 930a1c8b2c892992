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
from cnn_jax.records.run_record import RunRecord as Record
from cnn_jax.records.run_record import variants

HEADLINES = {
    "miou": "mIoU",
    "frequency_weighted_iou": "frequency-weighted IoU",
    "mean_dice": "mean Dice",
    "pixel_accuracy": "pixel accuracy",
    "accuracy": "accuracy",
    "mean_class_accuracy": "mean class accuracy",
    "boundary_miou": "boundary mIoU",
    "image_miou": "image mIoU",
    "expected_calibration_error": "calibration error",
    "mean_f1": "mean F1",
    "top5_accuracy": "top-5 accuracy",
}
"""The metrics of a split that stand for the whole run, and what they are called; the first that a
record has of mIoU (segmentation) and accuracy (classification) ranks it."""

AVERAGING = (
    "Every metric is taken from one confusion matrix over the whole test split: of all pixels that"
    " are not ignored where scenes are segmented, of all images where images are classified. mIoU,"
    " mean Dice and mean F1 are means over the classes that occur in truth or prediction, each"
    " class counting the same; mean class accuracy is the mean over the classes that occur in"
    " truth; frequency-weighted IoU weighs each class by its share of the true pixels; accuracy is"
    " the share of images that are right. Where a row stands for several seeds it gives means, and"
    " ± half the width of the 95% Student t interval of the mean."
)

FURTHER = (
    "Boundary mIoU counts the pixels near the edges of classes alone, within 2% of the image's"
    " diagonal (Cheng et al., 2021); image mIoU is the mean of each scene's own mIoU; calibration"
    " error is the distance between confidence and accuracy, in 15 bins of confidence (Guo et al.,"
    " 2017)."
)

_BRIEF = (
    "record",
    "data",
    "device",
    "parameters",
    "steps",
    "seed",
    "mIoU",
    "pixel accuracy",
    "accuracy",
    "training time, s",
)
_MOVED = "test/shifted_accuracy/"
_BY_CLASS = {"iou": "IoU", "class_accuracy": "Recall"}
MOST_CLASSES = 30
_NOTHING = "\N{EN DASH}"


def results_page(records: Sequence[Record]) -> str:
    """The Markdown page of a results folder: for each experiment its records with their headline
    figures and per-class IoU.

    Records stand by data source, best mIoU first. Links are relative to the results folder.
    """
    parts = [
        (
            "<!-- Generated from the records by `python -m cnn_jax.commands.table`: do not edit,"
            " run the command again. -->"
        ),
        "# Results",
        "This page is generated from the records beside it by `python -m cnn_jax.commands.table`. "
        + AVERAGING,
        FURTHER,
    ]
    if not records:
        parts.append("There are no records yet.")
    for experiment, group in groupby(
        sorted(records, key=lambda record: record.experiment), lambda record: record.experiment
    ):
        group = _ranked(group)
        parts += [f"## {escaped(experiment)}"]
        if (group[0].folder.parent / "comparison.md").is_file():
            parts += [
                "Which differences are real:"
                f" [comparison]({_link('', group[0].experiment)}comparison.md)."
            ]
        if len(variants(group)) < len(group):
            parts += [headline_table(group, by_variant=True), "### Every run"]
        parts += [headline_table(group)]
        for source, same_data in groupby(group, lambda record: record.source):
            for kind, records_of_kind in groupby(
                same_data, lambda record: "iou" if record.leading == "miou" else "class_accuracy"
            ):
                table = class_table(list(records_of_kind))
                if table:
                    parts += [
                        f"### {_BY_CLASS[kind]} per class on the test split of {escaped(source)}",
                        table,
                    ]
    return "\n\n".join(parts) + "\n"


def headline_table(
    records: Iterable[Record], *, link_base: str = "", brief: bool = False, by_variant: bool = False
) -> str:
    """A Markdown table: what was run on what, the headline metrics of the test split, speed and
    training time.

    Rows stand by experiment and data source, best first by mIoU or accuracy. Accuracies on moved
    test images, and on the training images at the end, have columns where a record has them.
    `link_base` is the path from the page to the results folder. `by_variant` gives runs that differ
    in their seed one row. `brief`, for a README, does so too, leaves some columns out, writes the
    experiment before each name, and makes a table for each kind of record. Training time covers the
    steps, with their compilation and the validations between them.
    """
    records = list(records)
    if brief and len({record.leading for record in records}) > 1:
        kinds = [
            [r for r in records if r.leading == leading] for leading in ("miou", "accuracy", "")
        ]
        return "\n\n".join(
            headline_table(kind, link_base=link_base, brief=True) for kind in kinds if kind
        )
    shown = [key for key in HEADLINES if any(f"test/{key}" in record.summary for record in records)]
    moved = {key for record in records for key in record.summary if key.startswith(_MOVED)}
    further = {
        key: f"moved by {key.removeprefix(_MOVED)} px"
        for key in sorted(moved, key=lambda key: int(key.removeprefix(_MOVED)))
    }
    if any("train/accuracy" in record.summary for record in records):
        further["train/accuracy"] = "on training images"
    rows = []
    for group in (
        variants(records) if brief or by_variant else [[record] for record in _ranked(records)]
    ):
        first = group[0]
        name, location = (first.location if brief else first.name), first.location
        if len(group) > 1:
            location = first.location.rpartition("/")[0]
            name = (f"{first.experiment}/" if brief else "") + first.variant
        seeds = (
            str(first.config.get("seed", _NOTHING)) if len(group) == 1 else f"{len(group)} seeds"
        )
        row = {
            "record": f"[{escaped(name)}]({_link(link_base, location)})",
            "data": escaped(first.source),
            "parameters": _mean(group, "parameters", ",.0f"),
            "steps": _mean(group, "steps", ",.0f"),
            "seed": escaped(seeds),
            "device": escaped(first.device),
            **{HEADLINES[key]: _mean(group, f"test/{key}", ".4f") for key in shown},
            **{title: _mean(group, key, ".4f") for key, title in further.items()},
            "training images/s": _mean(group, "train/images_per_second", ",.1f"),
            "training time, s": _mean(group, "wall_time_s", ",.0f"),
        }
        rows.append({title: row[title] for title in (_BRIEF if brief else row) if title in row})
    header = list(rows[0]) if rows else list(_BRIEF)
    text = {header.index(title) for title in ("record", "data", "device") if title in header}
    return markdown(header, [list(row.values()) for row in rows], text_columns=text)


def class_table(records: Sequence[Record], *, link_base: str = "") -> str:
    """A Markdown table of the IoU, or of images the recall, of each class on the test split, means
    over seeds; "" if no record holds any, or there are more than 30 classes."""
    names = list(
        dict.fromkeys(name for record in records for name in scored_classes(record.summary, "test"))
    )
    if not names or len(names) > MOST_CLASSES:
        return ""
    rows = []
    for group in variants(records):
        first, one = group[0], len(group) == 1
        name, location = (
            (first.name, first.location)
            if one
            else (first.variant, first.location.rpartition("/")[0])
        )
        key = class_key(first.summary, "test")
        values = [_mean(group, f"test/{key}/{name}", ".4f", interval=False) for name in names]
        rows.append([f"[{escaped(name)}]({_link(link_base, location)})", *values])
    return markdown(["record", *map(escaped, names)], rows, text_columns={0})


def summary_table(summary: Mapping[str, Any]) -> str:
    """The metrics of a summary as aligned plain text for a terminal: of each class IoU and Dice, or
    recall and F1, then the headline figures.

    Each split that was scored has its own part; a summary without any gives "". More than 30
    classes are left out.
    """
    parts = []
    for split in SPLITS:
        headlines = [
            (name, _number(summary[f"{split}/{key}"], ".4f"))
            for key, name in HEADLINES.items()
            if f"{split}/{key}" in summary
        ]
        if split == "test":
            headlines += [
                (f"moved by {key.removeprefix(_MOVED)} px", _number(value, ".4f"))
                for key, value in summary.items()
                if key.startswith(_MOVED)
            ]
        names = scored_classes(summary, split)
        names = names if len(names) <= MOST_CLASSES else []
        keys, titles = ("iou", "dice"), ("IoU", "Dice")
        if class_key(summary, split) == "class_accuracy":
            keys, titles = ("class_accuracy", "f1"), ("recall", "F1")
        if not headlines and not names:
            continue
        rows = [("class", *titles)] if names else []
        for name in names:
            rows.append(
                (name, *(_number(summary.get(f"{split}/{key}/{name}"), ".4f") for key in keys))
            )
        rows += headlines
        first = max(_columns(row[0]) for row in rows)
        lines = [
            row[0] + " " * (first - _columns(row[0])) + "".join(f"{cell:>8}" for cell in row[1:])
            for row in rows
        ]
        if names:
            rule = "-" * max(map(_columns, lines))
            lines[1:1] = [rule]
            lines[len(names) + 2 : len(names) + 2] = [rule] if headlines else []
        parts.append("\n".join([split, *lines]))
    return "\n\n".join(parts)


def variants_table(records: Sequence[Record]) -> str:
    """The variants of a study as aligned plain text for a terminal, best first: the leading metric,
    parameters, training time."""
    rows = [
        (
            "variant",
            "seeds",
            HEADLINES.get(records[0].leading, "score"),
            "parameters",
            "training, s",
        )
    ]
    for group in variants(records):
        score = _mean(group, f"test/{group[0].leading}", ".4f")
        cost = _mean(group, "parameters", ",.0f"), _mean(group, "wall_time_s", ",.0f")
        rows.append((group[0].variant, str(len(group)), score, *cost))
    widths = [max(_columns(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            " " * (width - _columns(cell)) + cell for cell, width in zip(row, widths, strict=True)
        ]
        lines.append("  ".join([row[0] + " " * (widths[0] - _columns(row[0])), *cells[1:]]))
    return "\n".join(lines)


def update_block(readme_path: str | Path, marker: str, text: str) -> bool:
    """Replace what stands between `<!-- marker -->` and `<!-- /marker -->` in a file by `text`; the
    rest stays, byte for byte.

    Returns whether the file has such a block; without one it is left alone. Raises `InputError` if
    the file can't be read, or if it has only one of the two comments or has them more than once.
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
    path.write_bytes((page[:before] + block + page[after:]).encode())
    return True


def relative_link(page: str | Path, folder: str | Path) -> str:
    """The path from the folder of a page to another folder, with forward slashes, as a link needs
    it."""
    return Path(os.path.relpath(folder, Path(page).parent)).as_posix()


def _ranked(records: Iterable[Record]) -> list[Record]:
    """By data source, best first, records without a score last."""

    def rank(record: Record):
        value = record.leading_value
        return record.experiment, record.source, value is None, -(value or 0.0), record.location

    return sorted(records, key=rank)


def class_key(summary: Mapping[str, Any], split: str) -> str:
    return "iou" if any(key.startswith(f"{split}/iou/") for key in summary) else "class_accuracy"


def scored_classes(summary: Mapping[str, Any], split: str) -> list[str]:
    """The classes with an IoU, or of images a recall, in the order of the summary, which is the
    order of the data."""
    prefix = f"{split}/{class_key(summary, split)}/"
    return [key.removeprefix(prefix) for key in summary if key.startswith(prefix)]


def _mean(group: Sequence[Record], key: str, form: str, interval: bool = True) -> str:
    """A figure of one record, or the mean over several; of scores with its interval."""
    values = [record.summary.get(key) for record in group]
    if len(group) == 1 or any(value is None for value in values):
        return _number(values[0] if len(group) == 1 else None, form)
    mean, half = mean_interval(values)
    return _number(mean, form) + (
        f" ± {half:{form}}" if interval and key.startswith("test/") else ""
    )


def _number(value: float | None, form: str) -> str:
    return _NOTHING if value is None or not math.isfinite(value) else format(value, form)


def markdown(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, text_columns: set[int]
) -> str:
    rule = ["---" if column in text_columns else "---:" for column in range(len(header))]
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, rule, *rows))


def escaped(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return re.sub(r"([\\`*\[\]<>|&]|\b_|_\b)", r"\\\1", " ".join(text.split()))


def _link(base: str, location: str) -> str:
    return quote(f"{base}/{location}/" if base else f"{location}/")


def _columns(text: str) -> int:
    """How many columns a terminal gives the text: accents of their own none, wide characters
    two."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )
