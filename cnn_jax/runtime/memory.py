"""Commands keep the memory that they have used, in huge pages: on Linux a training step on a CPU
otherwise spends a seventh of its time on getting the same memory from the kernel again, 4 KiB at a
time.

XLA allocates what lies between the operations of a program anew for each call, and the C library
gives so large a piece back to the kernel as soon as it is freed. It reads its settings once, when a
process begins: so a command that is started without them begins anew, once, with them.
"""

import ctypes
import os
import platform
import sys
from importlib.util import find_spec

TUNABLES = "GLIBC_TUNABLES"
SETTING = f"glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold={2**30}"
"""Huge pages wherever the kernel gives them to those who ask (glibc before 2.35 passes over it);
all from the heap, at whose end up to 1 GiB may lie unused."""


def keep() -> None:
    """Begins this command anew, in the same process, with `SETTING`; returns where that has been
    done or can't be. A command's `main` calls it first, before anything large is imported.

    It is done on Linux with glibc, where no accelerator is to be expected and no debugger watches.
    Whoever has set GLIBC_TUNABLES has decided otherwise and is left to it.
    """
    if (
        TUNABLES in os.environ
        or platform.libc_ver()[0] != "glibc"
        or not sys.executable
        or _debugged()
        or _accelerated()
    ):
        return
    os.environ[TUNABLES] = SETTING
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def give_back() -> None:
    """Gives the kernel what lies unused of the memory that is kept: after a compilation or an
    evaluation, whose pieces would stay. Nothing where memory isn't kept. (More may follow
    `SETTING`: the C library takes the last word about each of its tunables.)
    """
    if f"{os.environ.get(TUNABLES)}:".startswith(f"{SETTING}:"):
        ctypes.CDLL(None).malloc_trim(0)


def _debugged():
    monitoring = getattr(sys, "monitoring", None)  # Python 3.12
    return sys.gettrace() is not None or (
        monitoring is not None and monitoring.get_tool(monitoring.DEBUGGER_ID) is not None
    )


def _accelerated():
    """Whether JAX is told to use, or has a plugin for, other devices than CPUs."""
    platforms = os.environ.get("JAX_PLATFORMS", "")
    found = find_spec("jax_plugins") or find_spec("libtpu")
    return platforms != "cpu" if platforms else found is not None
