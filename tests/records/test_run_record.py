"""Records read again: the committed ones as they are, and edited ones not at all."""

import json
import shutil
import subprocess
import sys
from dataclasses import MISSING
from pathlib import Path

import pytest

from cnn_jax.configuration import documents
from cnn_jax.configuration.schema import leaves
from cnn_jax.errors import InputError
from cnn_jax.records import formats
from cnn_jax.records.metrics import FIGURES, Figure, leading
from cnn_jax.records.run_record import read, read_records, records_in, study_groups, variants
from cnn_jax.study import finished
from cnn_jax.tasks import config_from_dict
from tests.records.pictures import missing_pictures
from tests.reporting import fake_records
from tests.reporting.fake_records import digested

RESULTS = Path(__file__).parents[2] / "results"
COMMITTED = sorted(
    path.parent
    for path in RESULTS.rglob("config.json")
    if path.relative_to(RESULTS).parts[0] != "runs"
)
IDS = [path.relative_to(RESULTS).as_posix() for path in COMMITTED]


@pytest.fixture(scope="module")
def committed():
    return {record.location: record for record in read_records(RESULTS)}


def test_every_committed_record_verifies(committed):
    assert list(committed) == IDS
    assert len(committed) >= 70


def test_committed_records_are_verified_without_a_model():
    """By their own fields, so that a record outlives the architecture that it is of."""
    program = (
        "import sys\nfrom cnn_jax.records.run_record import read_records\n"
        f"assert len(read_records({str(RESULTS)!r})) >= 70\n"
        "assert not [name for name in sys.modules if name.startswith('cnn_jax.models')]\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=RESULTS.parent)


@pytest.mark.parametrize("location", [name for name in IDS if "/smp_" not in name])
def test_a_committed_configuration_is_read_by_todays_names(location, committed):
    record = committed[location]
    config = config_from_dict(record.config)
    written = dict(formats.fields(json.loads(documents.to_json(config))))
    recorded = dict(formats.fields(record.config))
    assert written | recorded == written
    younger = {path: option for path, option, _ in leaves(config) if path not in recorded}
    assert all(option.metadata["absent"] is not MISSING for option in younger.values())
    assert documents.digest(config) == record.environment["digest"]


@pytest.mark.parametrize("folder", COMMITTED, ids=IDS)
def test_any_changed_field_of_a_committed_configuration_is_found(folder):
    config, environment = (
        json.loads((folder / f"{name}.json").read_text()) for name in ("config", "environment")
    )
    outside = environment.get("outside_digest", formats._OUTSIDE_DIGEST_1)
    for path, value in formats.fields(config):
        *sections, name = path.split(".")
        holder = config
        for section in sections:
            holder = holder[section]
        for other in (f"{value}x", None):
            holder[name] = other
            same = formats.digest_as_written(config, environment) == environment["digest"]
            assert same == (path in outside), path
        holder[name] = value
    assert formats.digest_as_written(config, environment) == environment["digest"]


def test_a_committed_record_knows_its_data(committed):
    info = committed["aerial_compare/unet_mobilenet_v2-seed0"].info
    assert (info.source, info.channels, info.dtype) == ("dubai", 3, "uint8")
    assert info.classes == ("building", "land", "road", "vegetation", "water")
    assert info.colors[0] == (0x3C, 0x10, 0x98)
    assert (info.mean, info.std) == ((0.5,) * 3, (0.25,) * 3)
    assert info.sizes == {"train": 54, "validation": 9, "test": 9}
    assert info.fingerprint == "089b95eb60f6abb7b6f228d6bce2b032"
    digits = committed["mnist/cnn-seed0"].info
    assert (digits.channels, digits.mean, digits.classes) == (1, (0.1307,), tuple("0123456789"))


def test_fields_of_old_have_todays_names(monkeypatch):
    monkeypatch.setitem(formats.RENAMED, "data.mean", "data.average")
    monkeypatch.setitem(formats.RENAMED, "seed", "training.seed")
    config = {"seed": 3, "data": {"mean": [0.5]}, "training": {"steps": 4}, "loss": {}}
    read_today = formats.migrated(config, {})
    assert read_today["data"] == {"average": [0.5], "on_device": False}
    assert read_today["training"] == {"steps": 4, "seed": 3, "remat": False, "patience": 0}
    assert "seed" not in read_today
    assert config == {"seed": 3, "data": {"mean": [0.5]}, "training": {"steps": 4}, "loss": {}}
    assert formats.migrated(config, {"format": formats.FORMAT}) == config


@pytest.mark.parametrize(
    ("model", "option"),
    [("xception", ("padding", "VALID")), ("resnet18", ("width", 1.0)), ("vgg16", ("width", 1.0))],
)
def test_younger_options_of_models_stay_outside_an_old_digest(model, option):
    name, value = option
    old = {"model": {"name": model, "dtype": "float32"}}
    new = {"model": old["model"] | {name: value}}
    assert formats.digest_as_written(old, {}) == formats.digest_as_written(new, {})
    assert formats.migrated(old, {})["model"][name] == value
    other = {"model": old["model"] | {name: "SAME"}}
    assert formats.digest_as_written(old, {}) != formats.digest_as_written(other, {})
    another = {"model": {"name": "unet"}}
    assert name not in formats.migrated(another, {})["model"]


# ---- wherever it lies


def test_a_record_is_read_from_anywhere_and_after_a_move(tmp_path, monkeypatch):
    [record] = fake_records.write_study(tmp_path / "a" / "study", {"unet": 0.3}, seeds=(0,))
    shutil.move(tmp_path / "a" / "study", tmp_path / "b")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    moved = read(Path("..") / "b" / "unet-seed0")
    assert (moved.summary, moved.config) == (record.summary, record.config)
    assert moved.location == "b/unet-seed0"
    count = len(moved.scenes.names)
    assert missing_pictures(moved.folder, moved.info.fingerprint, count) == []
    assert moved.picture(0, "truth").is_file()
    monkeypatch.chdir(tmp_path / "b" / "unet-seed0")
    assert read(".").name == "unet-seed0"


def test_seeds_belong_together_whatever_their_folders_are_called(tmp_path):
    for name, seed, variant in [
        ("monday", 0, "unet"),
        ("tuesday", 1, "unet"),
        ("wednesday", 0, "se"),
        ("thursday", 1, "unet"),
    ]:
        fake_records.write_run(tmp_path / "study" / name, variant, seed, {"test/miou": 0.5})
    other_data = {"data_fingerprint": "feed"}
    fake_records.write_run(
        tmp_path / "study" / "friday", "unet", 2, {"test/miou": 0.5}, environment=other_data
    )
    groups = variants(records_in([tmp_path / "study"]))
    assert sorted(sorted(record.name for record in group) for group in groups) == [
        ["friday"],
        ["monday", "thursday"],
        ["tuesday"],  # seed 1 again
        ["wednesday"],
    ]


def test_a_studys_seeds_belong_together_that_begin_with_weights_of_their_own(tmp_path):
    for name, seed, variant, digest in [
        ("a", 0, "both", "11"),
        ("b", 1, "both", "22"),
        ("c", 0, "other", "11"),
        ("d", 0, None, "11"),  # no study's
        ("e", 1, None, "22"),
        ("f", 2, "both", ""),
    ]:
        config = {"initial_digest": digest}
        folder = tmp_path / "study" / name
        fake_records.write_run(folder, variant, seed, {"test/miou": 0.5}, config=config)
    groups = variants(records_in([tmp_path / "study"]))
    found = sorted("".join(sorted(record.name for record in group)) for group in groups)
    assert found == ["ab", "c", "d", "e", "f"]


# ---- what is refused


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "study"
    fake_records.write_study(folder, {"unet": 0.3}, seeds=(0,), scenes=2)
    return folder / "unet-seed0"


@pytest.fixture
def record(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    return tmp_path / "run"


def edit(folder, name, **changes):
    path = folder / f"{name}.json"
    content = json.loads(path.read_text())
    for key, value in changes.items():
        content[key] = value
    path.write_text(json.dumps(content))
    return content


EDITED = {
    "test/miou": 0.99,
    "test/pixel_accuracy": 0.99,
    "test/mean_dice": 0.99,
    "test/mean_class_accuracy": 0.99,
    "test/frequency_weighted_iou": 0.99,
    "test/iou/road": 0.99,
    "test/dice/water": None,
    "test/class_accuracy/land": 0.0,
    "test/image_miou": 0.99,
    "test/boundary_miou": 0.99,
    "test/expected_calibration_error": 0.0,
    "test/iou/ghost": 0.5,
    "test/scenes": 7,
    "test/pixels": 7,
    "test/confusion": [[1] * 5] * 5,
    "seed": 5,
    "digest": "0" * 16,
    "variant": "other",
    "experiment": "other",
    "steps": 999_999,
    "evaluated_step": 999_999,
    "parameters": 0,
}


@pytest.mark.parametrize("key", EDITED)
def test_an_edited_figure_is_named(record, key):
    assert read(record)
    edit(record, "summary", **{key: EDITED[key]})
    with pytest.raises(InputError) as caught:
        read(record)
    message = str(caught.value)
    assert "summary.json" in message
    if key != "test/confusion":
        assert key in message
    assert "\n" not in message


def test_scenes_of_another_run_are_named(record):
    content = json.loads((record / "scenes.json").read_text())
    content["scenes"][0]["confusion"][0][0] += 1
    (record / "scenes.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"scenes\.json and summary\.json"):
        read(record)


@pytest.mark.parametrize("name", ["environment", "summary", "config"])
def test_what_is_no_record_of_ours_is_named(record, name):
    (record / f"{name}.json").unlink()
    with pytest.raises(InputError, match=rf"no finished run.*{name}\.json"):
        read(record)


def test_a_record_of_a_later_version_is_named(record):
    since_2 = {"outside_digest": [], "absent_values": {}, "data_digest": "0"}
    edit(record, "environment", format=99, **since_2)
    with pytest.raises(InputError, match="format 99"):
        read(record)


@pytest.mark.parametrize("name", ["x_interval", "iou", "miou_interval", "a/b", "confusion", "ñ"])
def test_a_class_may_have_any_name(record, name):
    """Figures are known by their exact names, not by how they end."""
    summary = json.loads((record / "summary.json").read_text())
    renamed = {key.replace("/road", f"/{name}"): value for key, value in summary.items()}
    (record / "summary.json").write_text(json.dumps(renamed))
    scenes = json.loads((record / "scenes.json").read_text())
    scenes["classes"] = [name if c == "road" else c for c in scenes["classes"]]
    (record / "scenes.json").write_text(json.dumps(scenes))
    assert read(record).summary[f"test/iou/{name}"] == summary["test/iou/road"]


# ---- figures


def test_a_new_figure_needs_one_line(record, monkeypatch):
    """A mean rank of 3.2, where less is better and 1 is best."""
    rank = Figure("mean_rank", "mean rank", 1, float("inf"), False, ("segmentation",))
    edit(record, "summary", **{"test/mean_rank": 3.2, "test/mean_rank_interval": [2.9, 3.5]})
    monkeypatch.setitem(FIGURES, "mean_rank", rank)
    assert read(record).summary["test/mean_rank"] == 3.2
    for wrong in (0.5, "3", [3]):
        edit(record, "summary", **{"test/mean_rank": wrong})
        with pytest.raises(InputError, match="mean_rank, which must be a number, 1 or more"):
            read(record)
    for wrong in ([1], [3.5, 2.9], [0.5, 2.9]):
        edit(record, "summary", **{"test/mean_rank": 3.2, "test/mean_rank_interval": wrong})
        with pytest.raises(InputError, match="mean_rank_interval, which must be two numbers"):
            read(record)


def test_figures_of_later_versions_are_passed_over(record):
    edit(record, "summary", **{"test/mean_rank": 3.2, "future": {"a": [1]}})
    assert read(record).summary["test/mean_rank"] == 3.2


@pytest.mark.parametrize(
    ("task", "name"),
    [("segmentation", "miou"), ("classification", "accuracy"), ("classic", "accuracy")],
)
def test_what_ranks_the_runs_of_a_task(task, name):
    figure = leading(task)
    assert figure is not None
    assert figure.name == name
    assert leading("counting") is None


def test_a_digest_written_anew_makes_an_edited_configuration_whole(record):
    """Or the tests above would show that everything is refused."""
    edit(record, "config", future=3)
    with pytest.raises(InputError, match=r"config\.json is not what the run was made with"):
        read(record)
    assert read(digested(record)).config["future"] == 3


def test_runs_that_lie_elsewhere_are_read_through_links(tmp_path, monkeypatch):
    """As those of their study; and a study is named from within its own folder."""
    kept, folder = tmp_path / "disk" / "unet-seed0", tmp_path / "results" / "study"
    fake_records.write_run(kept, "unet", 0, {"test/miou": 0.5})
    (folder / "notes").mkdir(parents=True)
    (folder / "unet-seed0").symlink_to(kept)
    (folder / "study.json").write_text('{"groups": {"all": ["unet"]}}')
    assert [one.location for one in read_records(tmp_path / "results")] == ["study/unet-seed0"]
    assert study_groups(records_in([folder])) == {"all": ["unet"]}
    assert len(records_in([folder, kept])) == 1
    monkeypatch.chdir(folder / "notes")
    for where in (folder, Path("..")):
        assert [one.location for one in finished(where, ["unet"])] == ["study/unet-seed0"]
