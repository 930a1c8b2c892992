"""Pixels from files: photographs as RGB, masks as labels, and what a file says without decoding it.

A file can claim any size in a few bytes, so the claim is held to `LARGEST_IMAGE_PX` before memory
is taken. While a file is decoded it takes four bytes a pixel beside the result (a grey or palette
one takes one byte; a progressive JPEG up to six more), and large files are decoded one at a time: a
photograph of 20,000 x 20,000 px and its mask take 3.2 GB meanwhile, and 1.6 GB when they are read.
"""

import contextlib
import functools
import hashlib
import threading
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from cnn_jax.data.descriptions import Description
from cnn_jax.data.scenes import IGNORED
from cnn_jax.errors import InputError

LARGEST_IMAGE_PX = 2**29
"""An image whose header claims more pixels, such as 23,170 x 23,170, is refused before it is
decoded."""

_STRIP_PX = 2**24  # so much of a decoded file is turned into numbers at once
_LARGE_PX = 2**26
_one_large_at_a_time = threading.Lock()

# Pillow takes an image's memory in blocks. Of its usual 16 MiB glibc keeps many when they are
# freed, 1 GB after an orthophoto; blocks above 32 MiB go back to the system.
Image.core.set_block_size(2**26)

# Pillow's readers, by how a file begins. They are called directly, not through Image.open, whose
# own limit on sizes is a global and below the largest orthophotos, and which would also try formats
# that nobody keeps photographs in.
_PHOTOGRAPHS = (
    (b"\xff\xd8\xff", JpegImageFile),
    (b"\x89PNG\r\n\x1a\n", PngImageFile),
    (b"II*\0", TiffImageFile),
    (b"MM\0*", TiffImageFile),
    (b"II+\0", TiffImageFile),
    (b"MM\0+", TiffImageFile),
    (b"BM", BmpImageFile),
    (b"RIFF", WebPImageFile),
)
_SMALL_IMAGES = (
    *_PHOTOGRAPHS,
    (b"GIF8", GifImageFile),
    *((b"P%d" % kind, PpmImageFile) for kind in range(1, 7)),
)

_ORIENTATION = 0x0112
_UNKNOWN = 254


@dataclass(frozen=True)
class FileFacts:
    """An image file undecoded: its size, how EXIF would turn it (1: not at all), whether it is a
    JPEG, a digest of its bytes."""

    height_px: int
    width_px: int
    orientation: int
    is_jpeg: bool
    digest: str


def examine(path: Path) -> FileFacts:
    """What there is to know of an image file without decoding it; reads all of its bytes once.

    Raises:
        InputError: the file is no image, damaged, or too large.
    """
    with _explained(path), path.open("rb") as stream:
        digest = hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
        picture = _picture(path, stream)
        return FileFacts(
            picture.height,
            picture.width,
            _orientation(picture),
            isinstance(picture, JpegImageFile),
            digest,
        )


def _orientation(picture):
    # TIFF is turned upright by its reader. A PNG that keeps its tag behind the pixels would have to
    # be decoded to find it.
    if isinstance(picture, TiffImageFile) or (
        isinstance(picture, PngImageFile) and "exif" not in picture.info
    ):
        return 1
    return picture.getexif().get(_ORIENTATION, 1)


def read_image(path: Path) -> np.ndarray:
    """A photograph as uint8 [height, width, 3]: grey is repeated, alpha and further bands are
    dropped, 16 bits scaled to 8.

    Of several frames or pages it is the first.

    Raises:
        InputError: the file is no image, damaged, too large, or of floating-point numbers.
    """
    with _explained(path), path.open("rb") as stream, _decoded(_picture(path, stream)) as picture:
        if picture.mode == "F":
            raise InputError(
                f"{path} holds floating-point numbers: save the photograph with 8 bits a channel."
            )
        image = np.empty((picture.height, picture.width, 3), np.uint8)
        for rows, strip in _strips(picture):
            image[rows] = _colors(path, strip)
        return image


