"""Labelled images kept as files: one folder a class, or the label in each file's name."""

import itertools
import json
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cnn_jax.configuration.schema import ImageDataConfig
from cnn_jax.data.file_names import IMAGE_SUFFIXES, OTHER_IMAGES, composed, natural
from cnn_jax.data.folders import below, passed_over, places, unread, visible
from cnn_jax.data.rasters import DamagedError, image_kind, open_raster
from cnn_jax.data.stored_images import StoredImages, digest, file_digests, known_by_bytes
from cnn_jax.errors import InputError

SUFFIXES = frozenset((*IMAGE_SUFFIXES, ".gif", ".pbm", ".pgm", ".pnm", ".ppm", ".jp2", ".j2k"))
"""What image files end in, whatever their case. Other files (lists, licences, thumbnails'
databases) are passed over."""

_NAMES = {
    "train": "train training train_set training_set traindata train_data train_images"
    " entrenamiento entreno treino entraînement entrainement addestramento trainingsdaten",
    "test": "test testing tests test_set testing_set testdata test_data test_images prueba pruebas"
    " teste testes testdaten",
    "validation": "validation valid val dev validating validation_set valid_set val_set"
    " validation_data validation_images val_images validación validacion validação validacao"
    " validazione validierung",
}
SPLIT_FOLDERS = {name: split for split, names in _NAMES.items() for name in names.split()}
"""Folder name, whatever its case and with - or a space for _ -> split."""

HEADERS_READ = 2000
"""Images, spread evenly over the set, whose headers say whether all are grey and of one size;
larger sets aren't read through."""

SEARCH_S = 60
"""So long may `label_pattern` be searched for in all names together."""

_SEARCH = """
import json, re, sys, warnings
warnings.simplefilter("ignore")
pattern, names = json.load(sys.stdin)
search = re.compile(pattern).search
json.dump([found[1] if (found := search(name)) else None for name in names], sys.stdout)
"""


def find(config: ImageDataConfig) -> StoredImages:
    """The images in the folder `config.directory`, in one of these layouts:

    - `train/CLASS/*` with, where there are, `test/CLASS/*` and `validation/CLASS/*` (or `Training`,
      `val`, ... as in `SPLIT_FOLDERS`);
    - `CLASS/*`, all of them taken as train;
    - either without the folders of classes, where `config.label_pattern` is given: a regular
      expression that is searched for in a file's name, without folders, and whose first group is
      the label.

    `config.group_pattern` is searched for in a file's path below its split's folder, such as
    `CLASS/patient7/3.png`; its first group names what the image belongs to.

    Images may lie in folders below these; links are followed. Hidden files and folders are passed
    over, and so is what doesn't end like an image; a note counts images that lie elsewhere. The
    classes are those of train, sorted with 2 before 10; names that differ only in how Unicode
    composes them are one. Channels and type are those of all images (see `HEADERS_READ`); where
    grey and coloured ones are mixed, the set is of colour, and where 8 and 16 bits are, of 8.

    Raises:
        InputError: the folder, a class or a file's name can't be used. It says which, and the mend.
    """
    if not config.directory:
        raise InputError(
            "data.directory is empty: give the folder of images with --data.directory=FOLDER."
        )
    directory = Path(config.directory).expanduser()
    if not directory.is_dir():
        raise InputError(f"data.directory {directory} is not a folder: check --data.directory.")
    pattern = _compiled("label_pattern", config.label_pattern)
    roots = _split_folders(directory, pattern)
    found = {
        split: sorted(_labelled(root, pattern), key=lambda file: natural(file.name))
        for split, root in roots.items()
    }
    classes = tuple(sorted({file.label for file in found["train"]}, key=natural))
    if len(classes) < 2:
        has = f"only the class {classes[0]}" if classes else "no images"
        layout = "names that hold their labels" if pattern else "one folder a class"
        raise InputError(
            f"{roots['train']} has {has}: give a folder whose images lie in {layout}, of two or"
            " more classes."
        )
    for split, files in found.items():
        unknown = sorted({file.label for file in files} - set(classes), key=natural)
        if unknown:
            raise InputError(
                f"{roots[split]} has the class {unknown[0]}, which {roots['train']} has not: rename"
                " or remove it, or add it there."
            )
    found = {split: files for split, files in found.items() if files}
    groups = _compiled("group_pattern", config.group_pattern)
    every = [(split, file) for split, files in found.items() for file in files]
    spread = np.unique(np.linspace(0, len(every) - 1, min(HEADERS_READ, len(every))).astype(int))
    headers = {_header(every[index][1].path) for index in spread}
    sizes = {size for size, *_ in headers}
    channels, dtype = _kind(directory, {(channels, dtype) for _, channels, dtype in headers})
    paths = [file.path for _, file in every]
    digests = file_digests(paths)
    hashed = iter(digests if known_by_bytes(paths) else ())
    # What the folder of a split is called, and .PNG for .png, say nothing of the images.
    names = [
        (split, file.label, file.name.removesuffix(file.path.suffix) + file.path.suffix.lower())
        for split, file in every
    ]
    left = passed_over(directory, SUFFIXES.union(OTHER_IMAGES), paths)
    notes = unread(left, SUFFIXES)
    if outside := [file for file in left if file.lower().endswith(tuple(SUFFIXES))]:
        kind = "splits" if pattern else "classes"
        notes += [f"images outside the folders of {kind} are left out: {places(outside)}."]
    return StoredImages(
        classes=classes,
        splits={
            split: Files(directory, files, classes, [*itertools.islice(hashed, len(files))])
            for split, files in found.items()
        },
        channels=channels,
        image_px=sizes.pop() if len(sizes) == 1 else None,
        digest=digest([classes, names, digests]),
        dtype=dtype,
        groups=groups
        and {
            split: _searched("group", groups, {file.path: file.name for file in files})
            for split, files in found.items()
        },
        notes=tuple(notes),
    )


