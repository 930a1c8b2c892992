"""Coordinate reference systems that GeoJSON is in, and the ways between systems."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cnn_jax.errors import InputError

LONGITUDES = "OGC:CRS84"
"""Longitude and latitude, in this order: what RFC 7946 says that all GeoJSON is in."""


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