def _colors(path, picture):
    """A strip of a photograph as uint8 [height, width, 3], or [height, width, 1] where it is
    grey."""
    mode = picture.mode
    if mode.startswith("I"):
        grey = np.asarray(picture).astype(np.int64)
        if grey.min() < 0 or grey.max() > 65535:
            raise InputError(
                f"{path} has numbers beyond 16 bits: save the photograph with 8 bits a channel."
            )
        return ((grey + 128) // 257)[..., None]  # 65535 is 255 times 257
    if mode == "P":
        return _palette(picture)[np.asarray(picture)]
    if mode in ("L", "LA"):
        array = np.asarray(picture)
        return array[..., None] if array.ndim == 2 else array[..., :1]
    return np.asarray(picture if mode.startswith("RGB") else picture.convert("RGB"))[..., :3]


def read_mask(path: Path, description: Description) -> tuple[np.ndarray, dict[str, int]]:
    """A mask as labels, uint8 [height, width] with class indices or `IGNORED`, and its unknown
    values with their pixels.

    Unknown values ("#RRGGBB", or "17" in index masks) are labelled `IGNORED`. Alpha says nothing;
    of several frames or pages it is the first.

    Raises:
        InputError: the file is no image, damaged, too large, or not of the kind that the
            description says.
    """
    table, unknown = _label_table(description), Counter()
    with _explained(path), path.open("rb") as stream:
        opened = _picture(path, stream)
        stored = (
            opened.tile[0].args if opened.tile else ""
        )  # how samples are stored, which decoding forgets
        with _decoded(opened) as picture:
            labels = np.empty((picture.height, picture.width), np.uint8)
            for rows, strip in _strips(picture):
                if description.mask_values == "index":
                    labels[rows], values = _index_labels(path, strip, stored, table)
                else:
                    labels[rows], values = _palette_labels(path, strip, table)
                where = labels[rows] == _UNKNOWN
                if where.any():
                    unknown.update(
                        dict(
                            zip(
                                *(
                                    found.tolist()
                                    for found in np.unique(values(where), return_counts=True)
                                ),
                                strict=True,
                            )
                        )
                    )
                    labels[rows][where] = IGNORED
    form = "{}" if description.mask_values == "index" else "#{:06X}"
    return labels, {form.format(value): unknown[value] for value in sorted(unknown)}


def _palette_labels(path, picture, table):
    """Labels of a mask of colours, with `_UNKNOWN`, and a function from a boolean mask to the
    colours there as 0xRRGGBB."""
    if picture.mode == "P":
        indices = np.asarray(picture)
        colors = _codes(_palette(picture))
        return table[colors][indices], lambda where: colors[indices[where]]
    if picture.mode in ("1", "L", "LA"):
        grey = np.asarray(picture.convert("L"))
        colors = _codes(np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1))
        return table[colors][grey], lambda where: colors[grey[where]]
    if not picture.mode.startswith("RGB"):
        raise InputError(
            f"{path} is of mode {picture.mode}, which has no exact colours: save the mask as RGB."
        )
    array = np.asarray(picture)[..., :3]
    labels = np.empty(array.shape[:2], np.uint8)
    for top in range(
        0, len(array), 256
    ):  # strips stay in the processor's cache; whole masks are three times as slow
        strip = slice(top, top + 256)
        np.take(table, _codes(array[strip]), out=labels[strip], mode="clip")
    return labels, lambda where: _codes(array[where])


def _index_labels(path, picture, stored, table):
    """Labels of a mask of numbers, with `_UNKNOWN`, and a function from a boolean mask to the
    numbers there."""
    array = np.asarray(picture)
    if picture.mode == "LA":
        array = array[..., 0]
    if array.ndim == 3 and (array[..., :3] == array[..., :1]).all():
        array = array[..., 0]  # a grey mask saved as RGB
    if array.ndim == 3 or picture.mode == "F":
        raise InputError(
            f"{path} holds colours or fractions where the description says index: set mask_values,"
            " or replace the mask."
        )
    raw_mode = stored if isinstance(stored, str) else stored[0]
    if raw_mode in ("L;2", "L;4"):
        array = array // (
            85 if raw_mode == "L;2" else 17
        )  # Pillow stretches few bits over 0 to 255, which are numbers here
    if array.dtype == np.bool_:
        array = array.astype(np.uint8)
    within = (
        array if array.dtype.itemsize <= 2 else np.clip(array, -1, len(table) - 1)
    )  # -1 is the last entry, kept unknown
    return table[within], lambda where: array[where]


