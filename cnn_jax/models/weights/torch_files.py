"""Files of `torch.save`, read as data: both of PyTorch's formats, without PyTorch, and without
calling anything that a file names.

A pickle is a program that may call whatever can be imported. Of all it may name, this reader knows
a dozen words (ordered dictionaries, tensors, their storages), puts functions of its own in their
place, and refuses the rest.
"""

import collections
import io
import math
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from cnn_jax.errors import InputError

MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""How the older format begins: the pickle of a number that PyTorch chose."""

_TYPES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
    "BFloat16Storage": ml_dtypes.bfloat16,
}

_DEEPEST, _MOST_TENSORS, _MOST_PICKLED = 8, 2**17, 2**28


class _Fixed:
    """What a pickle may not change once it is made: an unpickler changes an object by its
    `__setstate__`, where it has one."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise ValueError("it changes what it has made")


class _Known(_Fixed):
    """What stands for a name: a function that a pickle may call."""

    __slots__ = ("call",)

    def __init__(self, call: Callable) -> None:
        self.call = call

    def __call__(self, *args: Any) -> Any:
        return self.call(*args)


class _Type(_Fixed):
    """The type of a storage's numbers."""

    __slots__ = ("dtype",)

    def __init__(self, dtype: Any) -> None:
        self.dtype = np.dtype(dtype)


class _Storage(_Fixed):
    """The numbers that tensors are cut from; of the older format they are read last."""

    __slots__ = ("count", "dtype", "values")

    def __init__(self, kind: Any, count: Any) -> None:
        if not isinstance(kind, _Type) or type(count) is not int or count < 0:
            raise ValueError("a storage has no type or size")
        self.dtype, self.count = kind.dtype, count
        self.values: np.ndarray | None = None

    @property
    def size_bytes(self) -> int:
        return self.count * self.dtype.itemsize


