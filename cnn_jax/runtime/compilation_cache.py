"""Compiled programs are kept: what a run compiles, the next run of the same shapes reads, whatever
its seed.

JAX keeps them itself; here is where, and how many. A program is known by its code, its shapes,
JAX's version and the device's kind.
"""

import contextlib
import hashlib
import os
import platform
import sys
from pathlib import Path

MOST_BYTES = 2 * 2**30
"""What is kept for one kind of machine; beyond it the programs longest unused go."""

SETTINGS = {
    "jax_persistent_cache_min_compile_time_secs": (
        0.02
    ),  # smaller programs are found no faster than they are compiled
}


def keep_programs() -> None:
    """Has JAX keep its programs in `folder()`, from the next compilation on. Call it before the
    first.

    JAX's own variables go first: JAX_COMPILATION_CACHE_DIR names another folder,
    JAX_ENABLE_COMPILATION_CACHE=false switches it off. Where the folder can't be written, nothing
    is kept. JAX need not be imported yet, and is not imported here.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    try:
        kept = folder()
        kept.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # the latter of a user without a home
        return
    if not os.access(kept, os.W_OK | os.X_OK):
        return
    forget_unused(kept, MOST_BYTES)
    settings = {"jax_compilation_cache_dir": str(kept), **SETTINGS}
    if "jax" not in sys.modules:
        for name, value in settings.items():
            os.environ.setdefault(
                name.upper(), str(value)
            )  # processes that this one starts keep theirs there too
        return
    import jax

    if jax.config.jax_compilation_cache_dir is None:
        for name, value in settings.items():
            if name.upper() not in os.environ:
                jax.config.update(name, value)


def folder() -> Path:
    """Where the programs of this kind of machine are kept: below $XDG_CACHE_HOME, ~/Library/Caches
    on macOS, or ~/.cache.

    Machines with other processors have folders of their own: a program for one's instructions may
    not run on another's, and a home directory may serve many machines.
    """
    caches = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not caches.is_absolute():  # unset or, as its specification has it, not to be used
        caches = Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache")
    return caches / "cnn_jax" / "programs" / f"{platform.machine()}-{_processor()}"


def _processor() -> str:
    """A few characters that differ between processors with different instructions."""
    known = f"{platform.machine()} {platform.processor()}"
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        known += "".join(
            dict.fromkeys(
                line
                for line in lines
                if line.startswith(("model name", "flags", "Features", "CPU part"))
            )
        )
    return hashlib.blake2b(known.encode(), digest_size=4).hexdigest()


def forget_unused(kept: Path, most_bytes: int) -> None:
    """Removes what was read or written longest ago until what is left fits. (JAX's own limit needs
    a lock for each access.)"""
    found = []
    for path in kept.rglob("*"):
        with contextlib.suppress(OSError):  # another process removes files too
            known = path.stat()
            if path.is_file():
                found.append((max(known.st_atime, known.st_mtime), known.st_size, path))
    size = sum(bytes_ for _, bytes_, _ in found)
    for _, bytes_, path in sorted(found):
        if size <= most_bytes:
            break
        with contextlib.suppress(OSError):
            path.unlink()
        size -= bytes_
