"""Standard streams that are closed, or that can't be written any more: no run should end in a
traceback because nobody reads it."""

import errno
import os
import stat
import sys
from pathlib import Path

LOST = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.ESTALE)
"""Errors of a disk or a terminal. Where the file was open already, Python doesn't say which."""


def replace_closed() -> None:
    """Opens the null device where a standard stream is closed. Otherwise the next file that is
    opened gets its number, and what C++ libraries print is written into that file."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # It gets the lowest number that is free, and stays open.
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115


def end_output() -> None:
    """Writes what was printed where that is possible, and drops the rest: Python would complain
    about it at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        silence(sys.stdout.fileno())


def silence_terminal() -> None:
    """Drops what goes to a terminal from now on: it hung up, and every word would be an error."""
    for number in (1, 2):
        if stat.S_ISCHR(os.fstat(number).st_mode):  # a terminal that hung up says that it is none
            silence(number)


def silence(number: int) -> None:
    """Drops what is written to a file descriptor from now on."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, number)
    os.close(null)
