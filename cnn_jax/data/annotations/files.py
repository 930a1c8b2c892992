"""What all readers of annotations share: files that are there, classes, sizes of images."""

import json
import math
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cnn_jax.configuration import documents
from cnn_jax.configuration.schema import nearest
from cnn_jax.data import objects
from cnn_jax.data.file_names import IMAGE_SUFFIXES, composed, natural
from cnn_jax.data.folders import below
from cnn_jax.data.objects import AnnotatedImage, Annotation, AnnotationSet, Report
from cnn_jax.data.rasters import Raster, open_raster
from cnn_jax.errors import InputError

MOST_PX = 2**32 - 1
"""Of an image: COCO's run lengths hold no more."""

MOST_CLASSES = 10_000
"""Where no names are given, each number up to the greatest is a class."""


def content(path: Path) -> bytes:
    """A file's bytes. Raises InputError where it can't be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} can't be read ({error.strerror}): check the path.") from error


def text_of(path: Path) -> str:
    """A text file's content, without a byte order mark. Raises InputError where it isn't UTF-8."""
    try:
        return content(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} isn't UTF-8: save it so.") from error


def json_of(path: Path, what: str) -> Any:
    """What a JSON file holds; `what` it was meant to be, for errors. Raises InputError."""
    try:
        return documents.parse(content(path))
    except ValueError as error:
        raise InputError(f"{path} is no {what}: it is not valid JSON ({error}).") from error


def xml_of(path: Path, root: str, what: str) -> ElementTree.Element:
    """The root of an XML file. Raises InputError where it isn't called `root`."""
    text = content(path)
    if b"<!ENTITY" in text:  # a few bytes could unfold into gigabytes
        raise InputError(f"{path} defines entities, which no {what} does: remove them.")
    try:
        found = ElementTree.fromstring(text)
    # Of an encoding that isn't known, or is none that a parser takes, it says so otherwise.
    except (ElementTree.ParseError, LookupError, ValueError) as error:
        raise InputError(f"{path} is no {what}: it is not valid XML ({error}).") from error
    if found.tag != root:
        raise InputError(f"{path} is no {what}: it begins with <{found.tag}>, not <{root}>.")
    return found


