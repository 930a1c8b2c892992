"""The folder of a run, from lock to summary."""

import dataclasses
import importlib.metadata
import json
import shutil
import subprocess

import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st

from cnn_jax.configuration import documents
from cnn_jax.configuration.schema import leaves
from cnn_jax.errors import InputError
from cnn_jax.records import formats, run_record
from cnn_jax.records.run_directory import RunDirectory, commit_of, environment
from cnn_jax.runtime import processor
from cnn_jax.tasks import config_from_dict, model_config
from experiments.aerial_unet import smoke
from tests.records.beginnings import beginning, info


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.*")}


def test_a_command_that_wrote_nothing_leaves_no_folder(tmp_path):
    with RunDirectory(tmp_path / "run", smoke()):
        assert (tmp_path / "run").is_dir()
    assert not (tmp_path / "run").exists()


def test_what_was_begun_stays(tmp_path):
    with RunDirectory(tmp_path / "run", smoke()) as record:
        record.begin(*beginning(smoke()))
    assert {path.name for path in (tmp_path / "run").iterdir()} >= {
        "config.json",
        "data.json",
        "environment.json",
    }
    with RunDirectory(tmp_path / "run", smoke()) as record:
        assert record.summary is None
        record.finish({"steps": 1})
        assert record.summary == {"steps": 1}


def test_what_is_written_can_be_read_and_verifies(tmp_path):
    """The digest that is recorded is the configuration's own, and is found again in the file."""
    config = smoke()
    config.loss.further, config.loss.weights = ("dice",), (1.0, 0.5)
    with RunDirectory(tmp_path / "run", config) as record:
        record.begin(*beginning(config, description={"base": "folders", "ñ": [1]}))
        record.finish({"steps": 1})
    shutil.move(tmp_path / "run", tmp_path / "elsewhere")
    read = run_record.read(tmp_path / "elsewhere")
    assert config_from_dict(read.config) == config
    assert read.environment["digest"] == documents.digest(config)
    assert read.environment["format"] == formats.FORMAT
    assert read.info == info(description={"base": "folders", "ñ": [1]})


@pytest.mark.parametrize(
    ("file", "path", "value"),
    [
        ("config.json", "loss.further", ["dice"]),  # outside the digest while it is empty
        ("config.json", "variant", "other"),
        ("config.json", "training.steps", 39),
        ("config.json", "model.base_width", 9),
        ("data.json", "mean", [0.4, 0.5, 0.5]),
        ("data.json", "classes", ["road", "nino"]),
        ("data.json", "fingerprint", "two"),
        ("data.json", "channels", "three"),
        ("environment.json", "digest", None),
        ("environment.json", "data_digest", None),
        ("environment.json", "outside_digest", None),
        ("environment.json", "absent_values", None),
        ("environment.json", "data_fingerprint", "two"),
        ("environment.json", "format", 3),
        ("environment.json", "format", 1),
        ("environment.json", "format", None),
    ],
)
def test_what_was_changed_afterwards_is_refused(tmp_path, file, path, value):
    folder = tmp_path / "run"
    with RunDirectory(folder, smoke()) as record:
        record.begin(*beginning(smoke()))
        record.finish({"steps": 1})
    content = json.loads((folder / file).read_text())
    *sections, name = path.split(".")
    holder = content
    for section in sections:
        holder = holder[section]
    assert holder[name] != value
    holder[name] = value
    (folder / file).write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"config\.json|data\.json|environment\.json"):
        run_record.read(folder)
    with pytest.raises(InputError, match="give another --workdir"), RunDirectory(folder, smoke()):
        pass


def test_runs_of_a_study_that_ask_for_the_same_data_have_them(tmp_path):
    study = tmp_path / "study"

    def begin(seed, fingerprint, **data):
        config = smoke()
        config.seed = seed
        config.data = dataclasses.replace(config.data, **data)
        with RunDirectory(study / f"unet-seed{seed}", config, study) as record:
            record.begin(*beginning(config, fingerprint))
            record.finish({"steps": 1})

    begin(0, "0ne")
    begin(1, "0ne")
    with pytest.raises(InputError, match=r"unet-seed0 \(fingerprint two, recorded 0ne\)"):
        begin(2, "two")
    assert not (study / "unet-seed2").exists()
    begin(2, "two", split_seed=7)  # other places are the test
    begin(3, "0ne", mean=(0.1, 0.1, 0.1))


def test_where_the_data_lie_may_change(tmp_path):
    with RunDirectory(tmp_path / "run", smoke()) as record:
        record.begin(*beginning(smoke()))
        record.log({"step": 1, "elapsed_s": 0.5})
    config = smoke()
    config.data.directory = "elsewhere"
    with RunDirectory(tmp_path / "run", config) as record:
        record.begin(*beginning(config))


