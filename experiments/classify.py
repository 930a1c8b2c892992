"""Any classifier on any set of labelled images, by name.

python -m experiments.classify [--config NAME|config.json] [--model.name resnet20]
    [--data.source cifar10] [--FIELD VALUE ...] [--workdir DIR]

A model given by name comes with its own defaults. Regularisation is by configuration:
model.dropout, optimizer.weight_decay, loss.label_smoothing, augmentation.*,
augmentation.mixup_alpha, training.patience.
"""

import sys

from cnn_jax.configuration.schema import (
    ClassificationConfig,
    ImageAugmentationConfig,
    ImageDataConfig,
    LossConfig,
    OptimizerConfig,
    TrainingConfig,
)
from cnn_jax.run import main
from cnn_jax.tasks import model_config
from experiments.dense_vs_convolutional import MEAN, STD


def default() -> ClassificationConfig:
    """A small convolutional network on Fashion-MNIST, five passes; about three minutes on two CPU
    cores."""
    return ClassificationConfig(
        experiment="classify",
        configuration="default",
        model=model_config("cnn", widths=(16, 32, 64), pool_after=(1, 2, 3), padding="SAME"),
        data=ImageDataConfig(source="fashion_mnist", mean=MEAN, std=STD),
        augmentation=ImageAugmentationConfig(flip_horizontal_probability=0.5),
        training=TrainingConfig(
            steps=2110, batch_size=128, validate_every_steps=422, log_every_steps=50
        ),
        optimizer=OptimizerConfig(learning_rate=2e-3, warmup_steps=100, weight_decay=1e-2),
    )


def smoke() -> ClassificationConfig:
    """The default cut to under a minute on two CPU cores, to see that everything works."""
    config = default()
    config.configuration = "smoke"
    config.data.train_examples = 2000
    config.training = TrainingConfig(steps=40, batch_size=32, validate_every_steps=20)
    config.optimizer.warmup_steps = 5
    return config


def cifar10() -> ClassificationConfig:
    """ResNet-20 on CIFAR-10 as in its paper (He et al., 2015): 64,000 steps of 128 images; for an
    accelerator.

    Learning rate 0.1, divided by 10 at 32,000 and 48,000 steps; momentum 0.9, weight decay 1e-4;
    images are padded by 4 pixels, cropped at random and mirrored; 45,000 images train and 5,000
    validate. The paper's test accuracy is 91.25%. Unlike there, padding is black rather than the
    mean image, and decay spares biases and BatchNorm.
    """
    return ClassificationConfig(
        experiment="classify",
        configuration="cifar10",
        model=model_config("resnet20"),
        data=ImageDataConfig(
            source="cifar10",
            mean=(0.4914, 0.4822, 0.4465),
            std=(0.2470, 0.2435, 0.2616),
            on_device=True,
        ),
        augmentation=ImageAugmentationConfig(flip_horizontal_probability=0.5, shift_px=4),
        training=TrainingConfig(
            steps=64_000, batch_size=128, validate_every_steps=3200, log_every_steps=100
        ),
        optimizer=OptimizerConfig(
            name="momentum",
            learning_rate=0.1,
            schedule="drops",
            drops=(32_000, 48_000),
            warmup_steps=0,
            weight_decay=1e-4,
            clip_norm=0.0,
        ),
    )


def cifar100() -> ClassificationConfig:
    """ResNet-56 on CIFAR-100 by the same recipe; for an accelerator."""
    config = cifar10()
    config.configuration, config.data.source = "cifar100", "cifar100"
    config.model = model_config("resnet56")
    config.data.mean, config.data.std = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
    return config


def imagenet2012() -> ClassificationConfig:
    """ResNet-50 on ImageNet at 224x224, 90 passes of 1,024 images, bfloat16; for several
    accelerators.

    Training crops are zooms and shifts of the central square, not the random-sized crops of the
    usual recipe, so a little under its 76% is to be expected.
    """
    return ClassificationConfig(
        experiment="classify",
        configuration="imagenet2012",
        model=model_config("resnet50", dtype="bfloat16"),
        data=ImageDataConfig(
            source="imagenet2012",
            image_px=(224, 224),
            crop_share=0.875,
            validation_share=0.01,
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
            memory_budget_gib=16.0,
            prefetch_batches=8,
        ),
        augmentation=ImageAugmentationConfig(
            flip_horizontal_probability=0.5,
            scale_probability=1.0,
            scale_range=(0.9, 2.0),
            shift_px=32,
        ),
        loss=LossConfig(label_smoothing=0.1),
        training=TrainingConfig(
            steps=111_500, batch_size=1024, validate_every_steps=5000, log_every_steps=100
        ),
        optimizer=OptimizerConfig(
            name="sgd",
            learning_rate=0.4,
            warmup_steps=6000,
            weight_decay=1e-3,
            end_factor=0.0,
            clip_norm=0.0,
        ),
    )


def fingers() -> ClassificationConfig:
    """Hands showing zero to five fingers, from a folder of files named <id>_5L.png; label by file
    name."""
    config = default()
    config.configuration = "fingers"
    config.data = ImageDataConfig(source="folders", label_pattern=r"_(\d)[LR]\.", image_px=(64, 64))
    config.training.steps, config.training.validate_every_steps = 1000, 250
    return config


CONFIGURATIONS = {
    "default": default,
    "smoke": smoke,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "imagenet2012": imagenet2012,
    "fingers": fingers,
}

if __name__ == "__main__":
    sys.exit(main("experiments.classify", CONFIGURATIONS))
