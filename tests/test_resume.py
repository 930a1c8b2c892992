"""A run that is killed, stopped or damaged goes on where it was, and ends with the same bits as one that nothing interrupted."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from cnn_jax.evaluation.evaluate import SceneEvaluator
from cnn_jax.reporting.records import Record
from cnn_jax.training.checkpoints import Checkpoints
from tests import commands
from tests.commands import (
    ROOT,
    STEPS,
    TINY,
    assert_refused,
    assert_same_run,
    assert_same_state,
    environment,
    finish,
    logged,
    saved_steps,
    start,
    wait_for,
    when,
)
from tests.data import fake_sets


def being_saved(workdir):
    """A condition: Orbax is writing a checkpoint."""
    return lambda: any((workdir / "checkpoints").glob("*orbax-checkpoint-tmp*"))


def test_killed_at_any_moment(reference, tmp_path):
    """SIGKILL four times, once while a checkpoint is being written; each attempt reads ahead by another number of batches."""
    workdir, moments = tmp_path / "run", random.Random(5)
    conditions = [
        logged(workdir, 1),
        being_saved(workdir),
        logged(workdir, moments.randint(3, 5)),
        logged(workdir, moments.randint(6, 8)),
    ]
    killed = 0
    for attempt, condition in enumerate(conditions):
        command = (*TINY, f"--config.data.prefetch_batches={attempt + 1}", "--workdir", workdir)
        process = start(*command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if wait_for(condition, process):
            if attempt != 1:
                time.sleep(moments.random() * 0.05)
            process.kill()
            killed += 1
        process.wait()
    assert killed >= 3  # a short run may have ended before the last moment came
    finished = finish(start(*TINY, "--workdir", workdir))
    assert finished.code == 0, finished.err
    assert_same_run(workdir, reference[0])


def test_sigterm_saves_and_prints_the_command_that_resumes(reference, tmp_path, command):
    workdir = tmp_path / "a run"  # whose name needs quotes
    process = start(*TINY, "--config.training.validate_every_steps=12", f"--workdir={workdir}")
    assert wait_for(logged(workdir, 1), process)
    # Another process on the same folder is refused, and leaves it alone.
    assert_refused(command(*TINY, "--config.training.validate_every_steps=12", "--workdir", workdir), workdir, "in use")
    process.send_signal(signal.SIGTERM)
    stopped = finish(process)
    assert stopped.code == 143, stopped
    assert "Traceback" not in stopped.err
    assert not (workdir / "summary.json").exists()
    (step,) = saved_steps(workdir)

    printed = stopped.out.strip().splitlines()
    assert printed[-2] == "stopped; to resume:"
    resumed = subprocess.run(
        printed[-1], shell=True, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=200, check=False
    )
    assert resumed.returncode == 0, resumed.stderr
    assert f"resuming after step {step}\n" in resumed.stdout
    assert_same_state(workdir, reference[0])
    assert commands.metrics(workdir)[-1] == commands.metrics(reference[0])[-1]


def test_sigint(reference, tmp_path):
    """Ctrl-C stops in order; a second one at once, without a word about our insides."""
    workdir = tmp_path / "run"
    process = start(*TINY, "--workdir", workdir)
    assert wait_for(logged(workdir, 2), process)
    process.send_signal(signal.SIGINT)
    stopped = finish(process)
    assert (stopped.code, "Traceback" in stopped.err) == (130, False), stopped
    assert "to resume:" in stopped.out

    process = start(*TINY, "--workdir", workdir, bufsize=1)
    for line in process.stdout:
        if line.startswith("resuming"):
            break
    process.send_signal(signal.SIGINT)
    for line in process.stderr:
        if "Ctrl-C again" in line:
            break
    process.send_signal(signal.SIGINT)
    stopped = finish(process, timeout_s=30)
    assert stopped.code in (130, -signal.SIGINT)  # the latter if Python had almost ended; to a shell they are the same
    assert "Traceback" not in stopped.err


def test_second_sigint_waits_for_nothing():
    program = """
import os, signal, time
from cnn_jax.training.preemption import StopRequest
with StopRequest(ends_process=True):
    print("printed before")
    os.kill(os.getpid(), signal.SIGINT)
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        pass
    time.sleep(60)
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=30, check=False
    )
    assert (ended.returncode, ended.stdout) == (130, "printed before\n"), ended
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("owner", "method", "call", "signals", "code", "saved"),
    [
        pytest.param(Checkpoints, "__init__", 1, [signal.SIGTERM], 143, [], id="before the first step"),
        pytest.param(SceneEvaluator, "evaluate", 2, [signal.SIGTERM], 143, [4, 8], id="in validation"),
        pytest.param(SceneEvaluator, "evaluate", 4, [signal.SIGINT], 130, [8, 12], id="in the final evaluation"),
    ],
)
def test_stopped_at(owner, method, call, signals, code, saved, reference, tmp_path, command, monkeypatch):
    workdir = tmp_path / "run"
    with monkeypatch.context() as patch:
        when(patch, owner, method, call, *signals)
        stopped = command(*TINY, "--workdir", workdir)
    assert stopped.code == code
    assert ("to resume:" in stopped.out) == (len(signals) == 1)
    assert saved_steps(workdir) == saved
    assert command(*TINY, "--workdir", workdir).code == 0
    assert_same_run(workdir, reference[0])