@functools.lru_cache(maxsize=4)
def _label_table(description):
    """Mask value -> label, uint8: [2**24] by colour 0xRRGGBB, or [2**16 + 1] by number, the last
    for what lies beyond."""
    palette = description.mask_values == "palette"
    table = np.full(2**24 if palette else 2**16 + 1, _UNKNOWN, np.uint8)
    for label, values in [
        *((i, c.values) for i, c in enumerate(description.classes)),
        (IGNORED, description.ignored),
    ]:
        for mask_value in values:
            table[int(mask_value[1:], 16) if palette else mask_value] = label
    return table


def _codes(colors):
    """uint8 [..., 3] as uint32 [...] 0xRRGGBB."""
    codes = colors[..., 0].astype(np.uint32)
    for channel in (1, 2):
        codes <<= 8
        codes |= colors[..., channel]
    return codes


def _palette(picture):
    """The palette of a mode P image, uint8 [256, 3]; entries that the file doesn't have are
    black."""
    colors = np.zeros((256, 3), np.uint8)
    given = np.asarray(picture.getpalette("RGB"), np.uint8).reshape(-1, 3)
    colors[: len(given)] = given
    return colors


@contextmanager
def _explained(path):
    """Turns whatever a reader of images raises on a bad file into one sentence about the file."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except (
        Exception
    ) as error:  # Pillow raises OSError, SyntaxError, ValueError, struct.error, zlib.error and more
        raise InputError(
            f"{path} can't be decoded ({error}): it is damaged or cut short; copy it again."
        ) from error


def small_image(name: str | Path, stream) -> ImageFile.ImageFile:
    """An image of a set of labelled ones, opened by Pillow but not decoded: a photograph's formats,
    GIF or PNM.

    Args:
        name: for errors, which begin with it; may be "".
        stream: of its bytes.

    Raises:
        InputError: it is of no such format or claims too many pixels. What Pillow raises of a
            damaged file, else.
    """
    return _picture(name, stream, _SMALL_IMAGES)


def _picture(path, stream, readers=_PHOTOGRAPHS) -> ImageFile.ImageFile:
    """An image file opened but not decoded."""
    stream.seek(0)
    start = stream.read(16)
    stream.seek(0)
    reader = next((reader for magic, reader in readers if start.startswith(magic)), None)
    if reader is None:
        known = (
            "JPEG, PNG, TIFF, BMP or WebP image"
            if readers is _PHOTOGRAPHS
            else "JPEG, PNG, TIFF, BMP, WebP, GIF or PNM image"
        )
        raise InputError(f"{path} is no {known}: replace or remove it.".lstrip())
    picture = reader(stream, path)
    if picture.width * picture.height > LARGEST_IMAGE_PX:
        limit = f"{LARGEST_IMAGE_PX:,}"
        raise InputError(
            f"{path} claims {picture.width} x {picture.height} px, over the limit of {limit}"
            " pixels: cut it into parts.".lstrip()
        )
    return picture


@contextmanager
def _decoded(picture):
    """The picture with its pixels; while it is large, no other thread has one."""
    large = picture.width * picture.height > _LARGE_PX
    with _one_large_at_a_time if large else contextlib.nullcontext(), picture:
        picture.load()
        yield picture


def _strips(picture):
    """Parts of a decoded picture from top to bottom, (rows, picture): NumPy's copy of a whole one
    would take as much again."""
    count = max(1, _STRIP_PX // picture.width)
    if count >= picture.height:
        yield slice(None), picture
        return
    for top in range(0, picture.height, count):
        bottom = min(top + count, picture.height)
        yield slice(top, bottom), picture.crop((0, top, picture.width, bottom))
