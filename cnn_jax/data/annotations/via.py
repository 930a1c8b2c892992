"""VGG Image Annotator's JSON (Dutta and Zisserman, 2019), version 2, and what version 1 wrote.

The class is the region's attribute `class` (or `label`, `name`, `category`, `type`, or the only
one; of a region without attributes it is "object"); parts of an object share the attribute
`object`. Sizes of images are in the files alone.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cnn_jax.data import objects
from cnn_jax.data.annotations.files import (
    Classes,
    image_files,
    joined,
    json_of,
    number,
    plain,
    size_of,
    write_json,
)
from cnn_jax.data.file_names import composed
from cnn_jax.data.objects import AnnotatedImage, Annotation, AnnotationSet, Report
from cnn_jax.errors import InputError

WHAT = "VIA file"
ATTRIBUTES = ("class", "label", "name", "category", "type")
OWN = ("object", "crowd", "score")


def read(path: Path, images: Path | None, classes: Sequence[str], report: Report) -> AnnotationSet:
    """As `annotations.read`: of a project, or of exported annotations."""
    content = json_of(path, WHAT)
    if isinstance(content, dict):
        content = content.get("_via_img_metadata", content)
    heads = list(content.values()) if isinstance(content, dict) else content
    if not isinstance(heads, list) or not all(
        isinstance(head, dict) and "filename" in head and "regions" in head for head in heads
    ):
        raise InputError(f"{path} is no {WHAT}: it holds no files with regions.")
    known, found = Classes(classes), []
    files = {composed(name): file for name, file in image_files(images, "VIA's files").items()}
    for head in heads:
        name = str(head["filename"]).replace("\\", "/")
        if composed(name) not in files:
            raise InputError(f"{path} has the image {name}, which {images} lacks: add it.")
        image = AnnotatedImage(name, *size_of(files[composed(name)]))
        regions = head["regions"]
        regions = list(regions.values()) if isinstance(regions, dict) else regions
        if not isinstance(regions, list):
            raise InputError(f"{path}: {name} has no list of regions: correct it.")
        parts = []
        for index, raw in enumerate(regions):
            about = f"{path}: {name}, region {index}"
            shape = raw.get("shape_attributes") if isinstance(raw, dict) else None
            about_it = raw.get("region_attributes") if isinstance(raw, dict) else None
            if not isinstance(shape, dict) or not isinstance(about_it, dict):
                report(f"{about} has no shape_attributes and region_attributes: add them.")
                continue
            label = known.label(_class(about_it), about, report)
            one = None if label is None else _annotation(shape, about_it, label, about, report)
            if one is None or (one := objects.checked(one, image, about, report)) is None:
                continue
            parts.append((about_it.get("object") or None, one))
        found.append((image, joined(parts, image)))
    return known.set_of(found)


def _class(attributes) -> str:
    named = [attributes[name] for name in ATTRIBUTES if name in attributes][:1]
    values = named or [value for name, value in attributes.items() if name not in OWN]
    if len(values) != 1:
        return "" if values else "object"
    value = values[0]
    # A checkbox holds what is ticked, and may hold what isn't.
    if isinstance(value, dict):
        ticked = [name for name, said in value.items() if said]
        return ticked[0] if len(ticked) == 1 else "" if ticked else "object"
    return "" if value is None else str(value)


def _annotation(shape, attributes, label, about, report) -> Annotation | None:
    others = {
        "crowd": str(attributes.get("crowd", "")).lower() in ("true", "1", "yes"),
        "score": number(attributes.get("score")),
    }
    kind = shape.get("name")

    def numbers(*names):
        return [number(shape.get(name)) for name in names]

    rectangle = [at for at in numbers("x", "y", "width", "height") if at is not None]
    if kind == "rect" and len(rectangle) == 4:
        x, y, width, height = rectangle
        return Annotation(label, (x, y, x + width, y + height), None, **others)
    corners = None
    if kind in ("polygon", "polyline"):
        points = shape.get("all_points_x"), shape.get("all_points_y")
        try:
            corners = np.array(points, float).T.reshape(-1, 2)
        except (TypeError, ValueError):
            report(f"{about} has points that are no pairs of numbers: correct them.")
            return None
    elif kind in ("circle", "ellipse"):
        names = ("cx", "cy", *(("r", "r") if kind == "circle" else ("rx", "ry")))
        ellipse = [at for at in numbers(*names) if at is not None]
        if len(ellipse) == 4:
            x, y, rx, ry = ellipse
            corners = objects.ellipse(x, y, rx, ry, number(shape.get("theta")) or 0.0)
    if corners is None or not len(corners):
        report(f"{about} is a {kind} without area: give a polygon, a rect, a circle or an ellipse.")
        return None
    return objects.of_polygon(corners, label, **others)


def write(found: AnnotationSet, path: Path, images: Path | None = None) -> None:
    """As `annotations.write`: one file, that VIA imports."""
    content = {}
    for image in found.images:
        regions, group = [], 0
        for one in image.objects:
            parts = objects.shape_polygons(one, image)
            group += len(parts) > 1
            about: dict[str, str] = {"class": found.classes[one.label]}
            about |= {"object": str(group)} if len(parts) > 1 else {}
            about |= {"crowd": "true"} if one.crowd else {}
            about |= {"score": repr(one.score)} if one.score is not None else {}
            for part in parts:
                x, y = ([plain(at) for at in along] for along in part.T.tolist())
                shape: dict[str, Any] = {"name": "polygon", "all_points_x": x, "all_points_y": y}
                if one.shape is None:
                    left, top, right, bottom = one.box
                    shape = {"name": "rect", "x": plain(left), "y": plain(top)}
                    shape |= {"width": plain(right - left), "height": plain(bottom - top)}
                regions.append({"shape_attributes": shape, "region_attributes": about})
        content[f"{image.name}-1"] = {
            "filename": image.name,
            "size": -1,
            "regions": regions,
            "file_attributes": {},
        }
    write_json(path, content)
