"""Traced programs are kept: what a run traced, the next run of the same configuration, data and code reads, whatever its seed.

JAX keeps what it has compiled, but finds it only by tracing and lowering the whole program again, which takes longer than reading what was
compiled. So what a function was lowered to is kept beside it, as `jax.export` writes it: StableHLO and shapes, read as data. A program
is known by all that could change it, down to the bytes of this package's source; what is changed in memory alone can't be seen, so only
commands keep programs, not code that calls this package.
"""

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import os
import sys
import tempfile
from pathlib import Path

import jax

import cnn_jax

_PACKAGE = Path(cnn_jax.__file__).parent
_LIBRARIES = ("jax", "jaxlib", "flax", "optax", "dm-pix", "numpy")  # all that is called while something is traced
_DIGEST_BYTES = 32
_CLOCK_S = 1.0  # by so much a file system's clock may be behind


class Tracings:
    """What functions were traced to, where it is kept.

    Args:
        known: what besides code, libraries, JAX's settings, devices and the shapes of arguments decides what functions are traced to;
            JSON can express it.
        folder: where it is kept; None: nothing is, and functions are lowered as JAX does.
    """

    def __init__(self, known=None, folder: Path | None = None):
        self._known, self._folder = known, folder

    def lower(self, name: str, function, *arguments, **options):
        """`jax.jit(function, **options).lower(*arguments)`, traced only where no earlier process has.

        Args:
            name: what the function is among those of this configuration and data.
            function: takes and returns arrays in lists, tuples and dicts alone.
            arguments: arrays.
            options: shardings and donation, which are part of what is known.

        Returns:
            A `jax.stages.Lowered`. A kept program is compiled to the same instructions as a newly traced one.
        """
        jitted = jax.jit(function, **options)
        code = self._folder and _code()
        if not code:
            return jitted.lower(*arguments)
        path = self._folder / self._key(name, code, arguments, options)
        exported = _read(path)
        if exported is None:
            try:
                exported = jax.export.export(jitted)(*arguments)
                _write(path, exported.serialize())
            except (ValueError, NotImplementedError):  # it holds what JAX doesn't promise to be the same in another process
                return jitted.lower(*arguments)
        return jax.jit(exported.call, **options).lower(*arguments)

    def _key(self, name, code, arguments, options):
        leaves, structure = jax.tree.flatten(arguments)
        types = [(str(jax.typeof(leaf)), jax.typeof(leaf).weak_type) for leaf in leaves]
        devices = [(device.id, device.platform, device.device_kind) for device in jax.devices()]
        versions = [sys.version, *map(importlib.metadata.version, _LIBRARIES)]
        shapes = [str(structure), types, repr(sorted(options.items()))]
        known = [name, self._known, code, versions, shapes, devices, sorted(jax.config.values.items())]
        return hashlib.sha256(json.dumps(known, default=str).encode()).hexdigest()


NOT_KEPT = Tracings()
"""Functions are traced as JAX does, each time."""


def folder() -> Path | None:
    """Where traced programs are kept: beside the compiled ones, if those are kept on this machine."""
    compiled = jax.config.jax_compilation_cache_dir
    if not compiled or not jax.config.jax_enable_compilation_cache or "://" in compiled:
        return None
    return Path(compiled) / "traced"


@functools.cache
def _code():
    """Digest of this package's source; None if there is none, or it changed since it was imported."""
    digest = hashlib.sha256()
    paths = sorted(_PACKAGE.rglob("*.py"))
    for path in paths:
        about = path.stat()
        if max(about.st_mtime, about.st_ctime) > cnn_jax.IMPORTED_S - _CLOCK_S:
            return None
        digest.update(f"\0{path.relative_to(_PACKAGE)}\0".encode("utf-8", "backslashreplace"))
        digest.update(path.read_bytes())
    return digest.hexdigest() if paths else None


def _read(path):
    """The program of a file; None if there is none, or it isn't whole."""
    try:
        content = path.read_bytes()
        if hashlib.sha256(content[_DIGEST_BYTES:]).digest() == content[:_DIGEST_BYTES]:
            return jax.export.deserialize(bytearray(content[_DIGEST_BYTES:]))
    except OSError:
        pass
    return None


def _write(path, program):
    """All or nothing; where it can't be written, it is done without."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, partial = tempfile.mkstemp(dir=path.parent, prefix="partial-")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(hashlib.sha256(program).digest() + program)
            Path(partial).replace(path)
        except OSError:
            Path(partial).unlink(missing_ok=True)
