"""Segmentation architectures side by side: every one with every seed, under one budget, and what
the differences are worth.

python -m experiments.aerial_compare [--config NAME] [--variants unet fcn8s] [--seeds 0 1 2]
    [--FIELD VALUE ...] [--workdir DIR]

Finished runs are skipped; interrupted ones resume. It ends in comparison.csv, comparison.png,
comparison.md and index.html in the study's folder; runs that `experiments.aerial_peers` made there
are compared too.
"""

import dataclasses
import sys
from pathlib import Path

from cnn_jax.configuration.schema import (
    AugmentationConfig,
    DataConfig,
    EvaluationConfig,
    OptimizerConfig,
    SegmentationConfig,
    TrainingConfig,
)
from cnn_jax.study import Study, main
from cnn_jax.tasks import model_config

GROUPS = {
    "Architectures": ("unet", "fcn8s", "deeplabv3", "deeplabv3plus", "asymmetric_unet"),
    "Ablation of the asymmetric U-Net": (
        "unet",
        "unet_se",
        "unet_aspp",
        "unet_asymmetry",
        "asymmetric_unet",
    ),
    "Heads on one backbone": (
        "unet_resnet18",
        "unet_plus_plus",
        "linknet",
        "fpn",
        "upernet",
        "pspnet",
        "deeplabv3plus_resnet18",
    ),
    "Pretrained": (
        "unet_mobilenet_v2",
        "unet_mobilenet_v2_pretrained",
        "deeplabv3plus_mobilenet_v2",
        "deeplabv3plus_mobilenet_v2_pretrained",
    ),
    "Heads on a pretrained backbone": (
        "unet_mobilenet_v2_pretrained",
        "linknet_mobilenet_v2_pretrained",
        "fpn_mobilenet_v2_pretrained",
        "upernet_mobilenet_v2_pretrained",
        "deeplabv3plus_mobilenet_v2_pretrained",
    ),
    "Beside segmentation_models.pytorch": (
        "unet_mobilenet_v2",
        "smp_unet",
        "deeplabv3plus_mobilenet_v2",
        "smp_deeplabv3plus",
    ),
}
"""What is tested against what. The U-Net is the asymmetric one with every part switched off."""


def _narrow() -> dict:
    """Networks of about half a million parameters each, for a CPU; and two on a whole MobileNetV2,
    as libraries build them.

    The parts of the ablation have the widths that come nearest to the U-Net's 486,589 parameters:
    -9% to +0%, which is as near as whole widths get.
    """
    backbone = {
        "encoder": "resnet18",
        "encoder_width": 0.1875,
        "width": 32,
        "rates_follow": True,
        "dropout": 0.1,
    }
    mobile = {"encoder": "mobilenet_v2"}
    return {
        "unet": model_config("unet", base_width=8),
        "fcn8s": model_config("fcn8s", width=0.1, dense_width=128, norm="batch", dropout=0.1),
        "deeplabv3": model_config("deeplabv3", output_stride=8, auxiliary_weight=0.0, **backbone),
        "deeplabv3plus": model_config("deeplabv3plus", **backbone),
        "asymmetric_unet": model_config("asymmetric_unet", base_width=13),
        "unet_se": model_config(
            "asymmetric_unet", base_width=8, aspp=False, asymmetry=False, dropout=0.0
        ),
        "unet_aspp": model_config(
            "asymmetric_unet", base_width=10, squeeze_excitation="none", asymmetry=False
        ),
        "unet_asymmetry": model_config(
            "asymmetric_unet", base_width=9, squeeze_excitation="none", aspp=False, dropout=0.0
        ),
        "unet_mobilenet_v2": model_config(
            "encoder_unet", decoder_widths=(64, 48, 32, 24, 16), **mobile
        ),
        "deeplabv3plus_mobilenet_v2": model_config(
            "deeplabv3plus",
            width=64,
            low_level_width=48,
            separable=True,
            rates_follow=True,
            **mobile,
        ),
    }


