"""What a raster file stores, and its pixels: the one place where images and masks are opened.

TIFF, JPEG 2000, VRT, PNG and PPM of 16 bits are read by GDAL (rasterio), others by Pillow. Pixels
come as they are stored: no orientation turns them, no colour is inverted, no bit is dropped.
`photograph` makes of them what a network takes.

A file can claim any size in a few bytes, so the claim is held to `LARGEST_IMAGE_PX` before memory
is taken. Pillow takes four bytes a pixel beside the result while it decodes (a progressive JPEG up
to six more), and large files are decoded one at a time: a photograph of 20,000 x 20,000 px and its
mask take 3.2 GB meanwhile, and 1.6 GB when they are read.
"""

import contextlib
import hashlib
import io
import math
import re
import threading
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import ImageFileDirectory_v2
from PIL.WebPImagePlugin import WebPImageFile

from cnn_jax.errors import InputError

LARGEST_IMAGE_PX = 2**29
"""An image whose header claims more pixels, such as 23,170 x 23,170, is refused before it is
decoded."""

_STRIP_PX = 2**24  # so much of a decoded file is turned into numbers at once
_LARGE_PX = 2**26
_one_large_at_a_time = threading.Lock()
_opening = threading.Lock()

# Pillow takes an image's memory in blocks. Of its usual 16 MiB glibc keeps many when they are
# freed, 1 GB after an orthophoto; blocks above 32 MiB go back to the system.
Image.core.set_block_size(2**26)

# By how a file begins: the name of its format, and its reader. Pillow's readers are called
# directly, not through Image.open, whose own limit on sizes is a global and below the largest
# orthophotos, and which would also try formats that nobody keeps photographs in. A text is the
# name of a driver of GDAL.
_PHOTOGRAPHS: dict[bytes, tuple[str, Any]] = {
    b"\xff\xd8\xff": ("JPEG", JpegImageFile),
    b"\x89PNG\r\n\x1a\n": ("PNG", PngImageFile),
    b"II*\0": ("TIFF", "GTiff"),
    b"MM\0*": ("TIFF", "GTiff"),
    b"II+\0": ("TIFF", "GTiff"),
    b"MM\0+": ("TIFF", "GTiff"),
    b"BM": ("BMP", BmpImageFile),
    b"RIFF": ("WebP", WebPImageFile),
    b"\0\0\0\x0cjP  ": ("JPEG 2000", "JP2OpenJPEG"),
    b"\xff\x4f\xff\x51": ("JPEG 2000", "JP2OpenJPEG"),
    b"<VRTDataset": ("VRT", "VRT"),
}
_PIXELS = [magic for magic, (name, _) in _PHOTOGRAPHS.items() if name != "VRT"]
_SMALL_IMAGES = {
    **_PHOTOGRAPHS,
    b"GIF8": ("GIF", GifImageFile),
    **{b"P%d" % kind: ("PNM", PpmImageFile) for kind in range(1, 7)},
}

_ORIENTATION = 0x0112
_COMPRESSION, _PHOTOMETRIC, _PLANAR, _SUBFILE, _SUB_IMAGES, _COLORS = 259, 262, 284, 254, 330, 320
_CODECS = {
    **{1: "none", 2: "CCITT", 3: "CCITT", 4: "CCITT", 5: "LZW", 6: "JPEG", 7: "JPEG"},
    **{8: "deflate", 32773: "PackBits", 32946: "deflate", 34661: "JBIG", 34712: "JPEG 2000"},
    **{34887: "LERC", 34892: "JPEG", 34925: "LZMA", 50000: "ZSTD", 50001: "WebP"},
    **{50002: "JPEG XL", 52546: "JPEG XL"},
}
_PHOTOMETRICS = {
    **{0: "white is zero", 1: "grey", 2: "RGB", 3: "palette", 4: "mask", 5: "CMYK", 6: "YCbCr"},
    **{8: "Lab", 9: "Lab", 10: "Lab"},
}

_SIDECAR_DRIVERS = {"JPEG": "JPEG", "PNG": "PNG", "BMP": "BMP", "WebP": "WEBP"}
# What GDAL's sidecar says of pixels, without the statistics that viewers keep there.
_OF_PIXELS = re.compile(rb"<(NoDataValue|ColorInterp|ColorTable)\b.*?</\1>", re.DOTALL)

