"""Pictures of classification: what is mistaken for what, what the weights look for, and which
places speak for a class.

They are drawn from arrays alone; `cnn_jax.analysis.attribution` computes those that need the
network. Images are uint8 [height, width, 1 or 3]; small ones are enlarged by a whole number, so
that their pixels can be seen.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import ArrayLike
from PIL import Image

from cnn_jax.data.resizing import displayable
from cnn_jax.reporting.mosaic import Panel, fit, mosaic, panel_px
from cnn_jax.reporting.style import DPI, evenly, note, save, style

_HEAT = matplotlib.colormaps["inferno"]
# The heat's least bright colours are as dark as the image under them, so it begins where they stand
# out.
_HEAT_FROM = 0.35


class SupportsImages(Protocol):
    """Images that are fetched one by one, uint8 [height, width, 1 or 3]."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> np.ndarray: ...


def misclassified(
    images: SupportsImages,
    truths: ArrayLike,
    predictions: ArrayLike,
    probabilities: ArrayLike,
    class_names: Sequence[str],
    path: str | Path,
    count: int = 20,
    score: str = "probability",
) -> None:
    """Draw the `count` most confidently wrong examples, the surest first, each over its true class,
    the prediction, its probability.

    `images[i]` is uint8 [height, width, 1 or 3], fetched for those that are drawn alone; `truths`
    and `predictions` are class indices [examples], `probabilities` [examples] what the model gave
    its prediction, 0 to 1, or another score, which `score` then names. Where nothing is wrong the
    picture says so. The PNG is written to `path`.

    Raises `ValueError` if there is no example or lengths don't agree.
    """
    true, predicted, scores = (np.asarray(v) for v in (truths, predictions, probabilities))
    examples = len(images)
    if not examples or not len(true) == len(predicted) == len(scores) == examples:
        raise ValueError(
            f"{examples} images, {len(true)} truths, {len(predicted)} predictions,"
            f" {len(scores)} probabilities: as many of each are needed, and at least one"
        )
    wrong = np.flatnonzero(true != predicted)
    chosen = wrong[np.argsort(-scores[wrong], kind="stable")][:count].tolist()
    with style():
        if not len(chosen):
            _nothing(f"none of {examples:,} examples is wrong", path)
            return
        pictures = [_in_color(np.asarray(images[i])) for i in chosen]
        side = min(168, panel_px(len(chosen), pictures))
        cells = []
        for index, picture in zip(chosen, pictures, strict=True):
            right, given = class_names[int(true[index])], class_names[int(predicted[index])]
            title = f"{right}\n\N{RIGHTWARDS ARROW} {given}\n{_probability(float(scores[index]))}"
            cells.append((title, [(_panel(picture, side), None)]))
        columns = min(5, len(cells))
        caption = "The most confident of " if len(chosen) < len(wrong) else ""
        caption += (
            f"{len(wrong):,} {'error' if len(wrong) == 1 else 'errors'} among {examples:,}"
            " examples: "
        )
        caption += f"true class, \N{RIGHTWARDS ARROW} prediction and its {score}"
        mosaic(cells, path, headings=[""] * columns, cells_per_row=columns, caption=caption)


