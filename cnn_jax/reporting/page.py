"""A comparison as one HTML file that needs nothing else: no network, no fonts, no scripts but its
own few lines.

It opens from disk, on a phone and on paper, light or dark as the reader has it. Whatever comes from
a record is escaped.
"""

import base64
import io
import math
import re
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from cnn_jax.errors import InputError
from cnn_jax.records.scene_record import LONGEST_PX
from cnn_jax.reporting import comparison_figures
from cnn_jax.reporting.comparison import (
    WORDS,
    Comparison,
    Variant,
    cost_rows,
    named,
    pair_rows,
    score_rows,
)
from cnn_jax.reporting.figures import class_accuracy, class_iou
from cnn_jax.reporting.style import NOTHING, percent

_PICTURE_BYTES = 750_000
"""What the photographs and masks may take, before a third is added by their encoding: a page of
twelve variants stays below 2 MB."""

_MOST_CLASSES = 30
_COSTS = {
    "parameters": ("parameters", 1, False),
    "multiply_adds": ("multiply-adds of one forward pass, G", 1e9, False),
    "train/images_per_second": ("training images/s (more is better)", 1, True),
    "wall_time_s": ("training time, s", 1, False),
}


def page(comparison: Comparison) -> str:
    """The page, from the comparison and the records that it was made from."""
    looks = {variant.name: index for index, variant in enumerate(comparison.variants)}
    scenes = _scenes(comparison)  # first: what can't be used is told before the charts are drawn
    sections = [
        _verdict(comparison),
        _tables(comparison),
        _curves(comparison),
        _costs(comparison, looks),
        _classes(comparison, looks),
        _pairs(comparison),
        scenes,
        _confusions(comparison),
        _calibration(comparison),
        _notes(comparison),
    ]
    mark = ""
    if comparison.differences:
        items = "".join(f"<li>{escape(text)}</li>" for text in comparison.differences)
        mark = (
            '<aside class="mark" role="note"><strong>Not comparable.</strong> These records were'
            f" compared by force although they differ in what they must share:<ul>{items}</ul>†"
            " marks the variants of the minority.</aside>"
        )
    body = "\n".join(section for section in sections if section)
    title = escape(comparison.title)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta'
        f' charset="utf-8">\n<title>{title}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<meta'
        ' name="color-scheme" content="light dark">\n'
        f"<style>\n{_STYLE.strip()}\n</style>\n</head>\n<body>\n<header><h1>{title}</h1>\n<p>{escape(comparison.budget)}.</p></header>\n"
        f"<main>\n{mark}\n{body}\n</main>\n<script>\n{_SCRIPT.strip()}\n</script>\n</body>\n</html>\n"
    )


# ---- sections


def _section(title: str, *parts: str, name: str = "") -> str:
    content = "\n".join(part for part in parts if part)
    return (
        f"<section{f' id={name}' if name else ''}>\n<h2>{escape(title)}</h2>\n{content}\n</section>"
        if content
        else ""
    )


def _note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>'


def _verdict(comparison: Comparison) -> str:
    parts = []
    for group in comparison.groups:
        if group.title:
            parts.append(f"<h3>{escape(group.title)}</h3>")
        parts.append(f'<p class="lead">{escape(group.verdict)}</p>')
        real = [pair for pair in group.pairs if pair.verdict == "real"]
        others = [pair for pair in group.pairs if pair.verdict != "real"]
        if real:
            parts.append(_sentences(real))
        if others:
            opened = " open" if len(others) <= 12 else ""
            count = f"{len(others)} {'difference' if len(others) == 1 else 'differences'}"
            summary = f"{count} not shown to be real, the greatest first"
            parts.append(
                f"<details{opened}><summary>{summary}</summary>{_sentences(others)}</details>"
            )
    return _section("What differs", *parts, name="verdict")


def _sentences(pairs) -> str:
    items = (
        f'<li class="{pair.verdict}"><span class="tag">{WORDS[pair.verdict]}</span>'
        f" {escape(pair.sentence)}</li>"
        for pair in pairs
    )
    return f'<ul class="pairs">{"".join(items)}</ul>'


