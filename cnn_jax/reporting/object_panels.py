"""Test images with objects on a comparison's page: the same photographs as every model sees them,
with boxes and outlines; curves of precision and recall; AP by the size of objects.

Boxes are drawn by the browser over one photograph each, so that a picture costs little and stays
sharp.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cnn_jax.evaluation.coco import precision_curves
from cnn_jax.records.object_record import Mark, ObjectRecord
from cnn_jax.reporting import comparison_figures
from cnn_jax.reporting.comparison_tables import named
from cnn_jax.reporting.verdicts import Comparison, Spread, Variant, with_images

KINDS = {"box": "Boxes", "mask": "Masks"}

_SIZES = {"small": "under 32² px", "medium": "32² to 96² px", "large": "over 96² px"}

LOOKS = ("found", "missed", "false alarm", "counts nowhere")
"""Kinds of marks that the legend explains."""


class Shape(NamedTuple):
    """A mark as SVG draws it: `css` names its kind, `path` its outlines."""

    css: str
    color: str
    title: str
    box: tuple[float, float, float, float]
    path: str


class Panel(NamedTuple):
    """A photograph, by its index, with what lies or was found in it; `source` says whether there
    is a photograph."""

    name: str
    alt: str
    source: str | None
    photo: int
    size_px: tuple[int, int]
    shapes: Sequence[Shape] = ()
    said: str = ""
    number: int = 0
    kind: str = "objects"


def photographs(comparison: Comparison) -> dict[int, Path]:
    """Where the photographs of the images lie that records hold objects of."""
    found: dict[int, Path] = {}
    for variant, record in _with_objects(comparison):
        for index in record.marks:
            paths = [one.picture(index, "image") for one in variant.records]
            known = next((path for path in paths if path.is_file()), paths[0])
            if index not in found or not found[index].is_file():
                found[index] = known
    return found


def scenes(comparison: Comparison, sources: Mapping[int, str]) -> list[dict[str, Any]]:
    """The images, worst first, with a panel for the truth and one for each variant.

    Args:
        comparison: of detectors or networks of instances.
        sources: of photographs, by their index; those without one are left out.
    """
    variants = _with_objects(comparison)
    if not variants:
        return []
    rank = {variant.name: number for number, variant in enumerate(comparison.variants, 1)}
    first = variants[0][1]
    shown = []
    for index, (truth, _) in first.marks.items():
        if index not in sources:
            continue
        name, size = first.names[index], first.sizes_px[index]
        held = {"source": sources[index], "photo": index, "size_px": size}
        panels = [
            Panel("photograph", f"photograph of {name}", **held),
            Panel("truth", f"true objects of {name}", shapes=_shapes(truth, first), **held),
        ]
        worth = []
        for variant, record in variants:
            _, found = record.marks.get(index, ((), ()))
            worth.append(_f1(found))
            alt = f"what {variant.name} finds in {name}"
            more = {"said": _said(found), "number": rank[variant.name]}
            panels.append(Panel(named(variant), alt, shapes=_shapes(found, record), **more, **held))
        known = [value for value in worth if math.isfinite(value)]
        mean = float(np.mean(known)) if known else math.nan
        shown.append({"name": name, "mean": mean, "panels": panels, "measure": "F1"})
    shown.sort(key=lambda scene: (math.isnan(scene["mean"]), scene["mean"]))
    return shown


def legend(comparison: Comparison) -> list[tuple[str, str]]:
    """Names and colours of the classes."""
    record = _with_objects(comparison)[0][1]
    return list(zip(record.classes, record.colors, strict=True))


def seeds(comparison: Comparison) -> list[Any]:
    """The seed of each variant that is shown."""
    return [next(iter(variant.objects)) for variant, _ in _with_objects(comparison)]


def curves(comparison: Comparison, looks: Mapping[str, int]) -> dict[str, str]:
    """Title -> SVG of precision against recall at IoU 0.5, of boxes and of masks: means over
    classes and seeds."""
    found = {}
    for kind, title in KINDS.items():
        of = {
            variant.name: np.mean(
                [
                    np.nanmean(precision_curves(record.counted[kind]), 0)
                    for record in variant.objects.values()
                ],
                0,
            )
            for variant, record in _with_objects(comparison)
            if kind in record.counted and any(one.wanted.any() for one in record.counted[kind])
        }
        if of:
            found[f"{title}, IoU 0.5"] = comparison_figures.precision_recall(of, looks)
    return found


def by_size(comparison: Comparison, looks: Mapping[str, int]) -> dict[str, str]:
    """Title -> SVG of the AP of objects of one size, a row a variant."""
    found = {}
    for kind, title in KINDS.items():
        for size, meaning in _SIZES.items():
            of = {}
            for variant, record in _with_objects(comparison):
                values = [one.summary.get(f"test/{kind}_ap_{size}") for one in variant.records]
                spread = Spread(tuple(v for v in values if v is not None), len(values))
                if kind in record.counted:
                    of[variant.name] = spread.mean, spread.deviation
            if any(math.isfinite(mean) for mean, _ in of.values()):
                svg = comparison_figures.class_scores(of, looks, f"test {kind} AP", (0, 1))
                found[f"{title}: {size}, {meaning}"] = svg
    return found


def _with_objects(comparison: Comparison) -> list[tuple[Variant, ObjectRecord]]:
    return with_images(comparison.variants, lambda variant: variant.objects)


def _shapes(marks: Sequence[Mark], record: ObjectRecord) -> list[Shape]:
    """Large ones first, so that small ones lie on top and can be pointed at."""

    def area(mark):
        left, top, right, bottom = mark.box
        return (right - left) * (bottom - top)

    shapes = []
    for mark in sorted(marks, key=area, reverse=True):
        left, top, right, bottom = mark.box
        score = "" if mark.score is None else f" {mark.score:.2f}"
        told = "" if mark.kind == "true" else f": {mark.kind}"
        path = "".join(f"M{' '.join(f'{at:g}' for at in outline)}Z" for outline in mark.outlines)
        shapes.append(
            Shape(
                mark.kind.replace(" ", "-"),
                record.colors[mark.label],
                f"{record.classes[mark.label]}{score}{told}",
                (left, top, max(right - left, 0), max(bottom - top, 0)),
                path,
            )
        )
    return shapes


def _said(marks: Sequence[Mark]) -> str:
    """Such as `7 found, 1 missed, 2 false`."""
    count = Counter(mark.kind for mark in marks)
    return f"{count['found']} found, {count['missed']} missed, {count['false alarm']} false"


def _f1(marks: Sequence[Mark]) -> float:
    """Twice what was found, of what was there and what was said to be; NaN where neither is."""
    count = Counter(mark.kind for mark in marks)
    every = 2 * count["found"] + count["missed"] + count["false alarm"]
    return 2 * count["found"] / every if every else math.nan
