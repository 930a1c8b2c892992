"""Runs of segmenters that the main job's own tests don't make: other losses, one logit for two
classes, two heads."""

import numpy as np
import pytest

from cnn_jax.evaluation.evaluate import SceneEvaluator
from tests import running as commands
from tests.data import fake_sets

SHORT = (
    "--config=smoke",
    "--data.crop_px",
    "8",
    "8",
    "--evaluation.window_px",
    "8",
    "12",
    "--evaluation.context_px=1",
    "--training.steps=2",
    "--training.batch_size=2",
    "--training.validate_every_steps=2",
    "--training.log_every_steps=1",
    "--optimizer.warmup_steps=1",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    fake_sets.write_folders(folder / "folders", count=6)
    fake_sets.write_dubai(folder / "dubai")
    return folder


def run(command, data, source, workdir, *arguments):
    directory = f"--data.directory={data / source}"
    return command(*SHORT, f"--data.source={source}", directory, "--workdir", workdir, *arguments)


@pytest.mark.usefixtures("quick_compilation")
def test_two_classes_are_learnt_with_one_logit_and_a_sum_of_losses(command, data, tmp_path):
    finished = run(
        command,
        data,
        "folders",
        tmp_path / "run",
        "--model.base_width=2",
        "--model.depth=1",
        "--loss.activation=sigmoid",
        "--loss.further=dice",
        "--loss.weights",
        "1.0",
        "0.5",
    )
    assert finished.code == 0, finished.err
    summary, lines = (
        commands.read(tmp_path / "run" / "summary.json"),
        commands.metrics(tmp_path / "run"),
    )
    # Two stages of two 3x3 convolutions with norms, a transposed one between, and a head with one
    # logit.
    convolutions = 9 * (3 * 2 + 2 * 2 + 2 * 4 + 4 * 4 + 4 * 2 + 2 * 2) + 2 * (2 + 2 + 4 + 4 + 2 + 2)
    assert summary["parameters"] == convolutions + 4 * 4 * 2 + 2 + 2 + 1
    assert np.isfinite([line["train/loss"] for line in lines if "train/loss" in line]).all()
    confusion = np.array(summary["test/confusion"])
    assert confusion.shape == (2, 2)
    assert (
        confusion.sum() == summary["test/pixels"] == sum(summary["test/calibration"]["count"]) > 0
    )
    assert (
        summary["test/calibration"]["count"][:7] == [0] * 7
    )  # of two classes the likelier one has half at least


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--loss.activation=sigmoid"],
            ["loss.activation is 'sigmoid'", "dubai has 5", "softmax"],
        ),
        (
            [
                "--model.name=deeplabv3plus",
                "--model.encoder=xception",
                "--model.encoder_width=0.01",
            ],
            ["model.encoder_width", "at least"],
        ),
        (
            [
                "--model.name=encoder_unet",
                "--model.encoder=densenet121",
                "--model.encoder_width=0.5",
            ],
            ["model.encoder_width is 0.5, but densenet121 has one width"],
        ),
        (
            [
                "--model.name=encoder_unet",
                "--model.encoder=mobilenet",
                "--model.decoder_widths",
            ],
            ["model.decoder_widths is empty"],
        ),
    ],
)
def test_what_a_model_or_loss_cannot_do_is_refused_before_there_is_a_record(
    command, data, tmp_path, arguments, words
):
    finished = run(command, data, "dubai", tmp_path / "run", *arguments)
    assert finished.code == 2
    for word in words:
        assert word in finished.err
    assert finished.err.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("quick_compilation", "few_pictures")
@pytest.mark.parametrize(
    ("options", "again"),
    [
        pytest.param((), 0, marks=pytest.mark.long),
        (("--optimizer.ema_decay=0.9",), 0),
        # Whose weights are copied for each evaluation.
        pytest.param(("--training.parallelism=pmap",), 1, marks=pytest.mark.long),
        (("--evaluation.weights=best",), 1),
    ],
)
def test_what_was_validated_last_is_not_evaluated_again(
    options, again, command, data, tmp_path, monkeypatch
):
    """Three validations, the test, and validation once more where the weights are other arrays; the
    figures are those of the last validation's line."""
    calls, evaluate = [], SceneEvaluator.evaluate

    def counted(self, *arguments):
        calls.append(self.scenes)
        return evaluate(self, *arguments)

    monkeypatch.setattr(SceneEvaluator, "evaluate", counted)
    arguments = ("--training.steps=3", "--training.validate_every_steps=1", *options)
    small = ("--model.base_width=2", "--model.depth=1")
    finished = run(command, data, "folders", tmp_path / "run", *small, *arguments)
    assert finished.code == 0, finished.err
    assert len(calls) == 4 + again
    summary = commands.read(tmp_path / "run" / "summary.json")
    lines = [line for line in commands.metrics(tmp_path / "run") if "validation/miou" in line]
    (line,) = [line for line in lines if line["step"] == summary["evaluated_step"]]
    for name, value in line.items():
        if name != "step":
            assert summary[name] == value, name
    assert summary["validation/boundary_miou"] is not None
