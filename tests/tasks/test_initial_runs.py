"""Runs that begin with the weights of another run."""

import dataclasses
import shutil

import numpy as np
import pytest

import cnn_jax
from cnn_jax import study
from cnn_jax.inference import initial
from cnn_jax.run import main
from cnn_jax.tasks import model_config, read_config
from experiments import aerial_unet, transfer
from experiments.classify import CONFIGURATIONS
from tests.data import fake_images
from tests.running import Finished

TINY = (
    "--config=smoke",
    "--data.train_examples=0",
    "--data.validation_share=0.2",
    "--training.steps=4",
    "--training.batch_size=8",
    "--training.log_every_steps=2",
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
AS_IT_IS = ("--training.steps=1", "--optimizer.learning_rate=0", "--optimizer.frozen", "base")
"""One step that changes nothing."""


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    fake_images.write_mnist(folder, "fashion_mnist")
    return f"--data.directory={folder}"


@pytest.fixture
def command(capsys, directory, quick_compilation, few_pictures):
    def run(*arguments):
        capsys.readouterr()
        code = main("experiments.classify", CONFIGURATIONS, [directory, *map(str, arguments)])
        return Finished(code, *capsys.readouterr())

    return run


def test_a_run_goes_on_from_another(command, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    normalisation = ("--data.mean", "0.3", "--data.std", "0.4")
    assert command(*TINY, *normalisation, "--workdir", first).code == 0
    finished = command(*TINY, *AS_IT_IS, "--initial", first, "--workdir", second)
    assert finished.code == 0, finished.err
    assert "begins with the whole network of" in finished.out
    assert "data.mean=(0.3,)" in finished.out  # images are normalised as the weights know them
    assert "other splits" not in finished.out
    one, other = cnn_jax.load(first), cnn_jax.load(second)
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28, 1), np.uint8)
    np.testing.assert_array_equal(one.probabilities(images), other.probabilities(images))
    assert one.summary["test/accuracy"] == other.summary["test/accuracy"]
    config = read_config(second / "config.json")
    assert len(config.initial_digest) == 32

    # The folder may move, and be named anew; other weights under its name are refused.
    moved = shutil.copytree(first, tmp_path / "moved")
    again = dataclasses.replace(config, initial=str(moved))
    assert initial.opened(again)[0].initial_digest == config.initial_digest
    swapped = dataclasses.replace(config, initial_digest="0" * 32)
    with pytest.raises(cnn_jax.InputError, match="holds other weights"):
        initial.opened(swapped)

    # Another number of classes, another width: what fits, and what doesn't.
    wider = [*TINY, "--model.widths", "8", "--initial", first, "--workdir", tmp_path / "wider"]
    refused = command(*wider)
    assert refused.code == 2
    assert "doesn't fit the network" in refused.err
    assert not (tmp_path / "wider" / "summary.json").exists()


def test_weights_that_may_know_the_test_are_told_of(reference, capsys):
    config = aerial_unet.dubai()
    run, _ = reference
    config.initial = str(run)
    config.model, config.data.source = read_config(run / "config.json").model, "synthetic"
    initial.opened(config)
    assert "other splits" not in capsys.readouterr().out
    config.data.folds, config.data.fold = 4, 1
    initial.opened(config)
    assert "was trained on synthetic with other splits" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--initial", "nowhere"), "nowhere can't be read"),
        (("--initial_part", "encoder"), "give --initial too"),
        (("--optimizer.groups", "base"), "has 0 values for 1 of optimizer.groups"),
        (("--optimizer.unfreeze_every_steps", "3"), "is of optimizer.frozen"),
        (("--initial_digest", "0"), "can't be changed"),
    ],
)
def test_what_can_not_be_meant_is_refused(command, tmp_path, words, said):
    finished = command(*TINY, *words, "--workdir", tmp_path / "run")
    assert finished.code == 2
    assert said in finished.err
    assert not (tmp_path / "run").exists()


def test_the_steps_of_transfer_follow_on_each_other(tmp_path):
    made = transfer.smoke()
    configs = [
        dataclasses.replace(config, variant=name, initial="RUN")
        for name, config in made.variants.items()
    ]
    begun = study._with_initial(configs, made.begins, tmp_path)
    held = {config.variant: config.initial for config in begun}
    assert held == {
        "scratch": "",
        "new_head": "RUN",
        "head": "RUN",
        "both": str(tmp_path / "head-seed0"),
    }
    with pytest.raises(cnn_jax.InputError, match="--initial is missing"):
        study._with_initial([dataclasses.replace(configs[2], initial="")], made.begins, tmp_path)
    with pytest.raises(cnn_jax.InputError, match="name it in --variants too"):
        study._with_initial(configs[3:], made.begins, tmp_path)


def test_options_that_weights_are_wrong_without_come_with_them():
    source = model_config("mobilenet_v2", padding="SYMMETRIC", epsilon=1e-5)
    assert initial._options(source, model_config("mobilenet_v2")) == {
        "padding": "SYMMETRIC",
        "epsilon": 1e-5,
    }
    target = model_config("encoder_unet", encoder="mobilenet_v2")
    assert initial._options(source, target) == {"conventions": "torchvision"}
    theirs = model_config("encoder_unet", encoder="mobilenet_v2", conventions="timm")
    assert initial._options(theirs, target) == {"conventions": "timm"}
    assert initial._options(theirs, model_config("mobilenet_v2"))["padding"] == "SYMMETRIC"
    assert initial._options(model_config("mobilenet_v2"), target) == {"conventions": "ours"}
