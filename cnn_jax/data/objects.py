"""Objects in images: what each is, where its box lies, which pixels are its own.

A mask is held as COCO's run lengths, a few dozen bytes, or as the polygons that a file gave; arrays
are made when they are needed. Polygons are read by one rule, COCO's: a pixel belongs to a polygon
if its middle lies inside, by the even-odd rule, and to an object if it belongs to one of its
polygons. `polygons` is exact: what it makes of a mask is that mask again, holes and parts included.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import scipy

from cnn_jax.errors import InputError

Box = tuple[float, float, float, float]
"""Left, top, right and bottom in px, where 0 is the image's edge and 1 the far edge of its first
pixel."""

Shape = bytes | tuple[np.ndarray, ...] | None
"""COCO's compressed run lengths; or polygons, float64 `[corners, 2]` of x and y; or nothing but
the box is known."""

ELLIPSE_CORNERS = 64

NOWHERE = -1
"""In a map of objects, pixels that count nowhere: crowds, padding."""


@dataclass(frozen=True)
class Annotation:
    """One object.

    Attributes:
        label: its class, an index.
        box: around it.
        shape: its pixels, where they are known.
        crowd: whether it is a group that nobody took apart: detections within count neither for
            nor against.
        score: of a prediction, from 0 to 1.
        id: in the file that it came from: a number, or a text; None: not said.
    """

    label: int
    box: Box
    shape: Shape = None
    crowd: bool = False
    score: float | None = None
    id: Any = None

    @property
    def box_area(self) -> float:
        """In square pixels."""
        left, top, right, bottom = self.box
        return max(right - left, 0.0) * max(bottom - top, 0.0)


@dataclass(frozen=True)
class AnnotatedImage:
    """An image and the objects in it; its pixels lie in a file.

    Attributes:
        name: of the file, relative to the folder of images, with `/` between folders.
        height_px: of the image.
        width_px: of the image.
        objects: in the order of the file.
        id: in the file that it came from: a number, or a text; None: not said.
    """

    name: str
    height_px: int
    width_px: int
    objects: tuple[Annotation, ...] = ()
    id: Any = None


@dataclass(frozen=True)
class AnnotationSet:
    """The objects of many images.

    Attributes:
        classes: their names, in the order of labels.
        images: those without objects too.
        category_ids: what COCO calls each class, which may have gaps; empty: 1, 2, 3, ...
        lost: sentences on what the file held and this doesn't.
    """

    classes: tuple[str, ...]
    images: tuple[AnnotatedImage, ...]
    category_ids: tuple[int, ...] = ()
    lost: tuple[str, ...] = field(default=(), compare=False)

    @property
    def ids(self) -> tuple[int, ...]:
        """COCO's number of each class."""
        return self.category_ids or tuple(range(1, len(self.classes) + 1))


Report = Callable[[str], None]
"""Takes a sentence about an object that can't be used; what it returns from, goes on without that
object."""


def refuse(sentence: str) -> None:
    """The strict `Report`. Raises InputError."""
    raise InputError(sentence)


def _coco() -> Any:
    from faster_coco_eval.core import mask  # takes a moment

    return mask


def runs(mask: np.ndarray) -> bytes:
    """COCO's compressed run lengths of a mask bool `[height, width]`."""
    return _coco().encode(np.asfortranarray(mask, np.uint8))["counts"]


def runs_of_counts(counts: Sequence[int], height_px: int, width_px: int) -> bytes:
    """Compressed run lengths of those that a JSON holds as numbers: first of pixels outside, down
    the columns.

    Raises:
        ValueError: they aren't of an image of this size.
    """
    if any(type(count) is not int or count < 0 for count in counts):
        raise ValueError("run lengths are whole numbers, 0 or more")
    if sum(counts) != height_px * width_px:
        raise ValueError(f"run lengths add up to {sum(counts):,}, not {height_px * width_px:,}")
    size = [height_px, width_px]
    return _coco().frPyObjects({"size": size, "counts": list(counts)}, *size)["counts"]


def counts_of_runs(shape: bytes) -> list[int]:
    """Run lengths as numbers. Raises ValueError where the bytes are none."""
    counts: list[int] = []
    at = 0
    while at < len(shape):
        value = shift = 0
        while True:
            if at == len(shape) or not 48 <= shape[at] < 112:
                raise ValueError("these are no compressed run lengths")
            part = shape[at] - 48
            at += 1
            value |= (part & 31) << shift
            shift += 5
            if not part & 32:
                if part & 16:
                    value -= 1 << shift
                break
        if len(counts) > 2:
            value += counts[-2]
        if value < 0:
            raise ValueError("run lengths are 0 or more")
        counts.append(value)
    return counts