_MAY_LOSE = ("JPEG", "WebP", "WEBP", "JPEG XL", "JPEG 2000", "JPEG2000")
_DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32")


class DamagedError(InputError):
    """A file that was meant to be an image and can't be decoded."""


@dataclass(frozen=True)
class Raster:
    """An image file, not decoded.

    Attributes:
        name: for errors, which begin with it.
        format: "TIFF", "JPEG", "PNG", "WebP", "BMP", "JPEG 2000", "VRT", "GIF" or "PNM".
        height_px: as stored, whatever `orientation` says.
        width_px: likewise.
        bands: of `read`. Of PNG, WebP and BMP alpha is not one of them; of a TIFF it is.
        dtype: of `read`: NumPy's name of an integer of at most 32 bits, or "float32".
        bits: of one value as stored.
        codec: "none", "deflate", "JPEG", ...
        lossy: whether the codec changes values.
        photometric: "grey", "white is zero", "RGB", "palette", "CMYK", ...
        planar: whether bands are stored one after another.
        alpha: whether a band that the file calls alpha is read ("last"), left out ("left out") or
            not there ("").
        alpha_band: number from 1 of the band that is alpha beyond doubt; 0: none. Of four bands
            GDAL calls the last one so where nothing is said.
        masked: whether a mask inside a TIFF or a JPEG, or beside an image (`.msk`), says which
            pixels hold nothing.
        orientation: 1 to 8, as in EXIF and TIFF; 1: upright.
        nodata: the value of pixels that hold nothing; None: not said.
        palette: uint8 `[colors, 3]` that `read`'s indices stand for; None: no indices.
        crs: the coordinate reference system as WKT; "" where none is said.
        transform: the six numbers of the affine map from pixels to coordinates; None likewise.
        gcps: ground control points of rasterio, which place a file without a transform in `crs`.
        rpcs: rational polynomials of rasterio, by which satellites' scenes are warped; None: none.
        block_px: height and width of the parts that are decoded by themselves, and of which one may
            be damaged; (0, 0): it is decoded whole.
    """

    name: str
    format: str
    height_px: int
    width_px: int
    bands: int
    dtype: str
    bits: int = 8
    codec: str = "none"
    lossy: bool = False
    photometric: str = "RGB"
    planar: bool = False
    alpha: str = ""
    alpha_band: int = 0
    masked: bool = False
    orientation: int = 1
    nodata: float | None = None
    palette: np.ndarray | None = field(default=None, repr=False)
    crs: str = ""
    transform: tuple[float, ...] | None = None
    gcps: tuple[Any, ...] = field(default=(), repr=False, compare=False)
    rpcs: Any = field(default=None, repr=False, compare=False)
    block_px: tuple[int, int] = (0, 0)
    _source: Path | bytes = field(default=b"", repr=False)
    _reader: Any = field(default=None, repr=False)

    def check_polygons(self) -> None:
        """Raises InputError where the file is placed by what areas on the earth can't follow."""
        if self.transform is None and (self.gcps or self.rpcs is not None):
            by = "ground control points" if self.gcps else "rational polynomials (RPC)"
            raise InputError(
                f"{self.name} is placed by {by}, which polygons can't follow: warp it with"
                " gdalwarp."
            )

    def sources(self) -> list["Raster"]:
        """The files that a VRT takes its pixels from; of others none.

        Raises:
            InputError: one can't be opened.
        """
        if self.format != "VRT":
            return []
        return [open_raster(file, in_parts=True) for file in _vrt_sources(self._source)]

    def read(self, window: tuple[slice, slice] | None = None) -> np.ndarray:
        """The stored pixels `[height, width, bands]`; of a window (rows, columns) its own.

        Raises:
            InputError: the file is damaged.
        """
        rows, columns = window or (slice(None), slice(None))
        top, bottom, _ = rows.indices(self.height_px)
        left, right, _ = columns.indices(self.width_px)
        pixels = np.empty((bottom - top, right - left, self.bands), self.dtype)
        for strip, values in self.strips(top, bottom, columns):
            pixels[strip.start - top : strip.stop - top] = values
        return pixels

    def hidden(self) -> Callable[[slice, slice], np.ndarray] | None:
        """Where a pixel holds nothing though `read` gives it a value, by alpha that is left out or
        by a mask: a function of rows and columns to bool `[height, width]`; None: nowhere.

        Alpha is decoded by this call, and whole; a mask by the function.

        Raises:
            InputError: the file is damaged; the function raises it too.
        """
        if self.masked:
            return self._masked
        if self.alpha == "left out":
            transparent = self._transparent()
            return lambda rows, columns: transparent[rows, columns]
        return None

    def _masked(self, rows, columns) -> np.ndarray:
        top, bottom, _ = rows.indices(self.height_px)
        left, right, _ = columns.indices(self.width_px)
        driver = self._reader if isinstance(self._reader, str) else _SIDECAR_DRIVERS[self.format]
        with _explained(self.name, self.codec), _gdal(self._source, driver) as dataset:
            return dataset.read_masks(1, window=((top, bottom), (left, right))) == 0

    def _transparent(self) -> np.ndarray:
        with _explained(self.name):
            if self.format != "PNG":
                reader = {"WebP": WebPImageFile, "BMP": BmpImageFile, "GIF": GifImageFile}
                with _stream(self._source) as stream:
                    picture = reader[self.format](stream).convert("RGBA")
                    return np.asarray(picture.getchannel("A")) == 0
            # By GDAL: Pillow compares the colour that tRNS names with 8 bits, whatever is stored.
            with _gdal(self._source, "PNG") as dataset:
                if self.palette is None:
                    return dataset.dataset_mask() == 0
                opacity = np.full(256, 255)
                for index, color in dataset.colormap(1).items():
                    opacity[index] = color[3]
                return opacity[dataset.read(1)] == 0

    def strips(
        self, top: int = 0, bottom: int | None = None, columns: slice = slice(None)
    ) -> Iterator[tuple[slice, np.ndarray]]:
        """Parts of `read` from row `top` to `bottom`, (rows, pixels): all of a large file at once
        would take as much memory again.

        Raises:
            InputError: the file is damaged.
        """
        bottom = self.height_px if bottom is None else bottom
        left, right, _ = columns.indices(self.width_px)
        rows = max(1, _STRIP_PX // max(right - left, 1))
        large = self.height_px * self.width_px > _LARGE_PX
        with (
            _explained(self.name, self.codec),
            _one_large_at_a_time if large else contextlib.nullcontext(),
            self._decoded(left, right) as part,
        ):
            for first in range(top, bottom, rows):
                last = min(first + rows, bottom)
                values = part(first, last)
                with np.errstate(over="ignore"):  # of 64 bits; it is infinite then
                    values = values.astype(self.dtype, copy=False)
                yield slice(first, last), values

    @contextmanager
    def _decoded(self, left, right) -> Iterator[Callable[[int, int], np.ndarray]]:
        """A function from the first and the last row to the pixels between, of some columns."""
        if isinstance(self._reader, str):
            with _gdal(self._source, self._reader) as dataset:
                bands = list(range(1, self.bands + 1))

                def read(top: int, bottom: int) -> np.ndarray:
                    window = ((top, bottom), (left, right))
                    return np.moveaxis(dataset.read(bands, window=window), 0, -1)

                yield read
            return
        with _stream(self._source) as stream, self._reader(stream, self.name) as picture:
            picture.load()
            # Pillow spreads few bits over 0 to 255.
            spread = 255 // (2**self.bits - 1) if self.bits in (2, 4) else 1

            def cut(top: int, bottom: int) -> np.ndarray:
                strip = picture.crop((left, top, right, bottom))
                if strip.mode[:3] not in ("1", "L", "LA", "P", "F", "RGB") and strip.mode[0] != "I":
                    strip = strip.convert("RGB")
                values = np.asarray(strip)
                values = values[..., None] if values.ndim == 2 else values[..., : self.bands]
                return values // spread if spread > 1 else values

            yield cut


def open_raster(
    source: Path | bytes,
    name: str | Path | None = None,
    *,
    small: bool = False,
    in_parts: bool = False,
) -> Raster:
    """What an image file stores; its pixels are not decoded yet.

    Args:
        source: its path, or its bytes.
        name: for errors; its path, if not given.
        small: whether GIF and PNM are read too, and no VRT, as sets of labelled images hold them.
        in_parts: whether it will be read window by window, and may be of any size where GDAL reads
            it.

    Raises:
        InputError: the file is no image, is damaged, claims too many pixels, holds several pages,
            numbers of more than 32 bits, or a compression that GDAL lacks. It says which.
    """
    name = str(source if name is None and isinstance(source, Path) else name or "")
    known = _SMALL_IMAGES if small else _PHOTOGRAPHS
    with _explained(name), _stream(source) as stream:
        start = stream.read(1024)
        stream.seek(0)
        if start.startswith(b"<?xml"):  # as some programs begin a VRT
            start = start[max(start.find(b"<VRTDataset"), 0) :]
        format_, reader = next(
            (known[magic] for magic in known if start.startswith(magic)), ("", None)
        )
        if not start:
            raise DamagedError(f"{name} can't be decoded: it is empty; copy it again.".lstrip())
        in_file = isinstance(source, Path) and source.suffix.lower() == ".vrt"
        if format_ == "VRT" and in_file and not small:
            _vrt_sources(source)
        elif reader is None or format_ == "VRT":
            formats = "JPEG, PNG, TIFF, BMP or WebP image"
            if small:
                formats = "JPEG, PNG, TIFF, BMP, WebP, GIF or PNM image"
            raise InputError(f"{name} is no {formats}: replace or remove it.".lstrip())
        if isinstance(reader, str):
            return _of_gdal(name, format_, source, reader, stream, in_parts)
        raster = _of_pillow(name, format_, source, reader, stream)
        return raster if small else _with_sidecar(raster, stream)


def photograph(raster: Raster, bands: tuple[int, ...] = ()) -> tuple[np.ndarray, np.ndarray | None]:
    """A photograph as a network takes it, and where it holds nothing.

    Indices become the colours of their palette, and values of fewer than 8 bits are spread over 0
    to 255; all else is as stored. A pixel holds nothing where all of its bands are `nodata`, or
    one is not finite, or alpha is 0 (`as_photograph`); it is 0 then.

    Args:
        raster: opened.
        bands: numbers from 1 of the bands to take; empty: all.

    Returns:
        `[height, width, channels]` of `image_kind`, and bool `[height, width]`; None: all hold
        something.

    Raises:
        InputError: the file is damaged.
    """
    channels, dtype = image_kind(raster, bands)
    image = np.empty((raster.height_px, raster.width_px, channels), dtype)
    void = None
    for rows, values in raster.strips():
        image[rows], empty = as_photograph(raster, values, bands)
        if empty is not None:
            void = np.zeros(image.shape[:2], bool) if void is None else void
            void[rows] = empty
    return image, void


def as_photograph(
    raster: Raster, values: np.ndarray, bands: tuple[int, ...] = ()
) -> tuple[np.ndarray, np.ndarray | None]:
    """As `photograph`, of the part of a raster whose stored pixels these are."""
    used = [band - 1 for band in bands] if bands and raster.palette is None else slice(None)
    empty = holding_nothing(values[..., used], raster.nodata)
    if bands and raster.alpha_band and raster.alpha_band not in bands:
        clear = values[..., raster.alpha_band - 1] == 0
        empty = clear if empty is None else empty | clear
    elif raster.alpha == "last":
        # Other bands are called alpha too, such as near infrared: transparent is what is 0 there
        # and black or white elsewhere.
        rest = values[..., :-1]
        clear = (values[..., -1] == 0) & (rest == rest[..., :1]).all(-1)
        clear &= (rest[..., 0] == 0) | (rest[..., 0] == greatest_of(values.dtype))
        empty = clear if empty is None else empty | clear
    if raster.palette is not None:
        values = raster.palette[values[..., 0]]
    elif raster.bits < 8:
        values = spread(values, raster.bits)
    if bands:
        values = values[..., [band - 1 for band in bands]]
    if empty is None or not empty.any():
        return values, None
    return np.where(empty[..., None], values.dtype.type(0), values), empty


def spread(values: np.ndarray, bits: int) -> np.ndarray:
    """Values of fewer than 8 bits over 0 to 255, uint8."""
    return np.rint(np.linspace(0, 255, 2**bits)).astype(np.uint8)[values]


def image_kind(raster: Raster, bands: tuple[int, ...] = ()) -> tuple[int, str]:
    """Channels and type of a photograph, as `photograph` gives it.

    Raises:
        InputError: the file lacks a band.
    """
    stored = 3 if raster.palette is not None else raster.bands
    if bands and max(bands) > stored:
        raise InputError(
            f"{raster.name} has {stored} bands, and the description's bands name {max(bands)}:"
            " name others."
        )
    return len(bands) or stored, "uint8" if raster.bits < 8 else raster.dtype


def greatest_of(dtype: Any) -> float:
    """The value that becomes 1 where nothing else is said: the greatest of an integer type; 1 of
    floating-point numbers, which stay as they are."""
    dtype = np.dtype(dtype)
    return float(np.iinfo(dtype).max) if dtype.kind in "iu" else 1.0


def upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """An image `[height, width, ...]` turned as EXIF's orientation, 1 to 8, asks."""
    if orientation >= 5:
        image = image.swapaxes(0, 1)
    down = orientation in (3, 4, 7, 8)
    right = orientation in (2, 3, 6, 7)
    return image[:: -1 if down else 1, :: -1 if right else 1]


def digest(path: Path) -> str:
    """A hexadecimal digest of a file's bytes, and of what a file beside it says of its pixels; of a
    VRT's and of those of the files it names.

    Raises:
        InputError: a file can't be read.
    """
    with _explained(str(path)):
        of_each = []
        for file in [path, *(_vrt_sources(path) if path.suffix.lower() == ".vrt" else ())]:
            with file.open("rb") as stream:
                found = hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16))
                of_each.append(found.hexdigest())
        with contextlib.suppress(FileNotFoundError):
            sidecar = Path(f"{path}.aux.xml").read_bytes()
            of_each += [said[0].decode("latin-1") for said in _OF_PIXELS.finditer(sidecar)]
        with contextlib.suppress(FileNotFoundError):
            mask = Path(f"{path}.msk").read_bytes()
            of_each.append(hashlib.blake2b(mask, digest_size=16).hexdigest())
        if len(of_each) == 1:
            return of_each[0]
        return hashlib.blake2b("".join(of_each).encode(), digest_size=16).hexdigest()


