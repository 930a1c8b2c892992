"""The commands as a user runs them: every shipped configuration, a complete record, and the same
run again."""

import dataclasses
import fcntl
import json
import os
import pty
import re
import select
import struct
import termios
import time

import numpy as np
import pytest

from cnn_jax.commands import evaluate
from cnn_jax.configuration.schema import FIXED, leaves
from cnn_jax.data.synthetic import CLASSES, draw_scene
from experiments.aerial_unet import CONFIGURATIONS
from tests import running as commands
from tests.data import fake_sets
from tests.running import SHORT, STEPS, TINY, assert_same_run, finish, start

RECORD = ("config.json", "environment.json", "metrics.jsonl", "summary.json")
FIGURES = ("learning_curves.png", "confusion_matrix.png", "gallery.png")


def assert_complete(workdir, steps, building=True, figures=FIGURES):
    for name in RECORD:
        assert (workdir / name).stat().st_size > 0, name
    assert {path.name for path in (workdir / "figures").glob("*")} == {*figures}
    for name in figures:
        assert (workdir / "figures" / name).read_bytes().startswith(b"\x89PNG"), name
    assert steps in commands.saved_steps(workdir)
    assert [path for path in (workdir / "tensorboard").iterdir() if path.stat().st_size > 100]

    config, environment = (commands.read(workdir / name) for name in RECORD[:2])
    summary = commands.read(workdir / "summary.json")
    assert re.fullmatch("[0-9a-f]{16}", environment["digest"])
    assert environment["digest"] == summary["digest"]
    assert re.fullmatch("[0-9a-f]{32,}", environment["data_fingerprint"])
    assert environment["versions"]["jax"]
    assert environment["device_count"] == 1
    assert config["training"]["steps"] == summary["steps"] == summary["evaluated_step"] == steps
    assert summary["parameters"] > 0
    assert summary["wall_time_s"] > 0
    assert summary["train/images_per_second"] > 0
    for split in ("validation", "test"):
        confusion = np.array(summary[f"{split}/confusion"])
        assert confusion.sum() == summary[f"{split}/pixels"] > 0
        assert summary[f"{split}/pixel_accuracy"] == pytest.approx(
            np.trace(confusion) / confusion.sum()
        )
        assert 0 <= summary[f"{split}/miou"] <= 1
        assert ("building" in "".join(summary)) == building
        iou = [summary[key] for key in summary if key.startswith(f"{split}/iou/")]
        assert len(iou) == len(confusion)
    lines = commands.metrics(workdir)
    assert [line["step"] for line in lines] == sorted(line["step"] for line in lines)
    assert lines[-1]["step"] == steps
    return summary


def test_reference_record(reference):
    workdir, finished = reference
    summary = assert_complete(workdir, STEPS)
    assert summary["test/scenes"] == 1
    assert summary["test/pixels"] == 64 * 96
    lines = commands.metrics(workdir)
    assert [line["step"] for line in lines if "train/loss" in line] == [2, 4, 6, 8, 10, 12]
    assert [line["step"] for line in lines if "validation/miou" in line] == [4, 8, 12]
    assert lines[-1]["validation/miou"] == summary["validation/miou"]
    assert commands.saved_steps(workdir) == [4, 8, 12]  # the best, and the last two
    assert not [
        path.name for path in workdir.rglob("*") if "tmp" in path.name or "partial" in path.name
    ]
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    speeds = [
        line["train/images_per_second"] for line in lines if "train/images_per_second" in line
    ]
    assert 0 < max(speeds) < 3000  # lines that are read together must not claim each other's steps
    # Plain lines where there is no terminal: each whole, none of a progress bar.
    assert "\r" not in finished.out + finished.err
    assert re.search(
        r"^step 12/12: loss \d\.\d+, .*images/s.*validation/miou 0\.\d+, 0 s left$",
        finished.out,
        re.MULTILINE,
    )
    assert re.search(r"^step 4/12: validation/miou 0\.\d{4}$", finished.out, re.MULTILINE)
    assert re.search(r"^mIoU +0\.\d{4}$", finished.out, re.MULTILINE)
    assert "Traceback" not in finished.err