def _kind(directory, kinds):
    """Channels and type of a set whose images have these: one kind, or grey with colours, or 8 bits
    with 16."""
    channels = sorted({channels for channels, _ in kinds})
    dtypes = sorted({dtype for _, dtype in kinds})
    if channels == [1, 3]:
        channels = [3]
    if dtypes == ["uint16", "uint8"]:
        dtypes = ["uint8"]
    if len(channels) > 1 or len(dtypes) > 1:
        held = ", ".join(f"{channels} bands of {dtype}" for channels, dtype in sorted(kinds))
        raise InputError(f"{directory} holds images of {held}: save all alike.")
    return channels[0], dtypes[0]


@dataclass(frozen=True)
class _File:
    """An image file, its path below the split's folder (composed) and its label."""

    path: Path
    name: str
    label: str


class Files:
    """The examples of one split of a folder; see `stored_images.Examples`."""

    mend = "replace or remove it"

    def __init__(
        self,
        directory: Path,
        files: Sequence[Any],
        classes: Sequence[str],
        digests: Sequence[str],
    ) -> None:
        self._directory, self._files, self.digests = directory, files, digests
        numbers = {name: number for number, name in enumerate(classes)}
        self._labels = np.array([numbers[file.label] for file in files], np.int32)

    def __len__(self):
        return len(self._files)

    def read(self, indices: Sequence[int]) -> list[tuple[bytes, int]]:
        """See `stored_images.Examples.read`."""
        return [(_bytes(self._files[index].path), int(self._labels[index])) for index in indices]

    def labels(self, indices: Sequence[int]) -> np.ndarray:
        """See `stored_images.Examples.labels`; they are known from the names."""
        return self._labels[list(indices)]

    def name(self, index: int) -> str:
        """See `stored_images.Examples.name`."""
        return self._files[index].path.relative_to(self._directory).as_posix()

    def place(self, index: int) -> str:
        """See `stored_images.Examples.place`."""
        return str(self._files[index].path)


def _compiled(field, text):
    if not text:
        return None
    try:
        # Of what may mean something else in a later Python.
        with warnings.catch_warnings(action="ignore"):
            pattern = re.compile(composed(text))
    except (re.error, OverflowError, RecursionError) as error:
        raise InputError(
            f"data.{field} {text!r} is no regular expression ({error}): correct it."
        ) from error
    if not pattern.groups:
        raise InputError(
            rf"data.{field} {text!r} has no group: put the {field.removesuffix('_pattern')} into"
            r" parentheses, as in _(\d)[LR]."
        )
    return pattern


