"""What a processor is called and what of it is used."""

import platform
import subprocess
import sys

import pytest

from cnn_jax.runtime import processor

X86 = """processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: 25
model\t\t: 1
model name\t: AMD EPYC 7B13

processor\t: 1
vendor_id\t: AuthenticAMD
cpu family\t: 26
model\t\t: 2
model name\t: another
"""
ARM = """processor\t: 0
Features\t: fp asimd sve
CPU implementer\t: 0x41
CPU part\t: 0xd40

processor\t: 1
CPU part\t: 0xd41
"""


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (X86, "AMD EPYC 7B13, family 25, model 1"),
        (ARM, "maker 0x41, part 0xd40"),
        ("", ""),
        ("no field at all\n", ""),
    ],
)
def test_the_first_processor_that_linux_lists_gives_the_name(text, name, tmp_path, monkeypatch):
    monkeypatch.setattr(processor, "CPUINFO", tmp_path / "cpuinfo")
    processor.CPUINFO.write_text(text, encoding="utf-8")
    assert processor.name() == name


def test_without_a_list_the_system_gives_the_name(tmp_path, monkeypatch):
    monkeypatch.setattr(processor, "CPUINFO", tmp_path / "missing")
    monkeypatch.setattr(platform, "processor", lambda: "arm")
    assert processor.name() == "arm"


@pytest.mark.skipif(not processor.CPUINFO.exists(), reason="this system lists no flags")
def test_instructions_are_those_that_linux_lists():
    words = set(processor.CPUINFO.read_text(encoding="utf-8").split())
    named = processor.vector_instructions()
    if platform.machine() == "x86_64":
        assert ("avx2" in words) == bool({"AVX2", "X86_V3"} & {*named})
        assert ("avx512bw" in words) == bool({"AVX512_SKX", "X86_V4"} & {*named})
    assert len(named) == len({*named}) > 0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux keeps a process to some cores")
def test_only_the_cores_that_may_be_used_count():
    first = processor.cores()[0]
    line = (
        f"import os; os.sched_setaffinity(0, [{first}]);"
        "from cnn_jax.runtime import processor; print(processor.cores())"
    )
    done = subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"[{first}]"
