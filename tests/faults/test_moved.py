"""The folder of a run that is moved, removed or made read-only under it."""

import shutil
import subprocess

import pytest

from cnn_jax.records.run_directory import RunDirectory
from cnn_jax.training.checkpoints import Checkpoints
from tests.running import TINY, assert_refused, assert_same_run


@pytest.mark.long
@pytest.mark.parametrize(
    ("owner", "method", "call"),
    [
        pytest.param(RunDirectory, "log", 4, id="before a line of metrics"),
        pytest.param(Checkpoints, "save", 2, id="before a checkpoint"),
        pytest.param(RunDirectory, "finish", 1, id="before the summary"),
    ],
)
def test_moved(owner, method, call, reference, tmp_path, command, monkeypatch):
    """A sentence; where the folder lies now the run goes on."""
    workdir, elsewhere, calls, original = (
        tmp_path / "run",
        tmp_path / "elsewhere",
        [],
        getattr(owner, method),
    )

    def moving(*arguments, **options):
        calls.append(None)
        if len(calls) == call:
            workdir.rename(elsewhere)
        return original(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(owner, method, moving)
        refused = command(*TINY, "--workdir", workdir)
    assert_refused(refused, workdir)
    assert command(*TINY, "--workdir", elsewhere).code == 0
    assert_same_run(elsewhere, reference[0])


def test_read_only(reference, tmp_path, command):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(disk)]
    if (
        shutil.which("mount") is None
        or subprocess.run(mount, capture_output=True, check=False).returncode
    ):
        pytest.skip("mounting a file system is not permitted here")
    try:
        shutil.copytree(reference[0], disk / "run")
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        assert_refused(command(*TINY, "--workdir", disk / "run"), disk / "run", "--workdir")
        assert_refused(command(*TINY, "--workdir", disk / "new"), disk / "new", "--workdir")
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
