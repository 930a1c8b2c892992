"""The tables of a comparison: CSV with full digits, Markdown with the verdict on top, rows for the
page."""

import csv
import io
import math
from collections.abc import Iterable, Sequence

from cnn_jax.records.metrics import NOTHING
from cnn_jax.reporting import table
from cnn_jax.reporting.verdicts import Comparison, Group, Spread, Variant, interval_text, p_text


def as_csv(comparison: Comparison) -> str:
    """A row a variant: mean, standard deviation and number of values of each figure, in the
    records' units, with full digits."""
    rows = []
    for variant in comparison.variants:
        row = {
            "variant": variant.name,
            "runs": len(variant.records),
            "seeds": " ".join(str(record.config.get("seed")) for record in variant.records),
        }
        spreads = {f"test/{f.name}": variant.scores[f.name] for f in comparison.shown_scores}
        of_classes = comparison.class_figure
        spreads |= {
            f"test/{of_classes.name}/{name}": variant.class_scores.get(name, Spread((), 0))
            for name in comparison.classes
            if of_classes
        }
        spreads |= {key: variant.costs[key] for key in comparison.shown_costs}
        if comparison.target is not None:
            spreads[f"time_to_{comparison.target:.2f}_s"] = variant.time_to_target_s
        for key, spread in spreads.items():
            row |= {
                f"{key} mean": spread.mean,
                f"{key} sd": spread.deviation,
                f"{key} values": len(spread.values),
            }
        lead = variant.scores[comparison.leading]
        row |= {
            f"test/{comparison.leading} low": lead.mean - lead.half,
            f"test/{comparison.leading} high": lead.mean + lead.half,
        }
        if comparison.differences:
            row["not comparable"] = "; ".join(comparison.differences) if variant.odd else ""
        rows.append(
            {
                key: "" if isinstance(value, float) and math.isnan(value) else value
                for key, value in row.items()
            }
        )
    text = io.StringIO()
    writer = csv.DictWriter(
        text,
        list(dict.fromkeys(key for row in rows for key in row)),
        lineterminator="\n",
        restval="",
    )
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def as_markdown(comparison: Comparison) -> str:
    """The page in Markdown: comparison.png, the verdict in words, then the tables."""
    clean = table.escaped
    parts = [f"# {clean(comparison.title)}", clean(comparison.budget) + "."]
    if comparison.differences:
        parts.append(
            "> **Not comparable**, and compared by force:"
            f" {clean('; '.join(comparison.differences))}. †: of the minority."
        )
    if comparison.seeds:
        parts.append(f"![{comparison.score} of each seed, mean and 95% interval](comparison.png)")
    for group in comparison.groups:
        parts.append(f"## {clean(group.title or 'Verdict')}")
        parts.append(f"**{clean(group.verdict)}**")
        if group.pairs:
            parts.append("\n".join(f"- {clean(pair.sentence)}" for pair in group.pairs))
    if any(group.pairs for group in comparison.groups):
        parts.append(comparison.assumed)
    header, rows = score_rows(comparison)
    parts += ["## Scores on the test split", markdown(header, rows)]
    header, rows = cost_rows(comparison)
    parts += ["## Costs", markdown(header, rows), *comparison.notes]
    if comparison.class_figure and len(comparison.classes) <= table.MOST_CLASSES:
        rows = [
            [named(v), *(v.class_scores.get(c, Spread((), 0)).text() for c in comparison.classes)]
            for v in comparison.variants
        ]
        kind = table.capitalized(comparison.class_figure.label)
        parts += [f"## {kind} of each class", markdown(["variant", *comparison.classes], rows)]
    for group in comparison.groups:
        if group.pairs:
            parts.append(f"## Pairs{f' of {clean(group.title)}' if group.title else ''}")
            header, rows = pair_rows(group)
            parts.append(markdown(header, rows, text_columns={0, 1}))
    return "\n\n".join(parts) + "\n"


def named(variant: Variant) -> str:
    """The variant's name, marked where its records are not comparable."""
    return f"{variant.name} †" if variant.odd else variant.name


def score_rows(
    comparison: Comparison, places: int | None = None
) -> tuple[list[str], list[list[str]]]:
    """(header, rows) of the scores, best variant first; shares with so many places, 4 unless
    told."""
    header, rows = ["variant", "seeds"], []
    for figure in comparison.shown_scores:
        header += [figure.label, "95% interval"] if figure == comparison.figure else [figure.label]
    for variant in comparison.variants:
        row = [named(variant), str(len(variant.records))]
        for figure in comparison.shown_scores:
            form = table.number_format(figure)
            form = f".{places}f" if places and figure.most <= 1 else form
            spread = variant.scores[figure.name]
            row.append(spread.text(form))
            if figure == comparison.figure:
                row.append(spread.interval_text(form))
        rows.append(row)
    return header, rows


def cost_rows(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """(header, rows) of the costs."""
    costs = comparison.shown_costs
    header = ["variant", *(name for name, _ in costs.values())]
    if comparison.target is not None:
        header.append(f"time to {comparison.target:.2f} {comparison.score}, s")
    rows = []
    for variant in comparison.variants:
        row = [
            named(variant),
            *(cost_text(variant.costs[key], unit) for key, (_, unit) in costs.items()),
        ]
        if comparison.target is not None:
            row.append(time_text(variant))
        rows.append(row)
    return header, rows


def cost_text(spread: Spread, unit: float) -> str:
    """The mean in a unit, with as many digits as it takes."""
    value = spread.mean / unit
    if math.isnan(value):
        return NOTHING
    return f"{value:,.0f}" if value >= 100 or value == round(value) else f"{value:.3g}"


def time_text(variant: Variant) -> str:
    """The mean time to the target, and how many runs reached it where not all did."""
    reached, runs = len(variant.time_to_target_s.values), len(variant.records)
    share = "" if reached == runs else f" ({reached} of {runs})"
    return (
        f"{variant.time_to_target_s.mean:,.0f}{share}" if reached else f"not reached (0 of {runs})"
    )


def pair_rows(group: Group) -> tuple[list[str], list[list[str]]]:
    """(header, rows) of the pairs of a group."""
    score = group.pairs[0].score if group.pairs else ""
    header = [
        "better",
        "worse",
        f"difference in {score}",
        "95%, seeds",
        "p, seeds",
        "95%, images",
        "p, images",
        "95%, bootstrap",
    ]
    rows = []
    for pair in group.pairs:
        row = [pair.better, pair.worse, f"{pair.difference:.4f}"]
        for test in (pair.seeds, pair.images):
            row += (
                [
                    interval_text(test.interval),
                    p_text(test.corrected).removeprefix("p = ").removeprefix("p "),
                ]
                if test
                else [NOTHING] * 2
            )
        rows.append([*row, interval_text(pair.bootstrap), WORDS[pair.verdict]])
    return [*header, "verdict"], rows


WORDS = {
    "real": "real",
    "seeds": "seeds only",
    "images": "images only",
    "chance": "not shown",
    "untested": "not tested",
}
"""Each verdict of a pair in a word or two."""


def markdown(
    header: Sequence[str], rows: Sequence[Sequence[str]], text_columns: Iterable[int] = (0,)
) -> str:
    """A table of cells as they are, which Markdown then shows so; columns that aren't of text are
    set to the right."""
    escaped = [[table.escaped(cell) for cell in row] for row in (header, *rows)]
    return table.markdown(escaped[0], escaped[1:], text_columns=set(text_columns))
