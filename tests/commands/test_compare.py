"""The command that compares runs."""

import re
import shutil
from pathlib import Path

import pytest

from cnn_jax.commands.compare import main
from cnn_jax.records.files import write_object
from cnn_jax.records.run_record import records_in, study_groups
from cnn_jax.reporting import comparison
from tests.reporting.fake_records import write_run, write_study


@pytest.fixture
def study(tmp_path):
    write_study(tmp_path / "year ñ", {"unet": 0.5, "fcn8s": 1.1}, seeds=(0, 1), scenes=2)
    return tmp_path / "year ñ"


def test_a_study_is_compared_and_the_verdict_printed(study, tmp_path, capsys):
    assert main([str(study), "--output", str(tmp_path / "one")]) == 0
    printed = capsys.readouterr().out
    assert "unet has the best mIoU" in printed
    assert re.search(r"unet is (better than|ahead of) fcn8s by 0\.\d+ mIoU: ", printed)
    for name in ("comparison.csv", "comparison.png", "comparison.md", "index.html"):
        assert str(tmp_path / "one" / name) in printed
        assert (tmp_path / "one" / name).stat().st_size > 500


@pytest.fixture
def written(monkeypatch):
    """What the command would have written: (comparison, folder) a call."""
    calls = []
    monkeypatch.setattr(comparison, "write", lambda *call: calls.append(call) or [])
    return calls


def test_folders_may_be_given_one_by_one_and_count_once(study, written):
    runs = [str(path) for path in sorted(study.iterdir())]
    assert main([str(study)]) == 0
    assert main([*runs, runs[0], "--target", "0.03"]) == 0
    (one, folder), (two, _) = written
    assert folder == Path("results/comparison")
    assert [(v.name, v.scores, v.costs) for v in one.variants] == [
        (v.name, v.scores, v.costs) for v in two.variants
    ]
    assert [len(variant.records) for variant in two.variants] == [2, 2]
    assert two.target == 0.03


def refused(capsys, *arguments):
    assert main([str(argument) for argument in arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert line.endswith(".")
    return line


def test_what_cannot_be_used_is_a_sentence(study, tmp_path, capsys):
    out = tmp_path / "out"
    (tmp_path / "empty").mkdir()
    assert "nowhere is no folder" in refused(capsys, tmp_path / "nowhere", "--output", out)
    assert "empty holds no record" in refused(capsys, tmp_path / "empty", "--output", out)
    assert "--target is 50.0" in refused(capsys, study, "--target", "50", "--output", out)
    shutil.copytree(study / "unet-seed0", study / "copy")
    assert "unet with seed 0" in refused(capsys, study, "--output", out)
    (study / "copy" / "summary.json").unlink()
    assert "copy holds a run that isn't finished" in refused(capsys, study, "--output", out)
    assert not out.exists()


def test_incomparable_runs_need_force(study, tmp_path, capsys, written):
    other = tmp_path / "other" / "se-seed0"
    write_run(
        other,
        "se",
        0,
        {"steps": 10, "test/miou": 0.1},
        config={"training": {"steps": 10, "batch_size": 8}},
    )
    line = refused(capsys, study, other, "--output", tmp_path / "out")
    assert "training.steps is 1500 in" in line
    assert "10 in other/se-seed0; use --force" in line
    assert main([str(study), str(other), "--force"]) == 0
    assert "not comparable: training.steps" in capsys.readouterr().out


def test_copies_of_a_studys_records_are_compared_in_its_groups(study, tmp_path, capsys):
    """Wherever they lie; records of no study, or of several that disagree, make one group."""
    groups = {"Beside FCN": ["unet", "fcn8s"], "Alone": ["unet"]}
    write_object(study / "study.json", {"groups": groups})
    compared = comparison.compare(records_in([study]), groups=groups)
    as_told = {p.name: p.read_bytes() for p in comparison.write(compared, tmp_path / "told")}
    copied = shutil.copytree(study, tmp_path / "elsewhere" / "copy")
    for runs in ([copied], sorted(path for path in copied.iterdir() if path.is_dir())):
        assert main([*map(str, runs), "--output", str(tmp_path / "again")]) == 0
        again = {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()}
        assert again == as_told
    assert [group.title for group in compared.groups] == [*groups]
    (copied / "study.json").unlink()
    assert study_groups(records_in([copied])) is None
    write_object(copied / "study.json", {"groups": {"Other": ["unet"]}})
    assert study_groups(records_in([study, copied])) is None
    for damaged in ({}, {"groups": []}, {"groups": {"a": "unet"}}, {"groups": {"a": [1]}}):
        write_object(copied / "study.json", damaged)
        line = refused(capsys, copied, "--output", tmp_path / "no")
        assert "study.json doesn't hold what a study writes there" in line