def test_again_from_its_own_record(reference, tmp_path, drawing_command):
    """`--config config.json` in another folder: the same bits, and the same pictures."""
    workdir, _ = reference
    again = drawing_command("--config", workdir / "config.json", "--workdir", tmp_path / "again")
    assert again.code == 0, again.err
    assert_same_run(tmp_path / "again", workdir)
    assert (tmp_path / "again" / "config.json").read_bytes() == (
        workdir / "config.json"
    ).read_bytes()
    for name in FIGURES[1:]:
        assert (tmp_path / "again" / "figures" / name).read_bytes() == (
            workdir / "figures" / name
        ).read_bytes(), name


def test_finished_run_is_shown_and_left_alone(reference, command):
    workdir, first = reference
    before = {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}
    shown = command(*TINY, "--workdir", workdir)
    assert shown.code == 0
    table = first.out[first.out.index("\nvalidation\n") : first.out.rindex("mean class accuracy")]
    assert table in shown.out
    assert "steps of" not in shown.out
    assert {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("split", "sentence"),
    [("test", "figures equal the record"), ("train", "no figures of this split")],
)
def test_evaluate(split, sentence, reference, capsys, quick_compilation):
    workdir, _ = reference
    before = sorted(workdir.rglob("*"))
    assert evaluate.main([str(workdir), "--split", split]) == 0
    out = capsys.readouterr().out
    assert sentence in out
    if split == "test":
        assert re.search(
            rf"^mIoU +{commands.summary(workdir)['test/miou']:.4f}$", out, re.MULTILINE
        )
    assert sorted(workdir.rglob("*")) == before


def test_help_lists_every_configuration_and_field():
    finished = finish(start("--help"))
    assert finished.code == 0
    assert finished.err == ""
    for name, make in CONFIGURATIONS.items():
        assert re.search(rf"^  {name} +\S", finished.out, re.MULTILINE), name
        assert make.__doc__.strip().splitlines()[0] in finished.out
    assert "classes by --data.source FILE.toml." in finished.out  # a second line of a docstring
    for path, option, _ in leaves(CONFIGURATIONS["default"]()):
        if path not in FIXED:
            flag = f"--{path.replace('_', '-')}"
            assert re.search(rf"{re.escape(flag)}[ ,].+", finished.out), path
            assert option.metadata["help"], path


PICTURED = ("default", "drone")
"""The shipped configurations whose pictures are drawn: of the fewest and of the most classes."""

QUICK = ("default", "dubai", "folders")


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n in QUICK else pytest.mark.long) for n in CONFIGURATIONS],
)
def test_shipped_configuration_runs(name, tmp_path, request):
    """Each configuration through the command, its size cut; photographs come from a tiny set in
    their publisher's layout."""
    command = request.getfixturevalue("drawing_command" if name in PICTURED else "command")
    config = CONFIGURATIONS[name]()
    arguments = [f"--config={name}", *TINY[1:], *SHORT]
    options = {option.name for option in dataclasses.fields(config.model)}
    arguments = [
        a
        for a in arguments
        if not a.startswith("--model.") or a.split("=")[0].split(".")[-1] in options
    ]
    arguments += (
        ["--model.base_width=2", "--model.depth=1"] if {"base_width", "depth"} <= options else []
    )
    if config.data.source != "synthetic":
        fake_sets.WRITERS[config.data.source](tmp_path / "data")
        arguments += ["--data.directory", tmp_path / "data"]
    finished = command(*arguments, "--workdir", tmp_path / "run")
    assert finished.code == 0, finished.err
    pictures = FIGURES if name in PICTURED else ()
    summary = assert_complete(
        tmp_path / "run", 2, building="building" in finished.out, figures=pictures
    )
    assert summary["configuration"] == name


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param(
            ["--data.crop_px", "33", "47", "--data.scene_px", "67", "91"],
            id="odd sizes",
            marks=pytest.mark.long,
        ),
        pytest.param(["--data.crop_px", "80", "112"], id="crop larger than the scenes"),
        pytest.param(["--training.parallelism=pmap"], id="pmap"),
        pytest.param(["--model.dtype=bfloat16"], id="bfloat16", marks=pytest.mark.long),
        pytest.param(
            [
                "--training.accumulate=2",
                "--optimizer.ema_decay=0.9",
                "--evaluation.weights=best",
            ],
            id="accumulated and averaged",
        ),
    ],
)
def test_variant_runs(overrides, tmp_path, command, few_pictures):
    finished = command(*TINY, *SHORT, *overrides, "--workdir", tmp_path / "run")
    assert finished.code == 0, finished.err
    summary = assert_complete(tmp_path / "run", 2, figures=())
    height, width = commands.read(tmp_path / "run" / "config.json")["data"]["scene_px"]
    assert summary["test/pixels"] == height * width


