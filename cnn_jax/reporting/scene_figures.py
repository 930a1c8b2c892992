"""Pictures of segmented scenes: examples with their errors, and the data itself.

Nothing is said by hue alone. Regions carry the number of their class and an outline; ignored pixels
are hatched; errors are bright on dark.
"""

import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import scipy
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke

from cnn_jax.data.scenes import IGNORED
from cnn_jax.reporting.image_figures import swatch
from cnn_jax.reporting.mosaic import fit, mosaic, panel_px
from cnn_jax.reporting.style import label, style

ERROR_COLOR = (255, 176, 0)
"""Wrong pixels: far brighter than the dimmed photograph under them, so they stand out in grey
too."""

_OTHER_ERROR_COLORS = ((0, 255, 255), (255, 128, 255), (170, 255, 0), (255, 255, 255))
_APART = 60
"""Colours nearer than this (in RGB) could be taken for each other."""

_HATCH_LIGHT, _HATCH_DARK = 225, 120
_OUTLINE = (20, 20, 20)


def gallery(
    images: Sequence[np.ndarray],
    truths: Sequence[np.ndarray],
    predictions: Sequence[np.ndarray],
    class_names: Sequence[str],
    colors: Sequence[tuple[int, int, int]],
    path: str | Path,
    titles: Sequence[str] | None = None,
) -> None:
    """Draw one example a row: the image, its truth, the prediction, and where the two differ.

    `images` are uint8 [height, width, 3], `truths` and `predictions` uint8 [height, width] with
    class indices or `IGNORED`, each row of its own size; all are shrunk or enlarged to the same
    width (masks by nearest neighbour). `colors` are sRGB, 0 to 255, in the order of `class_names`.
    `titles`, one a row, stand above the rows. The PNG is written to `path`; six rows of photographs
    stay under 1.5 MB, and more rows are drawn smaller.

    Raises `ValueError` if there is no row, or if lengths, shapes or class indices don't agree.
    """
    titles = titles or [""] * len(images)
    rows = list(zip(images, truths, predictions, titles, strict=True))
    for image, truth, prediction, _ in rows:
        check(image, truth, class_names, colors)
        check(image, prediction, class_names, colors)
    width_px = panel_px(2 * len(rows), images)
    wrong = error_color(colors)

    cells = []
    for image, truth, prediction, title in rows:
        image, truth, prediction = fit(image, truth, prediction, panel_px=width_px)
        panels = (
            (image, None),
            (paint(truth, colors), numbers(truth, colors)),
            (paint(prediction, colors), numbers(prediction, colors)),
            (paint_errors(image, truth, prediction, wrong), None),
        )
        cells.append((title, panels))
    ignored = any((mask == IGNORED).any() for mask in (*truths, *predictions))
    with style():
        handles = [*class_swatches(class_names, colors), *ignored_swatch(ignored)]
        handles.append(swatch(_unit(wrong), "wrong"))
        mosaic(cells, path, headings=("Image", "Truth", "Prediction", "Errors"), handles=handles)


def contact_sheet(
    images: Sequence[np.ndarray],
    masks: Sequence[np.ndarray],
    class_names: Sequence[str],
    colors: Sequence[tuple[int, int, int]],
    path: str | Path,
    titles: Sequence[str] | None = None,
) -> None:
    """Draw images in a grid, each beside the same image under its mask.

    `images` are uint8 [height, width, 3], `masks` uint8 [height, width] with class indices or
    `IGNORED`, in any sizes. `colors` are sRGB, 0 to 255, in the order of `class_names`. `titles`
    stand above the images. The PNG is written to `path`; the more images, the smaller each.

    Raises `ValueError` if there is no image, or if lengths, shapes or class indices don't agree.
    """
    titles = titles or [""] * len(images)
    cells = []
    width_px = panel_px(2 * len(images), images)
    for image, mask, title in zip(images, masks, titles, strict=True):
        check(image, mask, class_names, colors)
        image, mask = fit(image, mask, panel_px=width_px)
        cells.append(
            (title, ((image, None), (_overlay(image, mask, colors), numbers(mask, colors))))
        )
    ignored = any((mask == IGNORED).any() for mask in masks)
    pairs = max(1, round(math.sqrt(len(cells) / 2)))
    with style():
        handles = [*class_swatches(class_names, colors), *ignored_swatch(ignored)]
        mosaic(
            cells, path, headings=("Image", "Mask") * pairs, cells_per_row=pairs, handles=handles
        )


def paint(mask: np.ndarray, colors: Sequence[tuple[int, int, int]]) -> np.ndarray:
    """Colour a mask: uint8 [height, width] of class indices or `IGNORED` to uint8 [height, width,
    3].

    Classes get `colors` (sRGB, 0 to 255) with a dark line, one pixel wide, between regions at
    least three pixels wide; ignored pixels are hatched grey.
    """
    table = np.zeros((256, 3), np.uint8)
    table[: len(colors)] = colors
    painted = table[mask]
    # Lines around specks, as in a network's first guesses, would leave nothing of the colours.
    inside = scipy.ndimage.maximum_filter(mask, 3) == scipy.ndimage.minimum_filter(mask, 3)
    wide = scipy.ndimage.binary_dilation(inside, np.ones((3, 3)))
    border = np.zeros(mask.shape, bool)
    border[:, :-1] |= (mask[:, :-1] != mask[:, 1:]) & wide[:, :-1] & wide[:, 1:]
    border[:-1] |= (mask[:-1] != mask[1:]) & wide[:-1] & wide[1:]
    painted[border] = _OUTLINE
    hatch(painted, mask == IGNORED)
    return painted


