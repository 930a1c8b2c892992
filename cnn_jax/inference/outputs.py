"""Files of predictions, written row by row: a file has its name when it is whole, and no sooner."""

import contextlib
import itertools
import json
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cnn_jax.data.reference_systems import moved, running_on, title
from cnn_jax.errors import InputError

CACHE_MB = 64
"""What GDAL may keep of files that are read or written."""

TILE_PX = 256
BATCH = 1000
"""Polygons whose coordinates are turned into longitudes and latitudes at once."""

QUANTISED = 254
"""Of probabilities in 8 bits: 254 stands for 1, and 255 for no data."""


def partial(path: Path) -> Path:
    """Where a file lies while it is written."""
    return path.with_name(f".{path.name}.partial")


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns what goes wrong while a file is written into one sentence about it."""
    from rasterio.errors import RasterioError

    try:
        yield
    except (OSError, RasterioError) as error:
        reason = getattr(error, "strerror", None) or error.__cause__ or error
        raise InputError(
            f"{path} can't be written ({reason}): free the disk or make it writable, and give the"
            " same command with --resume."
        ) from error


@contextlib.contextmanager
def limited_cache() -> Iterator[None]:
    """While this is entered, GDAL keeps little of what it read."""
    import rasterio

    with rasterio.Env(GDAL_CACHEMAX=CACHE_MB):
        yield


@contextlib.contextmanager
def quiet_gdal() -> Iterator[Any]:
    """rasterio, which keeps little, writes no file beside a file, and warns of no lack of place."""
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning

    with (
        rasterio.Env(GDAL_CACHEMAX=CACHE_MB, GDAL_PAM_ENABLED="NO"),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield rasterio


class Tiff:
    """A GeoTIFF, tiled and compressed.

    Args:
        path: what it will be called.
        height: in px.
        width: in px.
        dtype: of its values; "float16" is stored as float32 of 16 bits.
        crs: as WKT; empty: none.
        transform: six numbers; None: none.
        gcps: ground control points of rasterio, in place of a transform.
        rpcs: rational polynomials of rasterio; None: none.
        nodata: the value of pixels that hold nothing.
        bands: what each is called.
        colors: of its values; empty: none.
        scale: what a value is multiplied by for what it means.
        tags: names and values that the file keeps.
        cog: whether it becomes a Cloud Optimized GeoTIFF.
    """

    def __init__(
        self,
        path: Path,
        height: int,
        width: int,
        dtype: str,
        *,
        crs: str,
        transform: Sequence[float] | None,
        gcps: Sequence[Any] = (),
        rpcs: Any = None,
        nodata: float | None = None,
        bands: Sequence[str] = ("",),
        colors: Sequence[Sequence[int]] = (),
        scale: float = 1.0,
        tags: Mapping[str, str] | None = None,
        cog: bool = False,
    ) -> None:
        self.path, self.cog, self.height = path, cog, height
        self._half = dtype == "float16"
        self._discrete = bool(colors)
        # GDAL 3.12 makes no overviews of 16-bit floats: a COG is made of 32 bits.
        options: dict[str, Any] = {"nbits": 16} if self._half and not cog else {}
        if crs:
            options["crs"] = crs
        if transform is not None:
            from rasterio import Affine

            options["transform"] = Affine(*transform)
        if gcps:
            from rasterio.crs import CRS

            options.update(gcps=gcps, crs=CRS.from_wkt(crs) if crs else CRS())
        if rpcs is not None:
            options["rpcs"] = rpcs
        if not colors:
            colored = len(bands) == 3 and dtype == "uint8" and nodata is None
            options["photometric"] = "rgb" if colored else "minisblack"
        with writing(path), quiet_gdal() as rasterio:
            self._file: Any = rasterio.open(
                partial(path),
                "w",
                driver="GTiff",
                height=height,
                width=width,
                count=len(bands),
                dtype="float32" if self._half else dtype,
                nodata=nodata,
                tiled=True,
                blockxsize=TILE_PX,
                blockysize=TILE_PX,
                interleave="band" if len(bands) > 3 else "pixel",
                compress="deflate",
                bigtiff="if_safer",
                **options,
            )
            if colors:  # before the first pixel: afterwards GDAL would lose some of it
                self._file.write_colormap(1, {i: tuple(c) for i, c in enumerate(colors)})
            for number, name in enumerate(bands, 1):
                if name:
                    self._file.set_band_description(number, name)
            if scale != 1:
                self._file.scales = (scale,) * len(bands)
            self._file.update_tags(**(tags or {}))

    def write(self, first: int, rows: np.ndarray) -> None:
        """Rows `[rows, width]` or `[rows, width, bands]` from `first` on, a multiple of
        `TILE_PX`."""
        values = rows[None] if rows.ndim == 2 else np.moveaxis(rows, -1, 0)
        window = ((first, first + len(rows)), (0, values.shape[2]))
        with writing(self.path), quiet_gdal():
            self._file.write(values, window=window)

    def finish(self) -> None:
        """Closes the file, reads it again, for a disk that fills up makes no noise, and makes a
        COG of it if asked for. It isn't renamed yet."""
        written = partial(self.path)
        with writing(self.path), quiet_gdal() as gdal:
            self._file.close()
            with gdal.open(written, driver="GTiff") as file:
                for first in range(0, self.height, TILE_PX):
                    last = min(first + TILE_PX, self.height)
                    file.read(window=((first, last), (0, file.width)))
            if self.cog:
                import rasterio.shutil

                optimized = written.with_name(f"{written.name}.cog")
                rasterio.shutil.copy(
                    written,
                    optimized,
                    driver="COG",
                    compress="deflate",
                    bigtiff="if_safer",
                    overview_resampling="mode" if self._discrete else "average",
                    **({"nbits": 16} if self._half else {}),
                )
                optimized.replace(written)

    def classes(self) -> np.ndarray:
        """What was written of the first band, after `finish`."""
        with quiet_gdal() as rasterio, rasterio.open(partial(self.path), driver="GTiff") as file:
            return file.read(1)

    def abandon(self) -> None:
        """Closes and deletes what isn't whole."""
        with contextlib.suppress(Exception):  # the disk may be full
            self._file.close()
        partial(self.path).unlink(missing_ok=True)


