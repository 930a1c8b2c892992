"""Names of files and classes as they come from other machines: in one form, in an order that people
expect, fit to be shown."""

import os
import re
import unicodedata
from pathlib import Path

from cnn_jax.errors import InputError

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".tif", ".tiff"),
    *(".bmp", ".dib", ".webp"),
)
"""What files of photographs end in, in small or capital letters."""

OTHER_IMAGES = (
    *(".jp2", ".j2k", ".gif", ".pbm", ".pgm", ".pnm", ".ppm", ".heic", ".heif", ".avif", ".jxl"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".psd", ".tga", ".svg"),
    *(".ecw", ".sid", ".img"),
)
"""What other images end in: some of them are read in some places, most of them nowhere."""


def composed(text: str) -> str:
    """File systems of macOS keep ñ as n and a tilde, others as they are told; here it is one
    letter."""
    return unicodedata.normalize("NFC", text)


def natural(text: str) -> list[tuple[int, str]]:
    """A sorting key that puts Tile 10 after Tile 9, and no two names in one place: a set of
    Python's has another order in every process, and a folder on every disk."""
    parts = [
        (int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", text)
    ]
    return [*parts, (-1, text)]


def can_be_shown(text: str) -> bool:
    """Whether a name has no ends of lines or other control characters, and no bytes that are no
    UTF-8: none could be in a record."""
    return not any(
        unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in text
    )


def check(folder: str | Path, name: str) -> None:
    """Raises InputError for a file's name that can't be shown."""
    if not can_be_shown(name):
        shown = repr(os.fsencode(name))[1:]
        raise InputError(
            f"{folder} holds {shown}, a name with control characters or bytes that are no UTF-8:"
            " rename it."
        )
