"""Several processes as one run: they find each other, agree, and end together.

Every process is the same command with another number. All compute the same steps, each on its own
part of every batch; process 0 alone writes the record and prints.

Before JAX joins them, the processes connect to process 0 at HOST:PORT, which can then say who is
missing: JAX would abort after its timeout without a name. The connections stay open: when a process
dies its connection closes, and the others end at once with a sentence and exit code 2. JAX itself
notices after its heartbeat timeout, and aborts with a dump of its stack; that is also what happens
when a network fails, when `auto` finds the processes through a cluster manager (then there are no
connections of ours), and it may come first when process 0 dies.
"""

import collections
import contextlib
import json
import os
import socket
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from cnn_jax.errors import InputError
from cnn_jax.runtime import backend, streams

if TYPE_CHECKING:
    from cnn_jax.runtime.preemption import StopRequest
    from cnn_jax.training.devices import Devices

FLAG = (
    "",
    (
        "several processes as one run: HOST:PORT,PROCESSES,PROCESS on each (HOST:PORT of the first,"
        " which is process 0), or auto, from the environment of SLURM, Open MPI, Kubernetes, Cloud"
        " TPU or JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID"
    ),
)

JOIN_S = 45
"""Seconds that a process waits at the start for the others."""

HEARTBEAT_S = 60
"""Seconds after which JAX takes a process for lost from which it hears nothing."""

_LATE = 2  # an answer is read so many questions later, so that asking never holds the devices up
_READ_S = 1.0  # what process 0 leaves the others to read why it ends
_NUMBER_S = 5.0  # what a connection has to say its number, should it be no process of ours
_AGAIN = (
    "start all of them again with the same --workdir, in any number, to go on from the last"
    " checkpoint."
)

_joined = False
_peers: dict[int, socket.socket] = {}  # process 0's connections to all others, theirs to process 0


