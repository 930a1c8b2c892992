"""Averaged weights: what they are, what a run of them is worth, and what is refused."""

import copy
import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

import cnn_jax
from cnn_jax.commands import average
from cnn_jax.inference import averaging, predictor
from cnn_jax.records import run_record
from tests.running import STEPS, saved_steps, timeless

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def run(reference):
    return cnn_jax.load(reference[0])


@pytest.fixture(scope="module")
def again(run, tmp_path_factory):
    """The same run in another folder."""
    return str(shutil.copytree(run.folder, tmp_path_factory.mktemp("runs") / "again"))


def test_weights_are_averaged_by_their_shares():
    trees = [
        {"a": np.float32([1, 2]), "b": np.float32(8)},
        {"a": np.float32([4, 6]), "b": np.float32(0)},
    ]
    np.testing.assert_array_equal(averaging.averaged(trees)["a"], [2.5, 4])
    found = averaging.averaged(trees, [1, 3])
    np.testing.assert_array_equal(found["a"], [3.25, 5])
    assert found["b"] == 2
    assert found["b"].dtype == np.float32


def test_a_run_averaged_with_itself_has_its_own_figures(run, again, tmp_path, capsys):
    folder = str(run.folder)
    arguments = [folder, again, "--output", str(tmp_path / "soup"), "--batches", "0"]
    assert average.main(arguments) == 0
    assert capsys.readouterr().out.count("mIoU") == 3
    made = cnn_jax.load(tmp_path / "soup")
    jax.tree.map(np.testing.assert_array_equal, made.variables, run.variables)
    ours, theirs = timeless(dict(made.summary)), timeless(dict(run.summary))
    shared = [key for key in ours if "/" in key and not key.endswith("/calibration")]
    assert "test/miou" in shared
    for key in shared:  # sums of confidences are added up in another order
        expected = pytest.approx(theirs[key]) if isinstance(theirs[key], float) else theirs[key]
        assert ours[key] == expected, key
    assert made.digest != run.digest  # no comparison takes it for a run of the same configuration
    environment = json.loads((tmp_path / "soup" / "environment.json").read_text())
    assert [one["step"] for one in environment["averaged"]] == [STEPS, STEPS]


def test_checkpoints_of_one_run_weigh_less_the_older_they_are(run, tmp_path):
    steps = saved_steps(run.folder)
    assert len(steps) > 1
    newest, used = averaging.of_checkpoints(run, 0.0)
    assert used == steps
    jax.tree.map(np.testing.assert_array_equal, newest, jax.device_get(run.variables))
    half, _ = averaging.of_checkpoints(run, 0.5)
    even, _ = averaging.of_checkpoints(run)
    kernel = lambda tree: np.asarray(tree["params"]["head"]["kernel"], np.float64)  # noqa: E731
    nearer, further = np.abs(kernel(half) - kernel(newest)), np.abs(kernel(even) - kernel(newest))
    assert nearer.max() > 0
    assert (nearer <= further + 1e-7).all() or nearer.sum() < further.sum()


