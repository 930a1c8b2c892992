"""A network trained on one kind of picture learns another: fine-tuning in the course's three steps,
beside the same network from scratch, on a thousand images of Fashion-MNIST.

python -m experiments.transfer --initial RUN|FILE [--config NAME|config.json] [--FIELD VALUE ...]
[--seeds 0 1 2] [--workdir DIR]

`new_head`: the given base with a head that nobody trained. `head`: that head is trained, and the
base rests with its BatchNorm's statistics. `both`: then all is trained together. `scratch`:
the same network, as long in all, without the given weights.
"""

import dataclasses
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

STEPS, LATER_STEPS = 100, 100
"""Of the head alone, and of both together."""


def _step(model, px: int, steps: int, **optimizer) -> ClassificationConfig:
    return ClassificationConfig(
        experiment="transfer",
        model=model,
        data=ImageDataConfig(
            source="fashion_mnist",
            channels=3,
            image_px=(px, px),
            train_examples=1000,
            validation_share=0.02,
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
        ),
        augmentation=ImageAugmentationConfig(flip_horizontal_probability=0.5, shift_px=2),
        training=TrainingConfig(
            steps=steps, batch_size=32, validate_every_steps=max(steps // 2, 1), log_every_steps=10
        ),
        optimizer=OptimizerConfig(**{"learning_rate": 2e-3, "warmup_steps": 10} | optimizer),
    )


def _steps(model: str, px: int) -> Study:
    make = model_config
    variants = {
        "scratch": _step(make(model), px, STEPS + LATER_STEPS),
        "new_head": _step(make(model), px, 1, frozen=("base",), learning_rate=0.0, warmup_steps=0),
        "head": _step(make(model), px, STEPS, frozen=("base",), learning_rate=1e-2),
        "both": _step(make(model), px, LATER_STEPS),
    }
    return Study(variants, seeds=(0, 1, 2), begins={"scratch": "", "both": "head"})


def cifar_resnet() -> Study:
    """A ResNet-20 of CIFAR-10, 32x32 px."""
    return _steps("resnet20", 32)


def mobilenet_v2() -> Study:
    """A MobileNetV2 of ImageNet, 96x96 px; hours on two CPU cores."""
    return _steps("mobilenet_v2", 96)


def smoke() -> Study:
    """The first cut to two steps, to see that everything works."""
    study = cifar_resnet()
    for config in study.variants.values():
        config.data.train_examples = 64
        config.training = TrainingConfig(
            steps=min(config.training.steps, 2), batch_size=16, validate_every_steps=2
        )
        config.optimizer.warmup_steps = 1
    return dataclasses.replace(study, seeds=(0,))


def pictures(folder, records) -> None:
    """What each step brought: accuracy on the test images by step and seed."""
    from cnn_jax.reporting import study_figures

    found: dict[str, list] = {}
    for record in records:
        found.setdefault(record.config["variant"], []).append(record.summary["test/accuracy"])
    study_figures.seeds(found, folder / "accuracy_by_step.png", label="accuracy on the test images")


STUDIES = {"cifar_resnet": cifar_resnet, "mobilenet_v2": mobilenet_v2, "smoke": smoke}

if __name__ == "__main__":
    sys.exit(main("experiments.transfer", STUDIES, pictures))
