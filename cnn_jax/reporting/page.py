"""A comparison as one HTML file that needs nothing else: no network, no fonts, no scripts but its
own few lines.

It opens from disk, on a phone and on paper, light or dark as the reader has it. Words and layout
are in `templates/`; here is what they are filled with. Jinja2 escapes whatever comes from a record.
"""

import base64
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import jinja2
import numpy as np
from markupsafe import Markup, escape
from PIL import Image, ImageColor
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from cnn_jax.errors import InputError
from cnn_jax.evaluation import metrics
from cnn_jax.records.metrics import FIGURES, NOTHING
from cnn_jax.records.scene_record import LONGEST_PX
from cnn_jax.records.scene_record import shown as pictured_scenes
from cnn_jax.reporting import comparison_figures, first_view, object_panels
from cnn_jax.reporting.comparison_tables import WORDS, cost_rows, named, pair_rows, score_rows
from cnn_jax.reporting.scene_figures import error_color
from cnn_jax.reporting.style import percent
from cnn_jax.reporting.table import MOST_CLASSES, capitalized
from cnn_jax.reporting.verdicts import Comparison, Group, with_images

_TEMPLATES = Path(__file__).with_name("templates")

_PICTURE_BYTES = 750_000
"""What the photographs and masks may take, before a third is added by their encoding: a page of
twelve variants stays below 2 MB."""

_COSTS = {
    "parameters": ("parameters", 1, False),
    "multiply_adds": ("multiply-adds of one forward pass, G", 1e9, False),
    "train/images_per_second": ("training images/s (more is better)", 1, True),
    "wall_time_s": ("training time, s", 1, False),
}