def _heads() -> dict:
    """What may stand on a backbone, on one ResNet-18 of three sixteenths of its width: 461,000 to
    535,000 parameters, but for LinkNet, whose decoder is made to be small (413,000)."""
    backbone = {"encoder": "resnet18", "encoder_width": 0.1875}
    return {
        "unet_resnet18": model_config(
            "encoder_unet", decoder_widths=(48, 32, 24, 16, 12), **backbone
        ),
        "unet_plus_plus": model_config(
            "unet_plus_plus", decoder_widths=(32, 16, 12, 8, 8), **backbone
        ),
        "linknet": model_config("linknet", width=16, **backbone),
        "fpn": model_config("fpn", pyramid_width=32, width=32, **backbone),
        "upernet": model_config("upernet", width=24, **backbone),
        "pspnet": model_config("pspnet", width=32, auxiliary_weight=0.0, **backbone),
        "deeplabv3plus_resnet18": model_config(
            "deeplabv3plus", width=32, rates_follow=True, dropout=0.1, **backbone
        ),
    }


def _whole() -> dict:
    """The networks at their papers' sizes, in bfloat16; the ablation at about the U-Net's 31
    million parameters."""
    half = {"dtype": "bfloat16"}
    backbone = {"encoder": "resnet50", "rates_follow": True, **half}
    return {
        "unet": model_config("unet", base_width=64, **half),
        "fcn8s": model_config("fcn8s", norm="batch", **half),
        "deeplabv3": model_config("deeplabv3", **backbone),
        "deeplabv3plus": model_config("deeplabv3plus", **backbone),
        "asymmetric_unet": model_config("asymmetric_unet", base_width=104, **half),
        "unet_se": model_config(
            "asymmetric_unet", base_width=64, aspp=False, asymmetry=False, dropout=0.0, **half
        ),
        "unet_aspp": model_config(
            "asymmetric_unet", base_width=81, squeeze_excitation="none", asymmetry=False, **half
        ),
        "unet_asymmetry": model_config(
            "asymmetric_unet",
            base_width=75,
            squeeze_excitation="none",
            aspp=False,
            dropout=0.0,
            **half,
        ),
        "unet_mobilenet_v2": model_config("encoder_unet", encoder="mobilenet_v2", **half),
        "deeplabv3plus_mobilenet_v2": model_config(
            "deeplabv3plus", encoder="mobilenet_v2", separable=True, rates_follow=True, **half
        ),
    }


def _study(models: dict, seeds: tuple[int, ...], **sections) -> Study:
    """Every model with copies of the same sections."""
    variants = {}
    for name, model in models.items():
        made = {section: make() for section, make in sections.items()}
        variants[name] = SegmentationConfig(experiment="aerial_compare", model=model, **made)
    return Study(variants, seeds, GROUPS)


def default() -> Study:
    """Synthetic scenes, no download: five architectures of half a million parameters, two seeds;
    about half an hour on two cores."""
    models = _narrow()
    return _study(
        {name: models[name] for name in GROUPS["Architectures"]},
        (0, 1),
        # The scenes are all drawn at one scale.
        augmentation=lambda: AugmentationConfig(scale_probability=0.0),
        training=lambda: TrainingConfig(steps=240, batch_size=4, validate_every_steps=60),
        optimizer=lambda: OptimizerConfig(learning_rate=3e-3, warmup_steps=30),
    )


def smoke() -> Study:
    """The default's U-Net and DeepLabV3+ cut to about a minute on two CPU cores, to see that
    everything works."""
    models = _narrow()
    return _study(
        {name: models[name] for name in ("unet", "deeplabv3plus")},
        (0, 1),
        data=lambda: DataConfig(scene_px=(96, 128), scene_counts=(4, 2, 3), crop_px=(64, 96)),
        augmentation=lambda: AugmentationConfig(scale_probability=0.0),
        training=lambda: TrainingConfig(
            steps=10, batch_size=2, validate_every_steps=5, log_every_steps=5
        ),
        optimizer=lambda: OptimizerConfig(learning_rate=3e-3, warmup_steps=2),
        evaluation=lambda: EvaluationConfig(window_px=(96, 128), context_px=16),
    )


def dubai() -> Study:
    """Real photographs (Dubai), narrow networks, 400 steps of 4 crops, three seeds; two to three
    hours on two CPU cores.

    Tile 8 is the test, tile 4 the validation, the other six are for training. The figures are of
    the last step's weights.
    """
    return _photographs(_narrow())


def heads() -> Study:
    """The same with seven heads on one narrow backbone; about two hours on two CPU cores."""
    return _photographs(_heads())


def pretrained(**budget) -> Study:
    """The same with two heads on a whole MobileNetV2, each begun from scratch and with the weights
    of --initial, such as ImageNet's."""
    models = {name: model for name, model in _narrow().items() if name in GROUPS["Pretrained"]}
    begun = {f"{name}_pretrained": dataclasses.replace(m) for name, m in models.items()}
    study = _photographs({**models, **begun}, **budget)
    return dataclasses.replace(study, begins=dict.fromkeys(models, ""))


