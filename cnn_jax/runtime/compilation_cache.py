"""Compiled programs are kept: what a run compiles, the next run of the same shapes reads, whatever
its seed.

JAX keeps them itself, by their code, shapes, version and kind of device; here is where, and how
many. JAX would load a program whose bits flipped on the disk, and crash: so a checksum lies beside
each, and programs that don't fit theirs, or have none, are dropped at the next start.
"""

import contextlib
import hashlib
import os
import platform
import sys
import zlib
from pathlib import Path

MOST_BYTES = 2 * 2**30
"""What is kept for one kind of machine; beyond it the programs longest unused go."""

_VARIABLE = "JAX_COMPILATION_CACHE_DIR"

_kept: Path | None = None  # where this process's programs are kept

SETTINGS = {
    # Smaller programs are found no faster than they are compiled.
    "jax_persistent_cache_min_compile_time_secs": 0.02,
}


def keep_programs() -> None:
    """Has JAX keep its programs in `folder()`, from the next compilation on. Call it before the
    first.

    JAX's own variables go first: JAX_COMPILATION_CACHE_DIR names another folder, which is left to
    its owner, JAX_ENABLE_COMPILATION_CACHE=false switches it off. Where the folder can't be
    written, nothing is kept. JAX need not be imported yet, and is not imported here.
    """
    global _kept
    try:
        kept = folder()
        if os.environ.get(_VARIABLE, str(kept)) != str(kept):
            return
        kept.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # the latter of a user without a home
        return
    if not os.access(kept, os.W_OK | os.X_OK):
        return
    forget_unused(kept, MOST_BYTES)
    _drop_unsigned(kept)
    _kept = kept
    settings = {"jax_compilation_cache_dir": str(kept), **SETTINGS}
    if "jax" not in sys.modules:
        for name, value in settings.items():  # for processes that this one starts, too
            os.environ.setdefault(name.upper(), str(value))
        return
    import jax

    if jax.config.values["jax_compilation_cache_dir"] is None:
        for name, value in settings.items():
            if name.upper() not in os.environ:
                jax.config.update(name, value)


def sign_programs() -> None:
    """Writes the checksums of programs that were compiled since the last call: once the first step
    is taken, and when a command ends."""
    for path in _kept.glob("*-cache") if _kept else ():
        with contextlib.suppress(OSError):  # another process removes files too
            signature = _signature(path)
            if not signature.exists() or signature.stat().st_mtime_ns < path.stat().st_mtime_ns:
                signature.write_bytes(_checksum(path))


def _drop_unsigned(kept):
    """Removes programs that differ from their checksum or have none."""
    for path in kept.glob("*-cache"):
        with contextlib.suppress(OSError):
            if not _signature(path).exists() or _signature(path).read_bytes() != _checksum(path):
                path.unlink()
    for signature in kept.glob("*-cache.crc32"):
        if not signature.with_suffix("").exists():
            signature.unlink(missing_ok=True)


def _signature(path):
    return path.with_name(f"{path.name}.crc32")


def _checksum(path):
    """CRC-32 of a file; that it was read for this doesn't count as a use."""
    known, checksum = path.stat(), b"%08x" % zlib.crc32(path.read_bytes())
    os.utime(path, ns=(known.st_atime_ns, known.st_mtime_ns))
    return checksum


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
            if path.is_file() and path.suffix != ".crc32":
                found.append((max(known.st_atime, known.st_mtime), known.st_size, path))
    size = sum(bytes_ for _, bytes_, _ in found)
    for _, bytes_, path in sorted(found):
        if size <= most_bytes:
            break
        with contextlib.suppress(OSError):
            path.unlink()
        size -= bytes_
