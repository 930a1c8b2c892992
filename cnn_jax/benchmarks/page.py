"""The page of all benchmarks and the short table of a README, made from their records alone."""

import inspect
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from cnn_jax.benchmarks import BENCHMARKS
from cnn_jax.benchmarks.measuring import figure, ratio_text
from cnn_jax.errors import InputError
from cnn_jax.records.files import read_object
from cnn_jax.reporting.table import escaped, markdown

RATIOS = (
    "A ratio says how many times as fast ours is: above 1 is faster. It is the ratio of the medians"
    " over the repetitions, in which the sides took turns; in brackets the least and the greatest"
    " of one repetition."
)


def read(folder: Path) -> dict[str, Mapping]:
    """{file's name without its ending: record} of a folder of records, in the order of the
    benchmarks.

    Raises:
        InputError: a file there is no record of a benchmark.
    """
    records = {}
    for path in sorted(folder.glob("*.json")):
        record = read_object(path)
        wanted = {"benchmark", "about", "command", "rows", "environment", "repeats"}
        if not wanted <= record.keys():
            raise InputError(
                f"{path} is no record of a benchmark (without"
                f" {', '.join(sorted(wanted - record.keys()))}): remove it."
            )
        records[path.stem] = record
    known = [
        *BENCHMARKS,
        *sorted({record["benchmark"] for record in records.values()} - set(BENCHMARKS)),
    ]
    return dict(
        sorted(records.items(), key=lambda item: (known.index(item[1]["benchmark"]), item[0]))
    )


def page(records: Mapping[str, Mapping]) -> str:
    """The Markdown page of a folder's records: what each measured, where, and its rows."""
    parts = [
        (
            "<!-- Generated from the records by `python -m cnn_jax.commands.table`: do not edit,"
            " run the command again. -->"
        ),
        "# Benchmarks",
        (
            "This page is generated from the records beside it by `python -m"
            f" cnn_jax.commands.table`. {RATIOS}"
        ),
        "What was tried, what was expected and what was seen: [NOTES.md](NOTES.md).",
        short_table(records, ""),
    ]
    for name, record in records.items():
        about = inspect.cleandoc(record["about"])
        parts += [
            f"## {escaped(name)}",
            about,
            f"`{record['command']}`",
            _where(record),
            _rows(record["rows"]),
        ]
    return "\n\n".join(parts) + "\n"


def short_table(records: Mapping[str, Mapping], link_base: str) -> str:
    """A Markdown table with a row a record and peer: the geometric mean of the ratios of all cases,
    the least case and the greatest."""
    rows = []
    for name, record in records.items():
        cases = record["rows"]
        for peer in dict.fromkeys(peer for case in cases for peer in case["ratios"]):
            ratios = [
                (case["ratios"][peer]["median"], case["case"])
                for case in cases
                if peer in case["ratios"]
            ]
            least, greatest = min(ratios), max(ratios)
            rows.append(
                [
                    f"[{escaped(name)}]({link_base}{name}.json)",
                    ", ".join([_device(record), *_versions(record, ("jax",))]),
                    escaped(peer),
                    str(len(ratios)),
                    f"{statistics.geometric_mean(value for value, _ in ratios):.2f}",
                    f"{least[0]:.2f}, {escaped(least[1])}",
                    f"{greatest[0]:.2f}, {escaped(greatest[1])}",
                ]
            )
    header = [
        "benchmark",
        "where",
        "beside",
        "cases",
        "ratio (geometric mean)",
        "least",
        "greatest",
    ]
    return markdown(header, rows, text_columns={0, 1, 2, 5, 6})


def _device(record):
    known = record["environment"]
    kind = escaped(str(known.get("device_kind")))
    return f"{known.get('threads')} CPU cores" if known.get("platform") == "cpu" else kind


def _versions(record, packages):
    versions = record["environment"].get("versions", {})
    return [
        f"{'JAX' if name == 'jax' else name} {versions[name]}"
        for name in packages
        if name in versions
    ]


def _where(record):
    known = record["environment"]
    shown = _versions(record, ("jax", "torch", "torchvision", "albumentations", "scikit-learn"))
    parts = [
        _device(record),
        ", ".join(shown),
        f"{record['repeats']} repetitions",
        f"load of the machine before it began: {known.get('load_of_the_minute_before')}",
    ]
    if known.get("processor"):
        parts.insert(1, escaped(known["processor"]))
    if known.get("commit"):
        changed = ", with changes" if known.get("dirty") else ""
        parts.append(f"code of {known['commit'][:9]}{changed}")
    if "glibc_tunables" in known:
        setting = known["glibc_tunables"].replace(":", ", ")
        parts.append(f"GLIBC_TUNABLES {setting or 'not set'}")
    return "; ".join(parts) + "."


def _rows(rows: Sequence[Mapping]) -> str:
    peers = list(dict.fromkeys(peer for row in rows for peer in row["ratios"]))
    sides = list(dict.fromkeys(side for row in rows for side in (*row["rates"], *row["failed"])))
    units = {row["unit"] for row in rows}
    unit = f" {units.pop()}/s" if len(units) == 1 else ""
    shares = any(row.get("share_of_peak") for row in rows)
    header = [
        "case",
        *(f"ratio to {escaped(peer)}" for peer in peers),
        *(f"{escaped(side)}{unit}" for side in sides),
        *(["share of peak"] if shares else []),
        "",
    ]
    cells = []
    for row in rows:
        ratios = [
            ratio_text(row["ratios"][peer]) if peer in row["ratios"] else "" for peer in peers
        ]
        rates = [
            (
                (figure(row["rates"][side]) + ("" if unit else f" {row['unit']}/s"))
                if side in row["rates"]
                else ""
            )
            for side in sides
        ]
        share = (
            [", ".join(f"{value:.1%}" for value in row.get("share_of_peak", {}).values())]
            if shares
            else []
        )
        failed = [f"{side} failed: {why}" for side, why in row["failed"].items()]
        cells.append(
            [
                escaped(row["case"]),
                *ratios,
                *rates,
                *share,
                escaped("; ".join([row["note"], *failed]).strip("; ")),
            ]
        )
    return markdown(header, cells, text_columns={0, len(header) - 1})
