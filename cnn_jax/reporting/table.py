"""Tables made from records alone: a page for `results/`, a block for a README, and lines for a terminal.

A record is a folder with `config.json`, `environment.json` and `summary.json`. What a record doesn't hold shows as a dash.
"""

import math
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cnn_jax.data.scenes import SPLITS
from cnn_jax.errors import InputError
from cnn_jax.reporting.records import read_object

RECORD_FILES = ("config.json", "environment.json", "summary.json")
"""What makes a folder a record."""

HEADLINES = {
    "miou": "mIoU",
    "frequency_weighted_iou": "frequency-weighted IoU",
    "mean_dice": "mean Dice",
    "pixel_accuracy": "pixel accuracy",
    "mean_class_accuracy": "mean class accuracy",
}
"""The metrics of a split that stand for the whole run, and what they are called."""

AVERAGING = (
    "Every metric is taken from one confusion matrix over all pixels of the test split that are not ignored. "
    "mIoU and mean Dice are means over the classes that occur in truth or prediction, each class counting the same; "
    "mean class accuracy is the mean over the classes that occur in truth; "
    "frequency-weighted IoU weighs each class by its share of the true pixels."
)

_FIGURES = ("parameters", "steps", "wall_time_s", "train/images_per_second")
_BRIEF = ("record", "data", "device", "parameters", "steps", "mIoU", "pixel accuracy", "training time, s")
_NOTHING = "\N{EN DASH}"


@dataclass(frozen=True)
class Record:
    """A finished run as read from its folder: where it lies under `results/`, and its three files.

    `location` is a POSIX path relative to the results folder, such as `aerial_unet/dubai-seed0`.
    """

    location: str
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    summary: Mapping[str, Any]

    @property
    def experiment(self) -> str:
        """The first folder of the location."""
        return self.location.split("/")[0]

    @property
    def name(self) -> str:
        """The location within its experiment."""
        return self.location.removeprefix(f"{self.experiment}/")

    @property
    def source(self) -> str:
        """The name of the data; of a data description given as a file, the name of the file."""
        data = self.config.get("data")
        source = data.get("source") if isinstance(data, Mapping) else None
        if not source:
            return _NOTHING
        # Where somebody keeps a description says nothing about the data.
        return re.split(r"[/\\]", str(source))[-1].removesuffix(".toml")

    @property
    def device(self) -> str:
        """What the run was computed on, such as `2 x NVIDIA H200`."""
        kind, count = self.environment.get("device_kind"), self.environment.get("device_count")
        if not kind:
            return _NOTHING
        kind = "CPU" if kind == "cpu" else str(kind)
        return f"{count} x {kind}" if isinstance(count, int) and count > 1 else kind


def read_records(results: str | Path) -> list[Record]:
    """Read every record under a results folder, except under `runs/`, in the order of their locations.

    Raises `InputError` if the folder doesn't exist, if a folder holds some of a record's files but not all, or if one of them
    isn't a JSON object or holds text where a figure belongs.
    """
    results = Path(results)
    if not results.is_dir():
        raise InputError(f"{results} is no folder: give the folder that holds the records with --results.")
    folders = []
    for experiment in sorted(results.iterdir()):
        # Unfinished and private runs lie in runs/, with checkpoints of thousands of files.
        if experiment.is_dir() and experiment.name != "runs" and not experiment.name.startswith("."):
            folders += [experiment, *sorted(path for path in experiment.rglob("*") if path.is_dir())]
    return [_read_record(folder, results) for folder in folders if any((folder / name).is_file() for name in RECORD_FILES)]


def results_page(records: Sequence[Record]) -> str:
    """The Markdown page of a results folder: for each experiment its records with their headline figures and per-class IoU.

    Records stand by data source, best mIoU first. Links are relative to the results folder.
    """
    parts = [
        "<!-- Generated from the records by `python -m experiments.table`: do not edit, run the command again. -->",
        "# Results",
        "This page is generated from the records beside it by `python -m experiments.table`. " + AVERAGING,
    ]
    if not records:
        parts.append("There are no records yet.")
    for experiment, group in groupby(sorted(records, key=lambda record: record.experiment), lambda record: record.experiment):
        group = _ranked(group)
        parts += [f"## {_escaped(experiment)}", headline_table(group)]
        for source, same_data in groupby(group, lambda record: record.source):
            table = class_table(list(same_data))
            if table:
                parts += [f"### IoU per class on the test split of {_escaped(source)}", table]
    return "\n\n".join(parts) + "\n"


def headline_table(records: Iterable[Record], *, link_base: str = "", brief: bool = False) -> str:
    """A Markdown table, one record a row: what was run on what, the headline metrics of the test split, speed and training time.

    Rows stand by data source, best mIoU first. `link_base` is the path from the page to the results folder. `brief`, for a README,
    leaves some columns out and writes the experiment before each name. Training time covers the steps, with their compilation and
    the validations between them.
    """
    rows = []
    for record in _ranked(records):
        summary = record.summary
        name = record.location if brief else record.name
        row = {
            "record": f"[{_escaped(name)}]({_link(link_base, record.location)})",
            "data": _escaped(record.source),
            "parameters": _number(summary.get("parameters"), ",.0f"),
            "steps": _number(summary.get("steps"), ",.0f"),
            "seed": _escaped(str(record.config.get("seed", _NOTHING))),
            "device": _escaped(record.device),
            **{title: _number(summary.get(f"test/{key}"), ".4f") for key, title in HEADLINES.items()},
            "training images/s": _number(summary.get("train/images_per_second"), ",.1f"),
            "training time, s": _number(summary.get("wall_time_s"), ",.0f"),
        }
        rows.append({title: row[title] for title in (_BRIEF if brief else row)})
    header = list(rows[0]) if rows else list(_BRIEF)
    text = {header.index(title) for title in ("record", "data", "device") if title in header}
    return _markdown(header, [list(row.values()) for row in rows], text_columns=text)


