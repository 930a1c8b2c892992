"""Pictures and scenes without masks, read row by row for prediction, whatever their size."""

import copy
import math
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from cnn_jax.data.dataset_info import DatasetInfo
from cnn_jax.data.file_names import IMAGE_SUFFIXES, OTHER_IMAGES, natural
from cnn_jax.data.file_names import check as check_name
from cnn_jax.data.folders import below, passed_over, unread
from cnn_jax.data.rasters import DamagedError, Raster, as_photograph, image_kind, open_raster
from cnn_jax.data.reference_systems import around, column_areas, converting, title
from cnn_jax.errors import InputError
from cnn_jax.inference.outputs import to_longitudes

SUFFIXES = (*IMAGE_SUFFIXES, ".jp2", ".j2k", ".vrt")
"""Of the files in a folder that are taken for pictures, but for those of classifiers."""


def found(
    inputs: Sequence[str],
    outside: Path,
    *,
    whole: bool = False,
    suffixes: Collection[str] = SUFFIXES,
) -> list[tuple[str, Path]]:
    """Pictures by name: a file's stem, or its path without suffix within the folder that was given.

    Args:
        inputs: files, or folders, which are searched to the bottom, through links too.
        outside: the folder of the outputs, which isn't searched where it lies in one of these.
        whole: whether names are paths instead, which differ where stems don't.
        suffixes: of the files in a folder that are taken for pictures.

    Raises:
        InputError: there is no such file or folder, it holds no picture or is `outside`, two get
            one name, or a name can't be written.
    """
    pictures: dict[str, Path] = {}
    results = outside.resolve()
    for given in map(Path, inputs):
        if given.is_dir():
            if given.resolve() == results:
                raise InputError(
                    f"--output {outside} is the folder of the pictures, where they and what is made"
                    " of them couldn't be told apart: give another."
                )
            within = given.resolve() in results.parents
            files = [
                path
                for path in below(given, suffixes)
                if not within or results not in path.resolve().parents
            ]
            for sentence in unread(passed_over(given, OTHER_IMAGES, files), suffixes):
                print(f"note: {given}: {sentence}", flush=True)
            files.sort(key=lambda path: natural(path.as_posix()))
            if not files:
                raise InputError(
                    f"{given} holds no picture ({', '.join(sorted(suffixes))}): give another"
                    " folder."
                )
            named = [(f.relative_to(given).with_suffix("").as_posix(), f) for f in files]
        elif given.is_file():
            named = [(given.stem, given)]
        else:
            raise InputError(f"{given} doesn't exist: give pictures, scenes, or folders of them.")
        for stem, path in named:
            name = path.as_posix() if whole else stem
            check_name(given, name)
            if pictures.get(name, path) != path:
                raise InputError(
                    f"{pictures[name]} and {path} would both be written as {name}: predict them"
                    " into different folders."
                )
            pictures[name] = path
    return list(pictures.items())


