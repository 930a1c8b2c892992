"""The networks that benchmarks measure, by name: ours, and the same in PyTorch with as many
parameters."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

RATES = (6, 12, 18)
"""Of DeepLabV3+'s ASPP, the paper's at output stride 16."""


def unet(size_px: Sequence[int], classes: int, base_width: int) -> Any:
    """The U-Net of `twins`."""
    from cnn_jax.benchmarks import twins

    return twins.UNet(classes, base_width)


def tiny(size_px: Sequence[int], classes: int) -> Any:
    """A U-Net of one level and two channels."""
    from cnn_jax.benchmarks import twins

    return twins.UNet(classes, 2, depth=1)


def asymmetric_unet(size_px: Sequence[int], classes: int, base_width: int) -> Any:
    """The asymmetric U-Net of `twins`, its rates those that ours take for this size."""
    from cnn_jax.benchmarks import twins
    from cnn_jax.layers.aspp import rates_for

    return twins.UNet(classes, base_width, rates=rates_for([-(-size // 16) for size in size_px]))


def deeplabv3plus(size_px: Sequence[int], classes: int, encoder: str) -> Any:
    """DeepLabV3+ of segmentation_models_pytorch, whose 3x3 convolutions after the backbone are
    separable."""
    from cnn_jax.tasks.torch_segmentation import libraries

    _, smp = libraries()
    return smp.DeepLabV3Plus(
        encoder_name=encoder,
        encoder_weights=None,
        encoder_output_stride=16,
        decoder_atrous_rates=RATES,
        classes=classes,
    )


def resnet50(size_px: Sequence[int], classes: int) -> Any:
    """ResNet-50 of torchvision."""
    from cnn_jax.tasks.torch_segmentation import libraries

    libraries()
    import torchvision

    return torchvision.models.resnet50(weights=None, num_classes=classes)


@dataclass(frozen=True)
class Network:
    """One network on both sides.

    Attributes:
        model: its name in `cnn_jax.models.MODELS`, and
        options: of it.
        twin: `(size_px, classes) -> PyTorch module`.
        classes: of the logits, unless the data have others.
        dense: whether it labels every pixel; else the image.
    """

    model: str
    options: dict
    twin: Callable
    classes: int = 5
    dense: bool = True


def _by_width(model, twin, base_width):
    return Network(
        model, {"base_width": base_width}, functools.partial(twin, base_width=base_width)
    )


def _deeplabv3plus(encoder):
    options = {"encoder": encoder, "output_stride": 16, "separable": True, "rates": RATES}
    return Network("deeplabv3plus", options, functools.partial(deeplabv3plus, encoder=encoder))


NETWORKS = {
    "unet16": _by_width("unet", unet, 16),
    "unet32": _by_width("unet", unet, 32),
    "unet64": _by_width("unet", unet, 64),
    "asymmetric_unet16": _by_width("asymmetric_unet", asymmetric_unet, 16),
    "asymmetric_unet64": _by_width("asymmetric_unet", asymmetric_unet, 64),
    "deeplabv3plus_resnet50": _deeplabv3plus("resnet50"),
    "deeplabv3plus_mobilenet_v2": _deeplabv3plus("mobilenet_v2"),
    "resnet50": Network("resnet50", {}, resnet50, classes=1000, dense=False),
}
"""Name -> network; a number after U-Net is the width of its first stage."""

MEASURED = tuple(NETWORKS)
"""All but the one that follows, which is for rehearsals."""

NETWORKS["tiny"] = Network("unet", {"base_width": 2, "depth": 1}, tiny)


def ours(
    name: str, size_px: Sequence[int], dtype: str = "float32", classes: int | None = None
) -> Any:
    """The Flax module for images of that height and width, computing in `dtype`."""
    from cnn_jax import tasks

    network = NETWORKS[name]
    section = tasks.model_config(network.model, **network.options, dtype=dtype)
    return tasks.build_model(
        section, num_classes=classes or network.classes, crop_px=tuple(size_px)
    )


def theirs(name: str, size_px: Sequence[int], classes: int | None = None) -> Any:
    """The PyTorch module for images `[batch, 3, height, width]` of that size, its weights
    random."""
    return NETWORKS[name].twin(tuple(size_px), classes or NETWORKS[name].classes)


def data_info(classes: int) -> Any:
    """The `DatasetInfo` of random bytes with three channels, as a learner is made of it."""
    from cnn_jax.data.dataset_info import DatasetInfo

    return DatasetInfo(
        source="synthetic",
        classes=tuple(map(str, range(classes))),
        colors=((0, 0, 0),) * classes,
        channels=3,
        dtype="uint8",
        greatest=255.0,
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
        class_counts=(1,) * classes,
        sizes={},
        image_px=None,
        fingerprint="",
    )
