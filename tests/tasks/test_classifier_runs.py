"""Runs of classifiers repeated, interrupted, stopped early, evaluated again and shared among
devices: the same bits, or as near as another order of addition allows."""

import signal

import numpy as np
import pytest

from cnn_jax import study
from cnn_jax.commands import evaluate
from cnn_jax.evaluation.images import ImageEvaluator
from cnn_jax.reporting import classifier_pictures
from cnn_jax.run import main
from experiments import classic
from experiments.classify import CONFIGURATIONS
from tests import running as commands
from tests.data import fake_images
from tests.running import (
    Finished,
    assert_refused,
    assert_same_run,
    environment,
    finish,
    logged,
    saved_steps,
    start,
    wait_for,
    when,
)

MODULE, STEPS = "experiments.classify", 8
TINY = (
    "--config=smoke",
    "--data.train_examples=0",
    "--data.validation_share=0.2",
    f"--training.steps={STEPS}",
    "--training.batch_size=8",
    "--training.log_every_steps=1",
    "--training.validate_every_steps=4",
    "--optimizer.warmup_steps=1",
    "--model.widths",
    "4",
    "--model.pool_after",
    "1",
    "--model.dense",
    "--model.norm=batch",
    "--evaluation.batch_size=25",
)
RANDOM = (
    "--model.dropout=0.5",
    "--augmentation.shift_px=2",
    "--augmentation.flip_horizontal_probability=0.5",
    "--augmentation.mixup_alpha=0.3",
    "--loss.label_smoothing=0.1",
    "--evaluation.shifts_px",
    "2",
)
"""All that draws random numbers, and what besides could be forgotten on resuming."""


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A tiny Fashion-MNIST, as a flag."""
    folder = tmp_path_factory.mktemp("sets")
    fake_images.write_mnist(folder, "fashion_mnist")
    return f"--data.directory={folder}"


@pytest.fixture
def command(capsys, monkeypatch, directory, quick_compilation):
    monkeypatch.setattr(
        classifier_pictures, "draw", lambda *arguments: None
    )  # tests/test_experiments.py draws

    def run(*arguments):
        capsys.readouterr()
        code = main(MODULE, CONFIGURATIONS, [directory, *map(str, arguments)])
        return Finished(code, *capsys.readouterr())

    return run


@pytest.fixture
def reference(command, tmp_path):
    """A function: the folder of a run that nothing interrupted."""

    def run(*arguments):
        assert command(*TINY, *arguments, "--workdir", tmp_path / "reference").code == 0
        return tmp_path / "reference"

    return run


def test_again_from_its_own_record_and_after_sigterm(reference, command, directory, tmp_path):
    workdir = reference(*RANDOM)
    lines = commands.metrics(workdir)
    assert [line["step"] for line in lines if "validation/accuracy" in line] == [4, 8]
    assert [line["step"] for line in lines if "train/loss" in line] == list(range(1, STEPS + 1))

    again = command("--config", workdir / "config.json", "--workdir", tmp_path / "again")
    assert again.code == 0, again.err
    assert_same_run(tmp_path / "again", workdir, STEPS)

    quick = environment(JAX_DISABLE_MOST_OPTIMIZATIONS="1")
    options = (
        directory,
        *TINY,
        *RANDOM,
        "--data.prefetch_batches=1",
        "--workdir",
        tmp_path / "stopped",
    )
    process = start(*options, module=MODULE, env=quick)
    assert wait_for(logged(tmp_path / "stopped", 1), process)
    process.send_signal(signal.SIGTERM)
    stopped = finish(process)
    assert stopped.code == 143, stopped
    assert "Traceback" not in stopped.err
    assert f"python -m {MODULE} {directory}" in stopped.out.splitlines()[-1]
    assert not (tmp_path / "stopped" / "summary.json").exists()
    step = saved_steps(tmp_path / "stopped")[-1]
    resumed = command(*TINY, *RANDOM, "--workdir", tmp_path / "stopped")
    assert resumed.code == 0, resumed.err
    assert f"resuming after step {step}\n" in resumed.out
    assert_same_run(tmp_path / "stopped", workdir, STEPS)


EARLY = (
    "--training.patience=2",
    "--evaluation.weights=best",
    "--training.validate_every_steps=1",
    "--training.steps=40",
    "--optimizer.learning_rate=0",  # no validation will ever be better than the first
)


def test_stopped_early(reference, command, monkeypatch, tmp_path, capsys):
    workdir = reference(*EARLY)
    validations = [
        line["validation/accuracy"]
        for line in commands.metrics(workdir)
        if "validation/accuracy" in line
    ]
    summary = commands.summary(workdir)
    # With a learning rate of 0 only BatchNorm's running statistics move; whatever they do, the rule
    # is the same.
    best = int(np.argmax(validations))
    assert summary["steps"] == len(validations) == best + 1 + 2 < 40
    assert summary["evaluated_step"] == best + 1
    assert summary["validation/accuracy"] == validations[best]

    # Stopped at the validation that is one too many, and once more in the last evaluation.
    for call in (len(validations), 2):
        with monkeypatch.context() as patch:
            when(patch, ImageEvaluator, "evaluate", call, signal.SIGTERM)
            assert command(*TINY, *EARLY, "--workdir", tmp_path / "stopped").code == 143
        assert saved_steps(tmp_path / "stopped")[-1] == len(validations)
    resumed = command(*TINY, *EARLY, "--workdir", tmp_path / "stopped")
    assert resumed.code == 0, resumed.err
    assert (
        f"stopped early at step {len(validations)}: no better validation in the last 2\n"
        in resumed.out
    )
    assert_same_run(tmp_path / "stopped", workdir, summary["steps"])

    before = sorted(workdir.rglob("*"))
    for split in ("validation", "test"):
        assert evaluate.main([str(workdir), "--split", split]) == 0
        assert "figures equal the record" in capsys.readouterr().out
    assert sorted(workdir.rglob("*")) == before


def test_a_classic_method_keeps_no_weights_to_evaluate(tmp_path, directory, capsys, monkeypatch):
    monkeypatch.setattr(classifier_pictures, "prediction_pictures", lambda *arguments: None)
    arguments = (
        "--config=smoke",
        "--variants=k_means_hog",
        directory,
        "--data.train_examples=0",
        f"--workdir={tmp_path / 's'}",
    )
    assert study.main("experiments.classic", classic.STUDIES, None, arguments) == 0
    capsys.readouterr()
    code = evaluate.main([str(tmp_path / "s" / "k_means_hog-seed0")])
    assert_refused(
        Finished(code, *capsys.readouterr()), "k_means_hog", "classic method", "config.json"
    )


@pytest.mark.long
def test_pmap_on_eight_devices_is_jit_on_one(reference, directory, tmp_path):
    """With BatchNorm, whose statistics must be the whole batch's, each device having one image of
    it; without dropout, whose key is each device's own, and mixup, whose pairs are."""
    still = (
        "--model.dropout=0",
        "--augmentation.flip_horizontal_probability=0",
        "--loss.class_weights=inverse",
        "--training.validate_every_steps=8",
        "--optimizer.name=sgd",
    )
    workdir = reference(*still)
    eight = environment(**commands.devices(8), JAX_DISABLE_MOST_OPTIMIZATIONS="1")
    arguments = (
        directory,
        *TINY,
        *still,
        "--training.parallelism=pmap",
        "--workdir",
        tmp_path / "eight",
    )
    finished = finish(start(*arguments, module=MODULE, env=eight))
    assert finished.code == 0, finished.err
    assert commands.read(tmp_path / "eight" / "environment.json")["device_count"] == 8
    for one, many in zip(
        commands.metrics(workdir), commands.metrics(tmp_path / "eight"), strict=True
    ):
        assert one.keys() == many.keys()
        for name, value in one.items():
            assert many[name] == pytest.approx(value, rel=1e-4), (one["step"], name)
    ours, theirs = commands.state(tmp_path / "eight", STEPS), commands.state(workdir, STEPS)
    assert any("batch_stats" in path for path in theirs)
    for path, array in theirs.items():
        np.testing.assert_allclose(ours[path], array, rtol=1e-3, atol=1e-5, err_msg=path)