def test_a_description_may_lie_elsewhere(tmp_path):
    """Its name is that of the data; what is in it, is in the fingerprint."""
    config, moved, renamed = smoke(), smoke(), smoke()
    config.data.source, moved.data.source = "here/town.toml", "/there/town.toml"
    renamed.data.source = "here/city.toml"
    with RunDirectory(tmp_path, config) as record:
        record.begin(*beginning(config, source="town"))
        record.log({"step": 1, "elapsed_s": 0.5})
    with RunDirectory(tmp_path, moved) as record:
        record.begin(*beginning(moved, source="town"))
    with pytest.raises(InputError, match=r"data\.source"), RunDirectory(tmp_path, renamed):
        pass


def test_other_data_and_other_values_are_refused(tmp_path):
    with RunDirectory(tmp_path / "run", smoke()) as record:
        record.begin(*beginning(smoke(), "one"))
        with pytest.raises(InputError, match="fingerprint two, recorded one"):
            record.begin(*beginning(smoke(), "two"))
        record.log({"step": 1, "elapsed_s": 0.5})
    other = smoke()
    other.model = model_config("unet", base_width=9)
    with (
        pytest.raises(InputError, match=r"model.base_width: 8, 9"),
        RunDirectory(tmp_path / "run", other),
    ):
        pass


def test_a_folder_in_which_nothing_was_computed_may_be_begun_with_other_values(tmp_path):
    with RunDirectory(tmp_path / "run", smoke()) as record:
        record.begin(*beginning(smoke(), "one"))
        record.rewind(lambda line: True)
    other = smoke()
    other.seed = 9
    with RunDirectory(tmp_path / "run", other) as record:
        record.begin(*beginning(other, "two"))
    assert json.loads((tmp_path / "run" / "config.json").read_text())["seed"] == 9
    assert (
        json.loads((tmp_path / "run" / "environment.json").read_text())["data_fingerprint"] == "two"
    )


def test_a_run_killed_after_its_first_file_can_be_begun_again(tmp_path):
    folder = tmp_path / "run"
    for last in ("config.json", "environment.json"):
        with RunDirectory(folder, smoke()) as record:
            record.begin(*beginning(smoke()))
        for name in ("data.json", "environment.json")[last == "environment.json" :]:
            (folder / ("data.json" if last == "environment.json" else name)).unlink()
        with RunDirectory(folder, smoke()) as record:
            record.begin(*beginning(smoke()))
            record.finish({"steps": 1})
        assert run_record.read(folder).info == info()
        shutil.rmtree(folder)


FOREIGN = {
    "text": b"not ours",
    "object": b'{"name": "my app", "version": 2}',
    "package": b'{"digest": "sha256:0", "data_fingerprint": "x", "format": 2}',
    "list": b"[]",
    "nothing": b"",
    "bytes": b"\xff\xfe\x00",
}


@pytest.mark.parametrize("beside", [(), ("notes.txt",), ("data.json",), ("summary.json",)])
@pytest.mark.parametrize("environment_json", [None, *FOREIGN])
@pytest.mark.parametrize("config_json", [None, *FOREIGN])
def test_a_folder_of_others_is_refused_and_left_as_it_is(
    tmp_path, config_json, environment_json, beside
):
    given = {"config.json": config_json, "environment.json": environment_json}
    given = {name: FOREIGN[kind] for name, kind in given.items() if kind is not None}
    given |= dict.fromkeys(beside, b"theirs")
    for name, content in given.items():
        (tmp_path / name).write_bytes(content)
    if not given:
        return
    with (
        pytest.raises(InputError, match="--workdir") as caught,
        RunDirectory(tmp_path, smoke()),
    ):
        pass
    assert str(tmp_path) in str(caught.value)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == given


def test_a_configuration_of_ours_that_was_copied_is_not_overwritten(tmp_path):
    """Alone, or beside the environment of another run: the copy may be the only one."""
    for name, seed in (("a", 1), ("b", 2)):
        config = smoke()
        config.seed = seed
        with RunDirectory(tmp_path / name, config) as record:
            record.begin(*beginning(config))
    folder = tmp_path / "c"
    folder.mkdir()
    for source in ("a/config.json", "b/environment.json"):
        shutil.copy(tmp_path / source, folder)
        before = contents(folder)
        with pytest.raises(InputError, match=r"config\.json"), RunDirectory(folder, smoke()):
            pass
        assert contents(folder) == before


def test_a_folder_of_a_run_with_files_of_others_keeps_them(tmp_path):
    with RunDirectory(tmp_path, smoke()) as record:
        record.begin(*beginning(smoke()))
    (tmp_path / "notes.txt").write_text("mine")
    other = smoke()
    other.seed = 9
    with RunDirectory(tmp_path, other) as record:
        record.begin(*beginning(other))
    assert (tmp_path / "notes.txt").read_text() == "mine"


