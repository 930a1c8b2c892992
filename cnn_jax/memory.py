"""Memory that a process has used stays with it, in huge pages: on Linux a training step on a CPU otherwise spends a seventh of its time
on getting the same memory from the kernel again, page by page.

XLA allocates what lies between the operations of a program anew for each call, and the C library gives so large a piece back to the
kernel as soon as it is freed.
"""

import ctypes
import os
import platform

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8
MADV_HUGEPAGE = 14
HUGE_PAGE_BYTES = 2**21


def keep() -> None:
    """Has the C library keep what is freed, and the kernel back it with huge pages where it may; other systems are left as they are.

    Call it before other threads allocate. What a run needs at most it then holds until it ends. Whoever has set GLIBC_TUNABLES or one
    of glibc's MALLOC_ variables has decided otherwise, and is left to it.
    """
    if platform.libc_ver()[0] != "glibc" or any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    libc.mallopt(M_MMAP_MAX, 0)
    libc.mallopt(M_TRIM_THRESHOLD, -1)
    libc.mallopt(M_ARENA_MAX, 1)  # one heap for all threads: it is the heap that the pages below become
    # Addresses alone: no page is taken before something is written into it.
    size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    start = libc.malloc(size)
    if start:
        before = -start % HUGE_PAGE_BYTES
        libc.madvise(start + before, size - before, MADV_HUGEPAGE)
        libc.free(start)