def _tables(comparison: Comparison) -> str:
    # Accuracies over thousands of images differ in the fourth place.
    scores, costs = (
        score_rows(comparison, ".3f" if comparison.leading == "miou" else ".4f"),
        cost_rows(comparison),
    )
    return _section(
        "Scores and costs",
        _table(
            *scores,
            caption=(
                "Test split: means over seeds ± standard deviation between seeds. Press a heading"
                " to sort."
            ),
        ),
        _table(*costs, caption="Costs: means over seeds."),
        name="scores",
    )


def _curves(comparison: Comparison) -> str:
    parts = []
    for group in comparison.groups:
        looks = {
            name: index for index, name in enumerate(group.variants)
        }  # so that curves of a chart differ in colour
        runs = {
            v.name: [record.metrics for record in v.records]
            for v in comparison.variants
            if v.name in group.variants
        }
        score = f"validation/{comparison.leading}"
        charts = []
        for key, label, smooth in (
            ("train/loss", "training loss", True),
            (score, f"validation {comparison.score}", False),
        ):
            if any(
                line.get(key) is not None
                for histories in runs.values()
                for lines in histories
                for line in lines
            ):
                svg = comparison_figures.learning_curves(runs, key, looks, label, smooth)
                charts.append(
                    _chart(svg, f"{label} against the step, a curve a variant: {', '.join(runs)}")
                )
        if charts:
            parts += [
                f"<h3>{escape(group.title)}</h3>" if group.title else "",
                f'<div class="charts">{"".join(charts)}</div>',
            ]
    if not parts:
        return ""
    caption = (
        "By step, the mean over seeds in a band from the least to the greatest seed; the loss as a"
        " running mean over a tenth of the records of a run. Legends stand in the order in which"
        " the curves end."
    )
    return _section("Learning curves", _note(caption), *parts, name="curves")


def _costs(comparison: Comparison, looks) -> str:
    charts = []
    for key, (label, unit, more) in _COSTS.items():
        points = {
            v.name: comparison_figures.Point(
                v.costs[key].mean / unit,
                v.scores[comparison.leading].mean,
                v.scores[comparison.leading].deviation,
            )
            for v in comparison.variants
        }
        if any(
            math.isfinite(point.cost) and math.isfinite(point.score) for point in points.values()
        ):
            svg = comparison_figures.against_cost(
                points, looks, label, f"test {comparison.score}", more
            )
            charts.append(_chart(svg, f"test {comparison.score} against {label}"))
    if not charts:
        return ""
    caption = (
        f"Mean {comparison.score} of the test split over seeds, with the standard deviation,"
        " against mean costs. The dashed line is the Pareto front: filled marks are variants that"
        " no other beats at no greater cost. Axes over more than a factor of five are logarithmic."
    )
    return _section(
        f"{comparison.score[0].upper() + comparison.score[1:] if comparison.leading != 'miou' else comparison.score}"
        " against cost",
        _note(caption),
        f'<div class="charts">{"".join(charts)}</div>',
        name="costs",
    )


def _classes(comparison: Comparison, looks) -> str:
    kind = "IoU" if comparison.leading == "miou" else "Recall"
    names = comparison.classes
    if not names:
        return ""
    if len(names) > _MOST_CLASSES:
        return _section(
            f"{kind} of each class",
            _note(f"The {len(names)} classes are too many to draw; see comparison.csv."),
        )
    by_class = {
        name: {
            v.name: (v.class_scores[name].mean, v.class_scores[name].deviation)
            for v in comparison.variants
            if name in v.class_scores
        }
        for name in names
    }
    values = [
        mean + sign * (sd if math.isfinite(sd) else 0)
        for of in by_class.values()
        for mean, sd in of.values()
        for sign in (-1, 1)
    ]
    values = [value for value in values if math.isfinite(value)]
    low, high = (min(values), max(values)) if values else (0, 1)
    # From 0 where that doesn't press everything into a corner.
    limits = (
        0 if low < 0.6 else math.floor(10 * low) / 10,
        min(1.0, math.ceil(10 * high) / 10) if high <= 1 else 1.0,
    )
    colors = dict(zip(*_legend_of(comparison), strict=True)) if _legend_of(comparison) else {}
    charts = []
    for name, of_class in by_class.items():
        svg = comparison_figures.class_scores(of_class, looks, f"test {kind}", limits)
        title = f"<figcaption>{_swatch(colors.get(name))}{escape(name)}</figcaption>"
        charts.append(_chart(svg, f"{kind} of {name} of each variant", title))
    caption = (
        f"{kind} of each class on the test split: mean over seeds and standard deviation, variants"
        f" in the order of their {comparison.score}."
    )
    return _section(
        f"{kind} of each class",
        _note(caption),
        f'<div class="charts small">{"".join(charts)}</div>',
        name="classes",
    )


