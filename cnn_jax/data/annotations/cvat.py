"""CVAT's XML for images, version 1.1: polygons, boxes, ellipses and masks; crowds are written as
masks."""

import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cnn_jax.data import objects
from cnn_jax.data.annotations.files import Classes, check_size, joined, number, plain, xml_of
from cnn_jax.data.objects import AnnotatedImage, Annotation, AnnotationSet, Report
from cnn_jax.data.rasters import LARGEST_IMAGE_PX
from cnn_jax.errors import InputError

WHAT = "CVAT file"


def read(path: Path, images: Path | None, classes: Sequence[str], report: Report) -> AnnotationSet:
    """As `annotations.read`. Parts of an object share a `group_id` and a label."""
    root = xml_of(path, "annotations", WHAT)
    if root.find("track") is not None:
        raise InputError(
            f"{path} has tracks of a video, which aren't read: export it as CVAT for images 1.1."
        )
    listed = [label.findtext("name") or "" for label in root.findall("./meta//label")]
    known, found = Classes(classes or listed), []
    for head in root.findall("image"):
        name = head.get("name")
        size = [number(head.get(side)) for side in ("height", "width")]
        height, width = (0 if side is None or side % 1 else int(side) for side in size)
        if not name or min(height, width) < 1:
            raise InputError(f"{path} has an image without name, height or width: add them.")
        check_size(f"{path}: {name}", height, width)
        image = AnnotatedImage(name.replace("\\", "/"), height, width)
        parts = []
        for index, raw in enumerate(head):
            about = f"{path}: {name}, {raw.tag} {index}"
            if raw.tag == "tag":  # it is of the whole image
                continue
            label = known.label(raw.get("label", ""), about, report)
            one = None if label is None else _annotation(raw, image, label, about, report)
            if one is None or (one := objects.checked(one, image, about, report)) is None:
                continue
            group = raw.get("group_id")
            parts.append((None if group in ("", "0") else group, one))
        found.append((image, joined(parts, image)))
    return known.set_of(found)


def _annotation(raw, image, label, about, report) -> Annotation | None:
    attributes = {a.get("name"): (a.text or "").strip() for a in raw.findall("attribute")}
    others = {
        "crowd": attributes.get("crowd", "").lower() in ("true", "1"),
        "score": number(attributes.get("score", "")),
    }
    if raw.tag == "box":
        at = [number(raw.get(side)) for side in ("xtl", "ytl", "xbr", "ybr")]
        if None in at:
            report(f"{about} has no xtl, ytl, xbr and ybr: add them.")
            return None
        if degrees := number(raw.get("rotation")):
            left, top, right, bottom = at
            box = np.array([(left, top), (right, top), (right, bottom), (left, bottom)], float)
            corners = objects.turned(box, math.radians(degrees))
            return objects.of_polygon(corners, label, **others)
        return Annotation(label, tuple(at), None, **others)  # type: ignore[arg-type]
    if raw.tag == "polygon":
        try:
            pairs = [pair.split(",") for pair in raw.get("points", "").split(";") if pair.strip()]
            corners = np.array(pairs, float).reshape(len(pairs), 2)
        except ValueError:
            report(f"{about} has points that are no pairs of numbers: correct them.")
            return None
        return objects.of_polygon(corners, label, **others)
    if raw.tag == "ellipse":
        at = [at for name in ("cx", "cy", "rx", "ry") if (at := number(raw.get(name))) is not None]
        if len(at) < 4:
            report(f"{about} has no cx, cy, rx and ry: add them.")
            return None
        x, y, rx, ry = at
        turned = math.radians(number(raw.get("rotation")) or 0)
        return objects.of_polygon(objects.ellipse(x, y, rx, ry, turned), label, **others)
    if raw.tag == "mask":
        return _of_runs(raw, image, label, about, report, others)
    report(f"{about} has no area: give a polygon, a box, an ellipse or a mask.")
    return None


def _of_runs(raw, image, label, about, report, others) -> Annotation | None:
    """A mask: run lengths along the rows of its box, first of pixels outside."""
    try:
        left, top, width, height = (int(raw.get(k)) for k in ("left", "top", "width", "height"))
        counts = np.array([int(count) for count in raw.get("rle", "").split(",")], np.int64)
    except (TypeError, ValueError, OverflowError):
        report(f"{about} has no whole numbers as rle, left, top, width and height: correct it.")
        return None
    inside = min(left, top) >= 0 and min(width, height) > 0 and left + width <= image.width_px
    if not inside or top + height > image.height_px or counts.min() < 0:
        report(f"{about} reaches beyond its image: correct it.")
        return None
    total = sum(counts.tolist())  # NumPy's could overflow, and pass for right
    if total != width * height:
        report(
            f"{about} has run lengths that add up to {total:,}, not {width} x {height}:"
            " correct them."
        )
        return None
    check_size(about, height, width, LARGEST_IMAGE_PX)
    part = np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(height, width)
    if not part.any():
        report(f"{about} has an empty mask: leave it out.")
        return None
    return objects.of_part(part, top, left, image, label, **others)


def write(found: AnnotationSet, path: Path, images: Path | None = None) -> None:
    """As `annotations.write`."""
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    meta = ElementTree.SubElement(ElementTree.SubElement(root, "meta"), "task")
    labels = ElementTree.SubElement(meta, "labels")
    for name in found.classes:
        ElementTree.SubElement(ElementTree.SubElement(labels, "label"), "name").text = name
    for index, image in enumerate(found.images):
        head = ElementTree.SubElement(
            root,
            "image",
            id=str(index),
            name=image.name,
            width=str(image.width_px),
            height=str(image.height_px),
        )
        group = 0
        for one in image.objects:
            label = found.classes[one.label]
            parts: list[Any] = [None]
            if one.shape is not None and not one.crowd:
                parts = list(objects.shape_polygons(one, image))
            group += len(parts) > 1
            for part in parts:
                others = {"label": label, "occluded": "0", "z_order": "0"}
                others |= {"group_id": str(group)} if len(parts) > 1 else {}
                element = _element(head, one, image, part, others)
                if one.crowd:
                    ElementTree.SubElement(element, "attribute", name="crowd").text = "true"
                if one.score is not None:
                    score = ElementTree.SubElement(element, "attribute", name="score")
                    score.text = repr(one.score)
    ElementTree.indent(root)
    text = ElementTree.tostring(root, encoding="unicode", xml_declaration=False)
    path.write_text(f'<?xml version="1.0" encoding="utf-8"?>\n{text}\n', encoding="utf-8")


def _element(head, one, image, part, others) -> ElementTree.Element:
    if part is not None:
        points = ";".join(f"{plain(x)},{plain(y)}" for x, y in part.tolist())
        return ElementTree.SubElement(head, "polygon", {**others, "points": points})
    if one.shape is None:
        sides = zip(("xtl", "ytl", "xbr", "ybr"), one.box, strict=True)
        box = {name: str(plain(at)) for name, at in sides}
        return ElementTree.SubElement(head, "box", {**others, **box})
    part, top, left = objects.part_of(one, image.height_px, image.width_px)
    pixels = part.ravel()
    edges = np.flatnonzero(np.diff(pixels)) + 1
    counts = np.diff([0, *edges.tolist(), pixels.size]).tolist()
    counts = [0, *counts] if pixels.size and pixels[0] else counts
    about = {
        "rle": ", ".join(map(str, counts)),
        "left": str(left),
        "top": str(top),
        "width": str(part.shape[1]),
        "height": str(part.shape[0]),
    }
    return ElementTree.SubElement(head, "mask", {**others, **about})
