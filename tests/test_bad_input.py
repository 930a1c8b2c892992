"""What a user can get wrong, or what the machine can do to a run: one sentence, exit code 2, and
nothing lost."""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnn_jax import run
from cnn_jax.configuration.documents import to_json
from cnn_jax.data.descriptions import load_description
from cnn_jax.errors import InputError
from cnn_jax.evaluation.evaluate import SceneEvaluator
from cnn_jax.records.run_directory import RunDirectory
from cnn_jax.tasks import read_config
from cnn_jax.training.checkpoints import Checkpoints
from experiments import aerial_unet
from tests.data import fake_sets
from tests.running import (
    SHORT,
    TINY,
    Finished,
    assert_refused,
    assert_same_run,
    environment,
    finish,
    given,
    metrics,
    saved_steps,
    start,
)

# ---- data


@pytest.fixture
def dubai(tmp_path):
    """A tiny set in a layout with palette masks: (its folder, the arguments of a run on it)."""
    fake_sets.write_dubai(tmp_path / "data")
    return tmp_path / "data", run_on("dubai", tmp_path)


def run_on(source, tmp_path):
    data = ("--data.source", source, "--data.directory", tmp_path / "data")
    return *TINY, *SHORT, *data, "--workdir", tmp_path / "run"


# More of what can be wrong with data, configurations and records is generated in tests/malformed.
IMAGE, MASK = "Tile 1/images/image_part_001.jpg", "Tile 1/masks/image_part_001.png"


@pytest.mark.parametrize(
    ("directory", "words"),
    [
        ("nowhere", ["data.directory", "nowhere"]),
        ("", ["data.directory", "--data.directory"]),
        ("empty", ["no image"]),
    ],
)
def test_directory(directory, words, tmp_path, command):
    (tmp_path / "empty").mkdir()
    directory = tmp_path / directory if directory else ""
    refused = command(*run_on("dubai", tmp_path), f"--data.directory={directory}")
    assert_refused(refused, *words)


def unknown_color(folder):
    mask = np.array(Image.open(folder / MASK))
    mask[2, 3] = (1, 2, 3)
    fake_sets.save(mask, folder / MASK)
    return folder / MASK, "#010203", "data.unknown_colors"


def cut_short(folder):
    os.truncate(folder / IMAGE, (folder / IMAGE).stat().st_size // 2)
    return folder / IMAGE, "can't be decoded"


@pytest.mark.parametrize("damage", [unknown_color, cut_short])
def test_damaged_data(damage, dubai, command):
    folder, arguments = dubai
    words = damage(folder)
    assert_refused(command(*arguments), *words)


def test_class_index_out_of_range(tmp_path, command):
    fake_sets.write_loveda(tmp_path / "data")
    for path in (tmp_path / "data/Train").glob("*/masks_png/*"):
        mask = np.array(Image.open(path))
        mask[0, 0] = 9
        fake_sets.save(mask, path)
    assert_refused(
        command(*run_on("loveda", tmp_path)), "masks_png", "9 (1 pixels)", "data.unknown_colors"
    )


def test_damage_in_validation_alone(dubai, command):
    """It is met after training has begun, and still is one sentence."""
    folder, arguments = dubai
    mask = folder / "Tile 4/masks/image_part_001.png"
    os.truncate(mask, mask.stat().st_size - 30)
    assert_refused(command(*arguments), mask, "can't be decoded")


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        (
            ["test=('1',)", "validation=('1',)"],
            ["group '1'", "data.test_groups", "data.validation_groups"],
        ),
        (["test=('4',)"], ["group '4'", "data.test_groups", "validation"]),
        (["test=('99',)"], ["data.test_groups", "'99'", "10"]),
        (["test=('1','10')", "validation=('4','8')"], ["no scenes of dubai", "train"]),
    ],
)
def test_groups(groups, words, dubai, command):
    flags = given(*(f"data.{group.replace('=', '_groups=', 1)}" for group in groups))
    assert_refused(command(*dubai[1], *flags), *words)


