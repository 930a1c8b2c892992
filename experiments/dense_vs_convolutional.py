"""A multilayer perceptron against a convolutional network of no more parameters, on Fashion-MNIST.

python -m experiments.dense_vs_convolutional [--config NAME|config.json] [--FIELD VALUE ...]
[--seeds 0 1 2] [--workdir DIR]

Both take the same steps, on the same batches, with the same optimiser; each has the dropout that
served it on validation. Two questions beside the score: how each fares on test images moved by a
few pixels, which neither saw in training, and how each fares where all pixels of every image are
shuffled by one fixed permutation, which takes the neighbourhood away and leaves the rest.
"""

import sys

from cnn_jax.configuration.schema import (
    ClassificationConfig,
    ImageDataConfig,
    ImageEvaluationConfig,
    OptimizerConfig,
    TrainingConfig,
)
from cnn_jax.study import Study, main
from cnn_jax.tasks import model_config

MEAN, STD = (0.286,), (0.353,)
"""Of Fashion-MNIST's training pixels, 0 to 1."""


def _clothes(model, permuted: bool) -> ClassificationConfig:
    return ClassificationConfig(
        experiment="dense_vs_convolutional",
        model=model,
        data=ImageDataConfig(
            source="fashion_mnist", mean=MEAN, std=STD, permuted=permuted, on_device=True
        ),
        training=TrainingConfig(
            steps=4220, batch_size=128, validate_every_steps=844, log_every_steps=50
        ),
        optimizer=OptimizerConfig(learning_rate=2e-3, warmup_steps=200, weight_decay=1e-2),
        evaluation=ImageEvaluationConfig(shifts_px=() if permuted else (1, 2, 4)),
    )


def default() -> Study:
    """Ten passes over 54,000 images, three seeds; about an hour on two CPU cores."""
    models = {
        "mlp": lambda: model_config("mlp", widths=(256, 128), dropout=0.1),
        "cnn": lambda: model_config(
            "cnn",
            widths=(32, 64, 128),
            pool_after=(1, 2, 3),
            dense=(64,),
            padding="SAME",
            dropout=0.4,
        ),
    }
    variants = {name: _clothes(model(), permuted=False) for name, model in models.items()}
    variants |= {
        f"{name}_permuted": _clothes(model(), permuted=True) for name, model in models.items()
    }
    return Study(variants, seeds=(0, 1, 2))


def smoke() -> Study:
    """The default cut to two minutes on two CPU cores, to see that everything works."""
    study = default()
    for config in study.variants.values():
        config.data.train_examples = 2000
        config.training = TrainingConfig(steps=40, batch_size=32, validate_every_steps=20)
        config.optimizer.warmup_steps = 5
        config.evaluation.shifts_px = config.evaluation.shifts_px[:1]
    return Study(study.variants, seeds=(0, 1))


def pictures(folder, records) -> None:
    """Accuracy by seed, and against how far the test images were moved."""
    from cnn_jax.reporting import study_figures

    found = by_variant(records)
    study_figures.seeds(
        {name: [r.summary["test/accuracy"] for r in runs] for name, runs in found.items()},
        folder / "accuracy_by_seed.png",
        label="accuracy on the test images",
    )
    moved = {}
    for name, runs in found.items():
        if runs[0].config["data"]["permuted"]:
            continue
        sizes = runs[0].config["evaluation"]["shifts_px"]
        moved[name] = {0: [r.summary["test/accuracy"] for r in runs]}
        for size in sizes:
            key = f"test/shifted_accuracy/{size}"
            moved[name][size] = [r.summary[key] for r in runs if key in r.summary]
    if moved:
        study_figures.against_shift(moved, folder / "accuracy_against_shift.png")


def by_variant(records) -> dict[str, list]:
    """Records by the variant that they are of."""
    found = {}
    for record in records:
        found.setdefault(record.config["variant"], []).append(record)
    return found


STUDIES = {"default": default, "smoke": smoke}

if __name__ == "__main__":
    sys.exit(main("experiments.dense_vs_convolutional", STUDIES, pictures))
