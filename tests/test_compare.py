"""The command that compares runs."""

import re
import shutil

import pytest

from experiments.compare import main
from tests.reporting.fake_records import write_run, write_study


@pytest.fixture
def study(tmp_path):
    write_study(tmp_path / "year ñ", {"unet": 0.5, "fcn8s": 1.1}, seeds=(0, 1), scenes=2)
    return tmp_path / "year ñ"


def test_a_study_or_its_runs_are_compared_alike(study, tmp_path, capsys):
    assert main([str(study), "--out", str(tmp_path / "one")]) == 0
    printed = capsys.readouterr().out
    assert "unet has the best mIoU" in printed
    assert re.search(r"unet is (better than|ahead of) fcn8s by 0\.\d+ mIoU: ", printed)
    for name in ("comparison.csv", "comparison.md", "index.html"):
        assert str(tmp_path / "one" / name) in printed
    runs = [str(path) for path in sorted(study.iterdir())]
    assert main([*runs, runs[0], "--out", str(tmp_path / "two")]) == 0
    for name in ("comparison.csv", "comparison.md", "index.html"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_the_target_is_the_users(study, tmp_path):
    assert main([str(study), "--out", str(tmp_path / "out"), "--target", "0.03"]) == 0
    assert "time to 0.03 mIoU" in (tmp_path / "out" / "comparison.md").read_text(encoding="utf-8")


def refused(capsys, *arguments):
    assert main([str(argument) for argument in arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert line.endswith(".")
    return line


def test_what_cannot_be_used_is_a_sentence(study, tmp_path, capsys):
    out = tmp_path / "out"
    (tmp_path / "empty").mkdir()
    assert "nowhere is no folder" in refused(capsys, tmp_path / "nowhere", "--out", out)
    assert "empty holds no record" in refused(capsys, tmp_path / "empty", "--out", out)
    assert "--target is 50" in refused(capsys, study, "--target", "50", "--out", out)
    shutil.copytree(study / "unet-seed0", study / "copy")
    assert "unet with seed 0" in refused(capsys, study, "--out", out)
    (study / "copy" / "summary.json").unlink()
    assert "copy holds a run that isn't finished" in refused(capsys, study, "--out", out)
    assert not out.exists()


def test_incomparable_runs_need_force(study, tmp_path, capsys):
    other = tmp_path / "other" / "se-seed0"
    write_run(other, "se", 0, {"test/miou": 0.1}, config={"training": {"steps": 10, "batch_size": 8}})
    line = refused(capsys, study, other, "--out", tmp_path / "out")
    assert "training.steps is 1500 in" in line
    assert "10 in other/se-seed0; use --force" in line
    assert main([str(study), str(other), "--out", str(tmp_path / "out"), "--force"]) == 0
    assert "not comparable: training.steps" in capsys.readouterr().out