def _pairs(comparison: Comparison) -> str:
    parts = []
    for group in comparison.groups:
        if group.pairs:
            header, rows = pair_rows(group)
            parts += [
                f"<h3>{escape(group.title)}</h3>" if group.title else "",
                _table(
                    header,
                    rows,
                    text={0, 1, 8},
                    caption=(
                        "p values are corrected after Holm for all pairs of the table; intervals"
                        " are of each pair by itself."
                    ),
                ),
            ]
    return _section(
        "Pairs", *parts, f"<p>{escape(comparison.assumed)}</p>" if parts else "", name="pairs"
    )


def _notes(comparison: Comparison) -> str:
    return _section(
        "How figures are averaged",
        *(f"<p>{escape(text)}</p>" for text in comparison.notes),
        name="notes",
    )


def _confusions(comparison: Comparison) -> str:
    names = comparison.classes
    shown = [
        v
        for v in comparison.variants
        if v.confusion is not None and v.confusion.shape == (len(names), len(names))
    ]
    if not shown or len(names) > _MOST_CLASSES:
        return ""
    unit = "pixels" if comparison.leading == "miou" else "images"
    kind, worth = ("IoU", class_iou) if unit == "pixels" else ("recall", class_accuracy)
    parts = []
    for variant in shown:
        matrix = variant.confusion.astype(np.float64)
        totals = matrix.sum(1, keepdims=True)
        shares = np.divide(matrix, totals, out=np.zeros_like(matrix), where=totals > 0)
        head = "".join(
            f'<th scope="col" title="predicted {escape(name)}">{index}</th>'
            for index, name in enumerate(names)
        )
        lines = []
        for index, name in enumerate(names):
            cells = "".join(_shaded(share, total=totals[index, 0]) for share in shares[index])
            value = worth(matrix)[index]
            score = NOTHING if math.isnan(value) else f"{value:.3f}"
            lines.append(
                f'<tr><th scope="row">{index} {escape(name)}</th>{cells}<td'
                f' class="score">{score}</td></tr>'
            )
        parts.append(
            f'<table class="matrix"><caption>{escape(named(variant))}</caption><thead><tr><th'
            f' scope="col">truth \\ predicted</th>{head}<th'
            f' scope="col">{kind}</th></tr></thead><tbody>{"".join(lines)}</tbody></table>'
        )
    caption = (
        f"Test split, {unit} summed over seeds; each cell is the share of its row in percent: of"
        " what truly is the row's class, what was predicted."
        f" {kind if kind == 'IoU' else kind.capitalize()} beside is of the summed matrix."
    )
    return _section(
        "Confusion matrices",
        _note(caption),
        f'<div class="matrices">{"".join(parts)}</div>',
        name="confusions",
    )


def _shaded(share: float, total: float) -> str:
    if not total:
        return f"<td>{NOTHING}</td>"
    ink = ' class="deep"' if share > 0.72 else ""
    return f'<td{ink} style="--share:{100 * share:.0f}%">{percent(share) if share else 0}</td>'


def _calibration(comparison: Comparison) -> str:
    charts = []
    for variant in comparison.variants:
        if variant.calibration is None:
            continue
        error = variant.scores["expected_calibration_error"]
        svg = comparison_figures.reliability(**variant.calibration)
        title = (
            f"<figcaption>{escape(named(variant))}<br><small>ECE"
            f" {error.text()}</small></figcaption>"
        )
        charts.append(_chart(svg, f"Reliability diagram of {variant.name}", title))
    if not charts:
        return ""
    caption = (
        "Accuracy against confidence of the predicted class on the test split, in bins of"
        " confidence, counts summed over seeds; below them each bin's share of the predictions. On"
        " the dashed line confidence is what it says, under it the network is too sure. ECE is the"
        " mean over seeds ± standard deviation."
    )
    return _section(
        "Calibration",
        _note(caption),
        f'<div class="charts tiny">{"".join(charts)}</div>',
        name="calibration",
    )


