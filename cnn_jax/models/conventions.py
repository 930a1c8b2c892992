"""What the same architecture does otherwise from library to library, with weights that fit both.

Weights that are carried over without it fit every shape, and are wrong: by how strided convolutions
are padded, what is added to variances, where pooling begins. Each such difference is an option of
our modules; here stands which source has which.
"""

from collections.abc import Mapping
from typing import Any

CONVENTIONS = ("ours", "keras", "torchvision", "timm", "timm_tf", "smp", "akamaster")
"""The sources that are known by name; segmentation_models.pytorch is called smp, and
pytorch_resnet_cifar10 by its author's name. timm_tf are timm's networks whose names begin with tf_,
which pad and normalise as TensorFlow does; their tensors are named as those of the others are."""

_PYTORCH_MOBILE = {"padding": "SYMMETRIC", "epsilon": 1e-5}
_PYTORCH_VGG = {"rounding": "down", "pooled_px": 7}
_PYTORCH_INCEPTION = {"norm_scale": True, "count_padding": True}
_CAFFE_RESNET = {"downsample_in": "1x1", "pool_padding": "END"}
_PYTORCH_CONVNEXT = {
    f"convnext_{size}": {"rounding": "down"}
    for size in ("tiny", "small", "base", "large", "xlarge")
}
_KERAS_EPSILON = {"epsilon": 1.001e-5}

_OPTIONS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "keras": {
        "vgg": {"rounding": "down"},
        "resnet": {**_KERAS_EPSILON, "downsample_in": "1x1"},
        "densenet": {**_KERAS_EPSILON, "rounding": "down"},
        "mobilenet": {"padding": "END"},
    },
    "torchvision": {
        "alexnet": {"pooled_px": 6},
        "vgg": _PYTORCH_VGG,
        "googlenet": {"origin": "torchvision"},
        "inception_v3": _PYTORCH_INCEPTION,
        "mobilenet_v2": _PYTORCH_MOBILE,
        "densenet": {"rounding": "down"},
        "deeplabv3": {"pooled_norm": "batch"},
        "efficientnet_b": _PYTORCH_MOBILE,
        **{f"efficientnet_b{n}": {"padding": "SYMMETRIC", "epsilon": 1e-3} for n in (5, 6, 7)},
        **_PYTORCH_CONVNEXT,
    },
    "timm": {
        "vgg": _PYTORCH_VGG,
        "inception_v3": _PYTORCH_INCEPTION,
        "mobilenet": _PYTORCH_MOBILE,
        "mobilenet_v2": _PYTORCH_MOBILE,
        "densenet": {"rounding": "down"},
        "xception": {"pool_padding": "SYMMETRIC", "epsilon": 1e-5},
        "efficientnet_b": _PYTORCH_MOBILE,
        **_PYTORCH_CONVNEXT,
    },
    "smp": {
        "vgg": {"rounding": "down"},
        "mobilenet_v2": _PYTORCH_MOBILE,
        "densenet": {"rounding": "down"},
        "se_resnet": _CAFFE_RESNET,
        "efficientnet_b": _PYTORCH_MOBILE,
        "xception": {"padding": "SYMMETRIC", "pool_padding": "SYMMETRIC", "epsilon": 1e-5},
    },
    "akamaster": {"cifar_resnet": {"shortcut": "around"}},
}
"""Source -> family of architectures, or one of it that differs from the others -> options of its
module that differ from ours."""


def family(name: str) -> str:
    """Of an architecture in `MODELS`: members differ in nothing but depth."""
    if name in ("resnet20", "resnet32", "resnet44", "resnet56", "resnet110"):
        return "cifar_resnet"
    if name in ("alexnet_two_groups", "inception_v3", "mobilenet_v2", "deeplabv3"):
        return name
    return name.rstrip("0123456789")


def options(name: str, conventions: str) -> dict[str, Any]:
    """The options with which an architecture computes what that source's does.

    Args:
        name: of the architecture, in `MODELS`.
        conventions: of `CONVENTIONS`.
    """
    held = _OPTIONS.get(conventions, {})
    return dict(held.get(name, held.get(family(name), {})))


def encoder_options(name: str, conventions: str) -> dict[str, Any]:
    """The same of an architecture without its head, as the encoder of a segmenter.

    Sizes are rounded up whatever the source does: that changes values at the edges of maps with an
    odd side alone, and a segmenter's images may have any size.
    """
    found = options(name, conventions)
    return {key: value for key, value in found.items() if key not in ("rounding", "pooled_px")}
