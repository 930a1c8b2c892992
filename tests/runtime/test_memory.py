"""Commands keep the memory that they have used, in huge pages where the kernel gives them."""

import contextlib
import importlib
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cnn_jax.benchmarks import measuring
from cnn_jax.commands import __main__ as program
from cnn_jax.runtime import memory
from tests.running import TINY, finish, start

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep memory"
)

WRITTEN = """
import resource
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    bytes([1]) * 2**26
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(environment):
    """Of writing 64 MiB, and of doing so again."""
    done = subprocess.run(
        [sys.executable, "-c", WRITTEN],
        env=clean() | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return tuple(map(int, done.stdout.split()))


def clean():
    return {name: value for name, value in os.environ.items() if name != memory.TUNABLES}


def huge_pages():
    known = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    version = tuple(map(int, platform.libc_ver()[1].split(".")))
    return version >= (2, 35) and known.exists() and "[madvise]" in known.read_text()


def test_memory_is_kept():
    first, again = page_faults({memory.TUNABLES: memory.SETTING})
    assert again < 100
    if huge_pages():
        assert first < 2000


GIVEN_BACK = """
from pathlib import Path
from cnn_jax.benchmarks import measuring
from cnn_jax.commands import __main__ as program
from cnn_jax.runtime import memory
resident = lambda: int(Path("/proc/self/statm").read_text().split()[1]) * 4096 >> 20
bytes([1]) * 2**28
print(resident())
memory.give_back()
print(resident())
"""


@pytest.mark.parametrize("more", ["", ":glibc.malloc.arena_max=1"])
def test_kept_memory_is_given_back_when_told(more):
    done = subprocess.run(
        [sys.executable, "-c", GIVEN_BACK],
        env=clean() | {memory.TUNABLES: memory.SETTING + more},
        capture_output=True,
        text=True,
        check=True,
    )
    kept, left = map(int, done.stdout.split())
    assert kept - left > 250
    assert kept > 256


def test_otherwise_it_is_taken_anew_page_by_page():
    """64 MiB are 16,384 pages."""
    first, again = page_faults({})
    assert min(first, again) > 10_000


@pytest.mark.parametrize("chosen", [None, "glibc.malloc.perturb=0"])
def test_a_command_begins_anew(tmp_path, chosen):
    """The same process, with the same words; unless the user has decided otherwise."""
    process = start(
        *TINY,
        "--workdir",
        tmp_path / "run",
        env=clean() | ({memory.TUNABLES: chosen} if chosen else {}),
    )
    try:
        while not (tmp_path / "run/config.json").exists() and process.poll() is None:
            time.sleep(0.02)
        # Of several settings glibc leaves the first to be seen there.
        variables = Path(f"/proc/{process.pid}/environ").read_text().split("\0")
        assert f"{memory.TUNABLES}={chosen or memory.SETTING.split(':')[0]}" in variables
    finally:
        process.kill()
        finish(process)


@pytest.mark.parametrize("name", ["benchmark", "evaluate", "predict"])
def test_commands_that_compute_begin_anew(name, monkeypatch):
    """Benchmarks too, which else measure what no command does; not where they are called."""
    command, begun = importlib.import_module(f"cnn_jax.commands.{name}"), []
    monkeypatch.setattr(memory, "keep", lambda: begun.append(sys.argv))
    for called, words in ((command, []), (program, [name])):
        monkeypatch.setattr(sys, "argv", ["typed", *words, "--help"])
        for argv in (None, [*words, "--help"]):
            with contextlib.suppress(SystemExit):
                called.main(argv)
    assert begun == [["typed", "--help"]] * 2


def test_benchmarks_measure_what_commands_do(tmp_path):
    """By the setting that the process of a side says it has."""
    options = "train_step --models tiny --sizes 16x16 --batches 1 --repeats 1 --seconds 0.01"
    options += " --without-peers --output record.json"
    subprocess.run(
        [sys.executable, "-m", "cnn_jax.commands", "benchmark", *options.split()],
        cwd=tmp_path,
        env=clean() | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(Path(__file__).parents[2])},
        check=True,
    )
    record = json.loads((tmp_path / "record.json").read_text("utf-8"))
    assert record["environment"]["glibc_tunables"] == memory.SETTING


@pytest.mark.parametrize(
    ("chosen", "seen"), [(memory.SETTING, None), ("glibc.malloc.perturb=0",) * 2]
)
def test_peers_are_measured_as_they_come(chosen, seen, monkeypatch):
    monkeypatch.setenv(memory.TUNABLES, chosen)
    with measuring.as_it_comes():
        assert os.environ.get(memory.TUNABLES) == seen
    assert os.environ[memory.TUNABLES] == chosen


def test_other_programs_are_left_alone(tmp_path, command):
    """Even those that use a command's code, as this test does."""
    process, variables = os.getpid(), dict(os.environ)
    command("--config=nothing", "--workdir", tmp_path / "run")
    assert (os.getpid(), dict(os.environ)) == (process, variables)
    code = "import os, experiments, cnn_jax.run, cnn_jax.study; print(os.environ)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=clean(), capture_output=True, text=True, check=True
    )
    assert memory.TUNABLES not in done.stdout


@pytest.mark.parametrize(
    ("platforms", "plugin", "begun"),
    [("", False, 1), ("", True, 0), ("cpu", True, 1), ("cuda", False, 0), ("cuda,cpu", False, 0)],
)
def test_where_an_accelerator_is_expected_nothing_begins_anew(
    platforms, plugin, begun, monkeypatch
):
    calls = []
    monkeypatch.setattr(os, "execv", lambda *arguments: calls.append(arguments))
    monkeypatch.setattr(memory, "_debugged", lambda: False)
    monkeypatch.setattr(memory, "find_spec", lambda _: plugin or None)
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    monkeypatch.setenv(memory.TUNABLES, "")
    monkeypatch.delenv(memory.TUNABLES)
    memory.keep()
    assert len(calls) == begun