def _scenes(comparison: Comparison) -> str:
    shown = _pictured(comparison.variants)
    legend = _legend_of(comparison)
    if not shown or legend is None:
        return ""
    first = shown[0][1]
    indices = [
        i
        for i in range(len(first.names))
        if all(_thumbnail(v, i, "prediction").is_file() for v, _ in shown)
    ]
    indices = [
        i
        for i in indices
        if all(_thumbnail(shown[0][0], i, kind).is_file() for kind in ("image", "truth"))
    ]
    if not indices:
        return ""
    means = {i: _finite_mean(scenes.mious[i] for _, scenes in shown) for i in indices}
    order = sorted(indices, key=lambda i: (math.isnan(means[i]), means[i], i))
    files = {
        (i, kind): _thumbnail(shown[0][0], i, kind) for i in order for kind in ("image", "truth")
    }
    files |= {
        (i, f"prediction of {variant.name}"): _thumbnail(variant, i, "prediction")
        for i in order
        for variant, _ in shown
    }
    pictures = _encoded(files)
    parts = []
    for i in order:
        name = first.names[i]
        panels = [
            _panel(
                f'<img class="image" src="{pictures[i, "image"]}" alt="photograph of'
                f' {escape(name)}">',
                "photograph",
            ),
            _panel(
                f'<img class="truth" src="{pictures[i, "truth"]}" alt="true classes of'
                f' {escape(name)}">',
                "truth",
            ),
        ]
        for variant, scenes in shown:
            value = scenes.mious[i]
            score = NOTHING if math.isnan(value) else f"{value:.3f}"
            source = pictures[i, f"prediction of {variant.name}"]
            picture = (
                f'<img src="{source}" alt="prediction of {escape(variant.name)} for'
                f' {escape(name)}">'
            )
            button = (
                '<button type="button" class="prediction" aria-pressed="false" title="show'
                f' errors">{picture}</button>'
            )
            panels.append(_panel(button, f"{escape(named(variant))} <b>{score}</b>"))
        mean = NOTHING if math.isnan(means[i]) else f"{means[i]:.3f}"
        heading = f"<h3>{escape(name)} <small>mean mIoU {mean}</small></h3>"
        parts.append(
            f'<article class="scene">{heading}<div class="panels">{"".join(panels)}</div></article>'
        )
    swatches = "".join(
        f"<li>{_swatch(color)}{escape(name)}</li>" for name, color in zip(*legend, strict=True)
    )
    seeds = {str(next(iter(v.scenes))) for v, _ in shown}
    seed = f"seed {min(seeds)}" if len(seeds) == 1 else "each variant's first seed"
    caption = (
        f"Test images through every model, predictions of {seed}, each with its mIoU on that image,"
        " the mean over the classes that occur in it or are predicted; worst first by the mean"
        " over variants. Press a prediction to see its errors: wrong pixels orange over the"
        " darkened photograph. Ignored pixels are black and never count."
    )
    every = (
        '<p class="control"><button type="button" id="errors" aria-pressed="false">Show errors'
        " everywhere</button></p>"
    )
    return _section(
        "The same images through every model",
        _note(caption),
        f'<ul class="legend">{swatches}</ul>{every}',
        *parts,
        name="images",
    )


# ---- pieces


def _panel(picture: str, caption: str) -> str:
    return f"<figure>{picture}<figcaption>{caption}</figcaption></figure>"


def _pictured(variants: Sequence[Variant]) -> list[tuple[Variant, object]]:
    """The variants that have scenes, with those of their first seed; only those that agree with the
    best one on what the scenes are."""
    known = [(v, next(iter(v.scenes.values()))) for v in variants if v.scenes]
    return [
        (v, scenes)
        for v, scenes in known
        if scenes.names == known[0][1].names and scenes.classes == known[0][1].classes
    ]


def _thumbnail(variant: Variant, index: int, kind: str) -> Path:
    return variant.by_seed[next(iter(variant.scenes))].picture(index, kind)


def _legend_of(comparison: Comparison) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """(names, colours) of the classes; None without scenes."""
    scenes = [scenes for variant in comparison.variants for scenes in variant.scenes.values()]
    if not scenes or len(scenes[0].classes) != len(scenes[0].colors):
        return None
    return scenes[0].classes, scenes[0].colors


def _swatch(color: str | None) -> str:
    # Only what is a colour comes into a style.
    return (
        f'<i class="swatch" style="background:{color}"></i>'
        if color and re.fullmatch(r"#[0-9A-Fa-f]{6}", color)
        else ""
    )


