"""Masks as polygons: GeoJSON whose areas are burnt into labels on the pixels of their image."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cnn_jax.configuration import documents
from cnn_jax.data import reference_systems
from cnn_jax.data.descriptions import ANY_OTHER, Description
from cnn_jax.data.file_names import composed
from cnn_jax.data.masks import UNKNOWN, owners
from cnn_jax.data.rasters import Raster
from cnn_jax.data.scenes import IGNORED
from cnn_jax.errors import InputError

AREAS = ("Polygon", "MultiPolygon")

FARTHEST_PX = 2**31 - 1
"""GDAL burns nothing of an area that has a corner further away."""


@dataclass(frozen=True)
class Polygons:
    """Areas of one image, not burnt yet.

    Attributes:
        name: of the file, for errors.
        height_px: of the image.
        width_px: likewise.
        orientation: likewise.
        shapes: (GeoJSON geometry in the image's coordinates, value of the class), in their order.
        transform: of the image, from pixels to coordinates; None: coordinates are pixels.
    """

    name: str
    height_px: int
    width_px: int
    orientation: int
    shapes: tuple[tuple[dict, str | int], ...]
    transform: tuple[float, ...] | None


def open_polygons(path: Path, image: Raster, description: Description) -> Polygons:
    """The polygons of a GeoJSON file, where they lie in the image.

    Coordinates are longitude and latitude, or of the system that the file's `crs` names, where the
    image is georeferenced, and the image's own where it doesn't say in which system; else they are
    pixels, x to the right and y downwards, 0 at the upper left corner of the first: so `cnn-jax
    predict --polygons` writes them.

    Raises:
        InputError: the file can't be read, is no GeoJSON, or holds what is no area or lacks the
            attribute; or no area lies in the image.
    """
    try:
        content = documents.parse(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path} can't be read ({error.strerror}): check the path.") from error
    except ValueError as error:
        raise InputError(f"{path} is no GeoJSON ({error}): export it again.") from error
    if not isinstance(content, dict) or content.get("type") != "FeatureCollection":
        raise InputError(f"{path} is no GeoJSON FeatureCollection: export it as one.")
    features = content.get("features")
    if not isinstance(features, list):
        raise InputError(f"{path} has no list of features: export it again.")
    shapes = [
        (geometry, _value(path, number, feature, description.attribute))
        for number, feature in enumerate(features)
        for geometry in _areas(path, number, feature)
    ]
    if shapes:
        image.check_polygons()
    if image.transform is not None and image.crs and shapes:
        system = reference_systems.known(reference_systems.named(content, path), path)
        shapes = _turned(_moved(path, shapes, system, image.crs), image)
    outlines = _outlines_px(shapes, image)
    size = image.width_px, image.height_px
    if shapes and not any((o.max(0) >= 0).all() and (o.min(0) <= size).all() for o in outlines):
        raise InputError(
            f"none of the {len(shapes)} areas of {path} lies in its image {image.name}: give them"
            " in longitude and latitude, in this order, or in pixels of an image without"
            " georeference; or leave them out."
        )
    if any(np.abs(outline).max() >= FARTHEST_PX for outline in outlines):
        raise InputError(
            f"{path} has an area that reaches further than {FARTHEST_PX:,} px from its image"
            f" {image.name}: cut it to the image's surroundings."
        )
    return Polygons(
        str(path),
        image.height_px,
        image.width_px,
        image.orientation,
        tuple(shapes),
        image.transform,
    )


def burnt(polygons: Polygons, description: Description) -> tuple[np.ndarray, dict[str, int]]:
    """Labels uint8 `[height, width]`, class indices or `IGNORED`, and the attribute's values that
    no class lists with their pixels.

    A pixel belongs to the last polygon that holds its centre. Where there is none it is of the
    class that lists "any other value", or `IGNORED` without one.
    """
    from rasterio import Affine
    from rasterio.features import rasterize

    # QGIS keeps numbers as texts in fields of text, and people type blanks behind words.
    claimed = {composed(str(value)).strip(): label for label, value in owners(description)}
    size = polygons.height_px, polygons.width_px
    labels = np.full(size, claimed.get(ANY_OTHER, IGNORED), np.uint8)
    if not polygons.shapes:
        return labels, {}
    other = claimed.get(ANY_OTHER, UNKNOWN)
    known = [(geometry, claimed.get(str(value), other)) for geometry, value in polygons.shapes]
    stray = {str(value) for _, value in polygons.shapes} - claimed.keys()
    if other != UNKNOWN:
        _check_capitals(polygons.name, stray, claimed)
    transform = Affine(*polygons.transform) if polygons.transform else Affine.identity()
    try:
        rasterize(known, out=labels, transform=transform)
        unknown = (
            _counted(polygons, labels, stray, transform, rasterize)
            if stray and other == UNKNOWN
            else {}
        )
    except ValueError as error:
        raise InputError(
            f"{polygons.name} holds an area that can't be burnt ({error}): mend or leave it out."
        ) from error
    labels[labels == UNKNOWN] = IGNORED
    return labels, unknown


def _check_capitals(name, stray, claimed):
    """Refuses what would be any other value, as it differs from a class's in capitals alone."""
    listed = {value.casefold(): value for value in claimed}
    for value in sorted(stray):
        if value.casefold() in listed:
            raise InputError(
                f"{name} has {value!r} where the description lists {listed[value.casefold()]!r}:"
                " write both alike, or list it too."
            )


def _counted(polygons, labels, stray, transform, rasterize):
    """Pixels by value of what no class lists."""
    values = sorted(stray)
    number = {value: i for i, value in enumerate(values)}
    places = np.full(labels.shape, len(values), np.int32)
    shapes = [
        (geometry, number.get(str(value), len(values))) for geometry, value in polygons.shapes
    ]
    rasterize(shapes, out=places, transform=transform)
    counts = np.bincount(places[labels == UNKNOWN], minlength=len(values))
    return {value: int(counts[i]) for value, i in number.items() if counts[i]}


def _value(path, number, feature, attribute) -> str | int:
    properties = feature.get("properties") if isinstance(feature, dict) else None
    properties = properties if isinstance(properties, dict) else {}
    value = {composed(name): given for name, given in properties.items()}.get(composed(attribute))
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # columns with gaps are written so
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise InputError(
            f"{path}: feature {number} has no property {attribute!r} that is text or a whole"
            " number: name the property that tells classes with attribute in the description."
        )
    return composed(value).strip() if isinstance(value, str) else value


def _areas(path, number, feature) -> Iterator[dict[str, Any]]:
    geometry = feature.get("geometry") if isinstance(feature, dict) else None
    if not isinstance(geometry, dict) or geometry.get("type") not in AREAS:
        kind = geometry.get("type") if isinstance(geometry, dict) else None
        raise InputError(
            f"{path}: feature {number} is {kind or 'without geometry'}, and a mask is made of"
            f" {' and '.join(AREAS)}: leave it out, or draw it as an area."
        )
    parts = geometry.get("coordinates")
    if geometry["type"] == "Polygon" or not isinstance(parts, list):
        parts = [parts]
    for rings in parts:
        if not _is_polygon(rings):
            raise InputError(
                f"{path}: feature {number} has coordinates that are no polygon: a list of closed"
                " rings of at least four [x, y]; export it again."
            )
        yield {"type": "Polygon", "coordinates": rings}


def _is_polygon(rings) -> bool:
    def is_ring(ring):
        return (
            isinstance(ring, list)
            and len(ring) >= 4
            and all(
                isinstance(at, list)
                and len(at) >= 2
                and all(isinstance(x, int | float) and not isinstance(x, bool) for x in at[:2])
                for at in ring
            )
            and ring[0][:2] == ring[-1][:2]
        )

    return isinstance(rings, list) and bool(rings) and all(map(is_ring, rings))


def _outlines_px(shapes, image) -> list[np.ndarray]:
    """The outer ring of each area, float64 `[corners, 2]` of x and y in px of the image."""
    matrix = np.array(image.transform or (1, 0, 0, 0, 1, 0)).reshape(2, 3)
    rings = [np.array([at[:2] for at in area["coordinates"][0]], float) for area, _ in shapes]
    return [np.linalg.solve(matrix[:, :2], (ring - matrix[:, 2]).T).T for ring in rings]


def _moved(path, shapes, given, wanted):
    from rasterio.warp import transform_geom

    geometries = [geometry for geometry, _ in shapes]
    try:
        moved = transform_geom(given, reference_systems.known(wanted, path), geometries)
    except Exception as error:  # PROJ's come as many kinds, without a name in rasterio.errors
        raise InputError(
            f"{path} has coordinates that aren't of {given} ({error}): name their system"
            " in crs, or export them in longitude and latitude."
        ) from error
    return [(geometry, value) for geometry, (_, value) in zip(moved, shapes, strict=True)]


def _turned(shapes, image):
    """Areas in longitudes where the image counts these from elsewhere."""
    place = image.crs, image.transform, image.height_px, image.width_px
    found = []
    for geometry, value in shapes:
        rings = geometry["coordinates"]
        turns = reference_systems.turns_to(np.array([at[0] for at in rings[0]]), *place)
        if turns:
            rings = [[(at[0] + turns, *at[1:]) for at in ring] for ring in rings]
            geometry = {"type": "Polygon", "coordinates": rings}
        found.append((geometry, value))
    return found
