"""LabelMe's JSON, one file an image: polygons, rectangles, also turned ones, circles and masks.

Parts of an object share a `group_id`, as LabelMe's own converters have it. Crowds carry the flag
`crowd`, and predictions a `score`, as newer annotators write it.
"""

import base64
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cnn_jax.data import objects
from cnn_jax.data.annotations.files import (
    Classes,
    beside,
    check_size,
    files_in,
    joined,
    json_of,
    number,
    whole,
    write_json,
)
from cnn_jax.data.objects import AnnotatedImage, Annotation, AnnotationSet, Report
from cnn_jax.data.rasters import open_raster
from cnn_jax.errors import InputError

WHAT = "LabelMe file"
TURNED = ("oriented_rectangle", "rotation")
"""What LabelMe and X-AnyLabeling call a rectangle that is turned: its four corners."""


def read(path: Path, images: Path | None, classes: Sequence[str], report: Report) -> AnnotationSet:
    """As `annotations.read`: of one file, or a folder of them."""
    known, found = Classes(classes), []
    for file in files_in(path, (".json",), "LabelMe's JSON files"):
        content = json_of(file, WHAT)
        if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
            raise InputError(f"{file} is no {WHAT}: it has no list of shapes.")
        height, width = (whole(content.get(f"image{side}")) or 0 for side in ("Height", "Width"))
        if min(height, width) < 1:
            raise InputError(f"{file} has no imageHeight and imageWidth above 0: add them.")
        name = content.get("imagePath")
        if not isinstance(name, str) or not name:
            raise InputError(f"{file} has no imagePath: add it.")
        name = name.replace("\\", "/").rpartition("/")[2]
        if not path.is_file():
            name = (file.parent.relative_to(path) / name).as_posix()
        image = AnnotatedImage(name, height, width)
        check_size(str(file), height, width)
        parts = []
        for index, raw in enumerate(content["shapes"]):
            about = f"{file}: shape {index}"
            if not isinstance(raw, dict) or not isinstance(raw.get("label"), str):
                report(f"{about} has no label: add it.")
                continue
            label = known.label(raw["label"], about, report)
            if label is None:
                continue
            one = _annotation(raw, image, label, about, report)
            if one is None or (one := objects.checked(one, image, about, report)) is None:
                continue
            parts.append((raw.get("group_id"), one))
        found.append((image, joined(parts, image)))
    return known.set_of(found)


def _annotation(raw, image, label, about, report) -> Annotation | None:
    kind, points = raw.get("shape_type") or "polygon", raw.get("points")
    flags = raw.get("flags") if isinstance(raw.get("flags"), dict) else {}
    others = {"crowd": bool(flags.get("crowd")), "score": number(raw.get("score"))}
    try:
        corners = np.array(points, float).reshape(len(points), 2)
    except (TypeError, ValueError):
        report(f"{about} has points that are no pairs of numbers: correct them.")
        return None
    if kind == "rectangle" and len(corners) >= 2:
        (left, top), (right, bottom) = corners.min(0).tolist(), corners.max(0).tolist()
        return Annotation(label, (left, top, right, bottom), None, **others)
    if kind == "circle" and len(corners) == 2:
        radius = float(np.hypot(*(corners[1] - corners[0])))
        x, y = corners[0].tolist()
        return objects.of_polygon(objects.ellipse(x, y, radius, radius), label, **others)
    if kind == "mask" and len(corners) == 2 and isinstance(raw.get("mask"), str):
        try:
            part = open_raster(base64.b64decode(raw["mask"])).read()[..., 0].astype(bool)
            left, top = (round(at) for at in corners.min(0).tolist())
        except (InputError, ValueError, OverflowError):
            report(f"{about} has a mask that is no PNG, or lies at no numbers: correct it.")
            return None
        height, width = (max(side, 0) for side in (image.height_px - top, image.width_px - left))
        part = part[max(-top, 0) : height, max(-left, 0) : width]
        if not part.any():
            report(f"{about} has an empty mask: leave it out.")
            return None
        return objects.of_part(part, max(top, 0), max(left, 0), image, label, **others)
    if kind not in ("polygon", *TURNED):
        report(
            f"{about} is a {kind}, which has no area: give a polygon, a rectangle, a circle or a"
            " mask."
        )
        return None
    return objects.of_polygon(corners, label, **others)


def write(found: AnnotationSet, path: Path, images: Path | None = None) -> None:
    """As `annotations.write`: a folder with one file an image."""
    path.mkdir(exist_ok=True)
    for image in found.images:
        shapes, group = [], 0
        for one in image.objects:
            rectangle = one.shape is None
            parts = objects.shape_polygons(one, image)
            group += len(parts) > 1
            for part in parts:
                corners = part[[0, 2]] if rectangle else part
                shape = {
                    "label": found.classes[one.label],
                    "points": corners.tolist(),
                    "group_id": group if len(parts) > 1 else None,
                    "description": "",
                    "shape_type": "rectangle" if rectangle else "polygon",
                    "flags": {"crowd": True} if one.crowd else {},
                }
                shapes.append(shape if one.score is None else shape | {"score": one.score})
        content = {
            "version": "5.5.0",
            "flags": {},
            "shapes": shapes,
            "imagePath": image.name.rpartition("/")[2],
            "imageData": None,
            "imageHeight": image.height_px,
            "imageWidth": image.width_px,
        }
        write_json(beside(Path(image.name), path, ".json"), content)