def filters(
    kernel: np.ndarray,
    path: str | Path,
    image_px: tuple[int, int] | None = None,
    channels: int | None = None,
    titles: Sequence[str] | None = None,
    count: int = 96,
) -> None:
    """Draw the filters of a first layer, each as the image it answers most to.

    `kernel` is float [height, width, channels, filters] of a convolution, or [height * width *
    channels, units] of a dense layer on images of `image_px` (height, width) and `channels`: for
    softmax regression the template of each class, for which `titles` may hold the names. With three
    channels weights are colours, with one grey; with any other number the mean over channels is
    drawn. Zero is mid-grey, and all filters share one scale, symmetric about zero, whose ends are
    the 99.5th percentile of the weights' sizes. The first `count` are drawn. The PNG is written to
    `path`.

    Raises `ValueError` if the shape isn't one of these, or doesn't match `image_px` and `channels`.
    """
    kernel = np.asarray(kernel, np.float32)
    if (
        kernel.ndim == 2
        and image_px is not None
        and channels is not None
        and len(kernel) == math.prod(image_px) * channels
    ):
        kernel = kernel.reshape(*image_px, channels, -1)
    if kernel.ndim != 4:
        raise ValueError(
            "a kernel is [height, width, channels, filters] or, with image_px and channels,"
            f" [height * width * channels, units]; {kernel.shape} with image_px {image_px} and"
            f" channels {channels} is neither"
        )
    height, width, depth, total = kernel.shape
    caption = f"{total:,} filters, {height}x{width}x{depth}"
    if total > count:
        caption = f"The first {count} of {caption}"
    if depth not in (1, 3):
        kernel = kernel.mean(2, keepdims=True)
        caption += ", mean over channels"
    kernel = kernel[..., :count]
    end = float(np.quantile(np.abs(kernel), 0.995)) or 1.0
    shades = np.clip(np.round(127.5 + 127.5 * kernel / end), 0, 255).astype(np.uint8)
    # Wide rows of small filters, and of several widths that which leaves the fewest places empty.
    side, widest, narrowest = (
        (64, 12, 6) if height <= 16 else (140, 5, 3) if total <= 10 else (96, 8, 5)
    )
    columns = min(range(widest, narrowest - 1, -1), key=lambda columns: -shades.shape[-1] % columns)
    titles = list(titles or [""] * total)
    cells = [
        (title, [(_panel(shades[..., i], side), None)])
        for i, title in zip(range(shades.shape[-1]), titles, strict=False)
    ]
    with style():
        ends = [(0, f"-{end:.2g} or less"), (0.5, "0"), (1, f"+{end:.2g} or more")]
        what = " in each of red, green and blue" if depth == 3 else ""
        handles = [swatch((shade,) * 3, text) for shade, text in ends]
        caption += f"; weight as shade{what}"
        mosaic(
            cells,
            path,
            headings=[""] * columns,
            cells_per_row=columns,
            handles=handles,
            caption=caption,
        )


def feature_maps(
    image: np.ndarray,
    maps: Mapping[str, np.ndarray],
    path: str | Path,
    channels: int = 8,
    *,
    most_rows: int = 8,
    side_px: int = 104,
    caption: str = "",
) -> None:
    """Draw what the layers of a network make of an image: a layer a row, in the order of `maps`,
    its strongest channels side by side.

    `image` is uint8 [height, width, 1 or 3], `maps` float [h, w, channels] by name, as of
    `attribution.feature_maps` or `level_maps`. Of more than `most_rows` layers so many are drawn,
    evenly spaced, the first and the last among them. The strongest `channels` of a layer are those
    that vary most over the image. A row shares one scale, from its least value (black) to its
    largest (white). The PNG is written to `path`; for no maps it holds a note.
    """
    with style():
        if not maps:
            _nothing("the network has no feature maps", path)
            return

        def panel(picture):
            return fit(_in_color(picture), panel_px=side_px)[0], None

        cells = [("image\n" + "x".join(map(str, image.shape)), [panel(image)])]
        for name in evenly(list(maps), most_rows):
            values = np.nan_to_num(np.asarray(maps[name], np.float32))
            strongest = np.argsort(-values.std((0, 1)), kind="stable")[:channels]
            drawn = values[..., strongest]
            low, high = float(drawn.min()), float(drawn.max())
            shades = np.round(255 * (drawn - low) / ((high - low) or 1)).astype(np.uint8)
            height, width, total = values.shape
            title = f"{name}\n{height}x{width}, {total} channels, "
            title += f"{low:.2g} (black) to {high:.2g} (white)"
            if len(strongest) < total:
                title += f"; channels {', '.join(map(str, strongest))}"
            cells.append((title, [panel(shades[..., i]) for i in range(len(strongest))]))
        mosaic(cells, path, headings=[""] * channels, caption=caption)


