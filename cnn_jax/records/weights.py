"""A network's weights as one safetensors file: what predictions need, and nothing of training.

Each array is named by its path, such as `params/bridge/convolution_1/kernel`. The metadata hold the
digest of the run's configuration, the step, and a checksum over all arrays.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from cnn_jax.errors import InputError
from cnn_jax.records.files import write_whole

NAME = "weights.safetensors"
"""Of the file in a run's folder."""


def write(
    path: Path, variables: Any, *, digest: str, step: int, half: bool = False
) -> dict[str, np.ndarray]:
    """Writes the file whole or not at all.

    Args:
        path: of the file.
        variables: of the network: "params", and "batch_stats" where it has them.
        digest: of the run's configuration.
        step: that the weights are of.
        half: whether floating-point numbers are stored as float16.

    Returns:
        The arrays as stored, by name.

    Raises:
        InputError: the file can't be written, or a value is beyond float16.
    """
    from safetensors.numpy import save

    arrays = {}
    for name, leaf in traverse_util.flatten_dict(jax.device_get(variables), sep="/").items():
        array = np.ascontiguousarray(leaf)
        if half and array.dtype.kind == "f":
            if np.abs(array).max(initial=0) > np.finfo(np.float16).max:
                raise InputError(f"{name} has values beyond float16: export float32.")
            array = array.astype(np.float16)
        arrays[name] = array
    about = {"digest": digest, "step": str(step), "checksum": checksum(arrays)}
    write_whole(path, save(arrays, about))
    return arrays


def read(path: Path, like: Any, digest: str) -> Any:
    """Variables of the structure, shapes and types of `like`, which may be abstract.

    Args:
        path: of the file.
        like: variables, or what `jax.eval_shape` gives of them.
        digest: of the run's configuration.

    Raises:
        InputError: the file is damaged, of another run, or of another network.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            about = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in sorted(file.keys())}
    except (OSError, SafetensorError, TypeError, ValueError) as error:
        raise InputError(f"{path} can't be read ({error}): copy or export it again.") from error
    if about.get("checksum") != checksum(arrays):
        raise InputError(f"{path} is not what was exported: copy or export it again.")
    if about.get("digest") != digest:
        raise InputError(
            f"{path} is of another run (configuration {about.get('digest')}, not {digest}): export"
            " this run's weights."
        )
    known: dict[str, Any] = traverse_util.flatten_dict(like, sep="/")
    for name in sorted(known.keys() | arrays.keys()):
        ours = known[name].shape if name in known else "missing"
        theirs = arrays[name].shape if name in arrays else "missing"
        if ours != theirs:
            raise InputError(
                f"{path} doesn't fit the network: {name} is {theirs} there and {ours} in the"
                " network: export the run's weights again."
            )
    return traverse_util.unflatten_dict(
        {name: arrays[name].astype(leaf.dtype) for name, leaf in known.items()}, sep="/"
    )


def is_half(path: Path) -> bool:
    """Whether a readable file holds floating-point numbers as float16."""
    from safetensors import safe_open

    with safe_open(path, "numpy") as file:
        return any(file.get_slice(name).get_dtype() == "F16" for name in file.keys())  # noqa: SIM118


def checksum(arrays: Mapping[str, np.ndarray]) -> str:
    """32 hexadecimal digits of arrays and their names, in whatever order they are."""
    found = hashlib.blake2b(digest_size=16)
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        found.update(f"{name} {array.dtype} {array.shape};".encode())
        found.update(array.tobytes())
    return found.hexdigest()
