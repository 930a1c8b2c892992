"""CIFAR-10 and CIFAR-100 as their authors publish them: the binary version, and the Python version.

Krizhevsky, Learning multiple layers of features from tiny images (2009);
https://www.cs.toronto.edu/~kriz/cifar.html. Both versions hold the same images in the same order,
and come out with the same digest. The Python version's files are pickles, which may run whatever
they say: here nothing that one names is looked up, and plain values alone come out of it.
"""

import hashlib
import math
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cnn_jax.configuration.schema import ImageDataConfig
from cnn_jax.data.stored_images import StoredImages, digest
from cnn_jax.errors import InputError

_COARSE = "airplane automobile bird cat deer dog frog horse ship truck"
_FINE = (
    "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus"
    " butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch"
    " crab crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo"
    " keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse"
    " mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy"
    " porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper"
    " snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television"
    " tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm"
)
CIFAR10, CIFAR100 = tuple(_COARSE.split()), tuple(_FINE.split())
"""Names of the classes, in the order of their labels."""

_SIDE_PX = 32
_PIXELS = 3 * _SIDE_PX**2
_PPM = b"P6 %d %d 255\n" % (_SIDE_PX, _SIDE_PX)
_ARCHIVES = {"cifar10": "cifar-10-*.tar.gz", "cifar100": "cifar-100-*.tar.gz"}


@dataclass(frozen=True)
class _Layout:
    """A version of a set: the folder that its archive unpacks, its files by split, how many labels
    stand before an image (the last one counts), and how a file is read."""

    folder: str
    files: Mapping[str, Sequence[str]]
    labels: int
    read: Callable[[Path, "_Layout"], tuple[np.ndarray, np.ndarray]]


def lies_in(config: ImageDataConfig) -> bool:
    """Whether `config.directory` holds `config.source` as its authors publish it.

    Raises:
        InputError: it holds the archive, not unpacked.
    """
    if config.source not in _LAYOUTS or not config.directory:
        return False
    directory = Path(config.directory).expanduser()
    if _found(config.source, directory) is not None:
        return True
    archives = sorted(directory.glob(_ARCHIVES[config.source]))
    if archives:
        raise InputError(f"{archives[0]} is packed: unpack it with tar -xzf.")
    return False


def find(config: ImageDataConfig) -> StoredImages:
    """The set in `config.directory`, or in the folder there that its archive unpacks: where
    `lies_in` says so.

    Raises:
        InputError: a file is missing, or isn't what the set's files are.
    """
    found = _found(config.source, Path(config.directory).expanduser())
    assert found is not None, "asked for what isn't there"
    folder, layout = found
    classes = {"cifar10": CIFAR10, "cifar100": CIFAR100}[config.source]
    splits = {}
    for split, names in layout.files.items():
        parts = [_part(folder / name, layout, len(classes)) for name in names]
        pixels, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        splits[split] = Images(folder, split, pixels, labels)
    contents = {split: examples.digest for split, examples in splits.items()}
    return StoredImages(
        classes=classes,
        splits=splits,
        channels=3,
        image_px=(_SIDE_PX, _SIDE_PX),
        digest=digest([config.source, classes, contents]),
    )


class Images:
    """The examples of one split, in memory; see `stored_images.Examples`.

    Args:
        folder: that they are of.
        split: its name.
        pixels: uint8 `[n, 3072]`: an image's red rows, then green and blue ones.
        labels: int32 `[n]`.
    """

    mend = "get the set again"
    digests: Sequence[str] = ()

    def __init__(self, folder: Path, split: str, pixels: np.ndarray, labels: np.ndarray) -> None:
        self._folder, self._split, self._pixels, self._labels = folder, split, pixels, labels

    def __len__(self) -> int:
        return len(self._labels)

    def read(self, indices: Sequence[int]) -> list[tuple[bytes, int]]:
        """See `stored_images.Examples.read`; the images as PPM, which adds but a line to them."""
        planes = self._pixels[list(indices)].reshape(-1, 3, _SIDE_PX, _SIDE_PX)
        images = np.ascontiguousarray(np.moveaxis(planes, 1, -1))
        labels = self._labels[list(indices)].tolist()
        return [(_PPM + i.tobytes(), label) for i, label in zip(images, labels, strict=True)]

    def labels(self, indices: Sequence[int]) -> np.ndarray:
        """See `stored_images.Examples.labels`."""
        return self._labels[list(indices)]

    def name(self, index: int) -> str:
        """See `stored_images.Examples.name`."""
        return f"{self._split} {index}"

    def place(self, index: int) -> str:
        """See `stored_images.Examples.place`."""
        return f"image {index} of {self._folder}, split {self._split},"

    @property
    def digest(self) -> str:
        """Of pixels and labels, hexadecimal."""
        made = hashlib.blake2b(np.ascontiguousarray(self._pixels).data, digest_size=16)
        made.update(self._labels.astype("<i4").tobytes())
        return made.hexdigest()


def _found(source: str, directory: Path) -> tuple[Path, _Layout] | None:
    """The folder of the first version that any file is there of, and its layout."""
    for layout in _LAYOUTS[source]:
        for folder in (directory, directory / layout.folder):
            if (folder / layout.files["train"][0]).is_file():
                return folder, layout
    return None


