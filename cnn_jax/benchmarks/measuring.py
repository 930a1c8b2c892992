"""How benchmarks measure: each side in a process of its own, in turns, compilation left out,
medians and ratios with their range."""

import concurrent.futures
import contextlib
import importlib
import importlib.metadata
import math
import multiprocessing
import os
import resource
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from cnn_jax.configuration.schema import setting
from cnn_jax.runtime import memory, processor

PEERS = (
    "torch",
    "torchvision",
    "timm",
    "segmentation-models-pytorch",
    "albumentations",
    "scikit-learn",
    "monai",
)
"""Packages whose versions are recorded where they are installed."""

THEIRS = ("pytorch", "torchvision", "monai", "scikit_learn")
"""Sides that are left as they come."""

MOST_TIMES = 1000
PATIENCE_S = 30


@dataclass
class Options:
    """The flags of every benchmark."""

    platform = ""
    """"cpu", "gpu" or "tpu", once the command has asked."""

    repeats: int = setting(5, "repetitions, each of all sides in turn", at_least=1)
    seconds: float = setting(1.0, "a repetition's least time", unit="s", at_least=0)
    without_peers: bool = setting(False, "measure ourselves alone")
    output: str = setting("", "the record; empty: results/benchmarks/NAME.json", path=True)


@dataclass(frozen=True)
class Case:
    """What all sides do.

    Attributes:
        name: what it is called in tables.
        settings: what `prepare` makes the work of; plain JSON.
        work: how much is done in one run,
        unit: of what, such as "images".
    """

    name: str
    settings: Mapping = field(default_factory=dict)
    work: float = 1
    unit: str = "runs"


class SideFailed(Exception):
    """A side could not do its work: memory, a library's refusal, an end by force. The message is
    its last line."""


# ---- where a side works


def environment() -> dict:
    """What a figure depends on: versions, ours and peers', devices, cores, how busy the machine
    was; nothing that names a date."""
    from cnn_jax.records.run_directory import surroundings

    recorded = surroundings()
    for package in PEERS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            recorded["versions"][package] = importlib.metadata.version(package)
    load = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
    return {
        **recorded,
        "threads": len(processor.cores()),
        "affinity": processor.cores(),
        "load_of_the_minute_before": load,
    }


class Here:
    """A side that works in this process: `side(times)` does its work so often and returns the
    seconds that took."""

    def __init__(self, module: str, side: str, settings: Mapping) -> None:
        self._run, self.facts = importlib.import_module(module).prepare(side, dict(settings))

    def __call__(self, times: int) -> float:
        start = time.perf_counter()
        self._run(times)
        return time.perf_counter() - start

    def close(self) -> None:
        """Nothing is left to be ended."""


class Apart:
    """A side that works in a process of its own, as `Here` does in this one: what it computes with,
    its threads and its memory are its alone, and go when it is closed.

    Raises:
        SideFailed: on making it or on calling it.
    """

    def __init__(self, module: str, side: str, settings: Mapping) -> None:
        self._connection, child = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        # Not a daemon, which could have no processes of its own, such as those that read data.
        self._process = context.Process(target=_serve, args=(child, module, side, dict(settings)))
        with as_it_comes() if side in THEIRS else contextlib.nullcontext():
            self._process.start()
        child.close()
        try:
            self.facts = self._answer()
        except BaseException:
            self.close()
            raise

    def __call__(self, times: int) -> float:
        self._connection.send(times)
        return self._answer()

    def _answer(self):
        try:
            succeeded, answer = self._connection.recv()
        except EOFError:
            self._process.join()
            raise SideFailed(f"its process ended with exit code {self._process.exitcode}") from None
        if not succeeded:
            raise SideFailed(answer)
        return answer

    def close(self) -> None:
        """Ends the process, by itself if it can, so that it ends those it has started."""
        self._connection.close()
        self._process.join(PATIENCE_S)
        self._process.kill()
        self._process.join()


@contextlib.contextmanager
def as_it_comes() -> Iterator[None]:
    """A process that is started within hasn't the setting that our commands give themselves; what
    the user has set it has."""
    ours = os.environ.get(memory.TUNABLES) == memory.SETTING
    if ours:
        del os.environ[memory.TUNABLES]
    try:
        yield
    finally:
        if ours:
            os.environ[memory.TUNABLES] = memory.SETTING


def _serve(connection, module, side, settings):
    """A side's process: answers each number of times with the seconds it took."""
    os.environ.setdefault(
        "XLA_PYTHON_CLIENT_PREALLOCATE", "false"
    )  # an accelerator's memory is for both sides
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        try:
            here = Here(module, side, settings)
            connection.send((True, here.facts))
            while True:
                connection.send((True, here(connection.recv())))
        except (EOFError, KeyboardInterrupt):
            raise
        except BaseException as error:
            traceback.print_exc()
            connection.send((False, _last_line(error)))


def apart(function: Callable, *arguments) -> Any:
    """`function(*arguments)`, computed in a process of its own that is gone afterwards; both must
    be importable or plain data.

    An accelerator that only one process may hold is free again, and what is imported doesn't count
    for the next.

    Raises:
        SideFailed: the process ended before it had the answer.
    """
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(function, *arguments).result()
        except concurrent.futures.process.BrokenProcessPool as error:
            raise SideFailed("its process ended before it was done") from error


def _last_line(error):
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:300]}"


# ---- turns, medians, ratios