class Table(NamedTuple):
    """A table that can be sorted by each column; those in `text` by their text."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str
    text: Iterable[int] = (0,)


class Chart(NamedTuple):
    """An SVG as an image of its own (names in one then mean nothing in another), described by
    `alt`, perhaps under a title with a swatch."""

    source: str
    alt: str
    title: str = ""
    subtitle: str = ""
    color: str | None = None


class Picture(NamedTuple):
    """A photograph, a truth or a prediction, which has its variant's number; `source` is None where
    the file is missing."""

    kind: str
    name: str
    alt: str
    source: str | None
    score: float = math.nan
    number: int = 0


def page(comparison: Comparison) -> str:
    """The page, from the comparison and the records that it was made from.

    Raises:
        InputError: a picture beside a record isn't one that a run wrote.
    """
    looks = {variant.name: index for index, variant in enumerate(comparison.variants)}
    scenes = _scenes(comparison)  # first: what can't be used is told before the charts are drawn
    figure = comparison.class_figure
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "score": lambda value: NOTHING if math.isnan(value) else f"{value:.3f}",
        "percent": percent,
        "sort_key": _sort_key,
        "breakable": _breakable,
    }
    return environment.get_template("page.html.jinja").render(
        comparison=comparison,
        words=WORDS,
        nothing=NOTHING,
        headline=first_view.headline(comparison),
        forest=first_view.forest(comparison),
        matrices=first_view.matrices(comparison),
        score_title=capitalized(comparison.score),
        kind=capitalized(figure.label) if figure else "",
        unit=_unit(comparison),
        tables=_tables(comparison),
        curves=_curves(comparison),
        costs=_costs(comparison, looks),
        classes=_classes(comparison, looks),
        objects=_objects(comparison, looks),
        pairs=_pairs(comparison),
        scenes=scenes,
        confusions=_confusions(comparison),
        calibration=_calibration(comparison),
        style=Markup((_TEMPLATES / "page.css").read_text(encoding="utf-8")),
        script=Markup((_TEMPLATES / "page.js").read_text(encoding="utf-8")),
    )


def _unit(comparison: Comparison) -> str:
    """What confusion matrices count."""
    return "pixels" if "segmentation" in comparison.figure.tasks else "images"


def _tables(comparison: Comparison) -> list[Table]:
    # Accuracies over thousands of images differ in the fourth place.
    scores = score_rows(comparison, places=3 if _unit(comparison) == "pixels" else 4)
    return [
        Table(
            *scores,
            "Test split: means over seeds ± standard deviation between seeds. Press a heading to"
            " sort.",
        ),
        Table(*cost_rows(comparison), "Costs: means over seeds."),
    ]


def _curves(comparison: Comparison) -> list[tuple[Group, list[Chart]]]:
    sections = []
    for group in comparison.groups:
        # The looks of a group, so that curves of one chart differ in colour.
        looks = {name: index for index, name in enumerate(group.variants)}
        runs = {
            variant.name: [record.metrics for record in variant.records]
            for variant in comparison.variants
            if variant.name in group.variants
        }
        charts = []
        for key, label, smooth in (
            ("train/loss", "training loss", True),
            (f"validation/{comparison.leading}", f"validation {comparison.score}", False),
        ):
            lines = (line for histories in runs.values() for lines in histories for line in lines)
            if any(line.get(key) is not None for line in lines):
                svg = comparison_figures.learning_curves(runs, key, looks, label, smooth)
                alt = f"{label} against the step, a curve a variant: {', '.join(runs)}"
                charts.append(Chart(_uri(svg), alt))
        if charts:
            sections.append((group, charts))
    return sections


def _costs(comparison: Comparison, looks: Mapping[str, int]) -> list[Chart]:
    charts = []
    lower_is_better = comparison.figure.higher_is_better is False
    for key, (label, unit, more) in _COSTS.items():
        points = {}
        for v in comparison.variants:
            score = v.scores[comparison.leading]
            points[v.name] = comparison_figures.Point(
                v.costs[key].mean / unit, score.mean, score.deviation
            )
        if any(
            math.isfinite(point.cost) and math.isfinite(point.score) for point in points.values()
        ):
            axis = f"test {comparison.score}"
            svg = comparison_figures.against_cost(
                points, looks, label, axis, more, lower_is_better=lower_is_better
            )
            charts.append(Chart(_uri(svg), f"{axis} against {label}"))
    return charts


def _classes(comparison: Comparison, looks: Mapping[str, int]) -> list[Chart]:
    """A chart a class, all with the same axis; none of more classes than can be drawn."""
    figure, names = comparison.class_figure, comparison.classes
    if not figure or len(names) > MOST_CLASSES:
        return []
    by_class = {
        name: {
            v.name: (v.class_scores[name].mean, v.class_scores[name].deviation)
            for v in comparison.variants
            if name in v.class_scores
        }
        for name in names
    }
    pairs = np.array([pair for of_class in by_class.values() for pair in of_class.values()])
    ends = pairs[:, :1] + np.nan_to_num(pairs[:, 1:]) * [-1, 1]
    ends = ends[np.isfinite(ends)]
    low, high = (ends.min(), ends.max()) if len(ends) else (0, 1)
    # From 0 where that doesn't press everything into a corner.
    least = 0 if low < 0.6 else min(math.floor(10 * low) / 10, 0.9)
    limits = least, min(1.0, max(math.ceil(10 * high) / 10, least + 0.1))
    colors = dict(_legend(comparison))
    kind = capitalized(figure.label)
    return [
        Chart(
            _uri(comparison_figures.class_scores(of_class, looks, f"test {kind}", limits)),
            f"{kind} of {name} of each variant",
            title=name,
            color=colors.get(name),
        )
        for name, of_class in by_class.items()
    ]


def _objects(comparison: Comparison, looks: Mapping[str, int]) -> list[tuple[str, list[Chart]]]:
    """Charts of detectors and networks of instances, with the class of their row; none of other
    tasks."""
    rows = {
        "": object_panels.curves(comparison, looks),
        " small": object_panels.by_size(comparison, looks),
    }
    return [
        (
            kind,
            [Chart(_uri(svg), f"{title}, a mark a variant", title) for title, svg in row.items()],
        )
        for kind, row in rows.items()
        if row
    ]


def _pairs(comparison: Comparison) -> list[tuple[Group, Table]]:
    caption = (
        "p values are corrected after Holm for all pairs of the table; intervals are of each pair"
        " by itself."
    )
    return [
        (group, Table(*pair_rows(group), caption, text={0, 1, 8}))
        for group in comparison.groups
        if group.pairs
    ]


def _confusions(comparison: Comparison) -> list[dict[str, Any]]:
    """Of each variant its name and, row by row of its matrix, the class, shares (None where the
    class has no example) and the figure of the class."""
    names = comparison.classes
    if not 0 < len(names) <= MOST_CLASSES:
        return []
    worth = metrics.iou if _unit(comparison) == "pixels" else metrics.class_accuracy
    shown = []
    for variant in comparison.variants:
        if variant.confusion is None or variant.confusion.shape != (len(names), len(names)):
            continue
        matrix = variant.confusion.astype(np.float64)
        rows = [
            {
                "name": name,
                "shares": (row / row.sum()).tolist() if row.sum() else [None] * len(names),
                "worth": value,
            }
            for name, row, value in zip(names, matrix, worth(matrix), strict=True)
        ]
        shown.append({"name": named(variant), "rows": rows})
    return shown


def _calibration(comparison: Comparison) -> list[Chart]:
    figure = FIGURES["expected_calibration_error"]
    return [
        Chart(
            _uri(comparison_figures.reliability(**variant.calibration)),
            f"Reliability diagram of {variant.name}",
            title=named(variant),
            subtitle=f"{figure.label} {variant.scores[figure.name].text('.3f')}",
        )
        for variant in comparison.variants
        if variant.calibration is not None
    ]


# ---- scenes


def _scenes(comparison: Comparison) -> dict[str, Any] | None:
    """The scenes with their pictures, the worst first, the worst and the best apart, and which
    pictures are missing; None where no record holds scenes."""
    variants = with_images(comparison.variants, lambda variant: variant.scenes)
    if not variants:
        return _scenes_of_objects(comparison)
    names, rank = variants[0][1].names, first_view.numbers(comparison)
    files = {}  # (scene, whose) -> file
    for index in pictured_scenes(len(names)):
        for kind in ("image", "truth"):  # the same beside each record: one of them will do
            found = [record.picture(index, kind) for v, _ in variants for record in v.records]
            files[index, kind] = next((path for path in found if path.is_file()), found[0])
        for variant, _ in variants:
            first = variant.by_seed[next(iter(variant.scenes))]
            files[index, variant.name] = first.picture(index, "prediction")
    sources = _encoded(files)
    scenes = []
    for index in pictured_scenes(len(names)):
        if not any(key in sources for key in files if key[0] == index):
            continue
        name = names[index]
        panels = [
            Picture("image", "photograph", f"photograph of {name}", sources.get((index, "image"))),
            Picture("truth", "truth", f"true classes of {name}", sources.get((index, "truth"))),
        ]
        panels += [
            Picture(
                "prediction",
                named(variant),
                f"prediction of {variant.name} for {name}",
                sources.get((index, variant.name)),
                float(of_variant.mious[index]),
                rank[variant.name],
            )
            for variant, of_variant in variants
        ]
        values = [picture.score for picture in panels if math.isfinite(picture.score)]
        mean = float(np.mean(values)) if values else math.nan
        scenes.append({"name": name, "mean": mean, "panels": panels, "measure": "mIoU"})
    scenes.sort(key=lambda scene: (math.isnan(scene["mean"]), scene["mean"]))
    return {
        **_arranged(scenes, files, [next(iter(variant.scenes)) for variant, _ in variants]),
        "looks": (),
        "photographs": (),
        "legend": _legend(comparison),
        "error_color": "#{:02X}{:02X}{:02X}".format(
            *error_color([ImageColor.getrgb(color)[:3] for _, color in _legend(comparison)])
        ),
    }


def _scenes_of_objects(comparison: Comparison) -> dict[str, Any] | None:
    """The same of images with objects, whose photographs stand once."""
    files = object_panels.photographs(comparison)
    if not files:
        return None
    scenes = object_panels.scenes(comparison, _encoded(files))
    held = [scene["panels"][0] for scene in scenes]
    return {
        **_arranged(scenes, files, object_panels.seeds(comparison)),
        "looks": object_panels.LOOKS,
        "photographs": [
            {"index": panel.photo, "source": panel.source, "size_px": panel.size_px}
            for panel in held
        ],
        "legend": object_panels.legend(comparison),
        "error_color": "",
    }


def _arranged(
    scenes: list[dict[str, Any]], files: Mapping[Any, Path], seeds: Sequence
) -> dict[str, Any]:
    """The worst and the best apart from the others, which pictures are missing, and whose seeds
    they are of; `scenes` stand worst first."""
    missing: dict[Path, list[str]] = {}
    for path in files.values():
        if not path.is_file():
            missing.setdefault(path.parent, []).append(path.name)
    known = [scene for scene in scenes if math.isfinite(scene["mean"])]
    ends = [("Worst test image:", known[0]), ("Best:", known[-1])] if known[1:] else []
    of = {str(seed) for seed in seeds}
    return {
        "shown": scenes,
        "ends": ends or [("", scene) for scene in scenes[:1]],
        "others": [s for s in scenes if s not in (known[0], known[-1])] if ends else scenes[1:],
        "missing": [_told(folder, names) for folder, names in missing.items()],
        "seed": f"seed {min(of)}" if len(of) == 1 else "each variant's first seed",
    }


def _told(folder: Path, names: Sequence[str]) -> str:
    """`unet-seed0/scenes: 000-prediction.png and 8 more`: no path of this machine."""
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{folder.parent.name}/{folder.name}: {names[0]}{more}"


def _legend(comparison: Comparison) -> list[tuple[str, str]]:
    """Names and colours of the classes; none without scenes."""
    scenes = (scenes for variant in comparison.variants for scenes in variant.scenes.values())
    first = next(scenes, None)
    return list(zip(first.classes, first.colors, strict=True)) if first else []


# ---- pieces


def _encoded(files: Mapping[Any, Path]) -> dict[Any, str]:
    """Those pictures that there are, as data URIs; made smaller, all by the same factor, until they
    fit what they may take."""
    files = {key: path for key, path in files.items() if path.is_file()}
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
    # Pillow raises OSError, SyntaxError, ValueError, struct.error, zlib.error and more.
    except Exception as error:
        raise InputError(
            f"{path} is no picture that a run wrote: restore it, or remove the folder it lies in."
        ) from error


def _shrunk(path: Path, scale: float) -> bytes:
    photograph = path.suffix == ".jpg"
    how = Image.Resampling.LANCZOS if photograph else Image.Resampling.NEAREST
    options: dict[str, Any] = {"format": "JPEG", "quality": 80}
    content = io.BytesIO()
    with path.open("rb") as stream, _reader(path)(stream) as picture:
        size = max(1, round(scale * picture.width)), max(1, round(scale * picture.height))
        picture.resize(size, how).save(
            content, **(options if photograph else {"format": "PNG", "optimize": True})
        )
    return content.getvalue()


def _reader(path: Path) -> type[JpegImageFile] | type[PngImageFile]:
    return JpegImageFile if path.suffix == ".jpg" else PngImageFile


def _uri(svg: str) -> Markup:
    """An SVG as a data URI, without a character that would end its attribute."""
    return Markup("data:image/svg+xml," + quote(svg, safe=" /:;=,.()'!*@+-$[]{}|^?~"))


def _breakable(name: str) -> Markup:
    """A name that may go on in the next line after an underscore."""
    return escape(name).replace("_", Markup("_<wbr>"))


def _sort_key(text: str) -> str:
    """The number that a cell of a table is sorted by; "" without one."""
    number = re.search(r"-?\d[\d,]*\.?\d*(?:e-?\d+)?", text)
    if not number or text.startswith("not reached"):
        return ""
    value = float(number[0].replace(",", ""))
    return repr(value - 1e-9 if text.startswith("<") else value)