# ---- the configuration


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config=smok"], ["--config smok", "did you mean smoke"]),
        (["--config=nowhere/config.json"], ["nowhere/config.json"]),
        (["--training.step=3"], ["training.step", "did you mean --training.steps"]),
        (["--lr=3"], ["--lr", "--help"]),
        (["--training.steps=many"], ["training.steps", "whole number", "many"]),
        (["--training.steps=1.5"], ["training.steps", "whole number", "1.5"]),
        (["--training.steps=0"], ["training.steps", "at least 1"]),
        (["--data.crop_px", "32"], ["data.crop_px", "tuple of 2"]),
        (["--optimizer.learning_rate=nan"], ["optimizer.learning_rate", "finite"]),
        (["--optimizer.name=adam"], ["optimizer.name", "did you mean adamw"]),
        (["--training.parallelism=ddp"], ["training.parallelism", "jit", "pmap"]),
        (["--augmentation.scale_probability=1.5"], ["augmentation.scale_probability", "1"]),
        (
            ["--augmentation.scale_range", "2.0", "1.0"],
            ["augmentation.scale_range", "lower number first"],
        ),
        (["--data.source=dubay"], ["dubay", "dubai"]),
        (["--model.name=vgg"], ["model.name"]),
        (["--training.accumulate=3"], ["training.batch_size", "training.accumulate"]),
        (["--evaluation.context_px=40"], ["evaluation.context_px", "window"]),
        (["--workdirs=x"], ["--workdirs", "--workdir"]),
        (["train"], ["'train'"]),
    ],
)
def test_configuration(arguments, words, tmp_path, command):
    assert_refused(command(*TINY, "--workdir", tmp_path / "run", *arguments), *words)
    assert not (tmp_path / "run" / "config.json").exists()


def test_batch_that_the_devices_do_not_divide(tmp_path):
    eight = environment(XLA_FLAGS="--xla_force_host_platform_device_count=8", JAX_PLATFORMS="cpu")
    refused = finish(
        start(*TINY, "--training.batch_size=12", "--workdir", tmp_path / "run", env=eight)
    )
    assert_refused(refused, "training.batch_size", "12", "8")


# ---- the folder of the run


@pytest.mark.parametrize("inside", [False, True], ids=["is a file", "under a file"])
def test_workdir_that_cannot_be(inside, tmp_path, command):
    file = tmp_path / "file"
    file.write_text("")
    workdir = file / "run" if inside else file
    assert_refused(command(*TINY, "--workdir", workdir), workdir, "--workdir")
    assert file.read_text() == ""


@pytest.mark.parametrize("name", [b"caf\xe9", b"\xff\xfe", b"a\x80b"])
@pytest.mark.parametrize("flag", ["--workdir", "--data.directory", "--data.source"])
def test_bytes_that_are_no_utf8(flag, name, tmp_path, command):
    assert_refused(command(*TINY, flag, os.fsdecode(name)), "are no UTF-8: rename")


def test_a_folder_to_work_in_that_is_no_utf8(tmp_path, monkeypatch):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xe9"))
    folder.mkdir()
    monkeypatch.chdir(folder)
    with pytest.raises(InputError, match=r"are no UTF-8, .* --workdir\."):
        RunDirectory("run", aerial_unet.smoke()).__enter__()
    assert not [*folder.iterdir()]


@pytest.mark.parametrize("name", ["config.json", "scenes.toml"])
def test_a_byte_order_mark_is_no_content(name, tmp_path):
    """Some editors write one."""
    config, description = aerial_unet.smoke(), 'base = "dubai"\n'
    path = tmp_path / name
    text = to_json(config) if name == "config.json" else description
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    if name == "config.json":
        assert to_json(read_config(path)) == text
    else:
        assert load_description(str(path)) == load_description("dubai")


def test_workdir_that_holds_something_else(tmp_path, command):
    (tmp_path / "thesis.tex").write_text("")
    assert_refused(command(*TINY, "--workdir", tmp_path), tmp_path, "thesis.tex", "--workdir")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("config.json", b'{"experiment": "aer', ["not valid JSON"]),
        ("config.json", b"[]", ["object"]),
        ("config.json", b"\xff\xfe\x00", []),
        ("summary.json", b"", ["not valid JSON"]),
        ("environment.json", b"{", ["not valid JSON"]),
        (
            "metrics.jsonl",
            b'{"step": 2, "elapsed_s": 1.0}\n{"step": 4, "el\n{"step": 6, "elapsed_s": 1.0}\n',
            ["line 2"],
        ),
        ("metrics.jsonl", b"\xff\xfe\x00\n", ["line 1"]),
        ("metrics.jsonl", b"[1, 2]\n", ["line 1"]),
    ],
)
def test_damaged_record(name, content, words, reference, tmp_path, command):
    workdir = tmp_path / "run"
    shutil.copytree(reference[0], workdir)
    if name != "summary.json":
        (workdir / "summary.json").unlink()
    (workdir / name).write_bytes(content)
    assert_refused(command(*TINY, "--workdir", workdir), workdir / name, *words)
    assert (workdir / name).read_bytes() == content