def _encoded(files: dict) -> dict:
    """Pictures as data URIs; made smaller, all by the same factor, until they fit what they may
    take."""
    contents = {key: _checked(path) for key, path in files.items()}
    scale = 1.0
    while sum(map(len, contents.values())) > _PICTURE_BYTES and scale > 0.3:
        scale *= 0.85
        contents = {key: _shrunk(path, scale) for key, path in files.items()}
    kinds = {".jpg": "jpeg", ".png": "png"}
    return {
        key: f"data:image/{kinds[files[key].suffix]};base64,{base64.b64encode(content).decode()}"
        for key, content in contents.items()
    }


def _checked(path: Path) -> bytes:
    """A picture's bytes. Raises InputError for what isn't one of the size and kind that a run
    writes, before it is decoded."""
    try:
        with path.open("rb") as stream, _reader(path)(stream) as picture:
            if max(picture.size) > LONGEST_PX:
                raise ValueError("it is larger")
            picture.load()
        return path.read_bytes()
    except (
        Exception
    ) as error:  # Pillow raises OSError, SyntaxError, ValueError, struct.error, zlib.error and more
        raise InputError(
            f"{path} is no picture that a run wrote: restore it, or remove the folder it lies in."
        ) from error


def _shrunk(path: Path, scale: float) -> bytes:
    photograph = path.suffix == ".jpg"
    with path.open("rb") as stream, _reader(path)(stream) as picture:
        size = [max(1, round(scale * side)) for side in picture.size]
        small = picture.resize(
            size, Image.Resampling.LANCZOS if photograph else Image.Resampling.NEAREST
        )
    with small:
        content = io.BytesIO()
        small.save(
            content,
            **(
                {"format": "JPEG", "quality": 80}
                if photograph
                else {"format": "PNG", "optimize": True}
            ),
        )
    return content.getvalue()


def _reader(path):
    return JpegImageFile if path.suffix == ".jpg" else PngImageFile


def _finite_mean(values: Iterable[float]) -> float:
    values = [value for value in values if math.isfinite(value)]
    return float(np.mean(values)) if values else math.nan


def _chart(svg: str, alternative: str, caption: str = "") -> str:
    """As an image of its own: names in one SVG then mean nothing in another."""
    uri = "data:image/svg+xml," + quote(svg, safe=" /:;=,.()'!*@+-$[]{}|^?~")
    return f'<figure>{caption}<img class="chart" src="{uri}" alt="{escape(alternative)}"></figure>'


