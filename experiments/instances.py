"""Instances: objects and the pixels of each, in synthetic aerial scenes or photographs.

python -m experiments.instances [--config NAME|config.json] [--FIELD VALUE ...] [--workdir DIR]
"""

import sys

from cnn_jax.configuration.schema import (
    AugmentationConfig,
    InstanceConfig,
    InstanceLossConfig,
    ObjectDataConfig,
    ObjectEvaluationConfig,
    OptimizerConfig,
    TrainingConfig,
)
from cnn_jax.run import main
from cnn_jax.tasks import model_config


def default() -> InstanceConfig:
    """Buildings and cars of synthetic scenes, no download."""
    return InstanceConfig(
        experiment="instances",
        configuration="default",
        model=model_config("unet", base_width=16, depth=4),
        data=ObjectDataConfig(crop_px=(160, 160), scene_counts=(40, 4, 8)),
        augmentation=AugmentationConfig(scale_probability=0.0),  # cars are a few pixels large
        loss=InstanceLossConfig(centre_weight=50.0, small_weight=1.0),
        training=TrainingConfig(
            steps=900, batch_size=4, validate_every_steps=450, log_every_steps=20
        ),
        optimizer=OptimizerConfig(learning_rate=3e-3, ema_decay=0.99),
        evaluation=ObjectEvaluationConfig(window_px=(288, 512)),
    )


def smoke() -> InstanceConfig:
    """Does it run at all."""
    config = default()
    config.configuration = "smoke"
    config.model = model_config("unet", base_width=4, depth=2)
    config.data.scene_px, config.data.scene_counts = (96, 128), (2, 1, 1)
    config.data.crop_px = (64, 64)
    config.training.steps, config.training.validate_every_steps = 8, 4
    config.training.batch_size, config.training.log_every_steps = 2, 2
    config.evaluation.window_px, config.evaluation.overlap_px = (96, 96), 16
    return config


def penn_fudan() -> InstanceConfig:
    """Pedestrians of Penn-Fudan, 120 photographs for training and 50 for test; on a CPU."""
    config = default()
    config.configuration = "penn_fudan"
    config.model = model_config(
        "encoder_unet", encoder="mobilenet_v2", decoder_widths=(96, 64, 32, 16)
    )
    config.data = ObjectDataConfig(source="penn_fudan", crop_px=(320, 320))
    config.augmentation = AugmentationConfig(
        flip_vertical_probability=0.0, quarter_turn_probability=0.0, scale_range=(0.7, 1.4)
    )
    config.loss = InstanceLossConfig(centre_sigma_px=8.0, offset_scale_px=50.0)
    config.training.batch_size = 2
    config.evaluation = ObjectEvaluationConfig(window_px=(512, 512), overlap_px=128)
    return config


def coco() -> InstanceConfig:
    """COCO 2017, --data.directory DIR with train2017, val2017 and annotations; for an
    accelerator."""
    config = penn_fudan()
    config.configuration = "coco"
    config.model = model_config("deeplabv3plus", encoder="resnet50", dtype="bfloat16")
    config.data = ObjectDataConfig(
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
    )
    config.training = TrainingConfig(
        steps=200_000, batch_size=32, validate_every_steps=10_000, log_every_steps=100
    )
    config.optimizer = OptimizerConfig(learning_rate=5e-4, warmup_steps=1000)
    config.evaluation = ObjectEvaluationConfig(window_px=(640, 640), overlap_px=320, batch_size=8)
    return config


CONFIGURATIONS = {"default": default, "smoke": smoke, "penn_fudan": penn_fudan, "coco": coco}

if __name__ == "__main__":
    sys.exit(main("experiments.instances", CONFIGURATIONS))
