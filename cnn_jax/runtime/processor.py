"""What a processor is, and how much of it may be used: kinds of processors round differently, and a
run ends elsewhere on another one."""

import os
import platform
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
"""Where Linux describes its processors."""

_FIELDS = {"cpu family": "family", "model": "model", "CPU implementer": "maker", "CPU part": "part"}


def name() -> str:
    """Such as `AMD EPYC 7B13, family 25, model 1`: virtual machines often give a maker's name and
    no more, and the numbers tell its processors apart. What the system says where there is no
    /proc/cpuinfo, "" where it says nothing."""
    try:
        first = CPUINFO.read_text(encoding="utf-8", errors="replace").strip().split("\n\n")[0]
    except OSError:
        return platform.processor()
    pairs = (line.partition(":") for line in first.splitlines())
    said = {key.strip(): value.strip() for key, _, value in pairs}
    numbers = (f"{word} {said[field]}" for field, word in _FIELDS.items() if said.get(field))
    return ", ".join(filter(None, [said.get("model name", ""), *numbers]))


def vector_instructions() -> list[str]:
    """The sets of vector instructions that it has, by NumPy's names, narrow ones first, such as
    `X86_V3` (AVX2) and `X86_V4` (AVX-512)."""
    import numpy as np

    found = np.show_config(mode="dicts")["SIMD Extensions"]
    return [*found.get("baseline", []), *found.get("found", [])]


def cores() -> list[int]:
    """The cores that this process, and each it starts, may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))  # macOS doesn't say