def error_color(colors: Sequence[tuple[int, int, int]]) -> tuple[int, int, int]:
    """The colour of wrong pixels that no class has: `ERROR_COLOR` where none is near it, else the
    next bright colour, or that which is farthest from all."""

    def distance(color):
        return min((math.dist(color, other) for other in colors), default=math.inf)

    candidates = (ERROR_COLOR, *_OTHER_ERROR_COLORS)
    return next((c for c in candidates if distance(c) >= _APART), max(candidates, key=distance))


def paint_errors(
    image: np.ndarray,
    truth: np.ndarray,
    prediction: np.ndarray,
    color: tuple[int, int, int] = ERROR_COLOR,
) -> np.ndarray:
    """Show where a prediction is wrong: uint8 [height, width, 3], from an image of that shape and
    two masks [height, width].

    Wrong pixels have the `color`, pixels that truth ignores are hatched, and the rest is the image
    in dark grey.
    """
    # Steps of four: nobody sees them in so dark a grey, and the file is smaller.
    grey = (luminance(image) * 0.45).astype(np.uint8) & 0xFC
    painted = np.repeat(grey[..., None], 3, axis=-1)
    painted[truth != prediction] = color
    hatch(painted, truth == IGNORED)
    return painted


def _overlay(
    image: np.ndarray, mask: np.ndarray, colors: Sequence[tuple[int, int, int]]
) -> np.ndarray:
    """The mask's colours over the image, which only lends light and shade, so that dark water keeps
    the colour of its class."""
    painted = paint(mask, colors)
    shade = 96 + luminance(image) * (159 / 255)
    blended = (0.65 * painted + 0.35 * shade[..., None]).astype(np.uint8) & 0xFC
    blended[mask == IGNORED] = painted[mask == IGNORED]
    return blended


def luminance(image: np.ndarray) -> np.ndarray:
    """Float32 `[height, width]`, 0 to 255, of colours `[height, width, 3]`."""
    return image.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)


def hatch(painted: np.ndarray, where: np.ndarray) -> None:
    """Fill the pixels `where` with grey diagonal stripes, in place."""
    row, column = np.indices(where.shape)
    stripes = np.where((row + column) % 8 < 2, _HATCH_DARK, _HATCH_LIGHT).astype(np.uint8)
    painted[where] = stripes[where, None]


def numbers(mask: np.ndarray, colors: Sequence[tuple[int, int, int]]) -> Callable[[Axes], None]:
    """What to draw over a mask's panel."""
    return functools.partial(_number_regions, mask=mask, colors=colors)


def _number_regions(
    axes: Axes, *, mask: np.ndarray, colors: Sequence[tuple[int, int, int]]
) -> None:
    """Write the class index into the largest regions of a mask, where they are widest."""
    halo = [withStroke(linewidth=1.6, foreground="white")]
    for index in range(len(colors)):
        regions, count = scipy.ndimage.label(mask == index)
        if not count:
            continue
        sizes = np.bincount(regions.ravel())[1:]
        for rank, region in enumerate((np.argsort(-sizes, kind="stable")[:4] + 1).tolist()):
            # The frame counts as a border, or numbers would be cut in half by it.
            depth = scipy.ndimage.distance_transform_edt(np.pad(regions == region, 1))[1:-1, 1:-1]
            row, column = np.unravel_index(depth.argmax(), depth.shape)
            # A class's largest region may be a tight fit; the others must have room, or numbers
            # would hide them.
            if depth[row, column] >= (4 if rank == 0 else 8):
                axes.text(
                    column,
                    row,
                    str(index),
                    ha="center",
                    va="center",
                    fontsize=6,
                    fontweight="bold",
                    path_effects=halo,
                )


def class_swatches(
    class_names: Sequence[str], colors: Sequence[tuple[int, int, int]]
) -> list[Patch]:
    """The entries of a legend: number, name and colour of each class."""
    return [
        swatch(_unit(color), f"{index} {label(name, 40)}")
        for index, (name, color) in enumerate(zip(class_names, colors, strict=True))
    ]


def ignored_swatch(present: bool) -> list[Patch]:
    """The entry of ignored pixels in a legend, where there are any."""
    light, dark = (str(shade / 255) for shade in (_HATCH_LIGHT, _HATCH_DARK))  # greys
    patch = Patch(facecolor=light, edgecolor=dark, hatch="/////", linewidth=0.6, label="ignored")
    return [patch] if present else []


def check(
    image: np.ndarray,
    mask: np.ndarray,
    class_names: Sequence[str],
    colors: Sequence[tuple[int, int, int]],
) -> None:
    """Raises ValueError unless image and mask are of one scene and of these classes."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"an image is uint8 [height, width, 3], not {image.dtype} {image.shape}")
    if mask.shape != image.shape[:2] or mask.dtype != np.uint8:
        raise ValueError(
            f"the mask of an image {image.shape} is uint8 {image.shape[:2]}, not {mask.dtype}"
            f" {mask.shape}"
        )
    if len(class_names) != len(colors):
        raise ValueError(f"{len(class_names)} class names need as many colours, not {len(colors)}")
    unknown = np.setdiff1d(np.unique(mask), [*range(len(colors)), IGNORED])
    if unknown.size:
        raise ValueError(
            f"mask values {unknown.tolist()} are neither one of {len(colors)} classes nor {IGNORED}"
            " (ignored)"
        )


def _unit(color: tuple[int, int, int]) -> tuple[float, ...]:
    return tuple(channel / 255 for channel in color)