def _split_folders(directory, pattern):
    """Split -> its folder. A folder called train is a class like others if images, not folders of
    classes, lie in it."""
    folders = [Path(entry.path) for entry in visible(directory) if entry.is_dir()]
    named = {}
    for folder in folders:
        named.setdefault(_split_named(folder), []).append(folder)
    if "train" not in named:
        for split, held in named.items():
            if split and any(entry.is_dir() for entry in visible(held[0])):
                raise InputError(
                    f"{held[0]} is a folder of {split}, and beside it is none of training: call it"
                    " train."
                )
        _check_classes(folders)
        return {"train": directory}
    if not pattern and not any(
        entry.is_dir() for folder in named["train"] for entry in visible(folder)
    ):
        if None in named:
            return {"train": directory}
        raise InputError(
            f"{named['train'][0]} has no folder a class: make them, or say where a file's name"
            " holds its label with --data.label_pattern."
        )
    named.pop(None, None)
    for split, roots in named.items():
        if len(roots) > 1:
            raise InputError(
                f"{roots[0]} and {roots[1]} are both folders of {split}: remove or rename one of"
                " them."
            )
    return {split: roots[0] for split, roots in named.items()}


def _check_classes(folders):
    """Refuses folders of classes that hold those of splits, whose images would be one heap; by the
    first, since it takes long to list what thousands hold."""
    for folder in sorted(folders)[:1]:
        within = {_split_named(entry) for entry in visible(folder) if entry.is_dir()}
        if {"train", "test"} <= within:
            above = f"put train and test above the classes (train/{folder.name})"
            mend = above if len(folders) > 1 else f"give {folder} as data.directory"
            raise InputError(f"{folder} holds folders of train and test: {mend}.")


def _split_named(folder):
    return SPLIT_FOLDERS.get(re.sub("[- ]", "_", composed(folder.name).casefold()))


def _labelled(root, pattern) -> Iterator[_File]:
    """The images below a split's folder."""
    if pattern:
        found = dict(_images(root))
        labels = _searched("label", pattern, {path: composed(path.name) for path in found})
        for (path, name), label in zip(found.items(), labels, strict=True):
            yield _File(path, name, label)
        return
    for folder in visible(root):
        if folder.is_dir():
            label, empty = composed(folder.name), True
            for path, name in _images(Path(folder.path)):
                empty = False
                yield _File(path, f"{label}/{name}", label)
            if empty:
                raise InputError(
                    f"{folder.path} holds no images, though its name makes it a class: fill or"
                    " remove it."
                )


def _searched(what, pattern, names) -> list[str]:
    """The "label" or "group" of each file, file -> name: what the first group of the pattern finds.

    By another process, which can be ended: there are expressions that take longer than anybody
    lives.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", _SEARCH],
            input=json.dumps([pattern.pattern, list(names.values())]),
            capture_output=True,
            encoding="utf-8",
            check=True,
            timeout=SEARCH_S,
        )
    except subprocess.TimeoutExpired as error:
        raise InputError(
            f"data.{what}_pattern {pattern.pattern!r} took more than {SEARCH_S} s over {len(names)}"
            " names: write a simpler one."
        ) from error
    found = json.loads(done.stdout)
    for path, one in zip(names, found, strict=True):
        if not one:
            where = "name" if what == "label" else "path"
            raise InputError(
                f"{path} has no {what} in its {where} by data.{what}_pattern {pattern.pattern!r}:"
                " correct the pattern, or rename or remove the file."
            )
    return found


def _images(folder) -> Iterator[tuple[Path, str]]:
    """The images in a folder and below, with their composed paths relative to it."""
    for path in below(folder, SUFFIXES):
        yield path, composed(path.relative_to(folder).as_posix())


def _header(path) -> tuple[tuple[int, int], int, str]:
    """Height and width as they will be upright, channels and type."""
    try:
        stored = open_raster(path, small=True)
    except DamagedError as error:
        raise InputError(
            f"{path} can't be decoded, being damaged or no image: {Files.mend}."
        ) from error
    height, width = stored.height_px, stored.width_px
    size = (height, width) if stored.orientation < 5 else (width, height)
    return size, *image_kind(stored)


def _bytes(path):
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path} can't be read ({error.strerror}): check the file and its permissions."
        ) from error