@dataclass
class Scene:
    """A picture, or a part of one.

    Attributes:
        name: of its outputs.
        path: of the file.
        raster: opened.
        info: of the run.
        bands: numbers from 1 of the bands to take; empty: all.
        top: the part's first row.
        left: its first column.
        height_px: of the part.
        width_px: of the part.
        gcps: ground control points of the part, of a scene that has these and no transform.
        rpcs: rational polynomials of the part; None: the scene has none.
        alpha_last: whether the last band is alpha, 0 where the scene holds nothing.
        damaged: places that could not be decoded, in words.
    """

    name: str
    path: Path
    raster: Raster
    info: DatasetInfo
    bands: tuple[int, ...]
    top: int
    left: int
    height_px: int
    width_px: int
    gcps: tuple[Any, ...] = ()
    rpcs: Any = None
    alpha_last: bool = False
    damaged: list[str] = field(default_factory=list)
    _whole: np.ndarray | None = field(default=None, repr=False)
    _kept: deque = field(default_factory=deque, repr=False)

    @property
    def rastered(self) -> bool:
        """Whether its class map is a GeoTIFF: of TIFF, JPEG 2000 and VRT, and of others that a file
        beside them places; else a PNG."""
        placed = self.raster.transform is not None or self.gcps or self.rpcs is not None
        return bool(placed) or self.raster.format in ("TIFF", "JPEG 2000", "VRT")

    @property
    def transform(self) -> tuple[float, ...] | None:
        """From pixels of the part to coordinates, as `Raster.transform`."""
        if self.raster.transform is None:
            return None
        a, b, c, d, e, f = self.raster.transform
        x, y = c + a * self.left + b * self.top, f + d * self.left + e * self.top
        return a, b, x, d, e, y

    @property
    def projected(self) -> bool:
        """Whether it is georeferenced in a system whose coordinates are lengths."""
        if self.raster.transform is None or not self.raster.crs:
            return False
        from rasterio.crs import CRS

        return CRS.from_wkt(self.raster.crs).is_projected

    @cached_property
    def areas(self) -> np.ndarray | None:
        """`reference_systems.column_areas` of the part; None where they aren't known."""
        if self.transform is None or not self.projected:
            return None
        return column_areas(self.raster.crs, self.transform, self.height_px, self.width_px)

    def check_polygons(self) -> None:
        """Raises InputError where areas can't be placed on the earth."""
        self.raster.check_polygons()
        if self.transform is not None and self.raster.crs:
            a, b, c, d, e, f = self.transform
            column, row = self.width_px / 2, self.height_px / 2
            x, y = a * column + b * row + c, d * column + e * row + f
            to_longitudes(self.raster.crs, [x], [y], self.path)

    def read(self, first: int, last: int) -> np.ndarray:
        """Rows of the part, as the network takes them; what can't be decoded is 0 and `void`."""
        rows = slice(self.top + first, self.top + last)
        columns = slice(self.left, self.left + self.width_px)
        if self.raster.block_px == (0, 0):
            if self._whole is None:  # decoded once
                self._whole = self.raster.read()
            values, hidden = self._whole[rows, columns], self._hidden(rows, columns)
        else:
            values, hidden = self._decoded(rows, columns)
        pixels, void = as_photograph(self.raster, values, self.bands)
        transparent = values[..., -1] == 0 if self.alpha_last else None
        for more in (transparent, hidden):
            if more is not None:
                void = more if void is None else void | more
        self._kept.append((first, pixels, void))
        return pixels

    def taken(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows that were read before, and where they hold nothing: pixels `[rows, width, channels]`
        and bool `[rows, width]`. Rows above `last` are forgotten."""
        pixels = np.empty((last - first, self.width_px, self.info.channels), self.info.dtype)
        void = np.zeros(pixels.shape[:2], bool)
        for begin, part, empty in self._kept:
            low, high = max(begin, first), min(begin + len(part), last)
            if low < high:
                pixels[low - first : high - first] = part[low - begin : high - begin]
                if empty is not None:
                    void[low - first : high - first] = empty[low - begin : high - begin]
        while self._kept and self._kept[0][0] + len(self._kept[0][1]) <= last:
            self._kept.popleft()
        return pixels, void

    def close(self) -> None:
        """Lets go of pixels."""
        self._whole = None
        self.__dict__.pop("_hidden", None)
        self._kept.clear()

    @cached_property
    def _hidden(self):
        return self.raster.hidden() or (lambda rows, columns: None)

    def _decoded(self, rows, columns):
        """Stored values, and where the file hides them or they could not be decoded."""
        try:
            return self.raster.read((rows, columns)), self._hidden(rows, columns)
        except DamagedError:
            pass
        size = rows.stop - rows.start, columns.stop - columns.start
        values = np.zeros((*size, self.raster.bands), self.raster.dtype)
        hidden = np.zeros(size, bool)
        height, width = self.raster.block_px
        for part in _blocks(rows, height):
            for across in _blocks(columns, width):
                here = (
                    slice(part.start - rows.start, part.stop - rows.start),
                    slice(across.start - columns.start, across.stop - columns.start),
                )
                try:
                    values[here] = self.raster.read((part, across))
                    there = self._hidden(part, across)
                    hidden[here] = False if there is None else there
                except DamagedError:
                    hidden[here] = True
                    top, left = part.start // height * height, across.start // width * width
                    bottom = min(top + height, self.raster.height_px) - 1
                    right = min(left + width, self.raster.width_px) - 1
                    said = (
                        f"{self.path}: rows {top} to {bottom}, columns {left} to {right} can't be"
                        " decoded"
                    )
                    if said not in self.damaged:  # other rows of the same tile
                        self.damaged.append(said)
        return values, hidden


def _blocks(span: slice, size: int) -> Iterator[slice]:
    """A span cut where blocks of that size begin."""
    start = span.start
    while start < span.stop:
        stop = min((start // size + 1) * size, span.stop)
        yield slice(start, stop)
        start = stop


def opened(
    name: str,
    path: Path,
    info: DatasetInfo,
    bands: tuple[int, ...] = (),
    region: tuple[float, ...] = (),
    region_crs: str = "",
) -> Scene:
    """A picture, or a part of it, as training takes it: grey is repeated where the run has three
    channels.

    Args:
        name: of its outputs.
        path: of the file.
        info: of the run.
        bands: numbers from 1; empty: those of the run's description, or all but one called alpha.
        region: row, column, height and width in px; with `region_crs` left, bottom, right and top
            in coordinates. Empty: all.
        region_crs: a coordinate reference system, such as "EPSG:4326".

    Raises:
        InputError: the file can't be used, lacks a band, isn't georeferenced where coordinates are
            given, or lies outside the region.
    """
    raster = open_raster(path, in_parts=True)
    indexed = raster.palette is not None
    first = tuple(range(1, info.channels + 1))
    beside = raster.alpha == "last" and (indexed or raster.bands == info.channels + 1)
    alpha_last = beside and not bands and info.bands in ((), first)
    taken = first if alpha_last and not indexed else bands or info.bands
    if not taken and not indexed and (raster.bands, info.channels) == (1, 3):
        taken = (1, 1, 1)
    if min(taken, default=1) < 1:
        raise InputError("--bands are counted from 1: give numbers from 1 on.")
    stored = 3 if indexed else raster.bands
    if max(taken, default=0) > stored:
        whose = "--bands" if bands else "the run's description"
        raise InputError(
            f"{path} has {stored} bands, and {whose} names {max(taken)}: name others with --bands."
        )
    channels, dtype = image_kind(raster, taken)
    if channels != info.channels:
        raise InputError(
            f"{path} has {channels} bands, and the run takes {info.channels}: choose them with"
            " --bands, or give other pictures."
        )
    if dtype != info.dtype:
        raise InputError(f"{path} holds {dtype}, and the run takes {info.dtype}: convert it.")
    top, left, height, width = 0, 0, raster.height_px, raster.width_px
    if region:
        box = _coordinates(raster, region, region_crs) if region_crs else tuple(map(int, region))
        bottom, right = min(box[0] + box[2], height), min(box[1] + box[3], width)
        top, left = max(box[0], 0), max(box[1], 0)
        height, width = bottom - top, right - left
        if height <= 0 or width <= 0:
            raise InputError(f"{path} has no pixel in --region: give a part of it.")
    gcps = tuple(copy.copy(point) for point in raster.gcps)
    for point in gcps:
        point.row, point.col = point.row - top, point.col - left
    rpcs = copy.copy(raster.rpcs)
    if rpcs is not None:
        rpcs.line_off, rpcs.samp_off = rpcs.line_off - top, rpcs.samp_off - left
    place = top, left, height, width
    return Scene(name, path, raster, info, taken, *place, gcps, rpcs, alpha_last)


def opened_each(
    pictures: Sequence[tuple[str, Path]], info: DatasetInfo, *part: Any
) -> tuple[list[Scene], list[str]]:
    """Pictures by name, as `opened`, and a sentence for each that is damaged; it is left out."""
    scenes, said = [], []
    for name, path in pictures:
        try:
            scenes.append(opened(name, path, info, *part))
        except DamagedError as error:
            said.append(str(error))
    return scenes, said


def _coordinates(raster, region, region_crs):
    """Row, column, height and width of the pixels that a box touches."""
    from rasterio import Affine
    from rasterio.crs import CRS
    from rasterio.errors import CRSError
    from rasterio.warp import transform_bounds

    if raster.transform is None or not raster.crs:
        raise InputError(
            f"{raster.name} isn't georeferenced, so that coordinates mean nothing: give --region in"
            " pixels, without --region-crs."
        )
    try:
        given = CRS.from_user_input(region_crs)
    except CRSError as error:
        raise InputError(
            f"--region-crs {region_crs} is no coordinate reference system: give one such as"
            " EPSG:4326."
        ) from error
    left, bottom, right, top = region
    # Longitudes may run across the date line, from 179 to -179.
    if bottom > top or (left > right and not given.is_geographic):
        raise InputError(
            f"--region {' '.join(map(str, region))} has its edges in another order: give LEFT"
            " BOTTOM RIGHT TOP."
        )
    with converting(
        f"--region doesn't lead from {region_crs} into {title(raster.crs)}, which {raster.name} is"
        " in: give --region in pixels, without --region-crs."
    ):
        left, bottom, right, top = transform_bounds(given, CRS.from_wkt(raster.crs), *region)
    turn = around(raster.crs)
    right += turn if right < left else 0
    to_px, boxes = ~Affine(*raster.transform), []
    for by in {0.0, turn, -turn}:  # the scene may be of longitudes to 190, or to 360
        corners = [to_px @ (x + by, y) for x in (left, right) for y in (bottom, top)]
        columns, rows = zip(*corners, strict=True)
        # Hairs' breadths of rounding add no row or column.
        first_row, first_column = (math.floor(min(at) + 1e-6) for at in (rows, columns))
        last_row, last_column = (math.ceil(max(at) - 1e-6) for at in (rows, columns))
        boxes.append((first_row, first_column, last_row - first_row, last_column - first_column))
    within = [box for box in boxes if box[1] < raster.width_px and box[1] + box[3] > 0]
    if len(within) > 1:
        raise InputError(
            f"--region lies at both ends of {raster.name}, which goes around the earth: predict"
            " each part by itself."
        )
    return within[0] if within else boxes[0]
