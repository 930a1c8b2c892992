"""What a network needs to know of its data, and a record keeps of them: no paths and no pixels."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True)
class DatasetInfo:
    """A data set in words and numbers.

    Attributes:
        source: its name: "synthetic", "dubai", "mnist", or the stem of a TOML description.
        classes: their names, in the order of their labels.
        colors: of each class, red, green and blue from 0 to 255; empty where none are known.
        channels: of an image.
        dtype: of an image's values as files store them: "uint8", "uint16", "float32", ...
        greatest: the value of an image that becomes 1: of integers the greatest of `dtype`, unless
            the description says otherwise; 1 of floating-point numbers, which stay as they are.
        mean: subtracted from each channel, on the scale on which `greatest` is 1.
        std: each channel is then divided by it.
        class_counts: pixels, or images, of each class in training.
        sizes: examples (scenes, images) of each split.
        image_px: height and width that all images have; None where they differ.
        fingerprint: of pixels, labels and splits.
        description: of the folder, as read from its TOML; None where there is none.
    """

    source: str
    classes: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]
    channels: int
    dtype: str
    greatest: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_counts: tuple[int, ...]
    sizes: Mapping[str, int]
    image_px: tuple[int, int] | None
    fingerprint: str
    description: Mapping[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "DatasetInfo":
        """What `to_dict` gave; fields that are not known here are passed over."""
        known = {field.name: values[field.name] for field in fields(cls) if field.name in values}
        for name in ("classes", "mean", "std", "class_counts", "image_px"):
            known[name] = None if known[name] is None else tuple(known[name])
        known["colors"] = tuple(tuple(color) for color in known["colors"])
        return cls(**known)

    @property
    def bands(self) -> tuple[int, ...]:
        """Numbers from 1 of the files' bands that the channels are, as a description names them;
        empty: all that a file has."""
        return tuple((self.description or {}).get("bands", ()))
