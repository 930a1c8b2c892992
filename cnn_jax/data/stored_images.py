"""A set of labelled images as its publisher stored it, in whatever format."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

HASHED_BYTES = 2**30
"""Sets up to this size are known by their files' bytes; larger ones, which would take minutes to
read, by names and sizes."""


class Examples(Protocol):
    """One split as its publisher stored it: encoded images with their labels. Threads may share
    it."""

    mend: str
    """What to do about an image that can't be decoded."""

    digests: Sequence[str]
    """Of each image's file, by its bytes; empty where they weren't read."""

    def __len__(self) -> int: ...

    def read(self, indices: Sequence[int]) -> list[tuple[bytes, int]]:
        """The encoded image and the label of each of these."""
        ...

    def labels(self, indices: Sequence[int]) -> np.ndarray:
        """The labels of these, int32 [n], as far as possible without reading images."""
        ...

    def name(self, index: int) -> str:
        """For pictures."""
        ...

    def place(self, index: int) -> str:
        """For errors: which file or record it is."""
        ...


@dataclass(frozen=True)
class StoredImages:
    """A set as its publisher stored it.

    `splits` has "train" and, where they hold labelled images, "validation" and "test". `channels`
    and `dtype` are those of every image, once it is decoded; `image_px` is the height and width of
    every image, or None where images differ. `digest` is hexadecimal and changes when any image,
    label, class or split does; of sets beyond `HASHED_BYTES`, when a file's name or size does.
    `groups` has, for each split, what each of its examples belongs to (a patient, a place) and is
    not to be parted from; without, each stands by itself. `notes` are sentences about what people
    should know.
    """

    classes: tuple[str, ...]
    splits: Mapping[str, Examples]
    channels: int
    image_px: tuple[int, int] | None
    digest: str
    dtype: str = "uint8"
    groups: Mapping[str, Sequence[str]] | None = None
    notes: tuple[str, ...] = ()


class Pooled:
    """The examples of several splits as one; see `Examples`."""

    def __init__(self, parts: Sequence[Examples]) -> None:
        self._parts = parts
        self._starts = np.cumsum([0, *(len(part) for part in parts)])
        self.mend = parts[0].mend
        self.digests: Sequence[str] = [one for part in parts for one in part.digests]

    def __len__(self) -> int:
        return int(self._starts[-1])

    def read(self, indices: Sequence[int]) -> list[tuple[bytes, int]]:
        """See `Examples.read`."""
        found: dict[int, tuple[bytes, int]] = {}
        for part, which in self._by_part(indices):
            start = int(self._starts[part])
            read = self._parts[part].read([index - start for index in which])
            found.update(zip(which, read, strict=True))
        return [found[index] for index in indices]

    def labels(self, indices: Sequence[int]) -> np.ndarray:
        """See `Examples.labels`."""
        found: dict[int, int] = {}
        for part, which in self._by_part(indices):
            start = int(self._starts[part])
            labels = self._parts[part].labels([index - start for index in which])
            found.update(zip(which, labels.tolist(), strict=True))
        return np.array([found[index] for index in indices], np.int32)

    def name(self, index: int) -> str:
        """See `Examples.name`."""
        [(part, _)] = self._by_part([index])
        return self._parts[part].name(index - int(self._starts[part]))

    def place(self, index: int) -> str:
        """See `Examples.place`."""
        [(part, _)] = self._by_part([index])
        return self._parts[part].place(index - int(self._starts[part]))

    def _by_part(self, indices: Sequence[int]) -> list[tuple[int, list[int]]]:
        """(number of the part, which of the indices lie in it)."""
        parts = np.searchsorted(self._starts, indices, side="right") - 1
        return [
            (part, [i for i, of in zip(indices, parts, strict=True) if of == part])
            for part in np.unique(parts).tolist()
        ]


def digest(identity: Any) -> str:
    """A hexadecimal digest of anything that JSON can say."""
    return hashlib.blake2b(
        json.dumps(identity, sort_keys=True).encode(), digest_size=16
    ).hexdigest()


def known_by_bytes(files: Sequence[Path]) -> bool:
    """Whether all together are small enough to be read through."""
    return sum(file.stat().st_size for file in files) <= HASHED_BYTES


def file_digests(files: Sequence[Path]) -> list[str]:
    """What tells each file from a changed one: a digest of its bytes, or its size where all
    together exceed `HASHED_BYTES`."""
    sizes = [file.stat().st_size for file in files]
    if sum(sizes) > HASHED_BYTES:
        return [str(size) for size in sizes]

    def one(file):
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return list(threads.map(one, files))
