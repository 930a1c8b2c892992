"""Commands have their memory in huge pages, where the kernel gives them."""

import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cnn_jax import memory
from tests.commands import TINY, finish, start

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is asked for huge pages")

WRITTEN = """
import resource
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
written = bytes([1]) * 2**26
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(environment):
    """Of writing 64 MiB."""
    done = subprocess.run([sys.executable, "-c", WRITTEN], env=clean() | environment, capture_output=True, text=True, check=True)
    return int(done.stdout)


def clean():
    return {name: value for name, value in os.environ.items() if name != memory.TUNABLES}


def huge_pages():
    known = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    version = tuple(map(int, platform.libc_ver()[1].split(".")))
    return version >= (2, 35) and known.exists() and "[madvise]" in known.read_text()


@pytest.mark.skipif(not huge_pages(), reason="this kernel, or this glibc, has no huge pages for who asks")
def test_memory_comes_in_huge_pages():
    assert page_faults({}) >= 2**14  # pages of 4 KiB
    assert page_faults({memory.TUNABLES: memory.SETTING}) < 2000


@pytest.mark.parametrize("chosen", [None, "glibc.malloc.perturb=0"])
def test_a_command_begins_anew(tmp_path, monkeypatch, chosen):
    """The same process, with the same words; unless the user has decided otherwise."""
    monkeypatch.delenv(memory.TUNABLES, raising=False)
    if chosen:
        monkeypatch.setenv(memory.TUNABLES, chosen)
    process = start(*TINY, "--workdir", tmp_path / "run")
    try:
        while not (tmp_path / "run/config.json").exists() and process.poll() is None:
            time.sleep(0.02)
        variables = Path(f"/proc/{process.pid}/environ").read_text().split("\0")
        assert f"{memory.TUNABLES}={chosen or memory.SETTING}" in variables
    finally:
        process.kill()
        finish(process)


def test_other_programs_are_left_alone():
    memory.ask_for_huge_pages()  # else pytest would begin anew here
    code = "from cnn_jax import memory; memory.ask_for_huge_pages(); import os; print(memory.TUNABLES in os.environ)"
    done = subprocess.run([sys.executable, "-c", code], env=clean(), capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