def pretrained_long() -> Study:
    """The study `pretrained` with the steps and seeds of `dubai_long`."""
    return pretrained(**LONG)


def pretrained_heads() -> Study:
    """Five heads on a whole MobileNetV2 that begins with the weights of --initial, and one of them
    from scratch, in the steps and seeds of `dubai_long`.

    2.7 to 3.3 million parameters, but for LinkNet (4.3), whose decoder has the encoder's widths.
    """
    mobile = {"encoder": "mobilenet_v2"}
    scratch = "deeplabv3plus_mobilenet_v2"
    heads = {
        "linknet_mobilenet_v2": model_config("linknet", **mobile),
        "fpn_mobilenet_v2": model_config("fpn", pyramid_width=64, width=64, **mobile),
        "upernet_mobilenet_v2": model_config("upernet", width=48, **mobile),
    }
    models = _narrow() | heads
    begun = {
        name: models[name.removesuffix("_pretrained")]
        for name in GROUPS["Heads on a pretrained backbone"]
    }
    study = _photographs({**begun, scratch: _narrow()[scratch]}, **LONG)
    return dataclasses.replace(study, begins={scratch: ""})


LONG = {"steps": 2000, "validate_every_steps": 500, "seeds": (0, 1, 2, 3, 4)}


def dubai_long() -> Study:
    """The same with 2,000 steps and five seeds, until validation hardly gains; a day on two CPU
    cores, in as many sittings as it takes.

    Squeeze and excitation has a quarter of the channels in its hidden layer instead of a sixteenth,
    which would be one unit in the first stages of networks so narrow.
    """
    models = _narrow()
    for name in ("asymmetric_unet", "unet_se"):
        models[name].reduction = 4
    return _photographs(models, **LONG)


def _photographs(
    models: dict,
    steps: int = 400,
    validate_every_steps: int = 100,
    seeds: tuple[int, ...] = (0, 1, 2),
) -> Study:
    return _study(
        models,
        seeds,
        data=lambda: DataConfig(source="dubai"),
        augmentation=lambda: AugmentationConfig(scale_range=(0.6, 1.65)),
        training=lambda: TrainingConfig(
            steps=steps, batch_size=4, validate_every_steps=validate_every_steps
        ),
        optimizer=lambda: OptimizerConfig(
            learning_rate=3e-3, warmup_steps=steps // 10, weight_decay=1e-2
        ),
        evaluation=lambda: EvaluationConfig(window_px=(512, 512), context_px=32, batch_size=1),
    )


def dubai_whole() -> Study:
    """The same at the papers' sizes, 10,000 steps of 16 crops, five seeds; for an accelerator."""
    return _study(
        _whole(),
        (0, 1, 2, 3, 4),
        data=lambda: DataConfig(source="dubai"),
        augmentation=lambda: AugmentationConfig(scale_range=(0.6, 1.65)),
        training=lambda: TrainingConfig(
            steps=10_000, batch_size=16, validate_every_steps=500, log_every_steps=50
        ),
        optimizer=lambda: OptimizerConfig(learning_rate=1e-3, warmup_steps=500, weight_decay=1e-2),
        evaluation=lambda: EvaluationConfig(window_px=(512, 512), context_px=64, batch_size=8),
    )


STUDIES = {
    "default": default,
    "smoke": smoke,
    "dubai": dubai,
    "dubai_long": dubai_long,
    "heads": heads,
    "pretrained": pretrained,
    "pretrained_long": pretrained_long,
    "pretrained_heads": pretrained_heads,
    "dubai_whole": dubai_whole,
}


def conclude(folder: Path, records: list) -> None:
    """Compares all finished runs of the study's folder, the peers' among them; its pages lie beside
    the runs."""
    from cnn_jax.records.run_record import records_in
    from cnn_jax.reporting import comparison

    workdir = folder.parent
    compared = comparison.compare(records_in([workdir], unfinished=True), groups=GROUPS)
    for path in comparison.write(compared, workdir):
        print(path)
    for group in compared.groups:
        print(f"{group.title or 'All variants'}: {group.verdict}")


if __name__ == "__main__":
    sys.exit(main("experiments.aerial_compare", STUDIES, conclude))
