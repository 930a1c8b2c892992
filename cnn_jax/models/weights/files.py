"""What a file of weights holds, whatever wrote it: told from its content; nothing in it is run."""

import hashlib
import json
from pathlib import Path

import numpy as np

from cnn_jax.errors import InputError
from cnn_jax.models.weights import keras, torch_files

PASSED_OVER = ("num_batches_tracked", "total_ops", "total_params", "n_averaged")
"""Last parts of names of tensors that are no weights."""


def digest_of(path: Path) -> str:
    """32 hexadecimal digits of a file's bytes; of an index, those of its shards too."""
    found = hashlib.blake2b(digest_size=16)
    for part in [path, *(_shards(path) if path.name.endswith(".json") else ())]:
        with part.open("rb") as file:
            while data := file.read(2**20):
                found.update(data)
    return found.hexdigest()


def read(path: Path) -> list[keras.Layer] | dict[str, np.ndarray]:
    """The layers of a file of Keras, or the tensors of another, without what training loops put
    around them.

    Raises:
        InputError: the file can't be read, is damaged, or is no file of weights.
    """
    try:
        if path.is_dir():
            raise InputError(f"{path} is a folder: give the file of the weights.")
        with path.open("rb") as file:
            start = file.read(max(len(torch_files.MAGIC), 16))
    except OSError as error:
        raise InputError(f"{path} can't be read ({error.strerror}): check the path.") from error
    if path.name.endswith(".json"):
        found: dict[str, np.ndarray] = {}
        for shard in _shards(path):
            found |= _safetensors(shard) if shard.suffix == ".safetensors" else _tensors(shard)
        return _unprefixed(found)
    if start.startswith(keras.MAGIC):
        return keras.read(path)
    if start.startswith(b"PK"):
        import zipfile

        try:
            names = zipfile.ZipFile(path).namelist()
        except zipfile.BadZipFile as error:
            raise InputError(f"{path} is damaged ({error}): download it again.") from error
        return keras.read(path) if "config.json" in names else _unprefixed(_tensors(path))
    if start.startswith(torch_files.MAGIC):
        return _unprefixed(_tensors(path))
    if start[8:9] == b"{":
        return _unprefixed(_safetensors(path))
    raise InputError(
        f"{path} is no file of weights that is known (it begins with {start[:8]!r}): give one of"
        " Keras (.h5, .keras), PyTorch (.pth, .th, .bin) or safetensors; see docs/weights.md."
    )


def _shards(path) -> list[Path]:
    """The files that an index lists."""
    try:
        listed = json.loads(path.read_bytes())["weight_map"].values()
        names = sorted(set(listed))
        if not all(isinstance(name, str) and Path(name).name == name for name in names):
            raise ValueError("a shard isn't named by a file beside it")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{path} is no index of shards ({str(error)[:80]}): give the one that was published"
            " beside them."
        ) from error
    for name in names:
        if not (path.parent / name).is_file():
            raise InputError(
                f"{path} lists {name}, which isn't beside it: download that shard too."
            )
    return [path.parent / name for name in names]


def _safetensors(path):
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            return {name: file.get_tensor(name) for name in sorted(file.keys())}
    except (OSError, SafetensorError, TypeError, ValueError) as error:
        raise InputError(
            f"{path} is damaged or no safetensors ({error}): download it again."
        ) from error
    except AttributeError as error:  # of numbers that NumPy has no type for
        raise InputError(
            f"{path} holds numbers of a type that can't be read ({error}): save it in float32 or"
            " float16."
        ) from error


_WRAPPERS = (
    *("state_dict_ema", "model_ema", "ema_state_dict", "ema"),
    *("state_dict", "model_state_dict", "model", "net"),
)
"""Averages of weights first, which their networks are evaluated with."""


def _tensors(path):
    """A state_dict without what training loops wrap it in."""
    found = torch_files.read(path)
    for wrapper in _WRAPPERS:
        within = without(found, f"{wrapper}.")
        if within:
            found = within
            break
    return found


def _unprefixed(found):
    """Tensors by the names that a network gives them, where modules that hold it have put their own
    before all: DistributedDataParallel, `torch.compile`, Lightning's, in any order."""
    prefixes = ("module.", "_orig_mod.", "model.", "net.")
    while True:
        # Averages of weights say beside them how many they are of.
        named = [name for name in found if name.rpartition(".")[2] not in PASSED_OVER]
        shared = [p for p in prefixes if named and all(name.startswith(p) for name in named)]
        if not shared:
            return found
        found = without(found, shared[0])


def without(tensors: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """The tensors whose names begin so, by the rest of their names."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
