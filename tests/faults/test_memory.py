"""A run of any length takes the memory of a short one."""

import gc
import os
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from cnn_jax.records.run_directory import RunDirectory
from cnn_jax.runtime import memory
from tests.running import TINY, environment, finish, start

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="what a process holds is read from /proc"
)


def resident_mib(process_id):
    """Memory that a process has in use."""
    return (
        int(Path(f"/proc/{process_id}/statm").read_text().split()[1])
        * os.sysconf("SC_PAGE_SIZE")
        / 2**20
    )


def test_nothing_is_kept_from_step_to_step(tmp_path, command, monkeypatch):
    """Arrays on the devices, threads and open files are as many after the last validation as after
    the second."""
    counts, log = [], RunDirectory.log

    def counting(record, values):
        if "validation/miou" in values:
            gc.collect()
            counts.append(
                (
                    len(jax.live_arrays()),
                    threading.active_count(),
                    len(list(Path("/proc/self/fd").iterdir())),
                )
            )
        log(record, values)

    monkeypatch.setattr(RunDirectory, "log", counting)
    finished = command(
        *TINY,
        "--training.validate_every_steps=2",
        "--data.prefetch_batches=1",
        "--workdir",
        tmp_path / "run",
    )
    assert finished.code == 0, finished.err
    assert len(counts) == 6
    early, late = np.array(counts[1:3]), np.array(counts[-2:])
    # Batches that are read ahead and a checkpoint that is being written may be there or not: a few
    # arrays, not one a step.
    assert (late.min(axis=0) <= early.max(axis=0) + np.array([8, 2, 4])).all(), counts


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_two_thousand_steps(tmp_path):
    """The resident size is flat. (The C library is told to have one arena: of several each thread
    takes now this, now that, and what lies unused in them wanders by a few percent, which would
    hide a leak.)"""
    sizes = sizes_mib(
        tmp_path / "run", 2000, **{memory.TUNABLES: f"{memory.SETTING}:glibc.malloc.arena_max=1"}
    )
    before, after = (
        np.median(sizes[70:110]),
        np.median(sizes[160:200]),
    )  # by step 700 all has happened several times
    print(
        f"resident size: {before:.1f} MiB after 700 to 1,100 steps, {after:.1f} MiB after 1,600 to"
        " 2,000"
    )
    assert after < 1.01 * before, sizes


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_with_all_arenas_the_size_stays_near_what_it_was(tmp_path):
    """As users run it. Each arena comes to keep the most that a thread ever needed in it; that
    rises for some thousand steps."""
    sizes = sizes_mib(tmp_path / "run", 6000)
    before, after = np.median(sizes[100:200]), np.median(sizes[500:600])
    print(
        f"resident size: {before:.1f} MiB after 1,000 to 2,000 steps, {after:.1f} MiB after 5,000"
        " to 6,000"
    )
    assert after < 1.05 * before, sizes


def sizes_mib(folder, steps, **changes):
    """The resident sizes of a run, in MiB, at each tenth step, with a validation and a checkpoint
    every hundred steps."""
    process = start(
        *TINY,
        "--model.depth=2",
        f"--training.steps={steps}",
        "--training.log_every_steps=10",
        "--training.validate_every_steps=100",
        "--data.scene_counts",
        "8",
        "1",
        "1",
        "--workdir",
        folder,
        env=environment(JAX_DISABLE_MOST_OPTIMIZATIONS="0", **changes),
    )
    path, sizes = folder / "metrics.jsonl", []
    while process.poll() is None:
        time.sleep(0.05)
        lines = path.read_bytes().count(b'"train/loss"') if path.exists() else 0
        if lines > len(sizes):
            sizes += [resident_mib(process.pid)] * (lines - len(sizes))
    finished = finish(process)
    assert finished.code == 0, finished.err
    assert len(sizes) == steps // 10
    return np.array(sizes)
