"""Running the commands as a user does, and comparing the records that they leave."""

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cnn_jax.runtime import memory

ROOT = Path(__file__).parents[1]
MODULE = "experiments.aerial_unet"
STEPS = 12

TINY = (
    "--config=smoke",
    "--model.base_width=4",
    "--model.depth=1",
    "--data.crop_px",
    "32",
    "48",
    "--data.scene_px",
    "64",
    "96",
    "--data.scene_counts",
    "4",
    "1",
    "1",
    f"--training.steps={STEPS}",
    "--training.batch_size=2",
    "--training.log_every_steps=2",
    "--training.validate_every_steps=4",
    "--optimizer.warmup_steps=2",
    "--evaluation.window_px",
    "64",
    "64",
    "--evaluation.context_px=8",
)
"""The smallest run that trains, validates and saves three times."""

SHORT = ("--training.steps=2", "--optimizer.warmup_steps=1")
"""After `TINY`: two steps are enough to see that a configuration runs."""


def given(*fields: str) -> list[str]:
    """Fields as Python has them, such as `data.image_px=(32, 32)`, as words of a command line."""
    words = []
    for field in fields:
        path, _, value = field.partition("=")
        section, _, name = path.rpartition(".")
        if value.startswith("("):
            words += [f"--{path}", *re.findall(r"[^(),' ]+", value)]
        elif value in ("True", "False"):
            words.append(f"--{path}" if value == "True" else f"--{section}.no-{name}")
        else:
            words.append(f"--{field}")
    return words


CLOCKED = {"elapsed_s", "wall_time_s", "train/images_per_second", "train/data_wait_fraction"}
"""What is measured in seconds, and differs from run to run."""


@dataclass(frozen=True)
class Finished:
    """A command that has ended: its exit code, standard output and standard error."""

    code: int
    out: str
    err: str


def environment(**changes: str) -> dict[str, str]:
    """This process's environment for a child, without what turns its warnings into errors, and with
    `changes`.
    """
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
    folder = str(Path(sys.executable).parent)  # the command that a run prints begins with python
    path = f"{folder}{os.pathsep}{kept.get('PATH', '')}"
    return {
        memory.TUNABLES: memory.SETTING,  # what a command would begin anew for, hundreds of times
        **kept,
        "PATH": path,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        **changes,
    }


def devices(count: int) -> dict[str, str]:
    """What a child's environment needs for the CPU to be that many devices."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}"
    return {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}


def start(*arguments: str, module: str = MODULE, **options) -> subprocess.Popen:
    """`python -m module arguments` in the repository's root, running."""
    options = {
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "env": environment(),
        "text": True,
        "cwd": ROOT,
        **options,
    }
    return subprocess.Popen([sys.executable, "-m", module, *map(str, arguments)], **options)


def finish(process: subprocess.Popen, timeout_s: float = 200) -> Finished:
    """Waits for a child; one that doesn't end is killed, and the test fails."""
    try:
        out, err = process.communicate(timeout=timeout_s)
    except BaseException:
        process.kill()
        process.communicate()
        raise
    return Finished(process.returncode, out, err)


def read(path: Path) -> dict:
    """A JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def timeless(values: dict) -> dict:
    """Figures without those of the clock."""
    return {key: value for key, value in values.items() if key not in CLOCKED}


def summary(workdir: Path) -> dict:
    """The final figures, without those of the clock."""
    return timeless(read(workdir / "summary.json"))


def metrics(workdir: Path) -> list[dict]:
    """The lines of metrics.jsonl, without figures of the clock."""
    return [
        timeless(json.loads(line))
        for line in (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    ]


def saved_steps(workdir: Path) -> list[int]:
    """Steps of the finished checkpoints, by the names of their folders."""
    return sorted(
        int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdecimal()
    )


def state(workdir: Path, step: int = STEPS) -> dict[str, np.ndarray]:
    """The arrays of a checkpoint (weights, statistics, optimiser) by their path."""
    import jax
    import orbax.checkpoint as ocp

    with ocp.PyTreeCheckpointer() as checkpointer:
        folder = (workdir / "checkpoints" / str(step)).absolute()
        tree = checkpointer.metadata(folder).item_metadata.tree
        kinds = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        tree = checkpointer.restore(folder, args=ocp.args.PyTreeRestore(restore_args=kinds))
    return {
        jax.tree_util.keystr(path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def assert_same_run(workdir: Path, reference: Path, step: int = STEPS) -> None:
    """Two finished runs have the same lines of metrics, figures and last state, bit for bit; only
    the clock may differ."""
    assert metrics(workdir) == metrics(reference)
    assert summary(workdir) == summary(reference)
    assert_same_state(workdir, reference, step)


def assert_same_state(workdir: Path, reference: Path, step: int = STEPS) -> None:
    """Two finished runs have the same last state, that of `step`, bit for bit."""
    ours, theirs = state(workdir, step), state(reference, step)
    assert ours.keys() == theirs.keys()
    assert any("params" in path for path in ours)
    for path, array in ours.items():
        assert array.dtype == theirs[path].dtype, path
        assert array.tobytes() == theirs[path].tobytes(), path


def assert_refused(finished: Finished, *words: str) -> None:
    """The command ended with exit code 2 and one sentence, which holds all of `words`."""
    lines = finished.err.strip().splitlines()
    assert finished.code == 2, finished
    assert len(lines) == 1, finished.err
    assert lines[0].startswith("error: "), finished.err
    assert lines[0].endswith("."), finished.err
    for word in words:
        assert str(word) in lines[0], (word, lines[0])


def wait_for(condition, process, timeout_s=120.0):
    """Polls until `condition()`, or until the process has ended. Returns whether the condition came
    first."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if condition():
            return True
        if process.poll() is not None:
            return False
        time.sleep(0.001)
    raise AssertionError("the process neither ended nor got so far")


def logged(workdir, lines):
    """A condition: metrics.jsonl has so many lines."""
    path = workdir / "metrics.jsonl"
    return lambda: path.exists() and path.read_bytes().count(b"\n") >= lines


def when(monkeypatch, owner, name, call, *signals):
    """Sends signals to this process before call number `call` (from 1) of a method."""
    method, calls = getattr(owner, name), []

    def wrapped(*arguments, **options):
        calls.append(None)
        if len(calls) == call:
            for number in signals:
                os.kill(os.getpid(), number)
        return method(*arguments, **options)

    monkeypatch.setattr(owner, name, wrapped)