def grad_cam(
    images: Sequence[np.ndarray],
    heats_of_prediction: Sequence[np.ndarray],
    heats_of_truth: Sequence[np.ndarray],
    truths: Sequence[int],
    predictions: Sequence[int],
    probabilities: Sequence[float],
    class_names: Sequence[str],
    path: str | Path,
) -> None:
    """Draw which places of an image speak for the class predicted and, where that is wrong, for the
    true one.

    `images` are uint8 [height, width, 1 or 3], the heats float [height, width] from 0 to 1, as of
    `attribution.grad_cam`; `truths`, `predictions` and `probabilities` (of the predictions) have
    one value an example. The heat lies over the darkened image, the brighter the more evidence, in
    grey as well; the line surrounds what has half of the largest heat. The PNG is written to
    `path`.

    Raises `ValueError` if there is no example or lengths don't agree.
    """
    if not len(images):
        raise ValueError("a picture needs at least one image")
    side = 140
    cells = []
    for image, predicted, true, truth, prediction, probability in zip(
        images, heats_of_prediction, heats_of_truth, truths, predictions, probabilities, strict=True
    ):
        panel = _panel(np.asarray(image), side)
        panels = [(panel, None), heated(panel, predicted)]
        if truth == prediction:
            title = f"{class_names[truth]}\nright, {_probability(probability)}"
            panels.append((np.full_like(panel, 247), functools.partial(note, text="the same")))
        else:
            title = (
                f"{class_names[truth]}\n\N{RIGHTWARDS ARROW} {class_names[prediction]},"
                f" {_probability(probability)}"
            )
            panels.append(heated(panel, true))
        cells.append((title, panels))
    columns = 2 if len(cells) > 1 else 1
    with style():
        mosaic(
            cells,
            path,
            headings=("Image", "Prediction", "True class") * columns,
            cells_per_row=columns,
            handles=heat_swatches(),
            caption=(
                "Grad-CAM: places that speak for the prediction and, where it is wrong, for the"
                " true class; the line is at a half"
            ),
        )


def heated(panel: np.ndarray, heat: np.ndarray) -> Panel:
    """A panel with the heat over it, and the outline of its half."""
    size = panel.shape[1], panel.shape[0]
    smooth = Image.fromarray(np.asarray(heat, np.float32)).resize(size, Image.Resampling.BILINEAR)
    heat = np.asarray(smooth).clip(0, 1)
    grey = panel @ np.array([0.299, 0.587, 0.114]) / 255
    return (255 * lit(grey, heat)).astype(np.uint8), functools.partial(_outline, heat=heat)


def _outline(axes: Axes, *, heat: np.ndarray) -> None:
    if heat.max() > 0.5 > heat.min():
        axes.contour(heat, levels=[0.5], colors="white", linewidths=0.9)


def lit(grey: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Colours [..., 3] of a darkened image under its heat, brighter with the heat; all from 0 to
    1."""
    share = 0.8 * np.sqrt(heat)[..., None]
    return (1 - share) * 0.4 * grey[..., None] + share * _HEAT(
        _HEAT_FROM + (1 - _HEAT_FROM) * heat
    )[..., :3]


def heat_swatches() -> list[Patch]:
    """The entries of a legend: the heat's colours over a grey image."""
    levels = np.array([0, 0.25, 0.5, 0.75, 1])
    colors = lit(np.full(5, 0.5), levels)
    return [swatch(color, f"{heat:g}") for color, heat in zip(colors, levels, strict=True)]


def _in_color(image: np.ndarray) -> np.ndarray:
    """An image [height, width] or [height, width, channels] as uint8 [height, width, 3]."""
    return displayable(image[..., None] if image.ndim == 2 else image)


def _panel(image: np.ndarray, side_px: int) -> np.ndarray:
    """An image in any of its shapes as uint8 [height, width, 3], its longer side near `side_px`:
    enlarged by a whole number by nearest neighbour, or shrunk by averaging."""
    image = _in_color(image)
    longest = max(image.shape[:2])
    if longest <= side_px:
        factor = side_px // longest
        return image.repeat(factor, 0).repeat(factor, 1)
    return fit(image, panel_px=side_px)[0]


def _probability(value: float) -> str:
    return ">0.999" if 0.9995 <= value < 1 else f"{value:.3f}"


def swatch(color: Sequence[float] | np.ndarray, text: str) -> Patch:
    """An entry of a legend; colours from 0 to 1."""
    return Patch(
        facecolor=to_hex(np.asarray(color).tolist()), edgecolor="black", linewidth=0.6, label=text
    )


def _nothing(text: str, path: str | Path) -> None:
    figure = Figure(figsize=(4, 1), dpi=DPI)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    note(axes, text)
    save(figure, path)