def unfinished(reference, workdir):
    """A copy of the reference run as it would be if it had been killed after its last checkpoint."""
    shutil.copytree(reference[0], workdir)
    (workdir / "summary.json").unlink()
    return workdir


def truncated(step):
    for path in (step / "default").rglob("*"):
        if path.is_file() and path.parent.name == "d":
            os.truncate(path, path.stat().st_size // 2)


def without_metadata(step):
    (step / "default" / "_METADATA").unlink()


def emptied(step):
    shutil.rmtree(step / "default")


@pytest.mark.parametrize("damage", [truncated, without_metadata, emptied])
def test_damaged_checkpoint_is_passed_over(damage, reference, tmp_path, command):
    workdir = unfinished(reference, tmp_path / "run")
    damage(workdir / "checkpoints" / str(STEPS))
    resumed = command(*TINY, "--workdir", workdir)
    assert resumed.code == 0, resumed.err
    assert re.search(r"the checkpoint of step 12 .* can't be read", resumed.out)
    assert "resuming after step 8\n" in resumed.out
    assert_same_run(workdir, reference[0])


def test_half_written_checkpoint_is_never_loaded(reference, tmp_path, command):
    workdir = unfinished(reference, tmp_path / "run")
    last = workdir / "checkpoints" / str(STEPS)
    last.rename(last.with_name(f"{STEPS}.orbax-checkpoint-tmp"))
    truncated(last.with_name(f"{STEPS}.orbax-checkpoint-tmp"))
    resumed = command(*TINY, "--workdir", workdir)
    assert resumed.code == 0, resumed.err
    assert "resuming after step 8\n" in resumed.out
    assert not list((workdir / "checkpoints").glob("*tmp*"))
    assert_same_run(workdir, reference[0])


def test_no_checkpoint_can_be_read(reference, tmp_path, command):
    workdir = unfinished(reference, tmp_path / "run")
    for step in saved_steps(workdir):
        truncated(workdir / "checkpoints" / str(step))
    before = sorted(path.name for path in (workdir / "checkpoints").iterdir())
    assert_refused(command(*TINY, "--workdir", workdir), workdir / "checkpoints")
    assert sorted(path.name for path in (workdir / "checkpoints").iterdir()) == before
    assert commands.metrics(workdir) == commands.metrics(reference[0])


def test_killed_while_the_record_was_begun(tmp_path, reference, command):
    workdir = tmp_path / "run"
    workdir.mkdir()
    (workdir / "config.json.partial").write_text('{"experiment": "aeri')
    assert command(*TINY, "--workdir", workdir).code == 0
    assert_same_run(workdir, reference[0])


def test_another_configuration_is_refused(reference, command):
    rate = commands.read(reference[0] / "config.json")["optimizer"]["learning_rate"]
    refused = command(*TINY, "--config.optimizer.learning_rate=0.001", "--config.seed=7", "--workdir", reference[0])
    assert_refused(refused, reference[0], f"optimizer.learning_rate: {rate}, 0.001", "seed: 0, 7")
    assert "steps" not in refused.err


def test_changed_data_are_refused(tmp_path, command, monkeypatch, quick_compilation):
    fake_sets.write_dubai(tmp_path / "data")
    arguments = (*TINY, "--config.data.source=dubai", "--config.data.directory", tmp_path / "data", "--workdir", tmp_path / "run")
    with monkeypatch.context() as patch:
        when(patch, Record, "log", 1, signal.SIGTERM)
        assert command(*arguments).code == 143
    fake_sets.save(fake_sets.photograph(99), tmp_path / "data/Tile 1/images/image_part_001.jpg")
    assert_refused(command(*arguments), tmp_path / "run", "data", "fingerprint")


def test_bits_are_compared(reference, tmp_path):
    """The comparison that these tests rest on tells another state and another figure from the same."""
    workdir = tmp_path / "run"
    shutil.copytree(reference[0], workdir)
    assert_same_run(workdir, reference[0])
    last = workdir / "checkpoints" / str(STEPS)
    shutil.rmtree(last)
    shutil.copytree(workdir / "checkpoints" / "8", last)
    with pytest.raises(AssertionError):
        assert_same_state(workdir, reference[0])
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    (workdir / "metrics.jsonl").write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(AssertionError):
        assert_same_run(workdir, reference[0])
