"""Coordinate reference systems that GeoJSON is in, and the ways between systems."""

import contextlib
import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cnn_jax.errors import InputError

LONGITUDES = "OGC:CRS84"
"""Longitude and latitude, in this order: what RFC 7946 says that all GeoJSON is in."""

EQUAL_AREA, HALF_WORLD_M = "EPSG:6933", 17_367_530.445
"""A cylinder on which areas are those on the ellipsoid of WGS84, and half of its girth."""

TOLERANCE = 0.01
"""What areas on a map may differ by from those on the earth."""


def named(content: Mapping[str, Any], path: str | Path) -> str:
    """The system that GeoJSON of before RFC 7946 may name in `crs`; `LONGITUDES` where it names
    none.

    Raises:
        InputError: there is a `crs` without a name.
    """
    crs = content.get("crs")
    if crs is None:
        return LONGITUDES
    try:
        return str(crs["properties"]["name"])
    except (KeyError, TypeError):
        raise InputError(
            f"{path} has a crs without a name ({json.dumps(crs)[:60]}): export it in longitude"
            " and latitude."
        ) from None


def known(name: str, path: str | Path) -> Any:
    """The `rasterio.crs.CRS` of that name.

    Raises:
        InputError: there is none, in which `path` is said to be.
    """
    from rasterio.crs import CRS
    from rasterio.errors import CRSError

    try:
        return CRS.from_user_input(name)
    except CRSError as error:
        raise InputError(
            f"{path} is in {name}, which is no known coordinate reference system: export it in"
            " longitude and latitude."
        ) from error


def title(wkt: str) -> str:
    """What a system given as WKT calls itself."""
    return wkt.split('"')[1] if '"' in wkt else wkt


@contextlib.contextmanager
def converting(sentence: str) -> Iterator[None]:
    """While coordinates are converted to another system.

    Raises:
        InputError: no operation leads there, or not from everywhere; it is the sentence.
    """
    try:
        yield
    except Exception as error:  # of classes that rasterio doesn't publish
        raise InputError(sentence) from error


def moved(given: Any, wanted: Any, x: Any, y: Any, sentence: str) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates of one system as those of another.

    Raises:
        InputError: they don't lead there; it is the sentence.
    """
    from rasterio.warp import transform

    with converting(sentence):
        x, y = (np.array(values) for values in transform(given, wanted, x, y)[:2])
        if not np.isfinite([x, y]).all():  # some operations say so, and raise nothing
            raise ValueError("not on the earth")
    return x, y


def running_on(
    x: np.ndarray, wkt: str, place: tuple[float, ...], height: int, width: int
) -> np.ndarray:
    """Longitudes of places in a scene, which leap from 180 to -180 at the date line, run on instead
    in one that lies across it, so that its areas stay whole. About a pole they stay as they are.

    Args:
        x: of each place, in degrees.
        wkt: of the scene's system.
        place: the affine map from pixels to its coordinates, six numbers.
        height: of the scene, in px.
        width: likewise.
    """
    west = _west(wkt, place, height, width)
    return x if west is None else west + (x - west) % 360


def turns_to(x: np.ndarray, wkt: str, place: Sequence[float], height: int, width: int) -> float:
    """What leads an area to where a scene in longitudes counts them, be it from 0 to 360 or from
    170 to 190: a multiple of 360 degrees; of scenes in other systems 0.

    Args:
        x: of the area's corners, in the scene's system.
        wkt: of that.
        place: the affine map from pixels to its coordinates, six numbers.
        height: of the scene, in px.
        width: likewise.
    """
    turn = around(wkt)
    if not turn:
        return 0.0
    a, b, c, *_ = place
    away = (a * width + b * height) / 2 + c - (x.min() + x.max()) / 2
    return turn * round(away / turn)


@functools.lru_cache(maxsize=4)  # asked for each of many areas
def around(wkt: str) -> float:
    """Once around the earth in a system's longitudes, some of which are gons; 0 in others."""
    from rasterio.crs import CRS

    system = CRS.from_wkt(wkt)
    return 2 * np.pi / system.units_factor[1] if system.is_geographic else 0.0


