"""YOLO's text files, one an image: a line an object, with its class's number and a box (middle,
width, height) or a polygon, all as shares of the image's size; of predictions a score at the end.

Names of classes stand in `data.yaml` or `classes.txt`. Sizes of images are in the files alone.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from cnn_jax.data import objects
from cnn_jax.data.annotations.files import (
    MOST_CLASSES,
    beside,
    by_stem,
    distinct,
    files_in,
    image_files,
    number,
    size_of,
    text_of,
)
from cnn_jax.data.file_names import composed
from cnn_jax.data.objects import AnnotatedImage, Annotation, AnnotationSet, Report
from cnn_jax.errors import InputError

NAMES = ("data.yaml", "data.yml", "dataset.yaml", "classes.txt", "obj.names")


def read(path: Path, images: Path | None, classes: Sequence[str], report: Report) -> AnnotationSet:
    """As `annotations.read`: of a folder, with `labels` within or without. An image without a text
    file has no objects; a text file without an image is refused."""
    if not path.is_dir():
        raise InputError(f"{path} is no folder: give that of YOLO's text files.")
    file, told = _told(path)
    names = tuple(classes) or _names(file, told)
    points = isinstance(told, dict) and "kpt_shape" in told
    labels = path / "labels" if (path / "labels").is_dir() else path
    files = image_files(images, "YOLO's files")
    stems = by_stem(files)
    texts = {
        composed(file.relative_to(labels).with_suffix("").as_posix()): file
        for file in files_in(labels, (".txt",), "text files of YOLO")
        if file.name not in NAMES
    }
    for stem, file in texts.items():
        if stem not in stems:
            raise InputError(f"{file} has no image {stem} in {images}: add it.")
    found, most = [], -1
    for stem, name in stems.items():
        image = AnnotatedImage(name, *size_of(files[name]))
        every = []
        lines = text_of(texts[stem]).splitlines() if stem in texts else []
        for row, line in enumerate(lines, 1):
            about = f"{texts[stem]}: line {row}"
            words = line.split()
            # Of a pose, what follows the box are keypoints, and no polygon.
            one = _annotation(words[:5] if points else words, image, names, about, report)
            if one is not None and (one := objects.checked(one, image, about, report)):
                every.append(one)
                most = max(most, one.label)
        found.append(AnnotatedImage(name, image.height_px, image.width_px, tuple(every)))
    names = names or tuple(str(label) for label in range(most + 1))
    lost = ("keypoints are left out",) if points else ()
    return AnnotationSet(names, tuple(found), lost=lost)


def _told(path: Path) -> tuple[Path, Any]:
    """The file about classes that lies in a folder, or in the nearest of the two that it lies in,
    as `data.yaml` does for `labels/train` and `train/labels`; and what it says, None without one.
    """
    for folder in (path, *path.parents[:2]):
        for name in NAMES:
            file = folder / name
            if not file.is_file():
                continue
            text = text_of(file)
            if file.suffix not in (".yaml", ".yml"):
                return file, {"names": [line.strip() for line in text.splitlines() if line.strip()]}
            try:
                # As texts, all of them: "no" and "on" are names too, and no booleans.
                return file, yaml.BaseLoader(text).get_single_data() or {}
            # An escape of a letter that there is none of is an OverflowError or a ValueError.
            except (yaml.YAMLError, AttributeError, OverflowError, ValueError, RecursionError) as e:
                raise InputError(f"{file} is not valid YAML: correct it.") from e
    return path, None


def _names(file: Path, told: Any) -> tuple[str, ...]:
    """The names of classes by what a file told; none where there is no file."""
    if told is None:
        return ()
    names = told.get("names") if isinstance(told, dict) else None
    if isinstance(names, dict) and names.keys() == set(map(str, range(len(names)))):
        names = [names[str(label)] for label in range(len(names))]
    if not isinstance(names, list) or not all(isinstance(n, str) and n for n in names):
        raise InputError(f"{file} has no names of classes: give a list of them.")
    return distinct(names, file)


def _annotation(words, image, names, about, report) -> Annotation | None:
    if not words:
        return None
    numbers = [at for at in map(number, words) if at is not None]
    if len(numbers) < len(words) or numbers[0] % 1 or numbers[0] < 0:
        report(f"{about} doesn't hold the number of a class and further numbers: correct it.")
        return None
    label, rest = int(numbers[0]), numbers[1:]
    if label >= (len(names) or MOST_CLASSES):
        known = len(names) or f"no names, and so at most {MOST_CLASSES:,}"
        report(
            f"{about} has the category {label}, which is unknown: there are {known}, the first"
            " being 0."
        )
        return None
    size = np.array([image.width_px, image.height_px])
    if len(rest) in (4, 5):
        x, y, width, height = np.array(rest[:4], float) * np.tile(size, 2)
        box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        # Without what shares of a size add in the sixteenth digit.
        left, top, right, bottom = (round(float(at), 6) for at in box)
        score = rest[4] if len(rest) == 5 else None
        return Annotation(label, (left, top, right, bottom), None, score=score)
    if len(rest) < 6:
        report(f"{about} has {len(words)} numbers: a box takes 5, a polygon 7 or more.")
        return None
    score = rest[-1] if len(rest) % 2 else None
    corners = np.array(rest[: len(rest) // 2 * 2], float).reshape(-1, 2) * size
    return objects.of_polygon(np.round(corners, 6), label, score=score)


def write(found: AnnotationSet, path: Path, images: Path | None = None) -> None:
    """As `annotations.write`: boxes."""
    _write(found, path, _box_line)


def write_polygons(found: AnnotationSet, path: Path, images: Path | None = None) -> None:
    """As `annotations.write`: polygons, with bridges between the parts of an object; of what only
    a box is known, the box."""
    _write(found, path, _polygon_line)


def _write(found, path, line):
    path.mkdir(exist_ok=True)
    names = yaml.safe_dump(
        {"names": dict(enumerate(found.classes))}, allow_unicode=True, sort_keys=False
    )
    (path / "data.yaml").write_text(names, encoding="utf-8")
    for image in found.images:
        text = "".join(f"{line(one, image)}\n" for one in image.objects)
        beside(Path(image.name), path / "labels", ".txt").write_text(text, encoding="utf-8")


def _box_line(one, image) -> str:
    left, top, right, bottom = one.box
    width, height = image.width_px, image.height_px
    at = [(left + right) / 2 / width, (top + bottom) / 2 / height]
    at += [(right - left) / width, (bottom - top) / height]
    return _line(one, at)


def _polygon_line(one, image) -> str:
    if one.shape is None:
        return _box_line(one, image)
    parts = objects.shape_polygons(one, image)
    polygon = objects.bridged(parts)
    if isinstance(one.shape, tuple) and len(parts) > 1:
        # Where parts overlap, a polygon of both has a hole; one around their pixels has none.
        size = image.height_px, image.width_px
        runs = objects.shape_runs(one.shape, one.box, *size)
        if objects.shape_runs((polygon,), one.box, *size) != runs:
            around = objects.replace(one, shape=runs)
            polygon = objects.bridged(objects.shape_polygons(around, image))
    return _line(one, (polygon / (image.width_px, image.height_px)).ravel().tolist())


def _line(one, shares) -> str:
    words = [str(one.label), *(f"{share:.12g}" for share in shares)]
    return " ".join(words if one.score is None else [*words, f"{one.score:.6g}"])
