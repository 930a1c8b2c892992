"""What a run is resumed by: its folder must hold the same run. What may befall a run before is in
tests/faults."""

import shutil

import pytest

from tests import running as commands
from tests.running import STEPS, TINY, assert_refused, assert_same_run, assert_same_state


def test_another_configuration_is_refused(reference, command):
    rate = commands.read(reference[0] / "config.json")["optimizer"]["learning_rate"]
    refused = command(
        *TINY,
        "--optimizer.learning_rate=0.001",
        "--seed=7",
        "--workdir",
        reference[0],
    )
    assert_refused(refused, reference[0], f"optimizer.learning_rate: {rate}, 0.001", "seed: 0, 7")
    assert "steps" not in refused.err


def test_missing_metrics_are_told(reference, tmp_path, command):
    """A record that began in the middle would be passed off as a whole one."""
    workdir = tmp_path / "run"
    shutil.copytree(reference[0], workdir)
    (workdir / "summary.json").unlink()
    (workdir / "metrics.jsonl").write_text(
        "".join((workdir / "metrics.jsonl").read_text().splitlines(keepends=True)[:5])
    )
    assert_refused(command(*TINY, "--workdir", workdir), workdir / "metrics.jsonl", "step 12")
    (workdir / "metrics.jsonl").unlink()
    assert_refused(command(*TINY, "--workdir", workdir), workdir / "metrics.jsonl", "step 12")


def test_bits_are_compared(reference, tmp_path):
    """The comparison that these tests rest on tells another state and another figure from the
    same."""
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
