"""Memory that a command has used stays with it, in huge pages: on Linux a training step on a CPU otherwise spends a seventh of its time
on getting the same memory from the kernel again, page by page.

XLA allocates what lies between the operations of a program anew for each call, and the C library gives so large a piece back to the
kernel as soon as it is freed. What the C library is told otherwise it reads once, when a process begins.
"""

import os
import platform
import sys

TUNABLES = "GLIBC_TUNABLES"
KEPT_BYTES = 2**30
SETTINGS = f"glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold={KEPT_BYTES}:glibc.malloc.trim_threshold={KEPT_BYTES}"
"""Huge pages where the kernel has them; pieces of up to `KEPT_BYTES` are kept, and as much at the end of the heap."""


def keep() -> None:
    """Begins the command anew, in the same process, with `SETTINGS`; returns where that has been done or can't be.

    It can be on Linux with glibc, for `python -m experiments.*` that no debugger watches. Whoever has set GLIBC_TUNABLES or one of
    glibc's MALLOC_ variables has decided otherwise and is left to it. Call it before anything is done that doesn't bear repeating.
    """
    main = getattr(sys.modules["__main__"], "__spec__", None)
    if main is None or not main.name.startswith("experiments.") or not sys.executable or _debugged():
        return
    if platform.libc_ver()[0] != "glibc" or any(name == TUNABLES or name.startswith("MALLOC_") for name in os.environ):
        return
    os.environ[TUNABLES] = SETTINGS
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _debugged():
    monitoring = getattr(sys, "monitoring", None)  # Python 3.12
    return sys.gettrace() is not None or (monitoring is not None and monitoring.get_tool(monitoring.DEBUGGER_ID) is not None)