def join(cluster: str) -> None:
    """Makes this process one of several, before JAX looks for its devices.

    Args:
        cluster: the value of the flag; empty for a run of one process.

    Raises:
        InputError: the flag can't be understood, or a process is missing.
    """
    global _joined
    if not cluster:
        return
    address, count, number = _parsed(cluster)
    try:
        if address is not None and count is not None and number is not None:
            _connect(address, count, number)
        import jax

        jax.config.update("jax_enable_preemption_service", False)  # we catch signals ourselves
        jax.distributed.initialize(
            address,
            count,
            number,
            initialization_timeout=JOIN_S,
            heartbeat_timeout_seconds=HEARTBEAT_S,
        )
        backend.check()
    except (RuntimeError, ValueError, TypeError, OSError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise InputError(
            f"--distributed {cluster!r}: the processes can't be joined ({reason}); start all of"
            " them with the same HOST:PORT,PROCESSES and another PROCESS each, where the port is"
            " free and can be reached."
        ) from error
    _joined = True
    if not is_primary():
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    for other in _peers:
        threading.Thread(target=_watch, args=(other,), daemon=True).start()


def _parsed(cluster) -> tuple[str | None, int | None, int | None]:
    address, count, number = (*cluster.split(","), "", "")[:3]
    if cluster == "auto":
        names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
        if any(name not in os.environ for name in names):
            return None, None, None  # JAX looks at the variables of cluster managers
        address, count, number = (os.environ[name] for name in names)
    fits = count.isdecimal() and number.isdecimal() and int(number) < int(count)
    if not fits or cluster.count(",") > 2 or not address.rpartition(":")[2].isdecimal():
        raise InputError(
            f"--distributed is {cluster!r}: give auto, or HOST:PORT,PROCESSES,PROCESS such as"
            " 10.0.0.1:9876,4,0 with PROCESS from 0 to PROCESSES - 1."
        )
    return address, int(count), int(number)


def _connect(address, count, number):
    """Waits for all processes. Raises OSError, which says who is missing."""
    host, _, port = address.rpartition(":")
    until = time.monotonic() + JOIN_S
    if not number:
        _gather(int(port), count, until)
        return
    _peers[0] = _reached(host.strip("[]"), int(port), until)
    _send(0, str(number))
    _peers[0].settimeout(JOIN_S + _NUMBER_S)  # process 0 waits for JOIN_S, and then tells
    answer = _lines(0).readline().strip()
    if answer != "joined":
        raise OSError(answer or "process 0 has ended")
    _peers[0].settimeout(None)


def _gather(port, count, until):
    """As process 0: takes the others' connections, and tells them whether all have come."""
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    with socket.create_server(("", port), family=family, dualstack_ipv6=dual) as server:
        while len(_peers) < count - 1 and (left := until - time.monotonic()) > 0:
            server.settimeout(left)
            with contextlib.suppress(TimeoutError, ValueError):
                connection = server.accept()[0]
                connection.settimeout(_NUMBER_S)
                other = int(connection.makefile().readline())
                connection.settimeout(None)
                if other in _peers or not 0 < other < count:
                    connection.sendall(b"another process has this number\n")
                    continue
                _peers[other] = connection
    missing = [str(other) for other in range(1, count) if other not in _peers]
    answer = "joined"
    if missing:
        answer = f"missing after {JOIN_S} s: process {', '.join(missing)}"
    for other in _peers:
        _send(other, answer)
    if missing:
        raise OSError(answer)


def _reached(host, port, until):
    """A connection to process 0, which may start later than this one."""
    while True:
        try:
            connection = socket.create_connection((host, port), timeout=JOIN_S)
            # While nobody listens, a port may be connected with itself.
            if connection.getsockname() != connection.getpeername():
                return connection
            connection.close()
        except OSError as error:
            if time.monotonic() > until:
                raise OSError(f"missing after {JOIN_S} s: process 0, {error}") from error
        time.sleep(0.2)


def _send(other, line):
    with contextlib.suppress(OSError):  # it is gone, which the watch tells
        _peers[other].sendall(f"{line}\n".encode())


def _lines(other):
    return _peers[other].makefile(encoding="utf-8", errors="replace")


def _watch(other):
    """Ends this process when another one has ended, or says that one has."""
    line = ""
    with contextlib.suppress(OSError):
        line = _lines(other).readline().strip()
    if line != "left":
        _end(line or f"process {other} is lost; {_AGAIN}")


def several() -> bool:
    """Whether this run is of several processes."""
    return _joined


def is_primary() -> bool:
    """Whether this process is the one that writes and prints; the only one is."""
    if not several():
        return True
    import jax

    return jax.process_index() == 0


def broadcast(value: Any) -> Any:
    """Process 0's value, which JSON can express, in every process. All must ask in the same
    order."""
    if not several():
        return value
    import numpy as np
    from jax.experimental.multihost_utils import broadcast_one_to_all

    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    length = int(broadcast_one_to_all(np.int32(len(text))))
    sent = np.zeros(1 << (length - 1).bit_length(), np.uint8)  # few sizes: each is compiled
    if is_primary():
        sent[:length] = text
    return json.loads(bytes(np.asarray(broadcast_one_to_all(sent), np.uint8)[:length]))


class AgreedStop:
    """A `StopRequest` of which every process gets the same answer to the same question, whichever
    of them the signal reached.

    Args:
        stop: this process's.
        devices: of all processes.
    """

    def __init__(self, stop: "StopRequest", devices: "Devices") -> None:
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
    if several():
        import jax

        _end(sentence, f"process {jax.process_index()} has ended: {sentence}")


def end_with(error: Exception) -> None:
    """Ends this process, and with it the others, after an exception that nobody expected. Returns
    only where there are no others."""
    if several():
        if of_another(error):
            time.sleep(5 * _READ_S)  # the watch ends this process, and says who was lost
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
        from jax.experimental.multihost_utils import sync_global_devices

        sync_global_devices("the end")
        for other in _peers:
            _send(other, "left")
        jax.distributed.shutdown()


_ending = threading.Lock()


def _end(sentence, to_others="") -> NoReturn:
    """Not by an exception: the main thread may be waiting for a process that is gone, and JAX would
    wait for it at exit."""
    _ending.acquire()  # for good: the first reason is the one that is told
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.flush()
        shown = os.dup(2)
        streams.silence(2)  # what JAX says from now on
        os.write(shown, f"error: {sentence}\n".encode())
    for other in _peers:
        _send(other, to_others or sentence)
    if _peers and 0 not in _peers:
        time.sleep(_READ_S)  # once process 0 has ended, JAX aborts the others
    os._exit(2)