def holding_nothing(values: np.ndarray, nodata: float | None) -> np.ndarray | None:
    """Where pixels `[height, width, bands]` hold nothing, bool `[height, width]`: all bands are
    `nodata`, or one isn't finite. None: nowhere."""
    floating = values.dtype.kind == "f"
    empty: Any = ~np.isfinite(values).all(-1) if floating else None
    if nodata is not None and math.isfinite(nodata):
        with np.errstate(over="ignore"):
            same = (values == nodata).all(-1)
        empty = same if empty is None else empty | same
    return empty


@contextmanager
def _stream(source) -> Iterator[IO[bytes]]:
    with source.open("rb") if isinstance(source, Path) else io.BytesIO(source) as stream:
        yield stream


@contextmanager
def _explained(name, codec=""):
    """Turns whatever a reader of images raises on a bad file into one sentence about the file."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        # Of a VRT it may be a file that it names.
        of = f"{error.filename}: " if str(error.filename) != name else ""
        raise DamagedError(
            f"{name} can't be decoded ({of}{error.strerror}): check the path.".lstrip()
        ) from error
    # Pillow raises OSError, SyntaxError, ValueError, struct.error, zlib.error and more
    except Exception as error:
        told = _told(error)
        if re.search(r"missing codec|not configured|not implemented|not supported", told):
            raise InputError(
                f"{name} can't be decoded: it is compressed by {codec or 'a codec'}, which this"
                " build of GDAL lacks; save it with another compression, such as deflate."
            ) from error
        if re.search(r"cannot handle|Unsupported BMP", told):  # a JPEG of 12 bits, an odd BMP
            raise InputError(
                f"{name} is of a kind that isn't read ({error}): save it as PNG or TIFF.".lstrip()
            ) from error
        raise DamagedError(
            f"{name} can't be decoded ({error.__cause__ or error}): it is damaged or cut short;"
            " copy it again.".lstrip()
        ) from error


def _told(error: BaseException | None) -> str:
    """What an error and those behind it say."""
    texts = []
    while error is not None:
        texts.append(str(error))
        error = error.__cause__ or error.__context__
    return " ".join(texts)


def _check_size(name, width, height):
    if width * height > LARGEST_IMAGE_PX:
        raise InputError(
            f"{name} claims {width} x {height} px, over the limit of {LARGEST_IMAGE_PX:,} pixels:"
            " cut it into parts.".lstrip()
        )


def _check_pages(name, pages, what):
    if pages > 1:
        raise InputError(
            f"{name} holds {pages} {what}, of which one alone would be read: save each as a file"
            " of its own.".lstrip()
        )


def _orientation(tags):
    """1 to 8. Cameras write 0, and other programs anything, where they know none: that is 1."""
    told = tags.get(_ORIENTATION, 1)
    return told if told in range(1, 9) else 1


# ---- Pillow


def _of_pillow(name, format_, source, reader, stream):
    picture: ImageFile.ImageFile = reader(stream, name)
    _check_size(name, picture.width, picture.height)
    _check_pages(name, getattr(picture, "n_frames", 1), "frames")
    # How samples are stored, which decoding forgets: "L;4", or a tuple that begins so.
    stored = picture.tile[0].args if picture.tile else ""
    stored = stored if isinstance(stored, str) else str(stored and stored[0])
    mode, bits, dtype = picture.mode, 8, "uint8"
    bands = 1 if mode in ("1", "L", "LA", "P", "F") or mode.startswith("I") else 3
    if mode == "1":
        bits = 1
    elif mode == "L" and stored in ("L;2", "L;4"):
        bits = int(stored[-1])
    elif mode.startswith("I"):
        bits, dtype = 16, "uint16"
    elif mode == "F":
        bits, dtype = 32, "float32"
    if format_ == "PNG":
        stream.seek(24)
        depth, kind = stream.read(2)
        if depth == 16:  # Pillow keeps 8 bits of 16 where there are several bands
            bits, dtype, reader = 16, "uint16", "PNG"
            bands = 1 if kind in (0, 4) else 3  # it makes colours of grey with alpha
    if format_ == "PNM" and bands == 3 and isinstance(args := picture.tile[0].args, tuple):
        stream.seek(0)
        if args[-1] == 65535 and stream.read(2) == b"P6":
            bits, dtype, reader = 16, "uint16", "PNM"  # Pillow keeps 8 bits here too
        elif args[-1] > 255:  # GDAL reads no text, and spreads nothing over 16 bits
            raise InputError(
                f"{name} is a PPM of 16 bits in text, or up to {args[-1]}, of which 8 would be"
                " read: save it as PNG.".lstrip()
            )
    # A PNG that keeps its EXIF behind the pixels would have to be decoded to find it.
    told = format_ != "PNG" or "exif" in picture.info
    palette = None
    if mode == "P":
        palette = np.zeros((256, 3), np.uint8)  # entries that the file doesn't have are black
        given = np.asarray(picture.getpalette("RGB"), np.uint8).reshape(-1, 3)
        palette[: len(given)] = given
    transparent = mode in ("LA", "PA", "RGBA") or "transparency" in picture.info
    lossy = format_ == "JPEG" or (format_ == "WebP" and _lossy_webp(stream))
    codecs = {"JPEG": "JPEG", "PNG": "deflate", "WebP": "WebP", "GIF": "LZW"}
    return Raster(
        name,
        format_,
        picture.height,
        picture.width,
        bands,
        dtype,
        bits=bits,
        codec=codecs.get(format_, "none"),
        lossy=lossy,
        photometric="palette" if mode == "P" else "grey" if bands == 1 else "RGB",
        alpha="left out" if transparent else "",
        orientation=_orientation(picture.getexif() if told else {}),
        palette=palette,
        _source=source,
        _reader=reader,
    )


def _with_sidecar(raster, stream):
    """The raster with the place and no-data value that a world file or GDAL's `.aux.xml` beside it
    gives, and the mask of a `.msk` or of a JPEG itself."""
    path = raster._source
    if not isinstance(path, Path):
        return raster
    ending = path.suffix.lower()
    worlds = (".wld", f"{ending}w", f"{ending[:2]}{ending[-1:]}w")
    beside = [path.stem + case(world) for world in worlds for case in (str.lower, str.upper)]
    beside += [f"{path.name}.aux.xml", f"{path.name}.msk"]
    if not any(path.with_name(name).is_file() for name in beside) and not (
        raster.format == "JPEG" and _holds_mask(stream)
    ):
        return raster
    with _gdal(path, _SIDECAR_DRIVERS[raster.format]) as dataset:
        # Of a PNG it may be the transparency of a colour, which is none of a photograph's.
        nodata = None if raster.alpha else dataset.nodata
        return replace(raster, nodata=nodata, masked=_masked(dataset), **_place(dataset))


def _holds_mask(stream):
    """Whether what follows a JPEG closes with the place of its end, as the masks of GDAL do."""
    stream.seek(-4, io.SEEK_END)
    end = int.from_bytes(stream.read(4), "little")
    stream.seek(max(end - 2, 0))
    return stream.read(2) == b"\xff\xd9"


def _lossy_webp(stream):
    """Whether a WebP holds a chunk of lossy pixels."""
    stream.seek(12)
    while len(header := stream.read(8)) == 8:
        kind, size = header[:4], int.from_bytes(header[4:], "little")
        if kind in (b"VP8 ", b"VP8L"):
            return kind == b"VP8 "
        stream.seek(size + size % 2, io.SEEK_CUR)
    return True


# ---- GDAL


@contextmanager
def _gdal(source, driver):
    """A dataset of rasterio."""
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning

    with contextlib.ExitStack() as stack:
        stack.enter_context(
            rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="TRUE", GDAL_PAM_ENABLED="YES")
        )
        # Filters of warnings belong to the process, so that one thread at a time changes them.
        with _opening, warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            if isinstance(source, Path):
                dataset = rasterio.open(source.absolute(), driver=driver)
            else:
                dataset = stack.enter_context(rasterio.MemoryFile(source)).open(driver=driver)
        yield stack.enter_context(dataset)


def _of_gdal(name, format_, source, driver, stream, in_parts):
    tags = {}
    if format_ == "TIFF":
        pages, tags = _tiff_pages(stream)
        _check_pages(name, pages, "pages")
        if tags.get(_SUBFILE, 0) & 5 and (pages or _SUB_IMAGES in tags):
            raise InputError(
                f"{name} begins with a preview, which alone would be read: save the image itself as"
                " a file of its own.".lstrip()
            )
    codec = _CODECS.get(tags.get(_COMPRESSION, 1), f"codec {tags.get(_COMPRESSION)}")
    photometric = _PHOTOMETRICS.get(tags.get(_PHOTOMETRIC, -1), "unknown")
    with _explained(name, codec), _gdal(source, driver) as dataset:
        if not in_parts:
            _check_size(name, dataset.width, dataset.height)
        _check_pages(name, len(dataset.subdatasets), "images")
        structure = dataset.tags(ns="IMAGE_STRUCTURE")
        stored = sorted(set(dataset.dtypes))
        if len(stored) > 1:
            raise InputError(
                f"{name} has bands of different types ({', '.join(stored)}): save it with one for"
                " all.".lstrip()
            )
        dtype = "float32" if stored in (["float64"], ["float16"]) else stored[0]
        if dtype not in _DTYPES:
            raise InputError(
                f"{name} holds numbers of type {dtype}, which no network takes: save it as float32"
                " or as integers of at most 32 bits.".lstrip()
            )
        interpretations = [band.name for band in dataset.colorinterp]
        bands = dataset.count
        if format_ != "TIFF":
            codec = structure.get("COMPRESSION", "none" if format_ == "VRT" else format_)
            photometric = "RGB" if "red" in interpretations else "grey"
        elif (photometric in ("YCbCr", "Lab") or "SOURCE_COLOR_SPACE" in structure) and bands == 4:
            bands = 3  # GDAL makes red, green and blue of them, with alpha that the file hasn't
        alpha = "last" if bands == dataset.count > 1 and interpretations[-1] == "alpha" else ""
        sure = bands not in (1, 4) and "alpha" in interpretations[:bands]
        if len({str(value) for value in dataset.nodatavals}) > 1:
            raise InputError(
                f"{name} has bands of different no-data values ({dataset.nodatavals}): save it with"
                " one for all.".lstrip()
            )
        palette = None
        # GDAL makes a palette of two colours for one bit. A TIFF's own counts, also where the TIFF
        # calls itself grey, as it does when its colours are written after its pixels.
        if "palette" in interpretations and (format_ != "TIFF" or _COLORS in tags):
            photometric = "palette"
        if photometric == "palette" and bands == 1 + bool(alpha) and dtype in ("uint8", "uint16"):
            palette = np.zeros((2 ** (8 * np.dtype(dtype).itemsize), 3), np.uint8)
            for index, color in dataset.colormap(1).items():
                palette[index] = color[:3]
        exact = structure.get("COMPRESSION_REVERSIBILITY", "").startswith("LOSSLESS")
        lossy = (codec in _MAY_LOSE and not exact) or float(structure.get("MAX_Z_ERROR", 0)) > 0
        return Raster(
            name,
            format_,
            dataset.height,
            dataset.width,
            bands,
            dtype,
            bits=int(dataset.tags(1, ns="IMAGE_STRUCTURE").get("NBITS", 0))
            or 8 * np.dtype(dtype).itemsize,
            codec=codec,
            lossy=lossy,
            photometric=photometric,
            planar=bands > 1 and tags.get(_PLANAR, 1) == 2,
            alpha=alpha,
            alpha_band=interpretations.index("alpha") + 1 if sure else 0,
            masked=_masked(dataset),
            orientation=_orientation(tags),
            nodata=dataset.nodata,
            palette=palette,
            **_place(dataset),
            block_px=dataset.block_shapes[0],
            _source=source,
            _reader=driver,
        )


def _masked(dataset) -> bool:
    """Whether a dataset of rasterio has a mask of its own, which isn't alpha."""
    return {flag.name for flag in dataset.mask_flag_enums[0]} == {"per_dataset"}


