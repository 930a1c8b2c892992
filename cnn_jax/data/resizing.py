"""Pictures made smaller, the largest a strip at a time."""

import math

import numpy as np
from PIL import Image

AT_ONCE_PX = 2**24
"""So much of a picture is held a second time while it is resized: at most four bytes a pixel."""

PICTURED_PX = 1024
"""No picture shows a scene larger than this on its longer side."""


def resized(
    picture: np.ndarray, height_px: int, width_px: int, how: Image.Resampling
) -> np.ndarray:
    """A photograph uint8 `[height, width, 3]` or a mask `[height, width]` in another size, by one
    of Pillow's filters."""
    height, width = picture.shape[:2]
    scale = height / height_px
    rows = max(1, int(AT_ONCE_PX / (width * scale)))
    strips = []
    for top in range(0, height_px, rows):
        bottom = min(top + rows, height_px)
        first, last = int(top * scale), min(math.ceil(bottom * scale), height)
        box = (0, top * scale - first, width, min(bottom * scale - first, last - first))
        strips.append(
            np.asarray(
                Image.fromarray(picture[first:last]).resize((width_px, bottom - top), how, box=box)
            )
        )
    return np.concatenate(strips) if len(strips) > 1 else strips[0]


def pictured(image: np.ndarray, *masks: np.ndarray) -> list[np.ndarray]:
    """A scene as pictures take it: its image `[height, width, channels]` of any type as uint8
    `[height, width, 3]` and masks `[height, width]`, no longer than `PICTURED_PX`.

    Several whole scenes of 20,000 x 20,000 px would not fit into memory together.
    """
    return [reduced(array, PICTURED_PX) for array in (displayable(image), *masks)]


def displayable(image: np.ndarray) -> np.ndarray:
    """An image `[height, width, channels]` of any type as red, green and blue: uint8 `[height,
    width, 3]`.

    Of four and more channels they are the first three; of one and two, the first is grey. Values of
    8 bits are as they are; others are stretched, each channel from its 2nd to its 98th percentile.
    """
    image = image[..., :3] if image.shape[-1] >= 3 else np.repeat(image[..., :1], 3, axis=-1)
    if image.dtype == np.uint8:
        return image
    every = max(1, math.isqrt(image.shape[0] * image.shape[1] // 2**20))
    low, high = np.percentile(image[::every, ::every].astype(np.float64), (2, 98), axis=(0, 1))
    shown = np.empty(image.shape, np.uint8)
    rows = max(1, AT_ONCE_PX // (8 * image.shape[1]))
    for top in range(0, len(image), rows):
        part = (image[top : top + rows] - low) / np.maximum(high - low, 1e-12)
        shown[top : top + rows] = np.rint(np.clip(part, 0, 1) * 255)
    return shown


def reduced(picture: np.ndarray, longest_px: int) -> np.ndarray:
    """A photograph or a mask with no side longer than this; masks are never interpolated."""
    height, width = picture.shape[:2]
    scale = min(longest_px / max(height, width), 1)
    how = Image.Resampling.BOX if picture.ndim == 3 else Image.Resampling.NEAREST
    return resized(picture, max(round(height * scale), 1), max(round(width * scale), 1), how)
