"""Checkpoints: what is kept, what comes back bit for bit, and what happens when the disk
refuses."""

import gc
import os
import shutil
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnn_jax.errors import InputError
from cnn_jax.training.checkpoints import Checkpoints, check_place
from cnn_jax.training.state import TrainState

SCORE = "validation/miou"


def make_state(seed=0, size=8):
    """A training state with awkward values: infinities, minus zero, the smallest float."""
    rng = np.random.default_rng(seed)
    kernel = rng.normal(size=(size, 4)).astype(np.float32)
    kernel[0] = [-0.0, np.inf, 1e-45, 3.4e38]
    params = {"kernel": jnp.asarray(kernel), "half": jnp.asarray(rng.normal(size=5), jnp.bfloat16)}
    return TrainState(jnp.int32(seed), {"params": params}, optax.adam(1e-3).init(params), None)


@pytest.fixture
def checkpoints(tmp_path):
    opened = Checkpoints(tmp_path / "checkpoints", keep=2, best=SCORE)
    yield opened
    opened.close()


def reopened(checkpoints, **options):
    return Checkpoints(checkpoints.directory, **{"keep": 2, "best": SCORE} | options)


def same_bits(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert a.dtype == b.dtype
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.mark.parametrize(
    ("name", "found"),
    [("plain", True), ("a*b?", True), ("half [open", True), ("[old] runs", False)],
)
def test_a_folder_where_orbax_finds_nothing_again_is_refused(name, found, tmp_path):
    """A run in it trained to its end, and its checkpoints were empty. Orbax says which they are."""
    saved = Checkpoints(tmp_path / name / "checkpoints", keep=2, best=SCORE)
    saved.save(3, make_state(3), {SCORE: 0.25})
    saved.close()
    readable = True
    try:
        reopened(saved).restore(make_state(0))
    except InputError:
        readable = False
    assert readable == found
    if found:
        check_place(tmp_path / name)
        shutil.move(tmp_path / name, tmp_path / "[moved]")
        moved = Checkpoints(tmp_path / "[moved]/checkpoints", keep=2, best=SCORE)
        same_bits(moved.restore(make_state(0))[0], make_state(3))
    else:
        with pytest.raises(InputError, match=r"has brackets in its path, .* another --workdir"):
            check_place(tmp_path / name)


def test_a_state_comes_back_bit_for_bit_in_another_manager(checkpoints):
    state = make_state(3)
    checkpoints.save(3, state, {SCORE: 0.25})
    checkpoints.close()
    other = reopened(checkpoints)
    restored, _, step = other.restore(make_state(0))
    other.close()
    assert step == 3
    same_bits(restored, state)


def test_saving_leaves_hardly_anything_behind(checkpoints):
    def left():
        gc.collect()
        return sum(type(found) is list for found in gc.get_objects()), sys.getallocatedblocks()

    state, counts = {f"array {number}": jnp.full(4, number) for number in range(40)}, []
    for step in range(1, 25):
        checkpoints.save(step, state, {SCORE: 1 / step})
        checkpoints.wait()
        if step in (12, 24):
            counts.append(left())
    lists, blocks = np.array(counts[1]) - counts[0]
    assert lists < 12 * 5  # what TensorStore counts were 24 a save
    # TensorStore's descriptions of key-value stores are five an array, known and bounded here.
    assert blocks < 12 * (40 + 5 * len(state)), blocks


def test_metrics_come_back_as_they_were(checkpoints):
    metrics = {
        SCORE: 0.1 + 0.2,
        "validation/loss": 1e-30,
        "validation/iou/water": None,
        "validation/ü": 3,
    }
    checkpoints.save(1, make_state(1), metrics)
    checkpoints.save(2, make_state(2))
    checkpoints.wait()
    assert checkpoints.restore(make_state(), 1)[1] == metrics
    assert checkpoints.restore(make_state(), 2)[1] == {}


def test_the_latest_and_the_best_are_kept(checkpoints):
    assert checkpoints.steps == []
    assert checkpoints.best_step() is None
    for step, score in ((1, 0.1), (2, 0.5), (3, 0.3), (4, 0.2), (5, 0.4)):
        checkpoints.save(step, make_state(step), {SCORE: score})
    checkpoints.wait()
    assert checkpoints.steps == [2, 4, 5]
    assert checkpoints.best_step() == 2
    restored, metrics, step = checkpoints.restore(make_state())
    assert (int(restored.step), metrics, step) == (5, {SCORE: 0.4}, 5)
    assert int(checkpoints.restore(make_state(), 2)[0].step) == 2


def test_the_earliest_of_equally_good_ones_is_the_best_and_stays(checkpoints):
    for step, score in ((1, 0.1), (2, 0.5), (3, 0.5), (4, 0.5), (5, 0.4), (6, 0.4)):
        checkpoints.save(step, make_state(step), {SCORE: score})
        checkpoints.wait()
        assert checkpoints.best_step() == min(step, 2)
    assert checkpoints.steps == [2, 5, 6]


def test_one_without_a_score_is_never_the_best(checkpoints):
    checkpoints.save(1, make_state(1))
    checkpoints.save(2, make_state(2), {SCORE: None})
    checkpoints.wait()
    assert checkpoints.best_step() is None
    for step, metrics in ((3, {SCORE: 0.0}), (4, {}), (5, None), (6, {SCORE: None})):
        checkpoints.save(step, make_state(step), metrics)
    checkpoints.wait()
    assert checkpoints.steps == [3, 5, 6]
    assert checkpoints.best_step() == 3


def test_the_same_step_saved_again_replaces_the_first(checkpoints):
    checkpoints.save(4, make_state(1))
    checkpoints.save(4, make_state(2), {SCORE: 0.5})
    checkpoints.wait()
    assert checkpoints.steps == [4]
    restored, metrics, _ = checkpoints.restore(make_state())
    same_bits(restored, make_state(2))
    assert metrics == {SCORE: 0.5}


@pytest.mark.parametrize("suffix", [".orbax-checkpoint-tmp", ".orbax-checkpoint-tmp-1700000000"])
def test_a_half_written_checkpoint_is_not_loaded(checkpoints, suffix):
    """What a killed process leaves: the folder before its renaming."""
    for step in (1, 2):
        checkpoints.save(step, make_state(step), {SCORE: step / 10})
    checkpoints.close()
    shutil.copytree(checkpoints.directory / "2", checkpoints.directory / f"3{suffix}")
    (checkpoints.directory / f"3{suffix}" / "manifest.ocdbt").unlink()
    other = reopened(checkpoints)
    assert other.steps == [1, 2]
    assert other.best_step() == 2
    same_bits(other.restore(make_state())[0], make_state(2))
    other.save(3, make_state(3), {SCORE: 0.9})
    other.wait()
    assert other.steps == [2, 3]
    same_bits(other.restore(make_state())[0], make_state(3))
    other.close()


def test_a_save_that_fails_is_an_input_error_and_the_last_one_survives(checkpoints):
    """A file in the place of the folder, which stops even the superuser, for whom nothing is
    read-only."""
    checkpoints.save(1, make_state(1), {SCORE: 0.5})
    checkpoints.wait()
    aside = checkpoints.directory.rename(checkpoints.directory.with_name("aside"))
    checkpoints.directory.write_text("in the way")

    def save():
        checkpoints.save(2, make_state(2), {SCORE: 0.6})
        checkpoints.wait()

    threads = threading.active_count()
    with pytest.raises(
        InputError,
        match=(
            r"checkpoint.*could not be written to .*checkpoints \(.+\); .*checkpoint of step 1 is"
            r" whole"
        ),
    ):
        save()
    assert threading.active_count() <= threads, (
        "a thread that waits for the folder would keep the command from ending"
    )
    checkpoints.directory.unlink()
    aside.rename(checkpoints.directory)
    other = reopened(checkpoints)
    assert other.steps == [1]
    same_bits(other.restore(make_state())[0], make_state(1))
    other.close()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of two megabytes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    if (
        shutil.which("mount") is None
        or subprocess.run(mount, capture_output=True, check=False).returncode
    ):
        pytest.skip("mounting a small file system is not permitted here")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_on_a_full_disk_the_error_says_so_and_the_run_can_go_on_later(small_disk):
    checkpoints = Checkpoints(small_disk / "checkpoints", keep=1, best=SCORE)

    def noise(seed):
        return {"x": np.random.default_rng(seed).normal(size=60_000).astype(np.float32)}

    checkpoints.save(1, noise(1), {SCORE: 0.5})
    checkpoints.wait()
    free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
    (small_disk / "filler").write_bytes(bytes(free - 50_000))

    def save():
        checkpoints.save(2, noise(2), {SCORE: 0.6})
        checkpoints.wait()

    with pytest.raises(
        InputError, match="free the disk or make it writable and run the same command again"
    ):
        save()
    (small_disk / "filler").unlink()
    other = Checkpoints(small_disk / "checkpoints", keep=1, best=SCORE)
    assert other.steps == [1]
    same_bits(other.restore(noise(0))[0], noise(1))
    other.save(2, noise(2), {SCORE: 0.6})
    other.wait()
    assert other.steps == [2]
    same_bits(other.restore(noise(0))[0], noise(2))
    other.close()


def test_training_on_while_saving_does_not_change_what_is_saved(checkpoints):
    """The state is donated to the next step, which writes over its memory while the checkpoint is
    still being written."""

    begin = jax.jit(lambda: {"x": jnp.linspace(0, 1, 2_000_000), "step": jnp.int32(0)})
    step = jax.jit(
        lambda state: {"x": state["x"] * 0.5 + 1, "step": state["step"] + 1}, donate_argnums=0
    )
    state, expected = begin(), {}
    for number in range(1, 13):
        used, state = state, step(state)
        if number - 1 not in expected:  # on a CPU, JAX donates no memory that is being read
            assert used["x"].is_deleted(), "nothing was donated, so nothing was tested"
        if number in (4, 8):
            expected[number] = jax.tree.map(lambda x: np.array(x, copy=True), state)
            checkpoints.save(number, state)
    checkpoints.wait()
    for number, saved in expected.items():
        same_bits(checkpoints.restore(begin(), number)[0], saved)


def test_without_a_checkpoint_there_is_nothing_to_restore(checkpoints):
    with pytest.raises(InputError, match=r"no checkpoint in .* can be read"):
        checkpoints.restore(make_state())


def test_a_relative_folder_is_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoints = Checkpoints("run/checkpoints", keep=1, best=SCORE)
    checkpoints.save(1, make_state(1))
    checkpoints.close()
    assert (tmp_path / "run" / "checkpoints" / "1").is_dir()


def test_the_best_may_be_the_lowest(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=1, best="validation/loss", higher_is_better=False)
    for step, loss in ((1, 0.4), (2, 0.1), (3, 0.1), (4, 0.3)):
        checkpoints.save(step, make_state(step), {"validation/loss": loss})
    checkpoints.wait()
    assert checkpoints.best_step() == 2
    assert checkpoints.steps == [2, 4]
    checkpoints.close()


def test_a_checkpoint_of_another_run_is_refused_by_name(checkpoints):
    own = reopened(checkpoints, digest="1f2e")
    own.save(1, make_state(1), {SCORE: 0.1})
    own.wait()
    assert own.restore(make_state())[2] == 1
    own.close()
    assert checkpoints.restore(make_state())[1:] == ({SCORE: 0.1}, 1)  # whose run isn't known
    other = reopened(checkpoints, digest="77aa")
    with pytest.raises(InputError, match=r"checkpoints/1 is .* another run .*1f2e, not 77aa"):
        other.restore(make_state())
    assert other.steps == [1]
    other.close()


def test_damaged_ones_are_set_aside_under_names_of_their_own(checkpoints, capsys):
    checkpoints.save(1, make_state(1))
    for _ in range(2):
        checkpoints.save(2, make_state(2))
        checkpoints.wait()
        (checkpoints.directory / "2" / "manifest.ocdbt").unlink()
        assert checkpoints.restore(make_state())[2] == 1
    assert [line.rsplit(" ", 1)[1] for line in capsys.readouterr().out.splitlines()] == [
        "damaged-2",
        "damaged-2-2",
    ]
    assert checkpoints.steps == [1]
    assert (checkpoints.directory / "damaged-2" / "_METADATA").exists()
    assert (checkpoints.directory / "damaged-2-2" / "_METADATA").exists()
