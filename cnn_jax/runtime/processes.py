"""Several processes as one run: how they find each other, agree, and end together.

Every process is the same command with another number. All compute the same steps, each on its own
part of every batch; the first one alone writes the record and speaks. A process that fails, or is
not heard of any more, ends the others, with a sentence.
"""

import collections
import contextlib
import ctypes
import json
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path

from cnn_jax.errors import InputError

FLAG = (
    "",
    (
        "several processes as one run: HOST:PORT,PROCESSES,PROCESS on each (HOST:PORT of the first,"
        " which is process 0), or auto, from the environment of SLURM, Open MPI, Kubernetes, Cloud"
        " TPU or JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID"
    ),
)

LOST_S = 40
"""A process that doesn't say for so many seconds that it is alive is taken for lost; once a
collective has failed, an eighth of it."""

_POLL_S = 1.0
_LATE = 2  # as many questions later an answer is read, so that asking never holds the devices up

_agreed = 0
_kept = []  # what C++ calls must not be collected
_alarmed = threading.Event()


def join(cluster: str) -> None:
    """Makes this process one of several, before JAX looks for its devices; `cluster` is the value
    of the flag, empty for none.

    Raises:
        InputError: the flag can't be understood, or the others are not found.
    """
    if not cluster:
        return
    import jax

    address, count, number = _parsed(cluster)
    _catch_abort()
    try:
        # Heartbeats are our own: where JAX's fail it aborts the process with a dump of its stack.
        jax.distributed.initialize(
            address,
            count,
            number,
            heartbeat_timeout_seconds=24 * 3600,
            initialization_timeout=300,
            shutdown_timeout_seconds=300,
        )
        jax.devices()
    except (RuntimeError, ValueError, TypeError, OSError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise InputError(
            f"--distributed {cluster!r}: the processes can't be joined ({reason}); start all of"
            " them with the same HOST:PORT,PROCESSES and another PROCESS each, where the port is"
            " free and can be reached."
        ) from error
    if not is_primary():
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    threading.Thread(target=_watch, daemon=True).start()


def _parsed(cluster):
    if cluster == "auto":
        address, count, number = (
            os.environ.get(name)
            for name in ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
        )
    else:
        address, count, number = (
            (*cluster.split(","), "", "")[:3] if cluster.count(",") == 2 else ("", "", "")
        )
    numbers = [
        value if value is None else int(value) if value.isdecimal() else -1
        for value in (count, number)
    ]
    fits = -1 not in numbers and (None in numbers or numbers[1] < numbers[0])
    if not fits or (address is not None and not address.rpartition(":")[2].isdecimal()):
        raise InputError(
            f"--distributed is {cluster!r}: give auto, or HOST:PORT,PROCESSES,PROCESS such as"
            " 10.0.0.1:9876,4,0 with PROCESS from 0 to PROCESSES - 1."
        )
    return address, *numbers


def several() -> bool:
    """Whether this run is of several processes."""
    return _client() is not None


def is_primary() -> bool:
    """Whether this process is the one that writes and speaks; the only one is."""
    if not several():
        return True
    import jax

    return jax.process_index() == 0


def broadcast(value):
    """The first process's value, which JSON can express, in every process. All must ask in the same
    order."""
    global _agreed
    if not several():
        return value
    _agreed += 1
    key = f"cnn_jax/agreed/{_agreed}"
    if is_primary():
        _client().key_value_set(key, json.dumps(value))
        return value
    return json.loads(_client().blocking_key_value_get(key, 24 * 3600 * 1000))


class AgreedStop:
    """A `StopRequest` of which every process gets the same answer at the same question, whichever
    of them the signal reached.

    Args:
        stop: this process's.
        devices: of all processes.
    """

    def __init__(self, stop, devices):
        import jax
        import jax.numpy as jnp

        self._stop, self._devices, self._answers = stop, devices, collections.deque()
        self._largest = jax.jit(
            jnp.max, in_shardings=devices.sharded, out_shardings=devices.replicated
        )

    @property
    def signal_number(self) -> int | None:
        """As `StopRequest` has it, but some questions late."""
        import jax
        import numpy as np

        numbers = np.full(jax.local_device_count(), self._stop.signal_number or 0, np.int32)
        self._answers.append(self._largest(self._devices.place(numbers)))
        return (int(self._answers.popleft()) or None) if len(self._answers) > _LATE else None

    def raise_if_set(self) -> None:
        """Raises Stopped once a signal came."""
        from cnn_jax.runtime.preemption import Stopped

        number = self.signal_number
        if number is not None:
            raise Stopped(number)


def fail(sentence: str) -> None:
    """Ends this process, and with it the others, for the reason given. Returns only where there are
    no others."""
    if not several():
        return
    import jax

    with contextlib.suppress(Exception):  # the first process, which keeps the messages, may be gone
        _client().key_value_set(f"cnn_jax/failed/{jax.process_index()}", sentence)
    _end(f"error: {sentence}", wait_s=5 * _POLL_S)


def end_with(error: Exception) -> None:
    """Ends this process after an exception that nobody expected. Returns only where there are no
    others.

    Where another process is lost, collectives fail here with JAX's errors; the watch then finds out
    who it was, and says so.
    """
    if not several():
        return
    if of_another(error):
        _alarmed.set()
        time.sleep(LOST_S / 4)
    traceback.print_exception(error)
    fail("an error of our own, whose traceback it shows.")


def of_another(error: Exception) -> bool:
    """Whether an exception may be what becomes of a collective when another process is lost."""
    import jax

    return several() and (isinstance(error, jax.errors.JaxRuntimeError) or "Gloo" in str(error))


def leave() -> None:
    """Waits for all processes to come to the end, the last of which may still be drawing, and parts
    from them."""
    if several():
        import jax

        _client().wait_at_barrier("cnn_jax/left", 24 * 3600 * 1000)
        jax.distributed.shutdown()


def _client():
    distributed = sys.modules.get(
        "jax._src.distributed"
    )  # JAX's key-value store has no public name
    return None if distributed is None else distributed.global_state.client


def _watch():
    """Says every second that this process is alive, and ends it once another one isn't."""
    import jax

    mine, count, client = jax.process_index(), jax.process_count(), _client()
    heard = dict.fromkeys(range(count), (None, time.monotonic()))
    reached = time.monotonic()
    for beat in range(sys.maxsize):
        if _client() is None:  # `leave` has ended it
            return
        now, patience = time.monotonic(), LOST_S / 8 if _alarmed.is_set() else LOST_S
        try:
            client.key_value_set(f"cnn_jax/alive/{mine}", str(beat), allow_overwrite=True)
            beats = {
                int(key.rpartition("/")[2]): value
                for key, value in client.key_value_dir_get("cnn_jax/alive/")
            }
            failed = dict(client.key_value_dir_get("cnn_jax/failed/"))
            reached = now
        except Exception:  # JAX's client raises whatever its connection does
            if _client() is None:
                return
            if now - reached > patience:
                _end(_lost(0))
            beats, failed = {}, {}
        for key, sentence in failed.items():
            other = int(key.rpartition("/")[2])
            if other != mine:
                _end(f"error: process {other} has ended: {sentence}")
        for other, value in beats.items():
            if value != heard[other][0]:
                heard[other] = value, now
        silent = [
            other for other, (_, when) in heard.items() if other != mine and now - when > patience
        ]
        if silent and beats:
            _end(_lost(silent[0]))
        time.sleep(_POLL_S)


def _catch_abort():
    """Where the first process dies, JAX's C++ aborts the others, with a dump of its stack: that is
    kept back, and a sentence told."""
    messages = tempfile.TemporaryFile()  # noqa: SIM115
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace")
    os.dup2(messages.fileno(), 2)

    @ctypes.CFUNCTYPE(
        None, ctypes.c_int
    )  # handlers of Python's own run later, and after an abort there is no later
    def aborted(number):
        messages.seek(0)
        text = messages.read().decode(errors="replace")
        if "coordination" not in text:
            sys.stderr.write(text)
            sys.stderr.flush()
            os._exit(128 + number)
        _end(_lost(0))

    ctypes.CDLL(None).signal(signal.SIGABRT, aborted)
    _kept.append(aborted)


def _lost(other):
    return (
        f"error: process {other} is lost; start all of them again with the same --workdir, in any"
        " number, to go on from the last checkpoint."
    )


def _end(sentence, wait_s=0.0):
    """Not by an exception: the main thread may be waiting for a process that is gone, and JAX would
    wait for it at exit."""
    with contextlib.suppress(Exception):
        sys.stderr.write(sentence + "\n")
        sys.stderr.flush()
    time.sleep(wait_s)  # until the others have read why
    os._exit(2)
