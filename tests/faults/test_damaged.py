"""Checkpoints that a crash, a disk or a person damaged: the one before is taken, and that is
said."""

import gc
import os
import re
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnn_jax.training.checkpoints import Checkpoints
from cnn_jax.training.state import TrainState
from tests import running as commands
from tests.running import STEPS, TINY, assert_refused, assert_same_run, saved_steps


def deleted(path):
    path.unlink()


def halved(path):
    os.truncate(path, path.stat().st_size // 2)


def emptied(path):
    os.truncate(path, 0)


def overwritten(path):
    """Garbage of the same length."""
    path.write_bytes(np.random.default_rng(0).bytes(path.stat().st_size))


def one_bit_changed(path):
    content = bytearray(path.read_bytes())
    content[len(content) * 3 // 4] ^= 1
    path.write_bytes(content)


DAMAGES = (deleted, halved, emptied, overwritten, one_bit_changed)


def state(seed):
    rng = np.random.default_rng(seed)
    params = {
        "kernel": jnp.asarray(rng.normal(size=(40, 50)).astype(np.float32)),
        "bias": jnp.asarray(rng.normal(size=50)),
    }
    return TrainState(jnp.int32(seed), {"params": params}, optax.adam(1e-3).init(params), None)


def bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    checkpoints = Checkpoints(folder, keep=2, best="score")
    for step in (4, 8):
        checkpoints.save(step, state(step), {"score": step / 10})
    checkpoints.close()
    return folder


@pytest.mark.parametrize(
    "damage",
    [
        (
            damage
            if damage in (halved, one_bit_changed)
            else pytest.param(damage, marks=pytest.mark.long)
        )
        for damage in DAMAGES
    ],
)
def test_any_file_of_the_newest_checkpoint(damage, two_checkpoints, tmp_path, capsys):
    """Each in turn: what comes back is whole, of the checkpoint before if need be, and then that is
    said. Nothing else is said."""
    newest = two_checkpoints / "8"
    files = sorted(path.relative_to(newest) for path in newest.rglob("*") if path.is_file())
    needed = {
        Path("manifest.ocdbt"),
        Path("_METADATA"),
        *([Path("_CHECKPOINT_METADATA")] if damage is not deleted else []),
    }
    passed_over = set()
    for number, file in enumerate(files):
        folder = shutil.copytree(two_checkpoints, tmp_path / str(number))
        damage(folder / "8" / file)
        checkpoints = Checkpoints(folder, keep=2, best="score")
        restored, metrics, step = checkpoints.restore(state(0))
        gc.collect()  # where Orbax leaves coroutines that complain when they are collected
        told = (
            f"the checkpoint of step 8 in {folder} can't be read and is set aside as damaged-8\n"
            if step == 4
            else ""
        )
        assert capsys.readouterr() == (told, ""), file
        assert bits(restored) == bits(state(step)), file
        assert metrics in (
            {"score": step / 10},
            {},
        ), file  # without metrics a step is validated again
        if step == 4:
            passed_over.add(file)
            assert checkpoints.steps == [4]
            checkpoints.save(8, state(8), {"score": 0.8})
            checkpoints.wait()
            assert bits(checkpoints.restore(state(0), 8)[0]) == bits(state(8))
        checkpoints.close()
    assert needed <= passed_over
    assert passed_over & {file for file in files if file.parent.name == "d"}  # where the arrays are


ALIENS = (
    "8 (copy)",
    "9",
    "0012",
    "\N{FULLWIDTH DIGIT EIGHT}",
    "step_8",
    "8.orbax-checkpoint-tmp",
    "notes",
)


def test_alien_folders_are_no_checkpoints(two_checkpoints, tmp_path):
    """Among them a copy under the name of another step, which it isn't of."""
    folder = shutil.copytree(two_checkpoints, tmp_path / "checkpoints")
    for name in ALIENS:
        shutil.copytree(two_checkpoints / "8", folder / name)
    (folder / "10").mkdir()
    (folder / "11").write_text("")
    checkpoints = Checkpoints(folder, keep=2, best="score")
    restored, _, step = checkpoints.restore(state(0))
    checkpoints.close()
    assert (step, bits(restored)) == (8, bits(state(8)))


# ---- the real run


def unfinished(reference, workdir):
    """A copy of the reference run as it would be if it had been killed after its last
    checkpoint."""
    shutil.copytree(reference[0], workdir)
    (workdir / "summary.json").unlink()
    return workdir


def damaged(reference, workdir, damage, pattern):
    """The first file of that name in the last checkpoint of an unfinished copy of the reference
    run."""
    unfinished(reference, workdir)
    damage(min((workdir / "checkpoints" / str(STEPS)).glob(pattern)))
    return workdir


def assert_goes_on_from_the_one_before(workdir, reference, command):
    resumed = command(*TINY, "--workdir", workdir)
    assert resumed.code == 0, resumed.err
    assert re.search(
        r"the checkpoint of step 12 .* can't be read and is set aside as damaged-12\n"
        r"resuming after step 8\n",
        resumed.out,
    )
    assert "Traceback" not in resumed.err
    assert_same_run(workdir, reference[0])


def test_run_goes_on_from_the_checkpoint_before(reference, tmp_path, command):
    """With one bit of its arrays changed; and what a killed process left half-written is no
    checkpoint."""
    workdir = damaged(reference, tmp_path / "run", one_bit_changed, "d/*")
    half_written = shutil.copytree(
        workdir / "checkpoints/8", workdir / "checkpoints/16.orbax-checkpoint-tmp"
    )
    assert_goes_on_from_the_one_before(workdir, reference, command)
    assert not half_written.exists()


UNHARMED = (("_CHECKPOINT_METADATA", deleted), ("_METADATA", one_bit_changed))
"""The state is whole: the step is validated again; the bit may be in a word of Orbax's that says
nothing of the arrays."""


@pytest.mark.long
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("pattern", ["d/*", "manifest.ocdbt", "_METADATA", "_CHECKPOINT_METADATA"])
def test_run_with_a_damaged_file(pattern, damage, reference, tmp_path, command):
    workdir = damaged(reference, tmp_path / "run", damage, pattern)
    if (pattern, damage) in UNHARMED:
        assert command(*TINY, "--workdir", workdir).code == 0
        assert_same_run(workdir, reference[0])
    else:
        assert_goes_on_from_the_one_before(workdir, reference, command)


def test_no_checkpoint_can_be_read(reference, tmp_path, command):
    workdir = unfinished(reference, tmp_path / "run")
    for step in saved_steps(workdir):
        emptied(min((workdir / "checkpoints" / str(step)).glob("d/*")))
    before = sorted(path for path in (workdir / "checkpoints").rglob("*"))
    assert_refused(command(*TINY, "--workdir", workdir), workdir / "checkpoints")
    assert sorted(path for path in (workdir / "checkpoints").rglob("*")) == before
    assert commands.metrics(workdir) == commands.metrics(reference[0])
