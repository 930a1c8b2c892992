"""GeoJSON (RFC 7946) over scenes, one file a scene: polygons with holes, where they lie on the
earth.

Coordinates are longitudes and latitudes, or those of a `crs` that the file names, and become pixels
by the place that the scene's GeoTIFF keeps. A scene without a place has coordinates in pixels.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cnn_jax.data import objects, reference_systems
from cnn_jax.data.annotations.files import (
    Classes,
    beside,
    by_stem,
    files_in,
    image_files,
    json_of,
    number,
    open_upright,
    whole,
    write_json,
)
from cnn_jax.data.file_names import composed
from cnn_jax.data.folders import file_named
from cnn_jax.data.objects import AnnotatedImage, Annotation, AnnotationSet, Report
from cnn_jax.data.rasters import Raster, open_raster
from cnn_jax.errors import InputError

WHAT = "GeoJSON file"
CLASS = ("class", "label", "category", "name", "type")
OBJECT = "object"
"""What has no class is called."""

DECIMALS = 10
"""Of degrees: a hundredth of a millimetre."""


def read(path: Path, images: Path | None, classes: Sequence[str], report: Report) -> AnnotationSet:
    """As `annotations.read`: a file is of the scene of the same name. Scenes without a file have no
    objects, where a folder is read."""
    files, known = image_files(images, "GeoJSON files"), Classes(classes)
    found, nameless = [], []
    stems, of_scene = by_stem(files), {}
    for file in files_in(path, (".geojson", ".json"), "GeoJSON files"):
        stem = file.stem if path.is_file() else file.relative_to(path).with_suffix("").as_posix()
        stem = composed(stem)
        if stem not in stems:
            raise InputError(f"{file} has no scene {stem} in {images}: add it.")
        of_scene[stem] = file
    for stem, name in stems.items():
        if stem not in of_scene and path.is_file():
            continue
        raster = open_upright(files[name], in_parts=True)
        raster.check_polygons()
        image = AnnotatedImage(name, raster.height_px, raster.width_px)
        every = ()
        if stem in of_scene:
            every = tuple(_objects(of_scene[stem], image, raster, known, report, nameless.append))
        found.append((image, every))
    lost = ()
    if nameless:
        lost = (
            f"{len(nameless):,} features have no property {', '.join(CLASS[:-1])} or {CLASS[-1]},"
            f" and are called {OBJECT}; the first: {nameless[0]}",
        )
    return known.set_of(found, lost)


def _objects(file, image, raster, known, report, nameless):
    content = json_of(file, WHAT)
    if not isinstance(content, dict) or not isinstance(content.get("features"), list):
        raise InputError(f"{file} is no {WHAT}: it has no list of features.")
    named = reference_systems.named(content, file)
    for index, raw in enumerate(content["features"]):
        about = f"{file}: feature {index}"
        geometry = raw.get("geometry") if isinstance(raw, dict) else None
        properties = raw.get("properties") if isinstance(raw, dict) else None
        properties = properties if isinstance(properties, dict) else {}
        geometry = geometry if isinstance(geometry, dict) else {}
        kind = geometry.get("type")
        if kind not in ("Polygon", "MultiPolygon"):
            what = f"is a {kind}, which has no area" if kind else "has no geometry"
            report(f"{about} {what}: give a Polygon or a MultiPolygon, or leave it out.")
            continue
        parts: Any = geometry.get("coordinates")
        try:
            parts = [parts] if kind == "Polygon" else parts
            rings = [[np.array(ring, float)[:, :2] for ring in part] for part in parts]
            short = any(r.shape != (max(len(r), 4), 2) for part in rings for r in part)
            if not rings or not all(rings) or short:
                raise ValueError
        except (TypeError, ValueError, IndexError):
            report(f"{about} has no rings of four or more pairs of numbers: correct it.")
            continue
        rings = [[_to_pixels(r, raster, named, file) for r in part] for part in rings]
        opened = [[r[:-1] if (r[0] == r[-1]).all() else r for r in part] for part in rings]
        shape = tuple(objects.bridged(part) for part in opened)
        said = (properties[key] for key in CLASS if properties.get(key) is not None)
        class_ = next(said, None)
        if class_ is None:
            nameless(about)
            class_ = OBJECT
        class_ = str(class_ if (number_ := whole(class_)) is None else number_)
        label = known.label(class_, about, report)
        if label is None:
            continue
        one = Annotation(
            label,
            objects.polygons_box([ring for part in opened for ring in part]),
            None if properties.get("box") is True else shape,
            bool(properties.get("crowd")),
            number(properties.get("score")),
        )
        one = objects.checked(one, image, about, report)
        if one is not None:
            yield one


def _to_pixels(ring, raster: Raster, crs: str, file):
    if raster.transform is None:
        return ring
    from rasterio import Affine

    x, y = ring.T
    if raster.crs:
        x, y = _moved(x, y, crs, raster.crs, file)
        size = raster.height_px, raster.width_px
        x = x + reference_systems.turns_to(x, raster.crs, raster.transform, *size)
    a, b, c, d, e, f, *_ = ~Affine(*raster.transform)
    # Rounding to a ten thousandth of a pixel undoes that of the degrees.
    return np.round(np.stack([a * x + b * y + c, d * x + e * y + f], axis=1), 4)


def _moved(x, y, from_, to, file):
    """Coordinates in another reference system."""
    given, wanted = (reference_systems.known(name, file) for name in (from_, to))
    if given == wanted:
        return x, y
    from_, to = map(reference_systems.title, (from_, to))
    sentence = (
        f"{file} has coordinates that don't lead from {from_} to {to}: name the system they are"
        " really in, by crs in GeoJSON, by gdal_edit.py -a_srs EPSG:CODE in an image."
    )
    return reference_systems.moved(given, wanted, x, y, sentence)


def write(found: AnnotationSet, path: Path, images: Path | None = None) -> None:
    """As `annotations.write`: a folder with one file a scene, where `images` says that it lies; in
    pixels without `images`."""
    files = [] if images is None else [file_named(images, image.name) for image in found.images]
    for file in files:
        if not file.is_file():
            raise InputError(
                f"{file} is missing, and has annotations: add it, or correct --images."
            )
    path.mkdir(exist_ok=True)
    for image in found.images:
        raster = None
        if images is not None:
            raster = open_raster(file_named(images, image.name), in_parts=True)
            raster.check_polygons()
            if (raster.height_px, raster.width_px) != (image.height_px, image.width_px):
                raise InputError(
                    f"{images / image.name} is {raster.width_px} x {raster.height_px} px, and the"
                    f" annotations are of {image.width_px} x {image.height_px}: give its images."
                )
        features = [_feature(one, image, raster, found.classes) for one in image.objects]
        content = {"type": "FeatureCollection", "features": features}
        write_json(beside(Path(image.name), path, ".geojson"), content)


def _feature(one, image, raster, classes) -> dict[str, Any]:
    parts = [
        _wound([_placed(ring, image, raster) for ring in objects.unbridged(polygon)])
        for polygon in objects.shape_polygons(one, image)
    ]
    single = len(parts) == 1
    about: dict[str, Any] = {"class": classes[one.label]}
    about |= {"box": True} if one.shape is None else {}
    about |= {"crowd": True} if one.crowd else {}
    about |= {"score": one.score} if one.score is not None else {}
    geometry = {
        "type": "Polygon" if single else "MultiPolygon",
        "coordinates": parts[0] if single else parts,
    }
    return {"type": "Feature", "properties": about, "geometry": geometry}


def _wound(rings):
    """Closed rings run as GeoJSON has them: the outline counterclockwise, holes clockwise."""
    found = []
    for ring in rings:
        x, y = (np.array(ring) - ring[0]).T
        counterclockwise = np.sum(x[:-1] * y[1:] - x[1:] * y[:-1]) > 0
        found.append(ring if counterclockwise == (not found) else ring[::-1])
    return found


def _placed(ring, image, raster: Raster | None):
    """A closed ring where it lies on the earth."""
    x, y = np.concatenate([ring, ring[:1]]).T
    if raster is not None and raster.transform is not None:
        a, b, c, d, e, f = raster.transform[:6]
        x, y = a * x + b * y + c, d * x + e * y + f
        if raster.crs:
            x, y = _moved(x, y, raster.crs, reference_systems.LONGITUDES, raster.name)
            size = image.height_px, image.width_px
            x = reference_systems.running_on(x, raster.crs, raster.transform, *size)
    return np.round(np.stack([x, y], axis=1), DECIMALS).tolist()
