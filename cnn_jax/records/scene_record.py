"""Test scenes one by one, kept beside a run's summary: what comparisons pair and show."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from cnn_jax.data.scenes import IGNORED
from cnn_jax.reporting.resizing import displayable, reduced

SHOWN = 12
"""So many scenes at most are kept as pictures."""

LONGEST_PX = 360
"""The longer side of a picture."""


def shown(scenes: int) -> list[int]:
    """The scenes, of so many, that are kept as pictures: spread evenly, the same for every run."""
    return sorted(set(np.linspace(0, scenes - 1, min(scenes, SHOWN)).round().astype(int).tolist()))


def thumbnail(picture: np.ndarray) -> np.ndarray:
    """A photograph uint8 `[height, width, 3]` or a mask `[height, width]` at the size it is kept;
    masks are never interpolated."""
    return reduced(picture, LONGEST_PX)


def write(
    folder: Path, scenes, evaluation, classes: Sequence, predictions: Mapping[int, np.ndarray]
) -> None:
    """Writes scenes.json (names, sizes, confusion matrices, boundary counts) and scenes/
    (photograph, truth, prediction).

    Args:
        folder: of the run.
        scenes: the test split, decoded.
        evaluation: of it, with boundaries.
        classes: names and colours.
        predictions: scene -> thumbnail of the prediction.

    Raises:
        OSError: the disk is full or the folder can't be written.
    """
    entries = [
        {
            "name": scene.name,
            "height_px": scene.height_px,
            "width_px": scene.width_px,
            "confusion": confusion.tolist(),
            "boundary": boundary.tolist(),
        }
        for scene, confusion, boundary in zip(
            scenes.scenes, evaluation.confusion, evaluation.boundary, strict=True
        )
    ]
    colors = ["#{:02X}{:02X}{:02X}".format(*c.color) for c in classes]
    content = {
        "split": "test",
        "classes": [c.name for c in classes],
        "colors": colors,
        "scenes": entries,
    }
    pictures = folder / "scenes"
    shutil.rmtree(pictures, ignore_errors=True)
    pictures.mkdir()
    palette = np.zeros((256, 3), np.uint8)  # ignored pixels are black
    palette[: len(classes)] = [c.color for c in classes]
    for index, prediction in predictions.items():
        image, truth = scenes[index]
        Image.fromarray(thumbnail(displayable(image))).save(
            pictures / f"{index:03d}-image.jpg", quality=80
        )
        truth = thumbnail(truth)
        for name, mask in (
            ("truth", truth),
            ("prediction", np.where(truth == IGNORED, IGNORED, prediction)),
        ):
            picture = Image.fromarray(mask.astype(np.uint8), mode="P")
            picture.putpalette(palette.tobytes())
            picture.save(pictures / f"{index:03d}-{name}.png", optimize=True)
    partial = folder / "scenes.json.partial"
    partial.write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(folder / "scenes.json")