def test_tiny_set_is_learnt_by_heart(tmp_path, command, few_pictures):
    """Two scenes, the same for training, validation and test, none of them changed: nothing but
    learning them is asked."""
    for number in range(2):
        image, mask = draw_scene(number, 32, 48)
        for part in ("train", "validation", "test"):
            fake_sets.save(image, tmp_path / f"data/{part}/images/{number}.png")
            fake_sets.save(mask, tmp_path / f"data/{part}/masks/{number}.png")
    classes = "".join(
        f"[[classes]]\nname = '{known.name}'\nvalues = [{i}]\n" for i, known in enumerate(CLASSES)
    )
    (tmp_path / "set.toml").write_text(f"base = 'folders'\n{classes}")
    still = [
        f"--augmentation.{option.name}=0.0"
        for option in dataclasses.fields(CONFIGURATIONS["smoke"]().augmentation)
        if option.name.endswith("_probability")
    ]
    finished = command(
        *TINY,
        *still,
        "--model.base_width=8",
        "--data.source",
        tmp_path / "set.toml",
        "--data.directory",
        tmp_path / "data",
        "--training.steps=150",
        "--training.validate_every_steps=150",
        "--training.log_every_steps=50",
        "--optimizer.learning_rate=0.01",
        "--optimizer.warmup_steps=10",
        "--evaluation.window_px",
        "32",
        "48",
        "--evaluation.context_px=0",
        "--workdir",
        tmp_path / "run",
    )
    assert finished.code == 0, finished.err
    summary = commands.summary(tmp_path / "run")
    assert summary["test/confusion"] == summary["validation/confusion"]
    assert summary["test/miou"] > 0.99


def test_progress_bar_on_a_terminal(reference, tmp_path):
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 140, 0, 0))  # rows, columns
    process = start(*TINY, "--workdir", tmp_path / "run", stdout=slave, stderr=slave)
    os.close(slave)
    shown, end = b"", time.monotonic() + 120
    try:
        while time.monotonic() < end:
            if select.select([master], [], [], 0.5)[0]:
                try:
                    part = os.read(master, 65536)
                except OSError:  # how Linux says that the other side has closed
                    break
                if not part:
                    break
                shown += part
    finally:
        os.close(master)
        process.kill()
        process.wait()
    text = shown.decode()
    bars = re.findall(r"12/12 \[[^\r\n]*", text)
    assert bars, text
    # Time taken and left, speed, loss, images a second, validation.
    assert re.search(
        r"\[\d\d:\d\d<\d\d:\d\d,.*step.*, loss \d\.\d{4}, .*images/s, validation/miou 0\.\d{4}\]",
        bars[-1],
    ), bars
    assert re.search(r"mIoU +0\.\d{4}", text)
    assert "Traceback" not in text
    assert_same_run(tmp_path / "run", reference[0])