def class_table(records: Sequence[Record], *, link_base: str = "") -> str:
    """A Markdown table of the IoU of each class on the test split, one record a row; "" if no record holds any."""
    names = list(dict.fromkeys(name for record in records for name in _classes(record.summary, "test")))
    if not names:
        return ""
    rows = [
        [
            f"[{_escaped(record.name)}]({_link(link_base, record.location)})",
            *(_number(record.summary.get(f"test/iou/{name}"), ".4f") for name in names),
        ]
        for record in _ranked(records)
    ]
    return _markdown(["record", *map(_escaped, names)], rows, text_columns={0})


def summary_table(summary: Mapping[str, Any]) -> str:
    """The metrics of a summary as aligned plain text for a terminal: IoU and Dice of each class, then the headline figures.

    Each split that was scored has its own part; a summary without any gives "".
    """
    parts = []
    for split in SPLITS:
        headlines = [
            (name, _number(summary[f"{split}/{key}"], ".4f")) for key, name in HEADLINES.items() if f"{split}/{key}" in summary
        ]
        names = _classes(summary, split)
        if not headlines and not names:
            continue
        rows = [("class", "IoU", "Dice")] if names else []
        for name in names:
            rows.append((name, *(_number(summary.get(f"{split}/{key}/{name}"), ".4f") for key in ("iou", "dice"))))
        rows += headlines
        first = max(_columns(row[0]) for row in rows)
        lines = [row[0] + " " * (first - _columns(row[0])) + "".join(f"{cell:>8}" for cell in row[1:]) for row in rows]
        if names:
            rule = "-" * max(map(_columns, lines))
            lines[1:1] = [rule]
            lines[len(names) + 2 : len(names) + 2] = [rule] if headlines else []
        parts.append("\n".join([split, *lines]))
    return "\n\n".join(parts)


def update_block(readme_path: str | Path, marker: str, text: str) -> bool:
    """Replace what stands between `<!-- marker -->` and `<!-- /marker -->` in a file by `text`; the rest stays, byte for byte.

    Returns whether the file has such a block; without one it is left alone. Raises `InputError` if the file can't be read, or
    if it has only one of the two comments or has them more than once.
    """
    path = Path(readme_path)
    try:
        page = path.read_bytes().decode()
    except OSError as error:
        raise InputError(f"{path} can't be read ({error.strerror}): give a file that exists.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text: save it as UTF-8.") from error
    start, end = f"<!-- {marker} -->", f"<!-- /{marker} -->"
    if start not in page and end not in page:
        return False
    if page.count(start) != 1 or page.count(end) != 1 or page.index(start) > page.index(end):
        raise InputError(f"{path} must hold {start} once and {end} once after it: mend the two comments.")
    newline = "\r\n" if "\r\n" in page else "\n"
    before, after = page.index(start) + len(start), page.index(end)
    block = f"\n\n{text.strip()}\n\n".replace("\n", newline)
    path.write_bytes((page[:before] + block + page[after:]).encode())
    return True


def relative_link(page: str | Path, folder: str | Path) -> str:
    """The path from the folder of a page to another folder, with forward slashes, as a link needs it."""
    return Path(os.path.relpath(folder, Path(page).parent)).as_posix()


def _read_record(folder: Path, results: Path) -> Record:
    contents = [read_object(folder / name) for name in RECORD_FILES]
    config, environment, summary = contents
    shown = [*_FIGURES, *(f"test/{key}" for key in HEADLINES), *(key for key in summary if key.startswith("test/iou/"))]
    for key in shown:
        value = summary.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise InputError(
                f"{folder / 'summary.json'} has {value!r} as {key}, which must be a number: run the experiment again."
            )
    return Record(folder.relative_to(results).as_posix(), config, environment, summary)


def _ranked(records: Iterable[Record]) -> list[Record]:
    """By data source, best mIoU first, records without one last."""

    def rank(record: Record):
        miou = record.summary.get("test/miou")
        known = miou is not None and math.isfinite(miou)
        return record.source, not known, -miou if known else 0.0, record.location

    return sorted(records, key=rank)


def _classes(summary: Mapping[str, Any], split: str) -> list[str]:
    """The classes with an IoU, in the order of the summary, which is the order of the data."""
    prefix = f"{split}/iou/"
    return [key.removeprefix(prefix) for key in summary if key.startswith(prefix)]


def _number(value: float | None, form: str) -> str:
    return _NOTHING if value is None or not math.isfinite(value) else format(value, form)


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]], *, text_columns: set[int]) -> str:
    rule = ["---" if column in text_columns else "---:" for column in range(len(header))]
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, rule, *rows))


def _escaped(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return re.sub(r"([\\`*\[\]<>|&]|\b_|_\b)", r"\\\1", " ".join(text.split()))


def _link(base: str, location: str) -> str:
    return quote(f"{base}/{location}/" if base else f"{location}/")


def _columns(text: str) -> int:
    """How many columns a terminal gives the text: accents of their own none, wide characters two."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