def shape_runs(shape: Shape, box: Box, height_px: int, width_px: int) -> bytes:
    """Compressed run lengths of a shape in an image; where only the box is known, of the box."""
    if isinstance(shape, bytes):
        return shape
    if shape is None:
        left, top, right, bottom = box
        corners = [left, top, right, top, right, bottom, left, bottom]
        rings = [corners]
    else:
        rings = [polygon.ravel().tolist() for polygon in shape]
    coco = _coco()
    parts = coco.frPyObjects(rings, height_px, width_px)
    return coco.merge(parts)["counts"] if len(parts) > 1 else parts[0]["counts"]


def rle(one: Annotation, height_px: int, width_px: int) -> dict[str, Any]:
    """An object's mask as faster-coco-eval and pycocotools take it."""
    counts = shape_runs(one.shape, one.box, height_px, width_px)
    return {"size": [height_px, width_px], "counts": counts}


def mask(one: Annotation, height_px: int, width_px: int) -> np.ndarray:
    """An object's pixels, bool `[height, width]`; where only the box is known, the box's."""
    return _coco().decode(rle(one, height_px, width_px)).astype(bool)


def placed_runs(part: np.ndarray, row: int, column: int, height_px: int, width_px: int) -> bytes:
    """Compressed run lengths of a mask bool `[rows, columns]` that lies at a place of an image,
    which may be far too large to hold."""
    edges = np.diff(np.pad(part.T, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    at = (np.arange(part.shape[1])[:, None] + column) * height_px + row
    at = at + np.arange(part.shape[0] + 1)
    starts, ends = at[edges == 1], at[edges == -1]
    if len(starts):  # down to the last row, and on from the first
        apart = starts[1:] != ends[:-1]
        starts, ends = starts[np.append(True, apart)], ends[np.append(apart, True)]
    places = np.stack([starts, ends], axis=1).ravel()
    counts = np.diff([0, *places, height_px * width_px]).tolist()
    return runs_of_counts(counts, height_px, width_px)


def part_of(one: Annotation, height_px: int, width_px: int) -> tuple[np.ndarray, int, int]:
    """An object's mask, bool `[rows, columns]`, as large as its pixels need, and its first row and
    column in the image; (an empty mask, 0, 0) where it has no pixels."""
    shape = shape_runs(one.shape, one.box, height_px, width_px)
    counts = np.array(counts_of_runs(shape), np.int64)
    ends = np.cumsum(counts)
    starts = (ends - counts)[1::2]
    lengths = counts[1::2]
    if not lengths.sum():
        return np.zeros((0, 0), bool), 0, 0
    first = np.repeat(starts - np.cumsum(lengths) + lengths, lengths)
    columns, rows = np.divmod(first + np.arange(len(first)), height_px)
    top, left = int(rows.min()), int(columns.min())
    part = np.zeros((int(rows.max()) + 1 - top, int(columns.max()) + 1 - left), bool)
    part[rows - top, columns - left] = True
    return part, top, left


def box_of(shape: bytes, height_px: int, width_px: int) -> Box:
    """The box around the pixels of a mask; of none, (0, 0, 0, 0)."""
    left, top, width, height = _coco().toBbox({"size": [height_px, width_px], "counts": shape})
    return float(left), float(top), float(left + width), float(top + height)


def area(shape: bytes, height_px: int, width_px: int) -> int:
    """Pixels of a mask."""
    return int(_coco().area({"size": [height_px, width_px], "counts": shape}))


def of_mask(pixels: np.ndarray, label: int, **others: Any) -> Annotation:
    """The object that has these pixels, bool `[height, width]`."""
    shape = runs(pixels)
    return Annotation(label, box_of(shape, *pixels.shape), shape, **others)


def of_polygon(corners: np.ndarray, label: int, **others: Any) -> Annotation:
    """The object within a polygon `[corners, 2]`."""
    return Annotation(label, polygons_box((corners,)), (corners,), **others)


def of_part(
    part: np.ndarray, row: int, column: int, image: AnnotatedImage, label: int, **others: Any
) -> Annotation:
    """The object whose pixels are a part, bool `[rows, columns]`, that lies at a place of an
    image."""
    size = image.height_px, image.width_px
    shape = placed_runs(part, row, column, *size)
    return Annotation(label, box_of(shape, *size), shape, **others)


def polygons(pixels: np.ndarray) -> tuple[np.ndarray, ...]:
    """The outlines of a mask bool `[height, width]`, float64 `[corners, 2]` of x and y at corners
    of pixels; one polygon each part, parts being joined by edges.

    A hole is cut out by a bridge: the polygon goes from its first corner to the hole, around it,
    and back. By the even-odd rule the bridge has no area, and the mask comes back exactly.
    """
    from rasterio import features

    found = []
    for outline, _ in features.shapes(pixels.astype(np.uint8), mask=pixels, connectivity=4):
        found.append(bridged([np.array(ring[:-1], float) for ring in outline["coordinates"]]))
    return tuple(found)


def turned(polygon: np.ndarray, radians: float) -> np.ndarray:
    """A polygon `[corners, 2]` turned about the middle of its box, from x towards y: clockwise."""
    middle = (polygon.min(0) + polygon.max(0)) / 2
    cos, sin = np.cos(radians), np.sin(radians)
    return (polygon - middle) @ np.array([[cos, sin], [-sin, cos]]) + middle


def ellipse(x: float, y: float, rx: float, ry: float, radians: float = 0.0) -> np.ndarray:
    """A polygon `[corners, 2]` for the ellipse about x and y with these radii in px, turned
    clockwise."""
    angles = np.arange(ELLIPSE_CORNERS) * (2 * np.pi / ELLIPSE_CORNERS)
    corners = np.stack([x + rx * np.cos(angles), y + ry * np.sin(angles)], axis=1)
    return turned(corners, radians) if radians else corners


def bridged(rings: Sequence[np.ndarray]) -> np.ndarray:
    """Rings as one polygon `[corners, 2]` by bridges from the first corner of the first: by the
    even-odd rule holes stay holes, and parts parts."""
    first, *others = rings
    if not others:
        return first
    start = first[:1]
    return np.concatenate(
        [first, start, *(row for ring in others for row in (ring, ring[:1], start))]
    )


def unbridged(polygon: np.ndarray) -> list[np.ndarray]:
    """The rings that `bridged` joined; a polygon without bridges is its only ring."""
    start = polygon[0]
    returns = np.flatnonzero((polygon[1:] == start).all(1)) + 1
    if len(returns) == 0 or len(polygon) < 7:
        return [polygon]
    rings = [polygon[: returns[0]]]
    for first, last in zip(returns, [*returns[1:], len(polygon)], strict=True):
        ring = polygon[first + 1 : last]
        if not len(ring):
            continue
        if len(ring) < 4 or not (ring[0] == ring[-1]).all():
            return [polygon]  # it passes its first corner again for reasons of its own
        rings.append(ring[:-1])
    return rings


def shape_polygons(one: Annotation, image: AnnotatedImage) -> tuple[np.ndarray, ...]:
    """An object's polygons: those that its file gave, but for parts without area, or the outlines
    of its mask, or its box."""
    if isinstance(one.shape, tuple):
        return tuple(filter(_encloses, one.shape)) or one.shape
    if one.shape is None:
        left, top, right, bottom = one.box
        return (np.array([[left, top], [right, top], [right, bottom], [left, bottom]]),)
    part, row, column = part_of(one, image.height_px, image.width_px)
    return tuple(polygon + np.array([column, row]) for polygon in polygons(part))


def number_map(image: AnnotatedImage) -> np.ndarray:
    """Which object each pixel belongs to, int32 `[height, width]`: 0 none, n the object number
    n - 1, `NOWHERE` a crowd. Where objects overlap, the smaller lies on top; crowds lie below all.
    """
    size = image.height_px, image.width_px
    found = np.zeros(size, np.int32)
    areas = [one.box_area for one in image.objects]
    order = sorted(range(len(areas)), key=lambda i: (not image.objects[i].crowd, -areas[i], i))
    for index in order:
        one = image.objects[index]
        value = NOWHERE if one.crowd else index + 1
        if one.shape is None:
            left, top, right, bottom = clipped_px(one.box, *size)
            found[top:bottom, left:right] = value
        else:
            found[mask(one, *size)] = value
    return found


def clipped_px(box: Box, height_px: int, width_px: int) -> tuple[int, int, int, int]:
    """The whole pixels of a box within an image: left, top, right, bottom, half-open."""
    left, top, right, bottom = (round(at) for at in box)
    left, right = np.clip((left, right), 0, width_px).tolist()
    top, bottom = np.clip((top, bottom), 0, height_px).tolist()
    return left, top, right, bottom


def of_map(numbers: np.ndarray, labels: Mapping[int, int]) -> tuple[Annotation, ...]:
    """The objects of a map int32 `[height, width]`, by their numbers, which become their ids.

    Args:
        numbers: 0 is none.
        labels: number -> class; those that occur nowhere are passed over.
    """
    found = []
    at = scipy.ndimage.find_objects(np.maximum(numbers, 0))
    for number, label in labels.items():
        where = at[number - 1] if number <= len(at) else None
        if where is None:
            continue
        whole = np.zeros(numbers.shape, bool)
        whole[where] = numbers[where] == number
        found.append(of_mask(whole, label, id=number))
    return tuple(found)


def checked(
    one: Annotation, image: AnnotatedImage, about: str, report: Report
) -> Annotation | None:
    """An object as it can be used: its box within the image, its polygons with an area. None where
    it can't be, after `report` was told.

    Boxes that reach over the edge by less than a pixel are rounded ones, and are cut without a
    word.

    Args:
        one: as its file has it.
        image: that it lies in.
        about: whose sentence it is, such as "instances.json: annotation 7".
        report: told what is wrong.
    """
    if complaint := _complaint(one, image.height_px, image.width_px):
        report(f"{about} {complaint}")
        return None
    left, top, right, bottom = one.box
    width, height = float(image.width_px), float(image.height_px)
    box = (max(left, 0.0), max(top, 0.0), min(right, width), min(bottom, height))
    return one if box == one.box else replace(one, box=box)


def _complaint(one: Annotation, height: int, width: int) -> str:
    """What is wrong with an object in an image of that size; "" where nothing is."""
    polygons = one.shape if isinstance(one.shape, tuple) else ()
    if few := [len(polygon) for polygon in polygons if len(polygon) < 3]:
        return f"has a polygon of {few[0]} corners: give three or more, or leave it out."
    left, top, right, bottom = one.box
    px = f"({', '.join(f'{at:g}' for at in one.box)})"
    if not all(np.isfinite(one.box)):
        return f"has a box that is not finite, {px}: give numbers."
    if right <= left or bottom <= top:
        return (
            f"has a box without area, from ({left:g}, {top:g}) to ({right:g}, {bottom:g}): give"
            " width and height above 0."
        )
    if right <= 0 or bottom <= 0 or left >= width or top >= height:
        return f"has a box outside its image of {width} x {height} px, {px}: correct it."
    if left < -1 or top < -1 or right > width + 1 or bottom > height + 1:
        return (
            f"has a box that reaches beyond its image of {width} x {height} px, {px}: correct it."
        )
    if not all(np.isfinite(polygon).all() for polygon in polygons):
        return "has a polygon with a corner that is not finite: give numbers."
    # One that leaves the image a little is cut at its edge; the way to one far off takes memory.
    far = 2 * max(height, width)
    if away := [polygon for polygon in polygons if np.abs(polygon).max() > far]:
        x, y = away[0][np.abs(away[0]).max(1).argmax()]
        return (
            f"has a polygon with a corner far from its image of {width} x {height} px, ({x:g},"
            f" {y:g}): correct it."
        )
    if isinstance(one.shape, tuple) and not any(map(_encloses, polygons)):
        return "has polygons without area: draw them anew, or leave the object out."
    return ""


def _encloses(polygon: np.ndarray) -> bool:
    """Whether its corners don't all lie on one line."""
    along = polygon[1:] - polygon[0]
    longest = along[np.abs(along).sum(1).argmax()]
    return bool((along[:, 0] * longest[1] != along[:, 1] * longest[0]).any())


def polygons_box(shape: Sequence[np.ndarray]) -> Box:
    """The box around polygons."""
    every = np.concatenate([polygon for polygon in shape if len(polygon)] or [np.zeros((1, 2))])
    (left, top), (right, bottom) = every.min(0), every.max(0)
    return float(left), float(top), float(right), float(bottom)
