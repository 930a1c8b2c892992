"""U-Net on aerial scenes, synthetic or photographed.

python -m experiments.aerial_unet [--config NAME|config.json] [--FIELD VALUE ...] [--workdir
DIR]
"""

import sys

from cnn_jax.configuration.schema import (
    AugmentationConfig,
    DataConfig,
    EvaluationConfig,
    OptimizerConfig,
    SegmentationConfig,
    TrainingConfig,
)
from cnn_jax.run import main
from cnn_jax.tasks import model_config


def default() -> SegmentationConfig:
    """Synthetic scenes, no download; under five minutes on two CPU cores."""
    return SegmentationConfig(
        experiment="aerial_unet",
        configuration="default",
        model=model_config("unet", base_width=16, depth=4),
        # The scenes are all drawn at one scale.
        augmentation=AugmentationConfig(scale_probability=0.0),
        training=TrainingConfig(steps=360, batch_size=4, validate_every_steps=90),
        optimizer=OptimizerConfig(learning_rate=3e-3, warmup_steps=30),
    )


def smoke() -> SegmentationConfig:
    """The default cut to under a minute on two CPU cores, to see that everything works."""
    config = default()
    config.configuration = "smoke"
    config.model.base_width = 8
    config.data.scene_px, config.data.scene_counts = (144, 256), (8, 2, 2)
    config.data.crop_px = (96, 128)
    config.training = TrainingConfig(steps=40, batch_size=4, validate_every_steps=20)
    config.optimizer.warmup_steps = 5
    return config


def dubai() -> SegmentationConfig:
    """Real photographs (Dubai, 72 scenes): 12,000 crops, about half an hour on two CPU cores.

    Tile 8 is the test, tile 4 the validation, tiles 1, 2, 3, 5, 6 and 7 are for training. The
    budget is 1,500 steps of 8 crops of 144x256. The figures are of the last step's weights, so that
    nothing is chosen by looking at validation or test.
    """
    return SegmentationConfig(
        experiment="aerial_unet",
        configuration="dubai",
        model=model_config("unet", base_width=16, depth=4),
        data=DataConfig(source="dubai"),
        augmentation=AugmentationConfig(scale_range=(0.6, 1.65)),
        training=TrainingConfig(steps=1500, batch_size=8, validate_every_steps=250),
        optimizer=OptimizerConfig(learning_rate=2e-3, warmup_steps=100, weight_decay=1e-2),
        evaluation=EvaluationConfig(window_px=(512, 512), context_px=64, batch_size=1),
    )


def _photographs(source: str, crop_px: tuple[int, int]) -> SegmentationConfig:
    """A published set at a size for one GPU or TPU: U-Net 64 with bfloat16, 20,000 steps of 16
    crops."""
    return SegmentationConfig(
        experiment="aerial_unet",
        configuration=source,
        model=model_config("unet", base_width=64, depth=4, dtype="bfloat16"),
        data=DataConfig(source=source, crop_px=crop_px, memory_budget_gib=16.0),
        augmentation=AugmentationConfig(scale_range=(0.6, 1.65)),
        training=TrainingConfig(
            steps=20_000, batch_size=16, validate_every_steps=1000, log_every_steps=50
        ),
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=500, weight_decay=1e-2),
        evaluation=EvaluationConfig(window_px=(768, 768), context_px=64, batch_size=8),
    )


def folders() -> SegmentationConfig:
    """Your own train/images, train/masks, test/images, test/masks; classes by
    --data.source FILE.toml."""
    config = _photographs("folders", (144, 256))
    config.training.steps, config.training.validate_every_steps = 5000, 500
    return config


def aeroscapes() -> SegmentationConfig:
    """AeroScapes (12 classes, 1280x720); for an accelerator."""
    return _photographs("aeroscapes", (384, 512))


def uavid() -> SegmentationConfig:
    """UAVid (8 classes, 3840x2160); for an accelerator."""
    return _photographs("uavid", (512, 512))


def drone() -> SegmentationConfig:
    """ICG Semantic Drone (22 classes, 6000x4000); for an accelerator."""
    return _photographs("drone", (512, 512))


def loveda() -> SegmentationConfig:
    """LoveDA (7 classes, 1024x1024); for an accelerator."""
    return _photographs("loveda", (512, 512))


def landcover() -> SegmentationConfig:
    """LandCover.ai (5 classes, 512x512 chips); for an accelerator."""
    return _photographs("landcover", (384, 384))


def potsdam() -> SegmentationConfig:
    """ISPRS Potsdam (6 classes, 6000x6000); for an accelerator."""
    return _photographs("potsdam", (512, 512))


CONFIGURATIONS = {
    "default": default,
    "smoke": smoke,
    "dubai": dubai,
    "folders": folders,
    "aeroscapes": aeroscapes,
    "uavid": uavid,
    "drone": drone,
    "loveda": loveda,
    "landcover": landcover,
    "potsdam": potsdam,
}

if __name__ == "__main__":
    sys.exit(main("experiments.aerial_unet", CONFIGURATIONS))
