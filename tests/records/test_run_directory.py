"""The folder of a run, from lock to summary."""

import json
import shutil
import subprocess

import pytest

from cnn_jax.errors import InputError
from cnn_jax.records.run_directory import Record, commit_of
from cnn_jax.tasks import model_config
from experiments.aerial_unet import smoke

ENVIRONMENT = {"digest": "ab", "data_fingerprint": "one"}


def test_a_command_that_wrote_nothing_leaves_no_folder(tmp_path):
    with Record(tmp_path / "run", smoke()):
        assert (tmp_path / "run").is_dir()
    assert not (tmp_path / "run").exists()


def test_what_was_begun_stays(tmp_path):
    with Record(tmp_path / "run", smoke()) as record:
        record.begin(ENVIRONMENT)
    assert {path.name for path in (tmp_path / "run").iterdir()} >= {
        "config.json",
        "environment.json",
    }
    with Record(tmp_path / "run", smoke()) as record:
        assert record.summary is None
        record.finish({"steps": 1})
        assert record.summary == {"steps": 1}


def test_the_record_keeps_a_users_description(tmp_path):
    config = smoke()
    source = tmp_path / "año.toml"
    source.write_text('base = "folders"  # ñ\n', encoding="utf-8")
    config.data.source = str(source)
    with Record(tmp_path / "run", config) as record:
        record.begin(ENVIRONMENT)
    assert (tmp_path / "run" / "description.toml").read_bytes() == source.read_bytes()


def test_a_run_killed_while_its_description_was_kept_can_be_begun_again(tmp_path):
    config = smoke()
    config.data.source = str(tmp_path / "missing.toml")
    with pytest.raises(FileNotFoundError), Record(tmp_path / "run", config) as record:
        record.begin(ENVIRONMENT)
    (tmp_path / "missing.toml").write_text("", encoding="utf-8")
    with Record(tmp_path / "run", config) as record:
        record.begin(ENVIRONMENT)
        assert (tmp_path / "run" / "environment.json").exists()


def test_other_data_and_other_values_are_refused(tmp_path):
    with Record(tmp_path / "run", smoke()) as record:
        record.begin(ENVIRONMENT)
        with pytest.raises(InputError, match="fingerprint two, recorded one"):
            record.begin(ENVIRONMENT | {"data_fingerprint": "two"})
        record.log({"step": 1, "elapsed_s": 0.5})
    other = smoke()
    other.model = model_config("unet", base_width=9)
    with (
        pytest.raises(InputError, match=r"model.base_width: 8, 9"),
        Record(tmp_path / "run", other),
    ):
        pass


def test_a_folder_in_which_nothing_was_computed_may_be_begun_with_other_values(tmp_path):
    with Record(tmp_path / "run", smoke()) as record:
        record.begin(ENVIRONMENT)
        record.rewind(lambda line: True)
    other = smoke()
    other.seed = 9
    with Record(tmp_path / "run", other) as record:
        record.begin(ENVIRONMENT | {"data_fingerprint": "two"})
    assert json.loads((tmp_path / "run" / "config.json").read_text())["seed"] == 9
    assert (
        json.loads((tmp_path / "run" / "environment.json").read_text())["data_fingerprint"] == "two"
    )


def test_lines_of_steps_that_will_be_taken_again_are_dropped(tmp_path):
    with Record(tmp_path / "run", smoke()) as record:
        record.begin(ENVIRONMENT)
        for step in (1, 2, 3):
            record.log({"step": step, "train/loss": 1 / step, "elapsed_s": 0.5})
        kept = record.rewind(lambda line: line["step"] <= 2)
        assert kept == record.metrics()
        assert [line["train/loss"] for line in kept] == [1.0, 0.5]
    lines = (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2]


def test_one_process_at_a_time(tmp_path):
    with (
        Record(tmp_path / "run", smoke()),
        pytest.raises(InputError, match="in use by another process"),
        Record(tmp_path / "run", smoke()),
    ):
        pass


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_records_do_not_make_a_tree_dirty(tmp_path):
    def git(*words):
        identity = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        return subprocess.run(
            ["git", "-C", tmp_path, *identity, *words], check=True, capture_output=True, text=True
        ).stdout.strip()

    assert commit_of(tmp_path) == {"commit": None, "dirty": None}
    code, record = tmp_path / "cnn_jax" / "code.py", tmp_path / "results" / "summary.json"
    for path in (code, record):
        path.parent.mkdir()
        path.write_text("1")
    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "all")
    head = git("rev-parse", "HEAD")
    record.write_text("2")
    (tmp_path / "results" / "more.json").write_text("3")
    assert commit_of(code.parent) == {"commit": head, "dirty": False}
    code.write_text("2")
    assert commit_of(code.parent) == {"commit": head, "dirty": True}