def test_statistics_are_those_of_training_batches(run):
    dataset = run.open_data()
    variables = jax.device_get(run.variables)
    found = averaging.with_new_statistics(run, variables, dataset, 2)
    assert found["params"] is variables["params"]
    # By hand: what the first convolution gives of the same two batches.
    learner, kernel = run.learner, variables["params"]["encoder_0_convolution_1"]["convolution"]
    read = averaging.training_batches(
        dataset.training_source(learner), seed=0, batch_size=run.config.training.batch_size
    )
    means, spreads = [], []
    for number in range(2):
        keys = averaging.example_keys(run.config.seed, read[number]["position"])
        inputs, _ = learner.prepare(keys, read[number])
        maps = jax.lax.conv_general_dilated(
            inputs, kernel["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        means.append(np.mean(maps, (0, 1, 2)))
        spreads.append(np.var(maps, (0, 1, 2)))
    statistics = found["batch_stats"]["encoder_0_convolution_1"]["norm"]
    np.testing.assert_allclose(statistics["mean"], np.mean(means, 0), atol=1e-5)
    np.testing.assert_allclose(statistics["var"], np.mean(spreads, 0), rtol=1e-4)


def test_statistics_of_frozen_parts_stay(run):
    dataset, variables = run.open_data(), jax.device_get(run.variables)
    frozen = dataclasses.replace(run, config=copy.deepcopy(run.config))
    frozen.config.optimizer.frozen = ("encoder_0_convolution_1",)
    assert averaging.frozen_norms([frozen, run]) == frozenset()
    norms = averaging.frozen_norms([frozen, frozen])
    assert ("encoder_0_convolution_1", "norm") in norms
    assert {path[0] for path in norms} == {"encoder_0_convolution_1"}
    found = averaging.with_new_statistics(run, variables, dataset, 1, norms)["batch_stats"]
    first, second = (f"encoder_0_convolution_{number}" for number in (1, 2))
    kept = variables["batch_stats"][first]["norm"]
    jax.tree.map(np.testing.assert_array_equal, found[first]["norm"], kept)
    # By hand: what the second convolution gives behind a norm that is as in inference.
    batch = averaging.training_batches(
        dataset.training_source(run.learner), seed=0, batch_size=run.config.training.batch_size
    )[0]
    inputs, _ = run.learner.prepare(
        averaging.example_keys(run.config.seed, batch["position"]), batch
    )

    def convolved(maps, name):
        return jax.lax.conv_general_dilated(
            maps,
            variables["params"][name]["convolution"]["kernel"],
            (1, 1),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )

    maps, norm = convolved(inputs, first), variables["params"][first]["norm"]
    maps = (maps - kept["mean"]) / np.sqrt(kept["var"] + 1e-5) * norm["scale"] + norm["bias"]
    maps = convolved(np.maximum(maps, 0), second)
    np.testing.assert_allclose(found[second]["norm"]["mean"], np.mean(maps, (0, 1, 2)), atol=1e-4)
    np.testing.assert_allclose(found[second]["norm"]["var"], np.var(maps, (0, 1, 2)), rtol=1e-3)


def test_a_run_that_is_named_twice_is_refused(run, again, tmp_path, capsys, monkeypatch):
    """However it is written: it would weigh double."""
    (tmp_path / "link").symlink_to(run.folder)
    monkeypatch.chdir(run.folder.parent)
    folder, soup = str(run.folder), tmp_path / "soup"
    for other in (folder, f"{run.folder.name}/", str(tmp_path / "link")):
        assert average.main([folder, again, other, "--output", str(soup)]) == 2
        assert f"{run.folder.resolve()} is named twice" in capsys.readouterr().err
    assert not soup.exists()


def test_runs_without_a_test_split_are_averaged_and_imported_ones_refused(
    run, tmp_path, capsys, monkeypatch
):
    def averaged(**sizes):
        info = dataclasses.replace(run.info, sizes={**run.info.sizes, **sizes})
        held = dataclasses.replace(run, info=info)
        monkeypatch.setattr(predictor, "load", lambda _: held)
        return average.main(["one", "two", "--output", str(tmp_path / "soup"), "--batches", "0"])

    assert averaged(train=0, validation=0, test=0) == 2
    assert f"the run in {run.folder} was imported without data" in capsys.readouterr().err
    assert averaged(train=0, test=0) == 0
    splits = {key.split("/")[0] for key in run_record.read(tmp_path / "soup").summary if "/" in key}
    assert splits == {"validation"}


def test_a_folder_that_holds_other_files_is_told_by_its_flag(
    run, again, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(averaging, "averaged", None)  # refused before anything is averaged
    (tmp_path / "notes.txt").write_text("mine")
    arguments = [str(run.folder), again, "--output", str(tmp_path), "--batches", "0"]
    assert average.main(arguments) == 2
    said = capsys.readouterr().err
    assert "empty or new --output" in said
    assert "--workdir" not in said
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ((), "--output is missing"),
        (("RUN", "--output", "made", "--decay", "0.5"), "--decay is of the checkpoints of one run"),
        (("--output", "made", "--decay", "2"), "decay"),
    ],
)
def test_flags_that_cant_be_used_are_refused(run, tmp_path, capsys, monkeypatch, flags, words):
    monkeypatch.chdir(tmp_path)
    folder = str(run.folder.absolute())
    assert average.main([folder, *(folder if flag == "RUN" else flag for flag in flags)]) == 2
    assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