def _place(dataset) -> dict[str, Any]:
    """Where a dataset of rasterio lies, as fields of `Raster`."""
    place = dataset.transform
    # Of pixels without width or height nothing says where they lie.
    georeferenced = not (place.is_identity or place.is_degenerate) and np.isfinite(place).all()
    gcps, of_gcps = ((), None) if georeferenced else dataset.gcps
    crs = of_gcps if gcps else dataset.crs
    return {
        "crs": crs.to_wkt() if crs else "",
        "transform": tuple(place)[:6] if georeferenced else None,
        "gcps": tuple(gcps),
        "rpcs": _rpcs(dataset),
    }


def _rpcs(dataset):
    """The rational polynomials of a dataset of rasterio, which takes them apart only now; None
    where it has none, or they are no numbers."""
    with contextlib.suppress(KeyError, ValueError, IndexError):
        return dataset.rpcs
    return None


def _tiff_pages(stream):
    """How many pages a TIFF has, overviews and masks left out, and the tags of the first."""
    header = stream.read(8)
    order = header[:2]
    if b"+" in header[2:4]:  # Pillow looks for it in one place, wherever the byte order has it
        header = b"II+\0" + header[4:] + stream.read(8)
    directory = ImageFileDirectory_v2(header, order)
    pages, first, seen = 0, {}, set()
    while directory.next and directory.next not in seen:
        seen.add(directory.next)
        stream.seek(directory.next)
        directory.load(stream)
        first = first or dict(directory)
        pages += not directory.get(_SUBFILE, 0) & 5  # 1: reduced, 4: a mask
    return pages, first


