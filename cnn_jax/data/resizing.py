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
    """A scene as pictures take it: image uint8 `[height, width, 3]` and masks `[height, width]`, no
    longer than `PICTURED_PX`.

    Several whole scenes of 20,000 x 20,000 px would not fit into memory together.
    """
    return [reduced(array, PICTURED_PX) for array in (image, *masks)]


def reduced(picture: np.ndarray, longest_px: int) -> np.ndarray:
    """A photograph or a mask with no side longer than this; masks are never interpolated."""
    height, width = picture.shape[:2]
    scale = min(longest_px / max(height, width), 1)
    how = Image.Resampling.BOX if picture.ndim == 3 else Image.Resampling.NEAREST
    return resized(picture, max(round(height * scale), 1), max(round(width * scale), 1), how)