class Png:
    """A PNG, held in memory until it is whole: of pictures that were decoded there too.

    Args:
        path: what it will be called.
        height: in px.
        width: in px.
        dtype: "uint8" or "uint16".
        bands: 1, or 3 for colours.
        colors: of its values; empty: none.
    """

    def __init__(
        self,
        path: Path,
        height: int,
        width: int,
        dtype: str,
        *,
        bands: int = 1,
        colors: Sequence[Sequence[int]] = (),
    ) -> None:
        self.path, self._colors = path, colors
        self._pixels = np.zeros((height, width, bands), dtype)

    def write(self, first: int, rows: np.ndarray) -> None:
        """Rows `[rows, width]` or `[rows, width, bands]` from `first` on."""
        self._pixels[first : first + len(rows)] = rows.reshape(*rows.shape[:2], -1)

    def finish(self) -> None:
        """Writes the file; it isn't renamed yet."""
        pixels = self._pixels[..., 0] if self._pixels.shape[-1] == 1 else self._pixels
        picture = Image.fromarray(pixels)
        if len(self._colors):
            picture.putpalette(bytes(np.array(self._colors, np.uint8)[:, :3].ravel()))
        with writing(self.path), partial(self.path).open("wb") as file:
            picture.save(file, "PNG")
            file.flush()
            os.fsync(file.fileno())

    def classes(self) -> np.ndarray:
        """What was written."""
        return self._pixels[..., 0]

    def abandon(self) -> None:
        """Deletes what isn't whole."""
        partial(self.path).unlink(missing_ok=True)


