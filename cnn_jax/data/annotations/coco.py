"""COCO's JSON (Lin et al., 2014): boxes, polygons, run lengths, crowds; and ours, with scores."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cnn_jax.data import objects
from cnn_jax.data.annotations.files import (
    Classes,
    check_size,
    class_name,
    json_of,
    number,
    plain,
    whole,
    write_json,
)
from cnn_jax.data.objects import AnnotatedImage, Annotation, AnnotationSet, Report
from cnn_jax.errors import InputError

WHAT = "COCO annotation file"
IDS = ("id", "image_id", "category_id")


def read(path: Path, images: Path | None, classes: Sequence[str], report: Report) -> AnnotationSet:
    """As `annotations.read`. Ids of categories may have gaps; those of images and annotations may
    be texts. A class that `classes` doesn't name is unknown."""
    content = json_of(path, WHAT)
    known = {"images", "annotations", "categories"}
    if not isinstance(content, dict) or not known <= content.keys():
        missing = known - (content.keys() if isinstance(content, dict) else set())
        raise InputError(
            f"{path} is no {WHAT}: it has no {' and no '.join(sorted(missing))}; give an"
            " instances_*.json."
        )
    for name in known:
        if not isinstance(content[name], list) or not all(
            isinstance(one, dict) for one in content[name]
        ):
            raise InputError(f"{path} is no {WHAT}: its {name} is no list of objects.")

    of_file, labels, names, ids = _categories(path, content["categories"], classes)
    heads: dict[Any, AnnotatedImage] = {}
    for head in content["images"]:
        id_, name = head.get("id"), head.get("file_name")
        height, width = (whole(head.get(side)) or 0 for side in ("height", "width"))
        if isinstance(id_, list | dict | None) or not isinstance(name, str) or not name:
            raise InputError(f"{path} has an image without id or file_name: add them.")
        if min(height, width) < 1:
            raise InputError(f"{path}: image {id_} has no height and width above 0: add them.")
        check_size(f"{path}: image {id_}", height, width)
        if id_ in heads:
            raise InputError(f"{path} has two images with the id {id_}: number them anew.")
        heads[id_] = AnnotatedImage(name.replace("\\", "/"), height, width, id=id_)

    found: dict[Any, list[Annotation]] = {id_: [] for id_ in heads}
    seen = set()
    for raw in content["annotations"]:
        about = f"{path}: annotation {raw.get('id')}"
        if any(isinstance(raw.get(name), list | dict) for name in IDS):
            report(f"{about} has a list or an object as {', '.join(IDS)}: give numbers.")
            continue
        if raw.get("id") is not None:
            if raw["id"] in seen:
                report(f"{path} has two annotations with the id {raw['id']}: number them anew.")
                continue
            seen.add(raw["id"])
        if raw.get("image_id") not in heads:
            report(
                f"{about} is of image {raw.get('image_id')!r}, which the file doesn't list: add the"
                " image, or remove the annotation."
            )
            continue
        if raw.get("category_id") not in labels:
            if raw.get("category_id") in of_file:
                Classes(classes).label(of_file[raw["category_id"]], about, report)
                continue
            report(
                f"{about} has the category {raw.get('category_id')!r}, which is unknown: add it to"
                " categories, or correct it."
            )
            continue
        image = heads[raw["image_id"]]
        one = _annotation(raw, image, labels[raw["category_id"]], about, report)
        if one is None or (one := objects.checked(one, image, about, report)) is None:
            continue
        if _apart(one, image):
            report(f"{about} has a segmentation without a pixel in its bbox: correct one of them.")
            continue
        found[raw["image_id"]].append(one)
    points = any(raw.get("keypoints") for raw in content["annotations"])
    del content
    every = (
        AnnotatedImage(h.name, h.height_px, h.width_px, tuple(found[i]), i)
        for i, h in heads.items()
    )
    return AnnotationSet(names, tuple(every), ids, ("keypoints are left out",) if points else ())


def _categories(path, categories, classes):
    """(id -> the file's name, id -> label, names, ids); names that recur get their id behind."""
    of_file: dict[int, str] = {}
    for one in categories:
        id_, name = whole(one.get("id")), one.get("name")
        name = class_name(name) if isinstance(name, str) else ""
        if id_ is None or not name:
            raise InputError(
                f"{path} has a category without a whole number as id or without name: give both."
            )
        if id_ in of_file:
            raise InputError(f"{path} has two categories with the id {id_}: number them anew.")
        of_file[id_] = f"{name} {id_}" if name in of_file.values() else name
    if not of_file:
        raise InputError(f"{path} has no categories: add them.")
    of_file = dict(sorted(of_file.items()))
    if not classes:
        labels = {id_: label for label, id_ in enumerate(of_file)}
        return of_file, labels, tuple(of_file.values()), tuple(of_file)
    labels = {id_: classes.index(name) for id_, name in of_file.items() if name in classes}
    own = {name: id_ for id_, name in of_file.items()}
    ids = tuple(own[name] for name in classes) if own.keys() >= set(classes) else ()
    return of_file, labels, tuple(classes), ids


