"""Commands keep the memory that they have used, in huge pages where the kernel has them."""

import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cnn_jax import memory
from tests.commands import TINY, finish, start

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep memory")

USED_TWICE = """
import resource
from pathlib import Path
import numpy as np

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(2**23)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

before = resident()
faults()
huge = sum(int(line.split()[1]) for line in Path("/proc/self/smaps").read_text().splitlines() if line.startswith("AnonHugePages"))
print(faults(), (resident() - before) // 2**20, huge // 1024)
"""


def used(environment):
    """(page faults of using 64 MiB for the second time, MiB more resident than before the first, MiB in huge pages)."""
    command = [sys.executable, "-c", USED_TWICE]
    done = subprocess.run(command, env={**clean(), **environment}, capture_output=True, text=True, check=True)
    return tuple(map(int, done.stdout.split()))


def clean():
    return {name: value for name, value in os.environ.items() if name != memory.TUNABLES and not name.startswith("MALLOC_")}


def test_memory_is_kept():
    faults, more, huge = used({memory.TUNABLES: memory.SETTINGS})
    assert faults < 100  # 64 MiB are 16,384 pages
    assert more >= 60
    known = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    version = tuple(map(int, platform.libc_ver()[1].split(".")))
    if version >= (2, 35) and known.exists() and "[never]" not in known.read_text():
        assert huge >= 60


def test_otherwise_memory_is_given_back():
    _, more, _ = used({})
    assert more < 60


def environment_of(process):
    return Path(f"/proc/{process.pid}/environ").read_text().split("\0")


@pytest.mark.parametrize(("variables", "kept"), [({}, True), ({"MALLOC_ARENA_MAX": "2"}, False)])
def test_a_command_begins_anew(tmp_path, monkeypatch, variables, kept):
    """The same process, with the same words; unless the user has decided otherwise."""
    for name in set(os.environ) - set(clean()):
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    process = start(*TINY, "--workdir", tmp_path / "run")
    try:
        while not (tmp_path / "run/config.json").exists() and process.poll() is None:
            time.sleep(0.02)
        # Of its settings glibc leaves the first to be seen there.
        assert (f"{memory.TUNABLES}={memory.SETTINGS.split(':')[0]}" in environment_of(process)) == kept
    finally:
        process.kill()
        finish(process)


def test_other_programs_are_left_alone():
    memory.keep()  # else pytest would begin anew here
    code = "import sys; sys.settrace(lambda *_: None); from cnn_jax import memory; memory.keep(); print('went on')"
    done = subprocess.run([sys.executable, "-c", code], env=clean(), capture_output=True, text=True, check=True)
    assert done.stdout == "went on\n"
