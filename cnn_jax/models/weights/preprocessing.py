"""What published networks were trained to see: values, size and crop of an image."""

from dataclasses import dataclass

INTERPOLATIONS = ("bilinear", "bicubic", "nearest")


@dataclass(frozen=True)
class Preprocessing:
    """From a picture of any size to what a network sees.

    Attributes:
        mean: subtracted from red, green and blue, which lie between 0 and 1.
        std: each is then divided by it.
        image_px: height and width.
        crop_share: of the shorter side, kept by the central crop that is resized.
        interpolation: of `INTERPOLATIONS`.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_px: tuple[int, int]
    crop_share: float = 0.875
    interpolation: str = "bilinear"


VALUES: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "tf": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "torch": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "caffe": ((123.68 / 255, 116.779 / 255, 103.939 / 255), (1 / 255, 1 / 255, 1 / 255)),
}
"""Keras's names for the three ways in use: -1 to 1, mean 0 and deviation 1, and 0 to 255 less the
mean. The last has its channels as blue, green, red: the first kernels of such networks are turned
when they are read, and take red, green, blue like all others."""


def values_of(source: str, family: str) -> str:
    """Which of `VALUES` a source's networks of a family were trained with.

    torchvision's GoogLeNet and Inception came from TensorFlow, and turn the values themselves.
    """
    if source == "keras":
        known = {"vgg": "caffe", "resnet": "caffe", "densenet": "torch"}
        return known.get(family, "tf")
    return "tf" if family in ("googlenet", "inception_v3", "xception") else "torch"