def order(sides: Sequence[str], repeats: int) -> Iterator[str]:
    """The sides in turns: ours, theirs; theirs, ours; ours, theirs: what drifts falls on all
    alike."""
    for repeat in range(repeats):
        yield from sides if repeat % 2 == 0 else reversed(sides)


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """How many times as fast ours is, from seconds of the same repetitions: above 1 is faster.

    `median` is the ratio of the medians; `lowest` and `highest` are the least and the greatest
    ratio within one repetition, and the median is never outside of them.
    """
    each = [their / our for our, their in zip(ours, theirs, strict=True)]
    return {
        "median": statistics.median(theirs) / statistics.median(ours),
        "lowest": min(each),
        "highest": max(each),
    }


def samples(
    sides: Mapping[str, Callable[[int], float]], repeats: int, seconds: float
) -> tuple[int, dict[str, list[float]]]:
    """(how often the work is done in one repetition, {side: seconds that the work once took, by
    repetition}).

    Each side should have done its work once before, so that all is compiled. It does it once more
    here, to see how often it must be done for the fastest to take `seconds`.
    """
    times = min(max(math.ceil(seconds / min(run(1) for run in sides.values())), 1), MOST_TIMES)
    taken = {side: [] for side in sides}
    for side in order(list(sides), repeats):
        taken[side].append(sides[side](times) / times)
    return times, taken


def row(
    case: Case,
    seconds: Mapping[str, Sequence[float]],
    facts: Mapping[str, Mapping] = MappingProxyType({}),
    *,
    times: int = 1,
    note: str = "",
    failed: Mapping[str, str] = MappingProxyType({}),
) -> dict:
    """A case's part of the record.

    Args:
        case: what was done.
        seconds: {side: seconds that the case's work once took, a value a repetition}; the first
            side is ours.
        facts: {side: what `prepare` tells of it}, where there is something.
        times: how often the work was done in one repetition.
        note: a remark for the table.
        failed: {side: why it did nothing}, where one did.

    Returns:
        The above; `rates`, {side: median of units a second}; and `ratios`, {other side: `ratio` of
        the first to it}.
    """
    first, *others = seconds or [""]
    return {
        "case": case.name,
        "settings": dict(case.settings),
        "work": case.work,
        "unit": case.unit,
        "times": times,
        "ratios": {other: ratio(seconds[first], seconds[other]) for other in others},
        "rates": {side: case.work / statistics.median(taken) for side, taken in seconds.items()},
        "seconds": {side: list(taken) for side, taken in seconds.items()},
        "facts": {side: dict(known) for side, known in dict(facts).items()},
        "note": note,
        "failed": dict(failed),
    }


def compare(
    module: str,
    case: Case,
    sides: Sequence[str],
    options: Any,
    *,
    note: Callable[[dict], str] = lambda facts: "",
    where: Any = None,
    hidden: Any = None,
) -> dict:
    """A case measured on all sides; the row of it.

    Args:
        module: the benchmark's `__name__`; its `prepare` makes the work.
        case: what is done.
        sides: ours first; the others only count unless `options.without_peers`.
        options: of the command: `repeats`, `seconds`, `without_peers`.
        note: of the sides' facts, {side: facts}.
        where: `Apart` (the default) or `Here`.
        hidden: in the place of settings with the same names, what the sides get and the record
            doesn't.
    """
    running, facts, failed = {}, {}, {}
    try:
        for side in sides[:1] if options.without_peers else sides:
            try:
                running[side] = (where or Apart)(module, side, {**case.settings, **(hidden or {})})
                facts[side] = running[side].facts
                running[side](
                    1
                )  # compiles; and a side that fails here doesn't take the other along
            except SideFailed as error:
                failed[side] = str(error)
                running.pop(side, None)
        times, seconds = samples(running, options.repeats, options.seconds) if running else (1, {})
    except SideFailed as error:
        times, seconds, failed = 1, {}, {"while measuring": str(error)}
    finally:
        for side in running.values():
            side.close()
    return row(case, seconds, facts, times=times, note=note(facts), failed=failed)


def with_peaks(module: str, measured: dict) -> dict:
    """A row of `compare` that also has each side's `peak_mib` among its facts, and tells of it in
    its note."""
    peaks = {}
    for side in measured["rates"]:
        with as_it_comes() if side in THEIRS else contextlib.nullcontext():
            peaks[side] = apart(peak_mib, module, side, dict(measured["settings"]))
        measured["facts"][side]["peak_mib"] = peaks[side]
    told = ", ".join(f"{side} {peak:,.0f} MiB" for side, peak in peaks.items())
    return measured | {"note": f"{measured['note']}; greatest resident memory: {told}"}


def peak_mib(module: str, side: str, settings: Mapping) -> float:
    """The greatest resident memory of this process when it has done a side's work once, in MiB."""
    Here(module, side, settings)(1)
    unit = 1 if sys.platform == "darwin" else 1024  # bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


# ---- what is printed


def figure(value: float) -> str:
    """Three digits that count."""
    if not value or not math.isfinite(value):
        return str(value)
    digits = max(2 - math.floor(math.log10(abs(value))), 0)
    return f"{value:,.{digits}f}"


def ratio_text(value: Mapping[str, float]) -> str:
    """Such as 1.21 (1.10 to 1.30)."""
    return f"{value['median']:.2f} ({value['lowest']:.2f} to {value['highest']:.2f})"


def line(measured: Mapping) -> str:
    """A row for the terminal: the ratio first, then what it is of."""
    ratios = [f"{ratio_text(value)} x {other}" for other, value in measured["ratios"].items()]
    rates = [
        f"{side} {figure(rate)} {measured['unit']}/s" for side, rate in measured["rates"].items()
    ]
    failed = [f"{side} failed: {why}" for side, why in measured["failed"].items()]
    head = ", ".join(ratios) + "  " if ratios else ""
    note = f" ({measured['note']})" if measured["note"] else ""
    return f"{head}{measured['case']}: {'; '.join(rates + failed)}{note}"
