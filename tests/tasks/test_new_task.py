"""What a new task costs: the one file of `toy_task` and the two lines of the fixture."""

import shutil

import numpy as np
import pytest

from cnn_jax import tasks
from cnn_jax.configuration.schema import OptimizerConfig, TrainingConfig
from cnn_jax.errors import InputError
from cnn_jax.inference.predictor import load
from cnn_jax.records.metrics import FIGURES, Figure
from cnn_jax.records.run_record import read
from cnn_jax.reporting import comparison, comparison_tables, table
from cnn_jax.run import train_and_evaluate
from cnn_jax.tasks import model_config
from tests import running
from tests.tasks.toy_task import SIZES, Counting, CountingConfig


@pytest.fixture
def counting(monkeypatch):
    monkeypatch.setitem(tasks.TASKS, "counting", Counting())
    figure = Figure(
        "count_error", "count error", most=1e9, higher_is_better=False, tasks=("counting",)
    )
    monkeypatch.setitem(FIGURES, "count_error", figure)


def configured(variant, seed=0, **training):
    return CountingConfig(
        experiment="counting",
        configuration="default",
        variant=variant,
        seed=seed,
        model=model_config("counter", features={"narrow": 1, "wide": 8}[variant]),
        optimizer=OptimizerConfig(learning_rate=0.3, warmup_steps=2, weight_decay=0.0),
        training=TrainingConfig(
            **{"steps": 60, "batch_size": 16, "validate_every_steps": 20, **training}
        ),
    )


def test_a_toy_task_trains_is_recorded_tabled_and_compared(counting, tmp_path, quick_compilation):
    for variant in ("narrow", "wide"):
        for seed in (0, 1):
            folder = tmp_path / "counting" / f"{variant}-seed{seed}"
            summary = train_and_evaluate(configured(variant, seed), folder)
            assert (folder / "figures" / "drawn.txt").exists()
            assert summary["parameters"] == {"narrow": 10 + 2, "wide": 80 + 9}[variant]
    assert summary["test/count_error"] < 3
    records = [read(folder) for folder in sorted((tmp_path / "counting").iterdir())]
    text = table.headline_table(records)
    assert "count error" in text
    compared = comparison.compare(records)
    means = [variant.scores["count_error"].mean for variant in compared.variants]
    assert means == sorted(means)  # less error is better
    assert "count error" in comparison_tables.as_markdown(compared)


def test_a_toy_run_is_loaded_and_resumed(counting, tmp_path, quick_compilation):
    whole = train_and_evaluate(configured("wide"), tmp_path / "whole")
    run = load(tmp_path / "whole")
    evaluator = run.open_data().evaluator(run.learner, "test", run.devices)
    again = evaluator.report(run.variables, lambda: None).figures
    assert again["test/count_error"] == whole["test/count_error"]


def test_the_best_checkpoint_is_the_one_of_least_error(counting, tmp_path, quick_compilation):
    config = configured("wide", steps=60)
    config.evaluation.weights = "best"
    summary = train_and_evaluate(config, tmp_path / "run")
    lines = read(tmp_path / "run").metrics
    errors = {
        line["step"]: line["validation/count_error"]
        for line in lines
        if "validation/count_error" in line
    }
    assert summary["evaluated_step"] == min(errors, key=errors.get)


def test_a_part_of_a_network_without_classes_is_frozen(counting, tmp_path, quick_compilation):
    config = configured("narrow", steps=3, validate_every_steps=1)
    config.optimizer.frozen, config.training.keep_checkpoints = ("Conv_0",), 3
    train_and_evaluate(config, tmp_path / "run")
    before, after = (running.state(tmp_path / "run", step) for step in (1, 3))
    params = {path for path in before if "params" in path}
    moved = {path for path in params if (before[path] != after[path]).any()}
    assert moved
    assert moved == {path for path in params if "Conv_0" not in path}


@pytest.mark.parametrize(("learning_rate", "steps"), [(0.3, 60), (0.0, 30)])
def test_patience_waits_for_less_error(counting, tmp_path, quick_compilation, learning_rate, steps):
    """Error falls to the end; where nothing is learnt, the first validation stays the best."""
    config = configured("wide", steps=60, validate_every_steps=10, patience=2)
    config.optimizer.learning_rate = learning_rate
    assert train_and_evaluate(config, tmp_path / "run")["steps"] == steps


def test_patience_without_a_validation_split_is_refused(
    counting, tmp_path, quick_compilation, monkeypatch
):
    monkeypatch.setitem(SIZES, "validation", 0)
    config = configured("narrow", steps=2, patience=2)
    with pytest.raises(
        InputError, match=r"training\.patience is not 0, but there is no validation"
    ):
        train_and_evaluate(config, tmp_path / "run")
    config.training.patience = 0
    assert train_and_evaluate(config, tmp_path / "run")["steps"] == 2


def test_a_run_that_lost_its_checkpoints_says_that_it_begins_again(
    counting, tmp_path, quick_compilation, capsys
):
    config, folder = configured("narrow", steps=4, validate_every_steps=2), tmp_path / "run"
    whole = train_and_evaluate(config, folder)
    assert "resuming" not in capsys.readouterr().out
    shutil.rmtree(folder / "checkpoints")
    (folder / "summary.json").unlink()
    again = train_and_evaluate(config, folder)
    assert "resuming at the beginning: no checkpoint of the" in capsys.readouterr().out
    assert running.timeless(again) == running.timeless(whole)


def test_the_logged_learning_rate_is_that_of_each_update(counting, tmp_path, quick_compilation):
    """A step of plain SGD is as long as the logged gradient times the logged rate."""
    config = configured("narrow", steps=5, log_every_steps=1, validate_every_steps=1)
    config.training.keep_checkpoints = 5
    plain = {"momentum": 0.0, "weight_decay": 0.0, "clip_norm": 0.0, "warmup_steps": 2}
    config.optimizer = OptimizerConfig(name="sgd", learning_rate=0.01, **plain)
    train_and_evaluate(config, tmp_path / "run")
    lines = {line["step"]: line for line in read(tmp_path / "run").metrics if "train/loss" in line}
    rates = [lines[step]["train/learning_rate"] for step in range(1, 6)]
    assert rates[:3] == pytest.approx([0, 0.005, 0.01])
    assert rates[2] > rates[3] > rates[4] > 0
    states = [running.state(tmp_path / "run", step) for step in range(1, 6)]
    for number in range(1, 5):
        before, after = states[number - 1 : number + 1]
        moved = np.sqrt(
            sum(((after[path] - before[path]) ** 2).sum() for path in after if "params" in path)
        )
        length = rates[number] * lines[number + 1]["train/gradient_norm"]
        assert moved == pytest.approx(length, rel=1e-3), number
