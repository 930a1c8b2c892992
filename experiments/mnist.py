"""Softmax regression, a multilayer perceptron and a convolutional network on MNIST's handwritten
digits.

python -m experiments.mnist [--config NAME|config.json] [--FIELD VALUE ...] [--variants cnn]
[--workdir DIR]
"""

import sys

from cnn_jax.configuration.schema import (
    ClassificationConfig,
    ImageAugmentationConfig,
    ImageDataConfig,
    OptimizerConfig,
    TrainingConfig,
)
from cnn_jax.study import Study, main
from cnn_jax.tasks import model_config

MEAN, STD = (0.1307,), (0.3081,)
"""Of MNIST's training pixels, 0 to 1."""


def _digits(model, **sections) -> ClassificationConfig:
    return ClassificationConfig(
        experiment="mnist",
        model=model,
        data=ImageDataConfig(source="mnist", mean=MEAN, std=STD, on_device=True),
        **sections,
    )


def default() -> Study:
    """Three models from the simplest to the convolutional, ten passes over 54,000 digits; about ten
    minutes on two CPU cores."""
    budget = {"steps": 4220, "batch_size": 128, "validate_every_steps": 422, "log_every_steps": 50}
    return Study(
        {
            "softmax": _digits(
                model_config("softmax_regression"),
                training=TrainingConfig(**budget),
                optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=100),
            ),
            "mlp": _digits(
                model_config("mlp", widths=(256, 128), dropout=0.2),
                training=TrainingConfig(**budget),
                optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=100),
            ),
            "cnn": _digits(
                model_config(
                    "cnn", widths=(16, 32, 64), pool_after=(1, 2, 3), dense=(128,), padding="SAME"
                ),
                training=TrainingConfig(**budget),
                optimizer=OptimizerConfig(learning_rate=2e-3, warmup_steps=100, weight_decay=1e-2),
                augmentation=ImageAugmentationConfig(shift_px=2),
            ),
        }
    )


def smoke() -> Study:
    """The default cut to under a minute on two CPU cores, to see that everything works."""
    study = default()
    for config in study.variants.values():
        config.data.train_examples = 2000
        config.training = TrainingConfig(steps=40, batch_size=32, validate_every_steps=20)
        config.optimizer.warmup_steps = 5
    return study


STUDIES = {"default": default, "smoke": smoke}

if __name__ == "__main__":
    sys.exit(main("experiments.mnist", STUDIES))
