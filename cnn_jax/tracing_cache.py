"""Traced programs are kept: what a run traced, the next run of the same configuration, data and
code reads, whatever its seed.

JAX keeps what it has compiled, but finds it only by tracing and lowering the whole program again,
which takes longer than reading what was compiled. So what a function was lowered to is kept beside
it, as `jax.export` writes it: StableHLO and shapes, read as data. A program is known by all that
could change it, down to the bytes of this package's source; of libraries it is the version. What is
changed in memory alone can't be seen: so commands keep programs, and other code that calls
`run.run` does where it asks for that.
"""

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import logging
import os
import sys
import uuid
from pathlib import Path

import jax

import cnn_jax
from cnn_jax.runtime import compilation_cache

_PACKAGE = Path(cnn_jax.__file__).parent
_LIBRARIES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "dm-pix",
    "numpy",
)  # what the functions traced here call
_DIGEST_BYTES = 32
MOST_BYTES = 2**28
"""What is kept of traced programs: each new state of the source has its own."""
_CLOCK_S = 1.0  # by so much a file system's clock may be behind


class Tracings:
    """What functions were traced to, where it is kept.

    Args:
        known: what besides code, libraries, settings, devices and the shapes of arguments decides
            what functions are traced to; JSON can express it.
        folder: where it is kept; None: nothing is, and functions are lowered as JAX does.
    """

    def __init__(self, known=None, folder: Path | None = None):
        self._known, self._folder = known, folder

    def knowing(self, further) -> "Tracings":
        """The same, of functions that `further` decides too."""
        return Tracings([self._known, further], self._folder)

    def lower(self, name: str, function, *arguments, **options):
        """`jax.jit(function, **options).lower(*arguments)`, traced only where no earlier process
        has.

        Args:
            name: what the function is among those that the same is known of.
            function: takes and returns arrays in lists, tuples and dicts alone.
            arguments: arrays.
            options: shardings and donation, which are part of what is known.

        Returns:
            A `jax.stages.Lowered`: of a kept program, read or just written, to the bit the same;
            without a folder the same to rounding (on CPUs the same instructions).
        """
        jitted = jax.jit(function, **options)
        try:
            path = self._path(name, arguments, options)
            exported = None if path is None else _read(path)
            if path is not None and exported is None and _can_be_written(self._folder):
                exported = jax.export.export(jitted)(*arguments)
                _write(path, exported.serialize())
        # It holds what JAX doesn't promise to be the same in another process, or what is needed to
        # keep it is not installed.
        except (ValueError, NotImplementedError, ImportError) as reason:
            logging.getLogger(__name__).debug(
                "what the %s is traced to can't be kept: %s", name, reason
            )
            exported = None
        return (jitted if exported is None else jax.jit(exported.call, **options)).lower(*arguments)

    def _path(self, name, arguments, options):
        """The file; None if nothing is to be kept, or it can't be told what would be."""
        code = self._folder and _code()
        if not code:
            return None
        leaves, structure = jax.tree.flatten(arguments)
        types = [(str(jax.typeof(leaf)), jax.typeof(leaf).weak_type) for leaf in leaves]
        identity = {
            "name": name,
            "known": self._known,
            "code": code,
            "versions": [sys.version, *map(importlib.metadata.version, _LIBRARIES)],
            "arguments": [str(structure), types, repr(sorted(options.items()))],
            "devices": [
                (device.id, device.platform, device.device_kind) for device in jax.devices()
            ],
            "settings": sorted(jax.config.values.items()),
            "variables": sorted(item for item in os.environ.items() if item[0].startswith("FLAX_")),
        }
        return self._folder / hashlib.sha256(json.dumps(identity, default=str).encode()).hexdigest()


NOT_KEPT = Tracings()
"""Functions are traced as JAX does, each time."""


def beside_compiled() -> Path | None:
    """The folder for traced programs, beside the compiled ones, if those are kept on this
    machine."""
    compiled = jax.config.jax_compilation_cache_dir
    if not compiled or not jax.config.jax_enable_compilation_cache or "://" in compiled:
        return None
    return Path(compiled) / "traced"


@functools.cache
def _code():
    """Digest of this package's source; None if there is none, it can't be read, or it changed since
    it was imported."""
    digest = hashlib.sha256()
    try:
        paths = [
            path for path in sorted(_PACKAGE.rglob("*.py")) if path.is_file()
        ]  # editors leave links to nowhere
        for path in paths:
            digest.update(f"\0{path.relative_to(_PACKAGE)}\0".encode("utf-8", "backslashreplace"))
            digest.update(path.read_bytes())
            about = path.stat()  # after reading: what is saved between the two is seen
            if max(about.st_mtime, about.st_ctime) > cnn_jax.IMPORTED_S - _CLOCK_S:
                return None
    except OSError:
        return None
    return digest.hexdigest() if paths else None


def _can_be_written(folder):
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    return os.access(folder, os.W_OK | os.X_OK)


def _read(path):
    """The program of a file; None if there is none, or it isn't whole."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    whole = hashlib.sha256(content[_DIGEST_BYTES:]).digest() == content[:_DIGEST_BYTES]
    return jax.export.deserialize(bytearray(content[_DIGEST_BYTES:])) if whole else None


def _write(path, program):
    """All or nothing; where the disk is full, it is done without. What was used longest ago makes
    room."""
    compilation_cache.forget_unused(path.parent, MOST_BYTES)
    partial = path.with_name(f"partial-{uuid.uuid4()}")
    try:
        partial.write_bytes(hashlib.sha256(program).digest() + program)
        partial.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink()