@settings(max_examples=30, deadline=None)
@given(
    st.dictionaries(st.sampled_from(["digest", "data_fingerprint", "format"]), st.integers(0, 3)),
    st.dictionaries(st.text(max_size=4), st.none() | st.integers() | st.text(max_size=3)),
)
def test_no_object_of_others_is_taken_for_a_run(tmp_path_factory, environment_json, config_json):
    folder = tmp_path_factory.mktemp("theirs")
    (folder / "config.json").write_text(json.dumps(config_json))
    (folder / "environment.json").write_text(json.dumps(environment_json))
    before = contents(folder)
    with pytest.raises(InputError), RunDirectory(folder, smoke()):
        pass
    assert contents(folder) == before


def test_a_run_of_an_older_version_is_not_resumed(tmp_path):
    config = smoke()
    with RunDirectory(tmp_path, config) as record:
        record.begin(*beginning(config))
    path = tmp_path / "environment.json"
    newer = ("format", "outside_digest", "absent_values", "data_digest")
    old = {k: v for k, v in json.loads(path.read_text()).items() if k not in newer}
    path.write_text(json.dumps(old))
    own = json.loads((tmp_path / "config.json").read_text())
    # Format 1 knew none of these.
    for path, option, _ in leaves(config):
        section, _, name = path.rpartition(".")
        if option.metadata["absent"] is not dataclasses.MISSING and section in ("", "data"):
            (own[section] if section else own).pop(name, None)
    for name in ("drops", "frozen", "groups", "group_factors", "unfreeze_every_steps"):
        del own["optimizer"][name]
    (tmp_path / "config.json").write_text(json.dumps(own))
    (tmp_path / "data.json").unlink()
    with RunDirectory(tmp_path, config) as record:
        record.log({"step": 1, "elapsed_s": 1.0})
    with (
        pytest.raises(InputError, match="unfinished run of an older version"),
        RunDirectory(tmp_path, config) as record,
    ):
        record.begin(*beginning(config))


def test_lines_of_steps_that_will_be_taken_again_are_dropped(tmp_path):
    with RunDirectory(tmp_path / "run", smoke()) as record:
        record.begin(*beginning(smoke()))
        for step in (1, 2, 3):
            record.log({"step": step, "train/loss": 1 / step, "elapsed_s": 0.5})
        kept = record.rewind(lambda line: line["step"] <= 2)
        assert kept == record.metrics()
        assert [line["train/loss"] for line in kept] == [1.0, 0.5]
    lines = (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2]


def test_one_process_at_a_time(tmp_path):
    with (
        RunDirectory(tmp_path / "run", smoke()),
        pytest.raises(InputError, match="in use by another process"),
        RunDirectory(tmp_path / "run", smoke()),
    ):
        pass


def test_the_environment_names_the_version():
    versions = environment(smoke(), "0ne", "")["versions"]
    assert versions["cnn_jax"]
    assert versions["jax"]
    # What decodes TIFF, and what counts AP.
    assert versions["rasterio"] == rasterio.__version__
    assert versions["faster-coco-eval"] == importlib.metadata.version("faster-coco-eval")


def test_the_environment_names_the_processor(monkeypatch, tmp_path):
    monkeypatch.setattr(processor, "CPUINFO", tmp_path / "cpuinfo")
    (tmp_path / "cpuinfo").write_text("model name\t: Xeon\ncpu family\t: 6\nmodel\t\t: 143\n")
    kept = environment(smoke(), "0ne", "")
    assert kept["processor"] == "Xeon, family 6, model 143"
    assert 1 <= kept["cpu_cores_used"] <= kept["cpu_cores"]
    assert kept["vector_instructions"] == processor.vector_instructions()


def git(folder, *words):
    identity = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    return subprocess.run(
        ["git", "-C", folder, *identity, *words], check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_records_do_not_make_a_tree_dirty(tmp_path):
    assert commit_of(tmp_path) == {"commit": None, "dirty": None}
    code, record = tmp_path / "cnn_jax" / "code.py", tmp_path / "results" / "summary.json"
    for path in (code, record):
        path.parent.mkdir()
        path.write_text("1")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "all")
    head = git(tmp_path, "rev-parse", "HEAD")
    record.write_text("2")
    (tmp_path / "results" / "more.json").write_text("3")
    assert commit_of(code.parent) == {"commit": head, "dirty": False}
    code.write_text("2")
    assert commit_of(code.parent) == {"commit": head, "dirty": True}


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
@pytest.mark.parametrize("tracked", [False, True])
@pytest.mark.parametrize("place", [".venv/lib/python3.11/site-packages", "third_party", "."])
def test_a_repository_of_others_is_not_recorded(tmp_path, monkeypatch, place, tracked):
    package = tmp_path / place / "cnn_jax"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (tmp_path / "their.py").write_text("")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "-f" if tracked else "-A", "." if tracked else "their.py")
    git(tmp_path, "commit", "-q", "-m", "theirs")
    known = place == "." and tracked
    assert (commit_of(package)["commit"] is not None) == known
    monkeypatch.setenv("GIT_DIR", str(tmp_path / ".git"))  # as in a hook of theirs
    assert (commit_of(package)["commit"] is not None) == known
