"""Images whose values, or palette's colours, are classes, 0 being none and 255 what counts nowhere:
each connected area becomes an object, as far as such a mask can tell."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import scipy
from PIL import Image

from cnn_jax.data import objects
from cnn_jax.data.annotations import index_masks
from cnn_jax.data.annotations.files import MOST_CLASSES, beside
from cnn_jax.data.objects import AnnotatedImage, AnnotationSet, Report

VOID = 255


def read(path: Path, images: Path | None, classes: Sequence[str], report: Report) -> AnnotationSet:
    """As `annotations.read`."""
    found, most = [], 0
    for name, values in index_masks.masks(path, images, VOID):
        every = []
        for value in np.unique(values).tolist():
            if value == 0:
                continue
            areas, count = scipy.ndimage.label(values == value)
            crowd = value == VOID
            label = 0 if crowd else value - 1
            known = len(classes) or MOST_CLASSES
            if label >= known:
                report(
                    f"{path}: {name} has the value {value}, and there are at most {known:,}"
                    " classes: correct it, or name more."
                )
                continue
            most = most if crowd else max(most, value)
            for one in objects.of_map(areas, dict.fromkeys(range(1, count + 1), label)):
                every.append(objects.replace(one, crowd=crowd, id=None))
        height, width = values.shape
        found.append(AnnotatedImage(name, height, width, tuple(every)))
    names = tuple(classes) or tuple(f"class {value}" for value in range(1, max(most, 1) + 1))

    def of_each(one):
        # A crowd takes in what is found of its class alone, and this is to take in every class.
        labels = range(len(names)) if one.crowd else (one.label,)
        return [objects.replace(one, label=label) for label in labels]

    every = (
        objects.replace(image, objects=tuple(o for one in image.objects for o in of_each(one)))
        for image in found
    )
    return AnnotationSet(names, tuple(every))


def colors(count: int) -> list[tuple[int, int, int]]:
    """Pascal VOC's palette: neighbours in number are far apart in colour."""
    found = []
    for index in range(count):
        color = [0, 0, 0]
        for bit in range(8):
            for channel in range(3):
                color[channel] |= (index >> (3 * bit + channel) & 1) << (7 - bit)
        found.append(tuple(color))
    return found


def write(found: AnnotationSet, path: Path, images: Path | None = None) -> None:
    """As `annotations.write`: a folder of PNGs with Pascal VOC's palette."""
    path.mkdir(exist_ok=True)
    palette = bytes(np.array(colors(256), np.uint8).ravel())
    for image in found.images:
        numbers = objects.number_map(image)
        values = np.array([0, *(one.label + 1 for one in image.objects)], np.uint8)
        painted = np.where(numbers < 0, VOID, values[np.maximum(numbers, 0)]).astype(np.uint8)
        picture = Image.fromarray(painted)
        picture.putpalette(palette)
        picture.save(beside(Path(image.name), path, ".png"))
