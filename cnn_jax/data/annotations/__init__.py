"""Files of annotated objects, one format a file; `FORMATS` names them all.

Each reads an `AnnotationSet` and writes one, and says what it can hold: what it can't is counted by
`losses` before a file is written.
"""

import importlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from cnn_jax.configuration.schema import nearest
from cnn_jax.data import objects
from cnn_jax.data.annotations.files import by_stem, check_size, distinct, open_upright
from cnn_jax.data.file_names import IMAGE_SUFFIXES, can_be_shown
from cnn_jax.data.folders import file_named
from cnn_jax.data.objects import AnnotatedImage, AnnotationSet, Report
from cnn_jax.data.rasters import LARGEST_IMAGE_PX, Raster
from cnn_jax.errors import InputError

_POLYGONS = {"masks", "boxes", "overlaps", "parts", "crowds", "scores", "decimals", "classes"}
_LISTED = {"listed"}
"""Classes are named even where no object is of them."""

FORMATS: dict[str, frozenset[str]] = {
    "coco": frozenset(_POLYGONS | _LISTED | {"ids"}),
    "labelme": frozenset(_POLYGONS),
    "via": frozenset(_POLYGONS),
    "cvat": frozenset(_POLYGONS | _LISTED),
    "yolo": frozenset({"boxes", "overlaps", "scores", "decimals", "classes"} | _LISTED),
    "yolo_polygons": frozenset((_POLYGONS | _LISTED) - {"crowds"}),
    "voc": frozenset({"boxes", "overlaps", "crowds", "classes"}),
    "geojson": frozenset(_POLYGONS),
    "index_masks": frozenset({"masks", "parts"}),
    "palette_masks": frozenset({"masks", "crowds", "classes"}),
}
"""Format -> what it can hold."""

ONE_FILE = {"coco": ".json", "via": ".json", "cvat": ".xml"}
"""Formats of one file, and how it ends; others have a file an image, of its name."""

SIZED = ("coco", "labelme", "cvat", "voc")
"""Formats that state the sizes of images; others are read beside the images."""

DENSE = ("index_masks", "palette_masks")
"""Formats with a value for each pixel."""

MOST_IN_PALETTE = 254
"""Classes of a byte that holds 0, none of them, and 255, what counts nowhere."""


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        name: a key of `FORMATS`.
        holds: what it can hold.
        read: `(path, images, classes, report) -> AnnotationSet`.
        write: `(found, path, images)`.
    """

    name: str
    holds: frozenset[str]
    read: Callable[..., AnnotationSet]
    write: Callable[[AnnotationSet, Path, Path | None], None]


def of(name: str, field: str = "--read") -> Format:
    """The format of that name. Raises InputError, naming `field`, where there is none."""
    if name not in FORMATS:
        raise InputError(f"{field} {name} is no format: {nearest(name, FORMATS)}.")
    module = importlib.import_module(f"cnn_jax.data.annotations.{name.removesuffix('_polygons')}")
    write = module.write_polygons if name == "yolo_polygons" else module.write
    return Format(name, FORMATS[name], module.read, write)


def read(
    name: str,
    path: Path,
    images: Path | None = None,
    classes: Sequence[str] = (),
    report: Report = objects.refuse,
) -> AnnotationSet:
    """What a file or folder of annotations holds.

    Args:
        name: of the format.
        path: of the file or folder.
        images: the folder of the images, which some formats need for sizes and places.
        classes: their names in the order of labels; empty: as the files say, or as they occur.
        report: told of each object that can't be used; raises, or leaves the object out.

    Raises:
        InputError: what can't be used at all: the file isn't there or isn't of this format, or
            lists an image twice, or has boxes as shares where pixels are asked for.
    """
    if name in ONE_FILE and path.is_dir():
        raise InputError(
            f"{path} is a folder, and {name} is one file: name that (of a training:"
            " --data.annotations)."
        )
    found = of(name).read(path, images, distinct(classes, "the list of classes"), report)
    boxes = [one.box for i in found.images for one in i.objects if min(i.height_px, i.width_px) > 1]
    if boxes and np.max(boxes) <= 1:
        raise InputError(
            f"{path} has all of its {len(boxes):,} boxes within the first pixel, as shares of the"
            " images' sizes would lie: multiply them by width and height."
        )
    names = Counter(PurePosixPath(image.name).as_posix() for image in found.images)
    for twice, count in names.most_common(1):
        if count > 1:
            raise InputError(
                f"{path} lists the image {twice} {count} times: bring its objects together."
            )
    return found


def check(
    name: str, classes: Sequence[str], images: Sequence[AnnotatedImage], field: str
) -> Format:
    """The format of that name, which can hold such images, whatever lies in them.

    Raises:
        InputError: there is none, which `field` asks for; a file of an image would lie outside its
            folder or be another's too, an image is too large for masks, or classes are too many.
    """
    form = of(name, field)
    if form.name not in ONE_FILE:
        by_stem(map(_within, (image.name for image in images)))
    if form.name in DENSE:
        for image in images:
            check_size(image.name, image.height_px, image.width_px, LARGEST_IMAGE_PX)
    if form.name == "palette_masks" and len(classes) > MOST_IN_PALETTE:
        raise InputError(
            f"{field} palette_masks takes {MOST_IN_PALETTE} classes at most, not {len(classes):,}:"
            " give another format."
        )
    return form


def write(
    found: AnnotationSet,
    name: str,
    path: Path,
    images: Path | None = None,
    overwrite: bool = False,
) -> list[str]:
    """Writes annotations; nothing that exists is touched, unless asked for.

    Args:
        found: to be written.
        name: of the format.
        path: of the file or folder, which mustn't exist, or be an empty folder where one is
            written.
        images: the folder of the images; GeoJSON takes places from it.
        overwrite: whether files of the same names are replaced.

    Returns:
        Sentences on what the format can't hold.

    Raises:
        InputError: the path is taken or can't be written; or as `check`.
    """
    form = check(name, found.classes, found.images, "--write")
    room = form.name not in ONE_FILE and path.is_dir() and not any(path.iterdir())
    if path.exists() and not overwrite and not room:
        raise InputError(f"{path} exists: give another --output, or remove it.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        form.write(found, path, images)
    except OSError as error:
        raise InputError(f"{path} can't be written ({error.strerror}): give another.") from error
    return [*found.lost, *losses(found, form)]


def lies_within(name: str) -> bool:
    """Whether the name of an image leads nowhere out of a folder."""
    path = PurePosixPath(name)
    outside = path.is_absolute() or ".." in path.parts or not path.name
    return not outside and can_be_shown(name)


def open_image(image: AnnotatedImage, folder: Path, in_parts: bool = False) -> Raster:
    """The file of an image, not decoded; see `open_upright`.

    Raises:
        InputError: it is missing, isn't upright or of another size than its annotations say, or its
            name leads out of the folder.
    """
    if not lies_within(image.name):
        raise InputError(
            f"the annotations have the image {image.name!r}, which isn't named by where it lies"
            f" within {folder}: rename it."
        )
    path = file_named(folder, image.name)
    if not path.is_file():
        raise InputError(f"{path} is missing, and has annotations: add it{_instead(path, folder)}.")
    raster = open_upright(path, in_parts, size_px=(image.height_px, image.width_px))
    if (raster.height_px, raster.width_px) != (image.height_px, image.width_px):
        raise InputError(
            f"{path} is {raster.width_px} x {raster.height_px} px, and its annotations are of"
            f" {image.width_px} x {image.height_px}: give those of this image."
        )
    return raster


def _instead(path: Path, folder: Path) -> str:
    """What may be meant by an image that isn't there, as the end of a sentence."""
    outer = folder.parent / path.relative_to(folder)
    if outer.is_file():
        return f", or give {folder.parent} as the folder of the images"
    others = path.parent.iterdir() if path.parent.is_dir() else ()
    alike = (one.name for one in others if one.stem.casefold() == path.stem.casefold())
    one = next((name for name in alike if Path(name).suffix.lower() in IMAGE_SUFFIXES), None)
    return f", or call it {one}, which is there" if one else ""