def test_last_line_of_metrics_cut_short(reference, tmp_path, command):
    """What a crash leaves is no damage: the run goes on."""
    workdir = tmp_path / "run"
    shutil.copytree(reference[0], workdir)
    (workdir / "summary.json").unlink()
    with (workdir / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 14, "train/lo')
    assert command(*TINY, "--workdir", workdir).code == 0
    assert_same_run(workdir, reference[0])


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 32 MiB."""
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if sys.platform != "linux" or mount is None or umount is None:
        pytest.skip("a small file system is made by mount, which this system has not")
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=32m", "tmpfs", folder],
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        pytest.skip(f"a small file system can't be mounted: {made.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run([umount, "-l", folder], check=True)


def fill(folder):
    """Takes what room is left."""
    with contextlib.suppress(OSError), (folder / "filling").open("wb", buffering=0) as file:
        while True:
            file.write(b"\0" * 65536)
    with contextlib.suppress(OSError), (folder / "filling").open("ab", buffering=0) as file:
        while True:
            file.write(b"\0")


@pytest.mark.parametrize(
    ("owner", "method", "call", "saved", "words"),
    [
        pytest.param(Checkpoints, "save", 2, [4], ["free the disk"], id="checkpoint"),
        pytest.param(
            *(RunDirectory, "log", 6, [4], ["free the disk"]),
            id="line of metrics",
            marks=pytest.mark.long,
        ),
        pytest.param(
            *(SceneEvaluator, "evaluate", 4, [4, 8, 12], ["free the disk"]),
            id="pictures",
            marks=pytest.mark.long,
        ),
        pytest.param(
            RunDirectory, "finish", 1, [4, 8, 12], ["summary.json", "free the disk"], id="summary"
        ),
    ],
)
def test_full_disk(owner, method, call, saved, words, small_disk, reference, command, monkeypatch):
    """The run ends with a sentence; the last good checkpoint survives; with room again the same
    command ends with the same bits."""
    workdir, calls, original = small_disk / "run", [], getattr(owner, method)

    def filled(*arguments, **options):
        calls.append(None)
        if len(calls) == call:
            end = time.monotonic() + 60  # the last good checkpoint is written in the background
            while saved_steps(workdir) != saved and time.monotonic() < end:
                time.sleep(0.01)
            fill(small_disk)
        return original(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(owner, method, filled)
        refused = command(*TINY, "--workdir", workdir)
    assert_refused(refused, workdir, *words)
    assert saved_steps(workdir) == saved
    assert not (workdir / "summary.json").exists()
    (small_disk / "filling").unlink()
    resumed = command(*TINY, "--workdir", workdir)
    assert resumed.code == 0, resumed.err
    assert f"resuming after step {saved[-1]}\n" in resumed.out
    assert_same_run(workdir, reference[0])


# ---- numbers


def test_not_finite(tmp_path, command):
    arguments = (
        *TINY,
        "--optimizer.learning_rate=1e30",
        "--optimizer.warmup_steps=0",
        "--workdir",
        tmp_path / "run",
    )
    refused = command(*arguments)
    assert_refused(refused, "train/", "nan", "at step ", "optimizer.learning_rate")
    assert not (tmp_path / "run" / "summary.json").exists()
    assert all(np.isfinite(list(line.values())).all() for line in metrics(tmp_path / "run"))


def test_commands_started_in_the_same_second_have_a_folder_each(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: run.new_workdir("a-b"), range(24)))
    assert len(set(made)) == 24
    assert all(re.fullmatch(r"results/runs/a-b-\d{8}-\d{6}(-\d+)?", folder) for folder in made)
    assert all((tmp_path / folder).is_dir() for folder in made)


def test_no_folder_can_be_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").write_text("a file")
    with pytest.raises(InputError, match=r"can't be made .*; give another folder with --workdir\."):
        run.new_workdir("a-b")


# ---- memory


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 1.5 TiB"),
        RuntimeError("can't start new thread"),
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 17179869184 bytes.\nat"),
    ],
)
def test_no_memory_is_one_sentence(error, capsys):
    with run.guarded() as outcome:
        raise error
    said = capsys.readouterr()
    assert_refused(Finished(outcome.exit_code, *said), "no memory left", str(error).split("\n")[0])


def test_other_errors_are_our_own():
    with pytest.raises(RuntimeError, match="INTERNAL"), run.guarded():
        raise RuntimeError("INTERNAL: a bug")
