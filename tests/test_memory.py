"""Memory that was used stays with the process, in huge pages where the kernel has them."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep memory")

USED_TWICE = """
import resource
import sys
from pathlib import Path
import numpy as np
from cnn_jax import memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(2**23)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

if "keep" in sys.argv:
    memory.keep()
before = resident()
faults()
huge = sum(int(line.split()[1]) for line in Path("/proc/self/smaps").read_text().splitlines() if line.startswith("AnonHugePages"))
print(faults(), (resident() - before) // 2**20, huge // 1024)
"""


def used(*arguments, **environment):
    """(page faults of using 64 MiB for the second time, MiB more resident than before the first, MiB in huge pages)."""
    done = subprocess.run(
        [sys.executable, "-c", USED_TWICE, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return tuple(map(int, done.stdout.split()))


def has_huge_pages():
    known = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return known.exists() and "[never]" not in known.read_text()


def test_memory_is_kept():
    faults, more, huge = used("keep")
    assert faults < 100  # 64 MiB are 16,384 pages
    assert more >= 64
    if has_huge_pages():
        assert huge >= 60


def test_without_it_memory_is_taken_anew():
    faults, more, _ = used()
    assert faults > 20
    assert more < 64


def test_what_the_user_has_set_stays():
    _, more, _ = used("keep", MALLOC_TRIM_THRESHOLD_="1000000", MALLOC_MMAP_THRESHOLD_="1000000")
    assert more < 64


def test_no_memory_is_taken_in_advance():
    code = "import resource; from cnn_jax import memory; memory.keep(); print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100 * 1024


def test_where_addresses_are_short_it_goes_on():
    """A limit on addresses, as some clusters set it."""
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (2**29, 2**29)); from cnn_jax import memory; memory.keep(); "
        "print(len(bytes(2**20)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1048576\n"