def files_in(path: Path, suffixes: Sequence[str], what: str) -> list[Path]:
    """A file itself, or those of a folder and its subfolders with such names, in natural order.

    Raises:
        InputError: the path isn't there, or no file of it has such a name.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InputError(f"{path} is neither a file nor a folder: give {what}.")
    found = list(below(path, suffixes))
    if not found:
        raise InputError(f"{path} holds no {what}: give another folder.")
    return sorted(found, key=lambda p: natural(p.relative_to(path).as_posix()))


def class_name(text: str) -> str:
    """The name of a class as people type it: composed, without blanks at its ends."""
    return composed(text).strip()


def distinct(names: Iterable[str], where: Any) -> tuple[str, ...]:
    """Names of classes as `class_name` has them. Raises InputError where one recurs in what `where`
    calls."""
    found = tuple(map(class_name, names))
    for name, count in Counter(found).most_common(1):
        if count > 1:
            raise InputError(f"{where} has the class {name} {count} times: name each differently.")
    return found


class Classes:
    """Classes by name: those given, or those that occur, in the order of their names.

    Args:
        given: their names; empty: any.
    """

    def __init__(self, given: Sequence[str]) -> None:
        self.given, self._seen = tuple(map(class_name, given)), {}

    def label(self, name: str, about: str, report: Report) -> int | None:
        """A number for a class's name; None where it is empty or isn't among those given, after
        `report` was told."""
        name = class_name(name)
        if not name:
            report(f"{about} has no class: name it.")
            return None
        if self.given and name not in self.given:
            report(
                f"{about} has the category {name!r}, which is unknown: {nearest(name, self.given)}."
            )
            return None
        return self._seen.setdefault(name, len(self._seen))

    def set_of(
        self,
        found: Iterable[tuple[AnnotatedImage, Sequence[Annotation]]],
        lost: tuple[str, ...] = (),
    ) -> AnnotationSet:
        """Images with their objects, whose labels `label` gave, in the order of their names."""
        names = self.given or tuple(sorted(self._seen, key=natural))
        labels = [names.index(name) for name in self._seen]
        images = []
        for image, every in found:
            ours = tuple(objects.replace(one, label=labels[one.label]) for one in every)
            images.append(objects.replace(image, objects=ours))
        return AnnotationSet(names, tuple(images), lost=lost)


def joined(
    parts: Iterable[tuple[Any, Annotation]], image: AnnotatedImage
) -> tuple[Annotation, ...]:
    """Objects of (group, part): parts of one group and class are one; of the group None, each."""
    found: dict[Any, Annotation] = {}
    for place, (group, one) in enumerate(parts):
        key = place if group is None else (one.label, str(group))
        if (first := found.get(key)) is not None:
            shape = (*objects.shape_polygons(first, image), *objects.shape_polygons(one, image))
            box = objects.polygons_box([np.reshape(part.box, (2, 2)) for part in (first, one)])
            score = first.score if first.score is not None else one.score
            one = objects.replace(first, box=box, shape=shape, score=score)
        found[key] = one
    return tuple(found.values())


def image_files(images: Path | None, what: str) -> dict[str, Path]:
    """The images of a folder and its subfolders: POSIX path from the folder -> file.

    Raises:
        InputError: no folder is given, or it isn't there.
    """
    if images is None:
        raise InputError(f"--images is missing: {what} don't say how large their images are.")
    if not images.is_dir():
        raise InputError(f"{images} is no folder: give that of the images with --images.")
    found = sorted(below(images, (*IMAGE_SUFFIXES, ".jp2", ".j2k")))
    return {p.relative_to(images).as_posix(): p for p in found}


def check_size(about: str, height: int, width: int, most: int = MOST_PX) -> None:
    """Raises InputError where an image has more pixels than that, as a few bytes can claim."""
    if height * width > most:
        raise InputError(
            f"{about} is of {width} x {height} px, over the limit of {most:,} pixels: correct its"
            " size, or cut it into parts."
        )


def open_upright(
    path: Path, in_parts: bool = False, size_px: tuple[int, int] | None = None
) -> Raster:
    """As `open_raster`. Raises InputError where a tag turns the image: some tools place objects on
    the pixels as they are stored, others on those that are shown, and no format says which, unless
    the height and width that the annotations have, `size_px`, are those of what is stored alone."""
    raster = open_raster(path, in_parts=in_parts)
    stored = raster.height_px, raster.width_px
    check_size(str(path), *stored)
    told = raster.orientation >= 5 and size_px == stored != stored[::-1]
    if raster.orientation != 1 and not told:
        raise InputError(
            f"{path} has the EXIF orientation {raster.orientation}, so where its objects lie is"
            " unknown: save it upright and without the tag, its annotations likewise."
        )
    return raster


def size_of(path: Path) -> tuple[int, int]:
    """Height and width of an image, without decoding it. Raises InputError."""
    raster = open_upright(path, in_parts=True)
    return raster.height_px, raster.width_px


def by_stem(images: Iterable[str]) -> dict[str, str]:
    """Path without suffix, composed -> path. Raises InputError where two images would share a file
    of annotations."""
    found: dict[str, str] = {}
    for name in images:
        other = found.setdefault(composed(name[: len(name) - len(Path(name).suffix)]), name)
        if other != name:
            raise InputError(
                f"the images {other} and {name} would have one file of annotations: rename one."
            )
    return found


def write_json(path: Path, value: Any) -> None:
    """Writes JSON, whole or not at all."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text + "\n", encoding="utf-8")
    partial.replace(path)


def number(value: Any) -> float | None:
    """A finite number of a JSON or text, or None where it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return found if math.isfinite(found := float(value)) else None
    except ValueError:
        return None


def whole(value: Any) -> int | None:
    """A whole number of a JSON, which some programs write as 40.0, or None where it is none."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if type(value) is int else None


def beside(path: Path, folder: Path, suffix: str) -> Path:
    """Where a file about an image goes; makes its folder."""
    to = folder / Path(path).with_suffix(suffix)
    to.parent.mkdir(parents=True, exist_ok=True)
    return to


def plain(value: float) -> int | float:
    """A whole number as an int, for shorter files."""
    return int(value) if float(value).is_integer() else float(value)