def _vrt_sources(path):
    """The files beside or below a VRT that it takes its pixels from: one that names others, which
    may be any file and any address, is refused."""
    text = path.read_text(encoding="utf-8")
    if re.search(r"Pixel(Function|Language)|subClass|<!", text, re.IGNORECASE):
        raise InputError(f"{path} is no plain mosaic of files: save it as TIFF.")
    sources = []
    # Read as XML: a name may be spelled with character references, and GDAL heeds no case.
    for element in ElementTree.fromstring(text).iter():
        if element.tag.rpartition("}")[2].lower() not in ("sourcefilename", "sourcedataset"):
            continue
        attributes = {name.lower(): value for name, value in element.items()}
        file = element.text or ""
        within = attributes.get("relativetovrt") == "1" and not Path(file).is_absolute()
        if not within or ".." in Path(file).parts:
            raise InputError(
                f"{path} takes pixels from {file}: a VRT may name only files beside or below it,"
                ' with relativeToVRT="1".'
            )
        with (path.parent / file).open("rb") as stream:
            start = stream.read(16)
        # Another VRT, or the description of a service, would name files of its own.
        if not start.startswith(tuple(_PIXELS)):
            raise InputError(f"{path} takes pixels from {file}, which is no image: name an image.")
        sources.append(path.parent / file)
    return sources