def _table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    caption: str,
    text: Iterable[int] = (0,),
) -> str:
    """A table that can be sorted by each column: by the first number of a cell, else by its
    text."""
    text = set(text)
    heads = "".join(
        f'<th scope="col"{"" if column in text else " class=number"}><button'
        f' type="button">{escape(name)}</button></th>'
        for column, name in enumerate(header)
    )
    lines = []
    for row in rows:
        first, *others = (
            f"<{'th scope=row' if column == 0 else 'td' if column in text else 'td class=number'}{_key(cell, column in text)}>"
            f"{_cell(cell)}</{'th' if column == 0 else 'td'}>"
            for column, cell in enumerate(row)
        )
        lines.append(f"<tr>{first}{''.join(others)}</tr>")
    return (
        f'{_note(caption)}\n<div class="wide" tabindex="0" role="region"'
        f' aria-label="{escape(caption)}"><table class="sortable">'
        f"<thead><tr>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _cell(text: str) -> str:
    """What stands behind the mean is quieter than it."""
    mean, sign, deviation = text.partition(" ± ")
    return f"{escape(mean)} <small>± {escape(deviation)}</small>" if sign else escape(text)


def _key(text: str, is_text: bool) -> str:
    """The number that a cell is sorted by."""
    if is_text:
        return ""
    number = re.search(r"-?\d[\d,]*\.?\d*(?:e-?\d+)?", text)
    if not number or text.startswith("not reached"):
        return ' data-key=""'
    value = float(number[0].replace(",", ""))
    return f' data-key="{value - 1e-9 if text.startswith("<") else value!r}"'


_STYLE = """
:root { --paper: #fff; --ink: #1b1b1b; --quiet: #5b5f66; --line: #d9dce1; --soft: #f4f5f7; --blue: #0072b2; --shade: #084594; --deep: #fff;
  --mark: #fff1d6; --edge: #e69f00; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #16181c; --ink: #e6e7ea; --quiet: #a0a5ad; --line: #363a41; --soft: #1f2227; --blue: #4aa8de; --shade: #6bb6e6; --deep:
    #0c0d0f; --mark: #3a2d10; }
  img.chart { filter: invert(.92) hue-rotate(180deg); }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 84rem; padding: 1.5rem clamp(.9rem, 3vw, 2.5rem) 4rem; background: var(--paper); color:
  var(--ink); font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; overflow-wrap:
  break-word; }
h1 { font-size: clamp(1.5rem, 4vw, 2.1rem); line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.35rem; line-height: 1.25; margin: 3rem 0 .6rem; padding-top: .8rem; border-top: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 1.6rem 0 .5rem; }
p, ul, summary { max-width: 46rem; }
header p { margin: 0; color: var(--quiet); }
p { margin: .5rem 0; }
.lead { font-size: 1.12rem; font-weight: 600; }
.note, small { color: var(--quiet); }
.note { font-size: .92rem; }
h3 small { font-weight: 400; margin-left: .4rem; }
.mark { background: var(--mark); border-left: 4px solid var(--edge); padding: .7rem 1rem; margin: 1.2rem 0; }
.mark ul { margin: .3rem 0; }
summary { cursor: pointer; color: var(--quiet); }
.pairs { list-style: none; padding: 0; max-width: 60rem; }
.pairs li { padding: .35rem 0 .35rem 6.6rem; position: relative; border-bottom: 1px solid var(--line); }
.tag { position: absolute; left: 0; top: .45rem; width: 6rem; text-align: center; font-size: .78rem; border: 1px solid
  var(--line); border-radius: .25rem; color: var(--quiet); }
.real .tag { background: var(--blue); border-color: var(--blue); color: var(--paper); font-weight: 600; }
.seeds .tag, .images .tag { border-color: var(--blue); color: var(--blue); }
.wide { overflow-x: auto; margin: 1rem 0 1.6rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--quiet); font-size: .92rem; padding-bottom: .4rem; }
.sortable { font-size: .92rem; }
.sortable th, .sortable td { padding: .3rem .6rem; text-align: left; white-space: nowrap; border-bottom: 1px solid
  var(--line); }
.sortable .number { text-align: right; }
.sortable tbody tr:hover > * { background: var(--soft); }
.sortable thead th { vertical-align: bottom; white-space: normal; padding: 0; }
.sortable thead button { all: unset; box-sizing: border-box; cursor: pointer; width: 100%; min-width: 4.6rem; padding: .3rem
  .7rem; font-weight: 600; line-height: 1.25; }
.sortable thead button:focus-visible { outline: 2px solid var(--blue); outline-offset: -2px; }
[aria-sort=ascending] button::after { content: " ▲"; font-size: .7em; }
[aria-sort=descending] button::after { content: " ▼"; font-size: .7em; }
.sortable tr > :first-child { position: sticky; left: 0; background: var(--paper); z-index: 1; }
figure { margin: 0; }
figcaption { font-size: .92rem; font-weight: 600; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 30rem), 1fr)); gap: 1.6rem; align-items:
  start; }
.charts.small { grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr)); }
.charts.tiny { grid-template-columns: repeat(auto-fill, minmax(min(46%, 13rem), 1fr)); }
img.chart { width: 100%; height: auto; max-width: 34rem; display: block; }
.matrices { display: flex; flex-wrap: wrap; gap: 1.6rem 2.2rem; }
.matrix { font-size: .82rem; }
.matrix caption { color: var(--ink); font-weight: 600; }
.matrix th { font-weight: 400; text-align: left; padding: .15rem .4rem; }
.matrix thead th { text-align: right; color: var(--quiet); }
.matrix thead th:first-child { text-align: left; }
.matrix td { text-align: right; padding: .2rem .4rem; min-width: 2.7rem; border: 1px solid var(--line); background:
  color-mix(in srgb, var(--blue) var(--share, 0%), var(--paper)); }
.matrix .deep { color: var(--deep); }
.matrix .score { background: none; border: 0; font-weight: 600; }
.legend { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; }
.swatch { display: inline-block; width: .95em; height: .95em; margin-right: .4em; border: 1px solid #777; vertical-align:
  -.1em; }
.control button { font: inherit; padding: .3rem .8rem; border: 1px solid var(--line); border-radius: .3rem; background:
  var(--soft); color: inherit; cursor: pointer; }
.control button[aria-pressed=true] { border-color: var(--blue); }
.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(46%, 14.5rem), 1fr)); gap: .8rem; }
.panels img, .panels canvas { width: 100%; height: auto; display: block; image-rendering: auto; }
.panels figcaption { font-weight: 400; font-size: .88rem; }
.prediction { all: unset; display: block; width: 100%; cursor: pointer; }
.prediction:focus-visible { outline: 3px solid var(--blue); }
@media print {
  .charts, .matrices { display: grid; grid-template-columns: 1fr 1fr; gap: .8rem; }
  .charts.small { grid-template-columns: repeat(3, 1fr); }
  .charts.tiny { grid-template-columns: repeat(4, 1fr); }
  .matrix { font-size: 6.5pt; }
  .matrix td { min-width: 0; }
  body { max-width: none; font-size: 9.5pt; padding: 0; }
  .control { display: none; }
  .wide { overflow: visible; }
  .sortable th, .sortable td { padding: .15rem .25rem; }
  .sortable thead button { min-width: 0; padding: .15rem .3rem; }
  .sortable { font-size: 6.5pt; }
  .scene, figure, tr, .matrix { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
  .panels { grid-template-columns: repeat(5, 1fr); }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  details::details-content { content-visibility: visible; height: auto; }
}
"""

_SCRIPT = """
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.firstChild.addEventListener("click", () => {
    const number = head.classList.contains("number");
    const before = head.getAttribute("aria-sort");
    const down = before ? before === "ascending" : number;
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const body = table.tBodies[0];
    const key = row => {
      const cell = row.cells[column];
      return number ? (cell.dataset.key === "" ? null : Number(cell.dataset.key)) : cell.textContent;
    };
    const order = (a, b) => {
      const x = key(a), y = key(b);
      if (x === null || y === null) return (x === null) - (y === null);
      return (number ? x - y : x.localeCompare(y)) * (down ? -1 : 1);
    };
    body.append(...[...body.rows].sort(order));
  }));
}
function pixels(image) {
  const canvas = document.createElement("canvas");
  canvas.width = image.naturalWidth;
  canvas.height = image.naturalHeight;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  return context.getImageData(0, 0, canvas.width, canvas.height);
}
function errors(button) {
  const scene = button.closest(".scene"), prediction = button.querySelector("img");
  const canvas = document.createElement("canvas");
  canvas.width = prediction.naturalWidth;
  canvas.height = prediction.naturalHeight;
  const context = canvas.getContext("2d");
  context.drawImage(scene.querySelector(".image"), 0, 0, canvas.width, canvas.height);
  const out = context.getImageData(0, 0, canvas.width, canvas.height);
  const guess = pixels(prediction).data, truth = pixels(scene.querySelector(".truth")).data;
  for (let i = 0; i < guess.length; i += 4) {
    const wrong = truth[i] !== guess[i] || truth[i + 1] !== guess[i + 1] || truth[i + 2] !== guess[i + 2];
    const grey = 0.45 * (0.299 * out.data[i] + 0.587 * out.data[i + 1] + 0.114 * out.data[i + 2]);
    const color = wrong ? [255, 176, 0] : [grey, grey, grey];
    for (let channel = 0; channel < 3; channel++) out.data[i + channel] = color[channel];
  }
  context.putImageData(out, 0, 0);
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", "errors of the " + prediction.alt);
  return canvas;
}
function show(button, wanted) {
  const image = button.querySelector("img");
  let canvas = button.querySelector("canvas");
  if (wanted && !canvas) button.append(canvas = errors(button));
  image.hidden = wanted;
  image.style.display = wanted ? "none" : "";
  if (canvas) canvas.style.display = wanted ? "" : "none";
  button.setAttribute("aria-pressed", wanted);
}
const predictions = document.querySelectorAll(".prediction");
for (const button of predictions)
  button.addEventListener("click", () => show(button, button.getAttribute("aria-pressed") !== "true"));
const every = document.getElementById("errors");
if (every) every.addEventListener("click", () => {
  const wanted = every.getAttribute("aria-pressed") !== "true";
  every.setAttribute("aria-pressed", wanted);
  every.textContent = wanted ? "Show predictions everywhere" : "Show errors everywhere";
  predictions.forEach(button => show(button, wanted));
});
"""
