"""SIGTERM, Ctrl-C and a terminal that hangs up as a request to stop at the end of the step."""

import contextlib
import os
import signal
import sys
import threading

from cnn_jax.runtime import streams


class Stopped(Exception):
    """A signal asked the run to stop, and what could be saved is saved. `exit_code` is 128 plus the
    signal's number."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.exit_code = 128 + signal_number


class StopRequest:
    """Catches SIGTERM, SIGHUP and the first SIGINT while entered; `signal_number` is None until one
    came.

    SIGHUP stays ignored if it is, as under nohup. A further SIGINT ends the process at once, with
    exit code 130: an exception could be swallowed by a callback of a library, and would wait for
    its threads. What is on the disk is whole at every moment. Outside the main thread, which alone
    may catch signals, nothing is caught.

    Args:
        ends_process: if False, as in a notebook, a further SIGINT raises KeyboardInterrupt instead.
    """

    def __init__(self, ends_process: bool = False) -> None:
        self.signal_number: int | None = None
        self._ends_process = ends_process

    def __enter__(self) -> "StopRequest":
        main = threading.current_thread() is threading.main_thread()
        caught = [signal.SIGTERM, signal.SIGINT] if main else []
        if main and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            caught.append(signal.SIGHUP)
        self._previous = {number: signal.signal(number, self._handle) for number in caught}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if self.signal_number is not None and self._ends_process:
            # While Python ends, a KeyboardInterrupt would be a traceback.
            signal.signal(signal.SIGINT, signal.SIG_DFL)

    def _handle(self, number, frame):
        if self.signal_number is not None and number == signal.SIGINT:
            if not self._ends_process:
                raise KeyboardInterrupt
            with contextlib.suppress(Exception):  # the signal may have come amid a print
                sys.stdout.flush()
            os._exit(128 + number)
        self.signal_number = number
        with contextlib.suppress(OSError):
            if number == signal.SIGHUP:
                streams.silence_terminal()
            # Not by print, which may be what was interrupted.
            os.write(2, b"\nstopping after this step; Ctrl-C again stops at once\n")

    def raise_if_set(self) -> None:
        """Raises Stopped once a signal came."""
        if self.signal_number is not None:
            raise Stopped(self.signal_number)
