"""Detection: objects and the boxes around them, in synthetic aerial scenes or photographs.

python -m experiments.detect [--config NAME|config.json] [--FIELD VALUE ...] [--workdir DIR]
"""

import sys

from cnn_jax.configuration.schema import (
    AugmentationConfig,
    DetectionConfig,
    DetectionLossConfig,
    ObjectDataConfig,
    ObjectEvaluationConfig,
    OptimizerConfig,
    TrainingConfig,
)
from cnn_jax.run import main
from cnn_jax.tasks import model_config


def default() -> DetectionConfig:
    """Buildings and cars of synthetic scenes, no download."""
    return DetectionConfig(
        experiment="detect",
        configuration="default",
        model=model_config(
            "centernet",
            encoder="resnet18",
            encoder_width=0.5,
            neck="unet",
            neck_width=32,
            head_width=32,
            stride=2,
        ),
        data=ObjectDataConfig(crop_px=(160, 160), scene_counts=(40, 4, 8)),
        augmentation=AugmentationConfig(scale_range=(0.9, 1.2)),
        loss=DetectionLossConfig(size_weight=0.3),
        training=TrainingConfig(
            steps=1100, batch_size=4, validate_every_steps=300, log_every_steps=20
        ),
        optimizer=OptimizerConfig(learning_rate=2e-3, ema_decay=0.99),
        evaluation=ObjectEvaluationConfig(window_px=(288, 512)),
    )


def smoke() -> DetectionConfig:
    """Does it run at all."""
    config = default()
    config.configuration = "smoke"
    config.model = model_config(
        "centernet", encoder="resnet20", neck_width=16, head_width=16, stride=4
    )
    config.data.scene_px, config.data.scene_counts = (96, 128), (2, 1, 1)
    config.data.crop_px = (64, 64)
    config.training.steps, config.training.validate_every_steps = 8, 4
    config.training.batch_size, config.training.log_every_steps = 2, 2
    config.evaluation.window_px, config.evaluation.overlap_px = (96, 96), 16
    return config


def penn_fudan() -> DetectionConfig:
    """Pedestrians of Penn-Fudan, 120 photographs for training and 50 for test; on a CPU."""
    config = default()
    config.configuration = "penn_fudan"
    config.model = model_config(
        "centernet", encoder="mobilenet_v2", neck_width=32, head_width=32, stride=4
    )
    config.data = ObjectDataConfig(source="penn_fudan", crop_px=(320, 320))
    config.augmentation = AugmentationConfig(
        flip_vertical_probability=0.0, quarter_turn_probability=0.0, scale_range=(0.7, 1.4)
    )
    config.loss = DetectionLossConfig()
    config.training.steps, config.training.batch_size = 1000, 2
    config.optimizer.learning_rate = 1e-3
    config.evaluation = ObjectEvaluationConfig(window_px=(512, 512), overlap_px=128)
    return config


def coco() -> DetectionConfig:
    """COCO 2017, --data.directory DIR with train2017, val2017 and annotations; for an
    accelerator."""
    return DetectionConfig(
        experiment="detect",
        configuration="coco",
        model=model_config("centernet", encoder="resnet18", dtype="bfloat16"),
        data=ObjectDataConfig(
            source="coco",
            annotations=(
                "annotations/instances_train2017.json",
                "annotations/instances_val2017.json",
            ),
            images=("train2017", "val2017"),
            held_out=(0.02, 0.0),
            faulty="ignore",
            crop_px=(512, 512),
            memory_budget_gib=16.0,
        ),
        augmentation=AugmentationConfig(
            flip_vertical_probability=0.0, quarter_turn_probability=0.0, scale_range=(0.6, 1.4)
        ),
        training=TrainingConfig(
            steps=140_000, batch_size=32, validate_every_steps=10_000, log_every_steps=100
        ),
        optimizer=OptimizerConfig(learning_rate=5e-4, warmup_steps=1000),
        evaluation=ObjectEvaluationConfig(window_px=(640, 640), overlap_px=320, batch_size=8),
    )


CONFIGURATIONS = {"default": default, "smoke": smoke, "penn_fudan": penn_fudan, "coco": coco}

if __name__ == "__main__":
    sys.exit(main("experiments.detect", CONFIGURATIONS))
