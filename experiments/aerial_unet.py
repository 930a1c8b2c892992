"""U-Net on aerial scenes, synthetic or photographed.

python -m experiments.aerial_unet [--config NAME|config.json] [--config.FIELD=VALUE ...] [--workdir DIR]
"""

import sys

from cnn_jax.configuration import (
    AugmentationConfig,
    Config,
    DataConfig,
    EvaluationConfig,
    OptimizerConfig,
    TrainingConfig,
    model_config,
)
from cnn_jax.run import main


def default() -> Config:
    """Synthetic scenes, no download; a few minutes on two CPU cores."""
    return Config(
        experiment="aerial_unet",
        configuration="default",
        model=model_config("unet", base_width=16, depth=4),
        training=TrainingConfig(steps=220, batch_size=4, validate_every_steps=55),
        optimizer=OptimizerConfig(learning_rate=4e-3, warmup_steps=20),
    )


def smoke() -> Config:
    """The default cut to under a minute on two CPU cores, to see that everything works."""
    config = default()
    config.configuration = "smoke"
    config.model.base_width = 8
    config.data.scene_px, config.data.scene_counts = (144, 256), (8, 2, 2)
    config.data.crop_px = (96, 128)
    config.training = TrainingConfig(steps=40, batch_size=4, validate_every_steps=20)
    config.optimizer.warmup_steps = 5
    return config


def dubai() -> Config:
    """Real photographs (Dubai, 72 scenes): 12,000 crops, about an hour on two CPU cores.

    Tile 8 is the test, tile 4 the validation, tiles 1, 2, 3, 5, 6 and 7 are for training. The budget is 1,500 steps of 8 crops of
    144x256. The figures are of the last step's weights, so that nothing is chosen by looking at validation or test.
    """
    return Config(
        experiment="aerial_unet",
        configuration="dubai",
        model=model_config("unet", base_width=16, depth=4),
        data=DataConfig(source="dubai"),
        augmentation=AugmentationConfig(scale_range=(0.6, 1.65)),
        training=TrainingConfig(steps=1500, batch_size=8, validate_every_steps=250),
        optimizer=OptimizerConfig(learning_rate=2e-3, warmup_steps=100, weight_decay=1e-2),
        evaluation=EvaluationConfig(window_px=(512, 512), context_px=64, batch_size=1),
    )


CONFIGURATIONS = {"default": default, "smoke": smoke, "dubai": dubai}

if __name__ == "__main__":
    sys.exit(main("experiments.aerial_unet", CONFIGURATIONS))