def _part(path: Path, layout: _Layout, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels uint8 `[n, 3072]` and labels int32 `[n]` of a file."""
    try:
        pixels, labels = layout.read(path, layout)
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing: unpack the set again.") from error
    except Exception as error:  # a damaged pickle ends in any of many errors
        raise InputError(
            f"{path} is no file of this set, or damaged ({_brief(error)}): {Images.mend}."
        ) from error
    if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
        raise InputError(
            f"{path} has the label {labels.max()}, which is none of {classes} classes:"
            f" {Images.mend}."
        )
    return pixels, labels


def _brief(error: Exception) -> str:
    return str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__


# ---- the binary version


def _read_binary(path: Path, layout: _Layout) -> tuple[np.ndarray, np.ndarray]:
    rows = np.fromfile(path, np.uint8)
    width = layout.labels + _PIXELS
    if not len(rows) or len(rows) % width:
        raise ValueError(f"{len(rows):,} bytes, which is no number of images")
    rows = rows.reshape(-1, width)
    return rows[:, layout.labels :], rows[:, layout.labels - 1].astype(np.int32)


# ---- the Python version


class _Array:
    """Stands in a pickle for a NumPy array, whose own code is not run: keeps its state."""

    def __init__(self, *_: Any) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def pixels(self) -> np.ndarray:
        """uint8 `[n, 3072]`. Raises ValueError where it is anything else."""
        _, shape, kind, fortran, raw = self.state
        if not isinstance(kind, _Type) or kind.name not in (b"u1", "u1") or fortran:
            raise ValueError("its data are no rows of uint8")
        if len(shape) != 2 or shape[1] != _PIXELS or not isinstance(raw, bytes):
            raise ValueError(f"its data are no rows of {_PIXELS:,} numbers")
        if len(raw) != math.prod(shape):
            raise ValueError("its data are cut short")
        return np.frombuffer(raw, np.uint8).reshape(shape)


class _Type:
    """Stands for a NumPy dtype: keeps its name."""

    def __init__(self, name: Any = b"", *_: Any) -> None:
        self.name = name

    def __setstate__(self, state: Any) -> None:
        """Byte order and the like mean nothing for single bytes."""


def _from_buffer(raw: Any, kind: Any, shape: Any, order: Any) -> _Array:
    """What pickles of protocol 5 make an array by."""
    array = _Array()
    array.state = 1, shape, kind, order != "C", bytes(raw)
    return array


def _encoded(text: Any, _: Any = "") -> bytes:
    """`codecs.encode` as pickles of Python 3 that Python 2 can read need it: bytes kept as text."""
    return str(text).encode("latin-1")


_STANDS_FOR = {
    "numpy ndarray": _Array,
    "numpy dtype": _Type,
    "numpy.core.multiarray _reconstruct": _Array,
    "numpy._core.multiarray _reconstruct": _Array,
    "numpy.core.numeric _frombuffer": _from_buffer,
    "numpy._core.numeric _frombuffer": _from_buffer,
    "_codecs encode": _encoded,
}


class _Name:
    """What a pickle gets for a name: it can call it, and not change it."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make

    def __call__(self, *arguments: Any) -> Any:
        return self._make(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise ValueError("it changes what it names")


class _Plain(pickle.Unpickler):
    """Reads plain values and arrays: whatever a pickle names is one of the stand-ins above, or
    refused."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        found = _STANDS_FOR.get(f"{module_name} {global_name}")
        if found is None:
            raise ValueError(f"it wants to run {module_name}.{global_name}, which is not done")
        return _Name(found)

    def persistent_load(self, pid: Any) -> Any:
        raise ValueError("it refers to something outside")


def _read_python(path: Path, layout: _Layout) -> tuple[np.ndarray, np.ndarray]:
    with path.open("rb") as stream:
        batch = _Plain(stream, encoding="bytes").load()
    if not isinstance(batch, dict):
        raise ValueError("no dictionary")
    batch = {key.decode() if isinstance(key, bytes) else key: v for key, v in batch.items()}
    data, labels = batch.get("data"), batch.get("labels" if layout.labels == 1 else "fine_labels")
    if not isinstance(data, _Array) or not isinstance(labels, list):
        raise ValueError("no data or no labels")
    if not all(type(label) is int for label in labels):
        raise ValueError("labels that are no whole numbers")
    pixels = data.pixels()
    if len(pixels) != len(labels) or not labels:
        raise ValueError(f"{len(labels)} labels for {len(pixels)} images")
    return pixels, np.array(labels, np.int32)


_BATCHES = [f"data_batch_{number}" for number in range(1, 6)]
_LAYOUTS = {
    "cifar10": (
        _Layout(
            "cifar-10-batches-bin",
            {"train": [f"{name}.bin" for name in _BATCHES], "test": ["test_batch.bin"]},
            1,
            _read_binary,
        ),
        _Layout(
            "cifar-10-batches-py", {"train": _BATCHES, "test": ["test_batch"]}, 1, _read_python
        ),
    ),
    "cifar100": (
        _Layout(
            "cifar-100-binary", {"train": ["train.bin"], "test": ["test.bin"]}, 2, _read_binary
        ),
        _Layout("cifar-100-python", {"train": ["train"], "test": ["test"]}, 2, _read_python),
    ),
}