class _Tensor(_Fixed):
    """A tensor before its storage is read."""

    __slots__ = ("offset", "size", "storage", "stride")

    def __init__(self, storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> None:
        numbers = [offset, *size, *stride]
        if not isinstance(storage, _Storage) or not all(type(n) is int and n >= 0 for n in numbers):
            raise ValueError("a tensor isn't made of whole numbers")
        self.storage, self.offset = storage, offset
        self.size, self.stride = tuple(size), tuple(stride)
        # A stride beyond the storage would read memory that isn't the file's.
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if (0 not in self.size and last >= storage.count) or math.prod(self.size) > storage.count:
            raise ValueError("a tensor reaches beyond its storage")

    def array(self) -> np.ndarray:
        values = self.storage.values
        assert values is not None
        bytes_each = values.dtype.itemsize
        view = np.lib.stride_tricks.as_strided(
            values[self.offset :], self.size, [n * bytes_each for n in self.stride]
        )
        return np.array(view)


def _parameter(data: Any, *_: Any) -> Any:
    return data


_KNOWN = {
    ("collections", "OrderedDict"): _Known(collections.OrderedDict),
    ("torch", "Size"): _Known(tuple),
    ("torch._utils", "_rebuild_tensor"): _Known(_Tensor),
    ("torch._utils", "_rebuild_tensor_v2"): _Known(_Tensor),
    ("torch._utils", "_rebuild_parameter"): _Known(_parameter),
    **{
        (module, name): _Type(dtype)
        for module in ("torch", "torch.cuda")
        for name, dtype in _TYPES.items()
    },
}


class _Reader(pickle.Unpickler):
    """Unpickles what it knows the names of."""

    def __init__(self, file: Any, storage: Callable) -> None:
        super().__init__(file, encoding="utf-8")
        self._storage = storage

    def find_class(self, module: str, name: str, /) -> Any:
        if (module, name) not in _KNOWN:
            raise _Refused(f"{module}.{name}")
        return _KNOWN[module, name]

    def persistent_load(self, pid: Any, /) -> Any:
        return self._storage(pid)


class _Refused(Exception):
    """A pickle names what no weights are made of."""


def read(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a file, by name; of nested dictionaries the names are joined by dots.

    Numbers and texts beside the tensors, such as the epoch of a checkpoint, are passed over.

    Raises:
        InputError: it is damaged, its pickle asks for more than tensors, or it has none by name.
    """
    try:
        with path.open("rb") as file:
            content = _zipped(file) if zipfile.is_zipfile(file) else _older(file)
        found: dict[str, np.ndarray] = {}
        _flatten(content, "", found)
    except _Refused as refused:
        raise InputError(
            f"{path} asks to call {refused}, which weights don't need and nothing here does: save"
            " its state_dict alone with torch.save(model.state_dict(), FILE)."
        ) from None
    except MemoryError:
        raise
    except OSError as error:
        raise InputError(f"{path} can't be read ({error.strerror}): check the path.") from error
    except Exception as error:  # an unpickler raises whatever a damaged program leads to
        raise InputError(
            f"{path} is damaged or no file of PyTorch ({_short(error)}): download or save it again."
        ) from error
    if not found:
        raise InputError(
            f"{path} holds no tensors by name: save a state_dict alone with"
            " torch.save(model.state_dict(), FILE)."
        )
    return found


def _short(error):
    return (" ".join(str(error).split()) or type(error).__name__)[:100]


def _zipped(file):
    """The format since PyTorch 1.6: a pickle and one file for each storage."""
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        pickles = [name for name in names if name.split("/")[1:] == ["data.pkl"]]
        if len(pickles) != 1:
            raise ValueError("there is no data.pkl")
        folder = pickles[0].rpartition("/")[0]
        order = f"{folder}/byteorder"
        if order in names and (
            archive.getinfo(order).file_size > 6 or archive.read(order) != b"little"
        ):
            raise ValueError("its numbers have the byte order of another kind of machine")
        storages = {}

        def storage(pid):
            _, kind, key, _, count = pid
            if key not in storages:
                storages[key] = held = _Storage(kind, count)
                info = archive.getinfo(f"{folder}/data/{key}")
                if info.compress_type != zipfile.ZIP_STORED or info.file_size != held.size_bytes:
                    raise ValueError(f"storage {key} has another size than the pickle says")
                held.values = np.frombuffer(archive.read(info), held.dtype)
            return storages[key]

        if archive.getinfo(pickles[0]).file_size > _MOST_PICKLED:
            raise ValueError("its pickle is too large for weights")
        return _Reader(io.BytesIO(archive.read(pickles[0])), storage).load()


def _older(file):
    """The format before: four pickles, their storages after them."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    if file.read(len(MAGIC)) != MAGIC:
        raise ValueError("it begins as no such file does")
    storages = {}

    def storage(pid):
        _, kind, key, _, count, view = pid
        if view is not None:
            raise ValueError("storages within storages are not known")
        storages.setdefault(key, _Storage(kind, count))
        return storages[key]

    _Reader(file, storage).load()  # the version
    about = _Reader(file, storage).load()
    if not about.get("little_endian", True):
        raise ValueError("its numbers have the byte order of another kind of machine")
    content = _Reader(file, storage).load()
    for key in _Reader(file, storage).load():
        held = storages[key]
        (count,) = struct.unpack("<q", file.read(8))
        if count != held.count:
            raise ValueError(f"storage {key} has another size than the pickle says")
        if held.size_bytes > size - file.tell():
            raise ValueError("it ends too early")
        held.values = np.frombuffer(file.read(held.size_bytes), held.dtype)
    if any(held.values is None for held in storages.values()):
        raise ValueError("a storage is missing")
    return content


def _flatten(value, name, found, depth=0):
    """Adds the tensors of nested dictionaries to `found`."""
    if depth > _DEEPEST or len(found) > _MOST_TENSORS:
        raise ValueError("it is nested too deeply")
    if isinstance(value, _Tensor):
        found[name] = value.array()
    elif isinstance(value, dict):
        for key, held in value.items():
            if isinstance(key, str | int):
                _flatten(held, f"{name}.{key}" if name else str(key), found, depth + 1)