def _within(name: str) -> str:
    """The name of an image, of which others are made. Raises InputError where these would lie
    outside a folder."""
    if not lies_within(name):
        raise InputError(
            f"the image {name!r} isn't named by where it lies within a folder, and nor would be its"
            " file of annotations: rename it, or write coco."
        )
    return name


def losses(found: AnnotationSet, form: Format) -> list[str]:
    """Sentences on what of `found` a format can't hold."""
    every = [(image, one) for image in found.images for one in image.objects]
    dense = form.name in DENSE
    lacking = [
        ("masks", "masks become boxes", lambda image, one: one.shape is not None),
        ("boxes", "boxes become masks", lambda image, one: dense and one.shape is None),
        ("parts", "parts become objects of their own", lambda i, one: dense and _in_parts(i, one)),
        ("crowds", "crowds become ordinary objects", lambda image, one: one.crowd),
        ("scores", "scores are left out", lambda image, one: one.score is not None),
        ("decimals", "corners are rounded to whole pixels", _has_decimals),
        ("classes", "classes are left out", lambda image, one: one.label > 0),
    ]
    sentences = []
    for held, lost, which in lacking:
        number = held not in form.holds and sum(which(image, one) for image, one in every)
        if number:
            sentences.append(f"{number:,} objects: {lost}")
    covered = [_covered(image) for image in found.images] if dense else []
    if hidden := sum(pixels for pixels, _ in covered):
        sentences.append(f"{hidden:,} pixels of several objects: the smallest object keeps them")
    if unseen := sum(number for _, number in covered):
        sentences.append(f"{unseen:,} objects: no pixel shows them, and they are left out")
    if form.name == "palette_masks" and every:
        sentences.append("objects of one class that touch become one")
    unused = len(set(range(len(found.classes))) - {one.label for _, one in every})
    if form.name == "palette_masks":
        sentences.append("names of classes: give them anew with --classes")
    elif unused and "classes" in form.holds and "listed" not in form.holds:
        sentences.append(f"{unused:,} classes without objects: give all anew with --classes")
    plain = tuple(range(1, len(found.classes) + 1))
    if "ids" not in form.holds and found.ids != plain:
        sentences.append("numbers of categories: classes are known by their names")
    return sentences


def _has_decimals(image, one) -> bool:
    corners = [np.array(one.box)] if not isinstance(one.shape, tuple) else one.shape
    return any((at != np.round(at)).any() for at in corners)


def _in_parts(image, one) -> bool:
    if isinstance(one.shape, tuple):
        return len(one.shape) > 1
    return one.shape is not None and len(objects.shape_polygons(one, image)) > 1


def _covered(image) -> tuple[int, int]:
    """Pixels that several objects claim, and objects that are left without one."""
    numbers = objects.number_map(image)
    size = image.height_px, image.width_px
    whole = [objects.area(objects.shape_runs(o.shape, o.box, *size), *size) for o in image.objects]
    seen = set(np.unique(numbers).tolist())
    unseen = [n for n, one in enumerate(image.objects, 1) if not one.crowd and n not in seen]
    return int(sum(whole) - np.count_nonzero(numbers)), len(unseen)