@functools.lru_cache(maxsize=4)
def _west(wkt, place, height, width):
    """The longitude half way around the earth from the middle of a scene across the date line; None
    for others."""
    along, back = np.linspace(0, 1, 64), np.linspace(1, 0, 64)
    none, all_ = np.zeros(64), np.ones(64)
    column = width * np.concatenate([along, all_, back, none])
    row = height * np.concatenate([none, along, all_, back])
    a, b, c, d, e, f = place
    x, y = a * column + b * row + c, d * column + e * row + f
    with contextlib.suppress(InputError):
        x, _ = moved(wkt, LONGITUDES, x, y, f"{title(wkt)} leads nowhere on the earth.")
        outline = np.unwrap(x, period=360)
        about_a_pole = abs(outline[-1] - outline[0]) > 180
        if not np.allclose(outline, x) and not about_a_pole and np.ptp(outline) < 359.999:
            return (outline.min() + outline.max()) / 2 - 180
    return None


def column_areas(wkt: str, place: Sequence[float], height: int, width: int) -> np.ndarray | None:
    """Square metres, float64 `[height + 1]`: of one pixel's column, from the top down to each row.

    Where rows are parallels, as in Mercator's projection, they are those on the ellipsoid, row by
    row; in others those on the map, if these are true to `TOLERANCE`.

    Args:
        wkt: of a projected system.
        place: the affine map from pixels to its coordinates, six numbers.
        height: in px.
        width: in px.

    Returns:
        None where they are neither.
    """
    from rasterio.crs import CRS

    a, b, c, d, e, f = place
    metres = CRS.from_wkt(wkt).linear_units_factor[1]

    def flat(columns, rows):
        columns, rows = np.broadcast_arrays(columns, rows)
        return _flat(wkt, a * columns + b * rows + c, d * columns + e * rows + f)

    with contextlib.suppress(InputError):
        middle = c + a * width / 2, f + e * height / 2
        unit = _cylinder_unit(wkt, *middle, 100_000 / metres) if b == d == 0 else None
        if unit is not None:
            _, y = flat(width / 2, np.arange(height + 1))
            return np.abs(a * unit * (y - y[0]))
    pixel = abs(a * e - b * d) * metres**2

    def ratios(columns, rows):
        """What pixels cover on the earth, as shares of what they do on the map."""
        x, y = flat(columns[:, None] + [0, 1, 1, 0], rows[:, None] + [0, 0, 1, 1])
        twice = np.sum(x * np.roll(y, -1, -1) - np.roll(x, -1, -1) * y, -1)
        return np.abs(twice) / 2 / pixel

    sides = (np.linspace(0, side - 1, 7).astype(int) for side in (width, height))
    columns, rows = (at.ravel() for at in np.meshgrid(*sides))
    try:
        found = ratios(columns, rows)
    except InputError:  # some lie beyond the earth's rim, and PROJ gives none of them
        found = []
        for one in range(len(columns)):
            with contextlib.suppress(InputError):
                found.extend(ratios(columns[[one]], rows[[one]]))
    if len(found) == 0 or np.max(np.abs(np.array(found) - 1)) > TOLERANCE:
        return None
    return pixel * np.arange(height + 1)


def _cylinder_unit(wkt, x, y, far):
    """Metres on the cylinder that one unit of x spans; None where it isn't the same everywhere, or
    rows aren't parallels: of that are five places that lie so far apart."""
    across, down = _flat(
        wkt, x + far * np.array([0, -1, 1, 0, 1]), y + far * np.array([0, 0, 0, 1, 1])
    )
    span = across[2]
    differ = [span + across[1], across[4] - across[3] - span, *(down[[1, 2]] - down[0])]
    return span / far if np.max(np.abs(differ)) < 2 else None  # 2 m of 100 km; UTM differs by 10


def _flat(wkt, x, y):
    """Coordinates `[..., places]` on the cylinder, from the first place on, across the date line
    too."""
    every = np.ravel(x), np.ravel(y)
    flat = moved(wkt, EQUAL_AREA, *every, f"{title(wkt)} leads nowhere on the earth.")
    x, y = (values.reshape(np.shape(x)) for values in flat)
    x, y = x - x[..., :1], y - y[..., :1]
    return (x + HALF_WORLD_M) % (2 * HALF_WORLD_M) - HALF_WORLD_M, y
