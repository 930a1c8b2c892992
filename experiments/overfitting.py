"""What keeps a network from learning its training images by heart: each regularisation on and off,
on 2,000 images of Fashion-MNIST.

python -m experiments.overfitting [--config NAME|config.json] [--FIELD VALUE ...] [--variants
NAMES] [--workdir DIR]
"""

import copy
import dataclasses
import math
import sys

from cnn_jax.configuration.schema import (
    ClassificationConfig,
    ImageAugmentationConfig,
    ImageDataConfig,
    ImageEvaluationConfig,
    OptimizerConfig,
    TrainingConfig,
)
from cnn_jax.study import Study, main
from cnn_jax.tasks import model_config
from experiments.dense_vs_convolutional import MEAN, STD


def default() -> Study:
    """Eight runs of 48 passes over 2,000 images; about ten minutes on two CPU cores."""
    none = ClassificationConfig(
        experiment="overfitting",
        model=model_config(
            "cnn", widths=(16, 32, 64), pool_after=(1, 2, 3), padding="SAME", dropout=0.0
        ),
        data=ImageDataConfig(
            source="fashion_mnist", mean=MEAN, std=STD, train_examples=2000, on_device=True
        ),
        training=TrainingConfig(
            steps=1500, batch_size=64, validate_every_steps=100, log_every_steps=20
        ),
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=50, weight_decay=0.0),
        evaluation=ImageEvaluationConfig(train=True),
    )
    names = (
        "none",
        "dropout",
        "weight_decay",
        "label_smoothing",
        "augmentation",
        "mixup",
        "early_stopping",
        "all",
    )
    variants = {name: copy.deepcopy(none) for name in names}
    for name, config in variants.items():
        if name in ("dropout", "all"):
            config.model.dropout = 0.5
        if name in ("weight_decay", "all"):
            config.optimizer.weight_decay = 0.5
        if name in ("label_smoothing", "all"):
            config.loss.label_smoothing = 0.1
        if name in ("augmentation", "all"):
            config.augmentation = ImageAugmentationConfig(
                flip_horizontal_probability=0.5, shift_px=2
            )
        if name in ("mixup", "all"):
            config.augmentation.mixup_alpha = 0.3
        if name == "early_stopping":
            config.training.patience, config.evaluation.weights = 3, "best"
    return Study(variants)


def smoke() -> Study:
    """The default cut to two minutes on two CPU cores, to see that everything works."""
    study = default()
    for config in study.variants.values():
        config.data.train_examples = 500
        config.training = dataclasses.replace(
            config.training, steps=20, batch_size=32, validate_every_steps=10, log_every_steps=5
        )
        config.optimizer.warmup_steps = 5
    return study


def pictures(folder, records) -> None:
    """Train and validation curves of each variant, of the first seed, beside those of the run
    without any regularisation."""
    from cnn_jax.reporting import study_figures

    named = {
        record.config["variant"]: record
        for record in records
        if record.config["seed"] == records[0].config["seed"]
    }
    study_figures.overfitting(
        {name: record.metrics for name, record in named.items()},
        {
            # Without evaluation.train nobody counted the training images.
            name: (record.summary.get("train/accuracy", math.nan), record.summary["test/accuracy"])
            for name, record in named.items()
        },
        folder / f"curves-seed{records[0].config['seed']}.png",
        baseline="none" if "none" in named else next(iter(named)),
    )


STUDIES = {"default": default, "smoke": smoke}

if __name__ == "__main__":
    sys.exit(main("experiments.overfitting", STUDIES, pictures))