class Polygons:
    """Areas of one class as GeoJSON, in longitude and latitude, beyond 180 degrees where the scene
    lies across the date line; without a reference system in the coordinates that the transform
    leads to, and without that in pixels (x to the right, y downwards).

    Args:
        path: what it will be called.
        names: of the classes.
        nodata: the value of pixels that hold nothing.
        least_px: areas of fewer pixels go to their largest neighbour; those without one that is
            large enough are left out.
        crs: as WKT; empty: none.
        transform: six numbers; None: none.
        areas: square metres of a column down to each row (`column_areas`); None: unknown.
    """

    def __init__(
        self,
        path: Path,
        names: Sequence[str],
        nodata: int,
        least_px: int,
        crs: str,
        transform: Sequence[float] | None,
        areas: np.ndarray | None,
    ) -> None:
        self.path, self._names, self._nodata, self._least_px = path, names, nodata, least_px
        self._crs, self._transform, self._areas = crs, transform, areas

    def finish(self, classes: np.ndarray) -> None:
        """Writes the file, without renaming it."""
        from rasterio import features

        valid, self._px = classes != self._nodata, classes.shape
        size, least = 2, min(self._least_px, classes.size)  # GDAL takes no more
        while size < 2 * least:  # at once, small among small areas would stay as they are
            classes = features.sieve(classes, min(size, least), mask=valid)
            size *= 2
        between, written = "\n", partial(self.path)
        with writing(self.path), quiet_gdal(), written.open("w", encoding="utf-8") as file:
            file.write('{"type": "FeatureCollection", "features": [')
            shapes = features.shapes(classes, mask=valid)
            while batch := list(itertools.islice(shapes, BATCH)):
                for feature in self._features(batch):
                    file.write(between)
                    json.dump(feature, file, ensure_ascii=False)
                    between = ",\n"
            file.write("\n]}\n")
            file.flush()
            os.fsync(file.fileno())

    def _features(self, shapes):
        """Of areas in pixels, those that are large enough, as GeoJSON."""
        rings = [shape["coordinates"] for shape, _ in shapes]
        placed = self._placed(rings)
        for (_, value), bounds, coordinates in zip(shapes, rings, placed, strict=True):
            pixels = round(_area(bounds))
            if pixels < self._least_px:
                continue
            about = {"class": self._names[int(value)], "label": int(value), "pixels": pixels}
            if self._areas is not None:
                about["square_metres"] = round(_area(bounds, self._areas), 3)
            geometry = {"type": "Polygon", "coordinates": coordinates}
            yield {"type": "Feature", "properties": about, "geometry": geometry}

    def _placed(self, polygons):
        """Rings in pixels, polygon by polygon, where they lie on the earth."""
        if self._transform is None:
            return polygons
        a, b, c, d, e, f = self._transform
        x, y = np.array([at for rings in polygons for ring in rings for at in ring], float).T
        x, y = a * x + b * y + c, d * x + e * y + f
        if self._crs:
            x, y = to_longitudes(self._crs, x, y, self.path)
            x = running_on(x, self._crs, tuple(self._transform), *self._px)
        x, y = (np.round(values, 9).tolist() for values in (x, y))
        points = zip(x, y, strict=True)
        # Outlines run counterclockwise, as GeoJSON wants them, unless the scene is a mirror image.
        way = -1 if a * e > b * d else 1
        return [
            [list(itertools.islice(points, len(ring)))[::way] for ring in rings]
            for rings in polygons
        ]

    def abandon(self) -> None:
        """Deletes what isn't whole."""
        partial(self.path).unlink(missing_ok=True)


def to_longitudes(crs: str, x: Any, y: Any, path: Path) -> Any:
    """Longitudes and latitudes of coordinates.

    Args:
        crs: theirs, as WKT.
        x: of each.
        y: likewise.
        path: of the file that they are of.

    Raises:
        InputError: there are none.
    """
    sentence = (
        f"{path} is in {title(crs)}, where places have no longitude and latitude: give it the"
        " system it is really in (gdal_edit.py -a_srs EPSG:CODE), or leave --polygons out."
    )
    return moved(crs, "EPSG:4326", x, y, sentence)


def _area(rings, areas=None) -> float:
    """What lies within the first ring and outside the others, by the shoelace formula: pixels, or
    with a column's `areas` square metres, for rings run along pixels."""
    found = []
    for ring in rings:
        x, y = np.array(ring).T
        y = y if areas is None else areas[y.astype(int)]
        x, y = x - x[0], y - y[0]
        found.append(float(abs(np.sum(x[:-1] * y[1:] - x[1:] * y[:-1])) / 2))
    return found[0] - sum(found[1:])


def renamed(files: Sequence[Any]) -> None:
    """Gives whole files their names, one after the other."""
    for file in files:
        with writing(file.path):
            partial(file.path).replace(file.path)
