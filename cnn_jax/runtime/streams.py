"""Standard streams that are closed, or that can't be written any more: no run should end in a
traceback for want of a reader."""

import errno
import os
import stat
import sys
from pathlib import Path

LOST = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.ESTALE)
"""What befalls a disk or a terminal; Python doesn't say which, where it was open already."""


def replace_closed() -> None:
    """Puts the null device where a standard stream is closed. Otherwise the next file that is
    opened gets its number, and what C++ libraries have to say is written into that file."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # It gets the lowest number that is free, and stays open.
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115


def end_output() -> None:
    """Writes what was printed, where that can be written; Python would complain of the rest when it
    ends."""
    try:
        sys.stdout.flush()
    except OSError:
        _silence(sys.stdout.fileno())


def silence_terminal() -> None:
    """What goes to a terminal goes nowhere from now on: it hung up, and every word to it would be
    an error."""
    for number in (1, 2):
        if stat.S_ISCHR(os.fstat(number).st_mode):  # a terminal that hung up says that it is none
            _silence(number)


def _silence(number):
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, number)
    os.close(null)
