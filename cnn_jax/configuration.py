"""Typed configurations: what a run is made of, read from the command line or from a record."""
# Field types are read at run time by ml_collections, so annotations must stay real types here.

import dataclasses
from dataclasses import dataclass, field


def setting(default, help, *, unit="", choices=()):
    """A configuration field with its default, what it means, its unit, and the values allowed where there are few."""
    metadata = {"help": help, "unit": unit, "choices": tuple(choices)}
    if dataclasses.is_dataclass(default) and isinstance(default, type):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class DataConfig:
    """Which scenes, and how they become training crops."""

    source: str = setting("synthetic", "synthetic, the name of a built-in description, or the path of a TOML description")
    directory: str = setting("", "folder that holds the photographs; not used by synthetic")
    test_groups: tuple[str, ...] = setting((), "groups (tiles, sequences) for test; empty: the description's")
    validation_groups: tuple[str, ...] = setting((), "groups (tiles, sequences) for validation; empty: the description's")
    unknown_colors: str = setting("error", "what to do with a mask value outside the palette", choices=("error", "ignore"))
    crop_px: tuple[int, int] = setting((144, 256), "height and width of a training crop", unit="px")
    mean: tuple[float, float, float] = setting((0.5, 0.5, 0.5), "subtracted from red, green, blue", unit="0 to 1")
    std: tuple[float, float, float] = setting((0.25, 0.25, 0.25), "then divided by", unit="0 to 1")
    memory_budget_gib: float = setting(4.0, "decoded scenes kept in memory up to this; the rest is decoded at each use", unit="GiB")
    prefetch_batches: int = setting(4, "batches read ahead on the host; changes no result", unit="batches")
    scene_px: tuple[int, int] = setting((288, 512), "synthetic only: height and width of a scene", unit="px")
    scene_counts: tuple[int, int, int] = setting((24, 4, 8), "synthetic only: training, validation and test scenes")


@dataclass
class AugmentationConfig:
    """Random changes made on the device to image and mask together; each with its probability and its range."""

    flip_horizontal_probability: float = setting(0.5, "mirror left and right")
    flip_vertical_probability: float = setting(0.5, "mirror top and bottom")
    quarter_turn_probability: float = setting(0.5, "turn by 90, 180 or 270 degrees, equally likely")
    rotation_probability: float = setting(0.0, "turn by any angle")
    rotation_degrees: float = setting(15.0, "largest angle either way", unit="degrees")
    scale_probability: float = setting(1.0, "zoom")
    scale_range: tuple[float, float] = setting((0.75, 1.5), "least and largest zoom, log-uniform; 2 doubles the size of things")
    brightness_probability: float = setting(0.5, "add to all channels")
    brightness_delta: float = setting(0.15, "largest amount added either way", unit="0 to 1")
    contrast_probability: float = setting(0.5, "stretch about the mean")
    contrast_range: tuple[float, float] = setting((0.75, 1.25), "least and largest factor")
    saturation_probability: float = setting(0.5, "move from or to grey")
    saturation_range: tuple[float, float] = setting((0.7, 1.3), "least and largest factor")
    hue_probability: float = setting(0.0, "turn the colour wheel")
    hue_delta: float = setting(0.03, "largest turn either way", unit="turns")
    blur_probability: float = setting(0.0, "Gaussian blur")
    blur_sigma_px: tuple[float, float] = setting((0.3, 1.2), "least and largest standard deviation", unit="px")
    noise_probability: float = setting(0.0, "Gaussian noise")
    noise_std: tuple[float, float] = setting((0.0, 0.05), "least and largest standard deviation", unit="0 to 1")