def _annotation(raw, image, label, about, report) -> Annotation | None:
    score = raw.get("score")
    if score is not None and number(score) is None:
        report(f"{about} has the score {str(score)[:40]!r}: give a number.")
        return None
    others: dict[str, Any] = {
        "crowd": raw.get("iscrowd") in (1, "1", "true", "True"),
        "score": number(score),
        "id": raw.get("id"),
    }
    shape, complaint = _shape(raw.get("segmentation"), image)
    if complaint:
        report(f"{about} {complaint}")
        return None
    box = raw.get("bbox")
    if box is None and shape is not None:
        return Annotation(label, _around(shape, image), shape, **others)
    numbers = [number(at) for at in box] if isinstance(box, list) and len(box) == 4 else [None]
    if None in numbers:
        report(f"{about} has no bbox of four numbers: x, y, width and height.")
        return None
    x, y, width, height = numbers
    return Annotation(label, (x, y, x + width, y + height), shape, **others)  # type: ignore[operator]


def _shape(segmentation, image):
    """(shape, None), or (None, what is wrong with it)."""
    if segmentation is None or segmentation == []:
        return None, None
    height, width = image.height_px, image.width_px
    if isinstance(segmentation, dict):
        size, counts = segmentation.get("size"), segmentation.get("counts")
        if size != [height, width]:
            return None, (
                f"has run lengths of an image of size {size}, and its image has"
                f" {[height, width]}: correct one of them."
            )
        try:
            if isinstance(counts, str):
                counts = objects.counts_of_runs(counts.encode())
            if not isinstance(counts, list):
                raise ValueError("counts are a text, or a list of numbers")
            counts = [count if (known := whole(count)) is None else known for count in counts]
            return objects.runs_of_counts(counts, height, width), None
        except ValueError as error:
            return None, f"has run lengths that can't be used ({error}): correct them."
    if not isinstance(segmentation, list):
        return None, "has a segmentation that is neither polygons nor run lengths: correct it."
    polygons = []
    for flat in segmentation:
        if not isinstance(flat, list) or any(number(at) is None for at in flat):
            return None, "has a polygon that is no list of numbers: correct it."
        if len(flat) < 6 or len(flat) % 2:
            return None, (
                f"has a polygon of {len(flat)} numbers: give x and y of three corners or more, or"
                " leave the object out."
            )
        polygons.append(np.array(flat, float).reshape(-1, 2))
    return tuple(polygons), None


def _around(shape, image) -> objects.Box:
    """The box around a mask."""
    if isinstance(shape, bytes):
        return objects.box_of(shape, image.height_px, image.width_px)
    return objects.polygons_box(shape)


def _apart(one, image) -> bool:
    """Whether a mask is empty, or lies outside the box by more than rounding, as it does where one
    of them alone was scaled."""
    if one.shape is None:
        return False
    around = _around(one.shape, image)
    return min(around[2:]) <= 0 or any(
        one.box[i] > around[i + 2] + 1 or one.box[i + 2] < around[i] - 1 for i in (0, 1)
    )


def write(found: AnnotationSet, path: Path, images: Path | None = None) -> None:
    """As `annotations.write`: polygons, and of crowds run lengths."""
    write_json(path, content(found))


def content(found: AnnotationSet) -> dict[str, Any]:
    """What COCO's JSON holds of a set."""
    ids, taken = found.ids, set()
    given = [image.id for image in found.images]
    keep = None not in given and len(set(given)) == len(given)
    heads, annotations, number_ = [], [], 0
    for place, image in enumerate(found.images, 1):
        image_id = image.id if keep else place
        heads.append(
            {
                "id": image_id,
                "file_name": image.name,
                "height": image.height_px,
                "width": image.width_px,
            }
        )
        for one in image.objects:
            number_ += 1
            while number_ in taken:
                number_ += 1
            id_ = one.id if one.id is not None and one.id not in taken else number_
            taken.add(id_)
            annotations.append(_written(one, image, image_id, id_, ids[one.label]))
    names = zip(ids, found.classes, strict=True)
    return {
        "images": heads,
        "annotations": annotations,
        "categories": [{"id": id_, "name": name} for id_, name in names],
    }


def _written(one: Annotation, image: AnnotatedImage, image_id, id_, category_id) -> dict[str, Any]:
    size = [image.height_px, image.width_px]
    left, top, right, bottom = one.box
    area = one.box_area
    segmentation: Any = []
    if one.shape is not None:
        counts = objects.shape_runs(one.shape, one.box, *size)
        area = objects.area(counts, *size)
        if one.crowd:
            segmentation = {"size": size, "counts": objects.counts_of_runs(counts)}
        else:
            segmentation = [
                [plain(at) for at in polygon.ravel().tolist()]
                for polygon in objects.shape_polygons(one, image)
            ]
    written = {
        "id": id_,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": [plain(at) for at in (left, top, right - left, bottom - top)],
        "area": plain(area),
        "iscrowd": int(one.crowd),
        "segmentation": segmentation,
    }
    return written if one.score is None else written | {"score": one.score}
