"""Pictures of what a segmenter sees: its predictions and errors over the photograph, its maps, its
attention, how far it looks.

They are drawn from arrays alone; `cnn_jax.evaluation` computes those that need the network. Images
are uint8 [height, width, 3], masks uint8 [height, width] with class indices or `IGNORED`, colours
sRGB, 0 to 255, in the order of the class names.
"""

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, Patch, Rectangle

from cnn_jax.analysis.attribution import ClassExcitation
from cnn_jax.data.scenes import IGNORED
from cnn_jax.reporting import image_figures
from cnn_jax.reporting.image_figures import heat_swatches, heated, swatch
from cnn_jax.reporting.mosaic import Panel, fit, mosaic, panel_px
from cnn_jax.reporting.scene_figures import (
    check,
    class_swatches,
    hatch,
    ignored_swatch,
    luminance,
    numbers,
)
from cnn_jax.reporting.style import DPI, evenly, label, note, save, style

MOST_LEVELS = 16
"""Rows of a picture of maps or of attention; of deeper networks so many are drawn, evenly
spaced."""

_LEAST_SHARE = 1e-4
"""Of the largest gradient; what is less is drawn as this."""

_LEAST_DIFFERENCE = 1e-3
"""End of the scale of differences between classes at least, so that rounding isn't drawn as
attention."""

_OTHER = 254
"""In a mask that is painted: pixels that keep their photograph. No class has this index (`IGNORED`
is 255)."""


def overlays(
    images: Sequence[np.ndarray],
    truths: Sequence[np.ndarray],
    predictions: Sequence[np.ndarray],
    class_names: Sequence[str],
    colors: Sequence[tuple[int, int, int]],
    path: str | Path,
    titles: Sequence[str],
) -> None:
    """Draw a scene a row: the photograph, the prediction laid over it, and the truth laid over it,
    under its title.

    The photograph lends the colours of the classes its light and shade; large regions carry the
    number of their class, ignored pixels are hatched. Scenes are coloured before they are shrunk,
    so that small regions become tints instead of noise. The PNG is written to `path`. Raises
    `ValueError` if there is no scene, or if lengths, shapes or class indices don't agree.
    """
    _over_photographs(
        images,
        truths,
        predictions,
        class_names,
        colors,
        path,
        titles,
        masks=lambda truth, prediction: (prediction, truth),
        headings=("Photograph", "Prediction", "Truth"),
    )


def errors(
    images: Sequence[np.ndarray],
    truths: Sequence[np.ndarray],
    predictions: Sequence[np.ndarray],
    class_names: Sequence[str],
    colors: Sequence[tuple[int, int, int]],
    path: str | Path,
    titles: Sequence[str],
    caption: str = "",
) -> None:
    """Draw a scene a row, in the order given: the photograph, its wrong pixels as what they were
    taken for, and as what they are.

    Right pixels are the photograph in pale grey; wrong ones have the colour of the predicted class
    in the one panel, of the true class in the other; those that truth ignores are hatched. The PNG
    is written to `path`. Raises `ValueError` as `overlays`.
    """

    def masks(truth, prediction):
        wrong = np.where(truth == prediction, _OTHER, (prediction, truth))
        return np.where(truth == IGNORED, IGNORED, wrong).astype(np.uint8)

    _over_photographs(
        images,
        truths,
        predictions,
        class_names,
        colors,
        path,
        titles,
        masks=masks,
        headings=("Photograph", "Wrong: the class predicted", "Wrong: the true class"),
        further=[swatch((0.894,) * 3, "right")],
        caption=caption,
    )


def _over_photographs(
    images: Sequence[np.ndarray],
    truths: Sequence[np.ndarray],
    predictions: Sequence[np.ndarray],
    class_names: Sequence[str],
    colors: Sequence[tuple[int, int, int]],
    path: str | Path,
    titles: Sequence[str],
    *,
    masks: Callable[[np.ndarray, np.ndarray], Iterable[np.ndarray]],
    headings: Sequence[str],
    further: Sequence[Patch] = (),
    caption: str = "",
) -> None:
    """Draw a scene a row: the photograph, then under the masks that are made of truth and
    prediction."""
    width_px = panel_px(3 * len(images), images)
    cells = []
    for image, truth, prediction, title in zip(images, truths, predictions, titles, strict=True):
        check(image, truth, class_names, colors)
        check(image, prediction, class_names, colors)
        shown = masks(truth, prediction)
        panels: list[Panel] = [(fit(image, panel_px=width_px)[0], None)]
        panels += [_laid_over(image, mask, colors, width_px) for mask in shown]
        cells.append((title, panels))
    with style():
        ignored = ignored_swatch(any((mask == IGNORED).any() for mask in truths))
        handles = [*class_swatches(class_names, colors), *further, *ignored]
        mosaic(cells, path, headings=headings, handles=handles, caption=caption)


def feature_maps(
    image: np.ndarray, maps: Mapping[str, np.ndarray], path: str | Path, channels: int = 6
) -> None:
    """Draw what the levels of a segmenter make of an image: a level a row, in the order of `maps`,
    its strongest channels side by side.

    `maps` are float [h, w, channels] by name, as of `attribution.level_maps`. The strongest
    `channels` of a level are those that vary most over the image. A row shares one scale, from its
    least value (black) to its largest (white). The PNG is written to `path`.
    """
    image_figures.feature_maps(
        image,
        maps,
        path,
        channels,
        most_rows=MOST_LEVELS,
        side_px=168,
        caption=f"Level by level, the {channels} channels that vary most over the photograph",
    )


def grad_cam(
    images: Sequence[np.ndarray],
    predictions: Sequence[np.ndarray],
    heats: Sequence[np.ndarray] | np.ndarray,
    classes: Sequence[int],
    class_names: Sequence[str],
    colors: Sequence[tuple[int, int, int]],
    path: str | Path,
    layer: str | None,
) -> None:
    """Draw for a class which places of an image speak for it, one class a cell: photograph, the
    pixels asked about, and the heat.

    `heats` are float [height, width] from 0 to 1, as of `attribution.segmentation_grad_cam` at the
    pixels predicted as `classes[i]`, in the map `layer`. The heat lies over the darkened
    photograph, the brighter the more evidence, in grey as well; the line surrounds what has half of
    the largest heat. The PNG is written to `path`. Raises `ValueError` if there is no image or
    lengths don't agree.
    """
    columns = 1 if len(images) < 4 else 2
    width_px = min(panel_px(2 * len(images), images), 330 if columns == 1 else 240)
    cells = []
    for image, prediction, heat, index in zip(images, predictions, heats, classes, strict=True):
        check(image, prediction, class_names, colors)
        asked = prediction == index
        title = (
            f"{index} {class_names[index]},"
            f" {'at ' + format(asked.mean(), '.0%') if asked.any() else 'predicted nowhere'}"
        )
        title += " of the pixels" if asked.any() else " here"
        region, _ = _laid_over(
            image, np.where(asked, index, _OTHER).astype(np.uint8), colors, width_px
        )
        panel = fit(image, panel_px=width_px)[0]
        warm, outline = heated(panel, heat)
        silent = functools.partial(
            note, text="nothing here speaks for it", color="white", fontsize=7
        )
        cells.append(
            (title, [(panel, None), (region, None), (warm, outline if heat.any() else silent)])
        )
    with style():
        mosaic(
            cells,
            path,
            headings=("Photograph", "Pixels predicted so", "Grad-CAM") * columns,
            cells_per_row=columns,
            handles=heat_swatches(),
            caption=(
                f"Grad-CAM at {layer}: what speaks for the class at the pixels predicted as it, as"
                " a share of the largest; the line is at a half"
            ),
        )


def attention(
    excitations: Mapping[str, ClassExcitation],
    classes: Sequence[int],
    class_names: Sequence[str],
    path: str | Path,
    crops: int,
) -> None:
    """Draw what squeeze and excitation multiplies each channel by where a class is: one module a
    row, in the order of `excitations`.

    On the left the mean excitation, classes by channels, these sorted by their mean over the
    classes; beside it how far each class is from that mean, where a class has channels of its own;
    and, of modules with a spatial gate, its mean over the places of each class. Every panel has the
    scale beside it. `excitations` are as of `attribution.excitation_by_class`, over `crops` images.
    The PNG is written to `path`. Raises `ValueError` if there is no module or no class.
    """
    if not excitations or not classes:
        raise ValueError("a picture of attention needs at least one module and one class")
    names = evenly(list(excitations), MOST_LEVELS)
    gated = any(excitations[name].places is not None for name in names)
    caption = (
        "Squeeze and excitation by class: the mean number that each channel is multiplied by,"
        f" over {crops} crops,\neach weighed by how many of its pixels are of the class."
        " Channels are sorted by their mean over the classes."
    )
    if gated:
        caption += (
            "\nA value is multiplied by the larger of its channel's number and its place's gate;"
            " of the gate the mean is over the places of the class."
        )
    shown = [label(class_names[index], 18) for index in classes]
    widths = (3, 3, 0.9) if gated else (3, 3)
    with style():
        height_in = 0.5 + len(names) * (max(0.14 * len(classes), 0.5) + 0.5)
        figure = Figure(figsize=(1.6 * sum(widths), height_in), dpi=DPI, layout="constrained")
        figure.suptitle(caption, x=0.01, ha="left", fontsize=8)
        grid = figure.add_gridspec(len(names), len(widths), width_ratios=widths)
        for row, name in enumerate(names):
            values = np.asarray(excitations[name].channels)[list(classes)]
            values = values[:, np.argsort(-values.mean(0), kind="stable")]
            away = values - values.mean(0)
            end = max(float(np.abs(away).max()), _LEAST_DIFFERENCE)
            above = values.max() + 1e-6
            for column, (title, drawn, scale) in enumerate(
                (
                    (
                        label(f"{name}, {values.shape[1]} channels", 44),
                        values,
                        {"cmap": "viridis", "vmin": values.min(), "vmax": above},
                    ),
                    (
                        "less the mean of the classes",
                        away,
                        {"cmap": "PuOr", "vmin": -end, "vmax": end},
                    ),
                )
            ):
                axes = figure.add_subplot(grid[row, column])
                picture = axes.imshow(drawn, aspect="auto", interpolation="nearest", **scale)
                axes.grid(False)
                axes.set_title(title, fontsize=8)
                axes.set_yticks(range(len(classes)), [] if column else shown)
                axes.tick_params(labelsize=7, length=2)
                bar = figure.colorbar(picture, ax=axes, aspect=10, pad=0.01)
                bar.ax.tick_params(labelsize=6, length=2)
            gate = excitations[name].places
            if gate is not None:
                axes = figure.add_subplot(grid[row, 2])
                bars = axes.barh(range(len(classes)), np.asarray(gate)[list(classes)])
                axes.bar_label(bars, fmt="%.2f", fontsize=6, padding=2)
                axes.set(xlim=(0, 1.25), ylim=(len(classes) - 0.5, -0.5), yticks=[])
                axes.set_xticks([0, 0.5, 1])
                axes.tick_params(labelsize=6, length=2)
                axes.set_title("spatial gate", fontsize=8)
        save(figure, path)


@dataclass(frozen=True)
class SeenField:
    """How far one network looks.

    Attributes:
        title: its name.
        field: `[height, width]`, as of `effective_receptive_field`.
        radii_px: of the circles that hold 50% and 95% of its mass.
        theoretical_px: height and width of the theoretical field; `math.inf` where it is the whole
            image, however large.
        crops: how many it is the mean of.
    """

    title: str
    field: np.ndarray
    radii_px: Sequence[float]
    theoretical_px: tuple[float, float]
    crops: int


def receptive_fields(fields: Sequence[SeenField], path: str | Path) -> None:
    """Draw effective receptive fields side by side, at one scale in px: the mean gradient as a
    share of each one's largest.

    The scale is logarithmic, for a field falls off as a Gaussian does. The circles hold 50% (line)
    and 95% (dashes) of the gradient's mass; the dotted frame is the theoretical field, where it
    ends within the crop. The PNG is written to `path`.

    Raises `ValueError` if there is no field.
    """
    if not fields:
        raise ValueError("a picture of receptive fields needs at least one")
    columns = min(3, len(fields))
    rows = -(-len(fields) // columns)
    half = [max(one.field.shape[axis] for one in fields) / 2 for axis in (0, 1)]
    panel_in = 3.0 if columns > 1 else 4.2
    size_in = (
        columns * (panel_in + 0.5) + 0.7,
        rows * (max(panel_in * half[0] / half[1], 0.6) + 1.0) + 0.6,
    )
    caption = (
        "Effective receptive field: mean size of the gradient of the central place's logits"
        " with respect to each pixel"
    )
    with style():
        figure = Figure(figsize=size_in, dpi=DPI, layout="constrained")
        wrapped = caption.replace(": ", ":\n") if columns == 1 else caption
        figure.suptitle(wrapped, x=0.01, ha="left", fontsize=8)
        every = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
        norm = LogNorm(_LEAST_SHARE, 1, clip=True)
        for axes, one in zip(every, fields, strict=False):
            _draw_field(axes, one, norm)
        for axes in every[len(fields) :]:
            axes.remove()
        every[0].set(xlim=(-half[1] - 0.5, half[1] - 0.5), ylim=(half[0] - 0.5, -half[0] - 0.5))
        scale = ScalarMappable(norm, cmap="inferno")
        bar = figure.colorbar(scale, ax=list(every[: len(fields)]), format="%g", aspect=30)
        bar.ax.tick_params(labelsize=6, length=2)
        bar.ax.set_title("of the\nlargest", fontsize=6, fontweight="normal")
        lines: list[tuple[Literal["-", "--", ":"], str]]
        lines = [("-", "50% of the gradient"), ("--", "95%")]
        if any(
            down < 2 * half[0] or across < 2 * half[1]
            for down, across in (one.theoretical_px for one in fields)
        ):
            lines.append((":", "theoretical field"))
        handles = [
            Line2D([], [], color="black", linewidth=1, linestyle=line, label=text)
            for line, text in lines
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=7)
        save(figure, path)


def _draw_field(axes: Axes, one: SeenField, norm: LogNorm) -> None:
    height, width = one.field.shape
    y, x = height // 2, width // 2
    axes.set_facecolor("#DDDDDD")
    axes.imshow(
        one.field / (one.field.max() or 1),
        norm=norm,
        cmap="inferno",
        extent=(-x - 0.5, width - x - 0.5, height - y - 0.5, -y - 0.5),
        interpolation="nearest",
    )
    look: dict[str, Any] = {"fill": False, "color": "white", "linewidth": 1}
    within, most = one.radii_px
    axes.add_patch(Circle((0, 0), within, linestyle="-", **look))
    axes.add_patch(Circle((0, 0), most, linestyle="--", **look))
    down, across = one.theoretical_px
    if math.isfinite(down) and math.isfinite(across):
        axes.add_patch(Rectangle((-across / 2, -down / 2), across, down, linestyle=":", **look))
    axes.grid(False)
    axes.tick_params(labelsize=6, length=2, labelbottom=True, labelleft=True)
    axes.set_xlabel("px from the central place", fontsize=7)
    axes.set_title(label(one.title, 40), fontsize=8, pad=24)
    facts = f"50% within {_px(one.radii_px[0])}, 95% within {_px(one.radii_px[1])}\n"
    facts += f"theoretical field: {_theoretical(one)}; {one.crops} crops"
    axes.text(0, 1.02, facts, transform=axes.transAxes, va="bottom", fontsize=7)


def _theoretical(one: SeenField) -> str:
    down, across = one.theoretical_px
    if math.inf in (down, across):
        return "the whole image"
    return f"{math.ceil(down)}x{math.ceil(across)} px"


def _px(radius: float) -> str:
    return "no radius" if math.isnan(radius) else f"{radius:.0f} px"


def _laid_over(
    image: np.ndarray, mask: np.ndarray, colors: Sequence[tuple[int, int, int]], width_px: int
) -> Panel:
    """A panel of a photograph under a mask: classes in their colours, darker and lighter with it,
    where the mask is `_OTHER` the photograph in pale grey; numbers in large regions, ignored pixels
    hatched."""
    # Of scenes far larger than the panel not every pixel is needed.
    every = max(1, max(mask.shape) // (4 * width_px))
    image, mask = image[::every, ::every], mask[::every, ::every]
    table = np.full((256, 3), 255, np.float32)
    table[: len(colors)] = colors
    light = luminance(image)[..., None] / 255
    painted = np.where(
        (mask == _OTHER)[..., None], 205 + 45 * light, 0.7 * table[mask] + 0.3 * (96 + 159 * light)
    )
    panel, mask = fit(painted.astype(np.uint8), mask, panel_px=width_px)
    panel &= 0xF8  # nobody sees more steps under a colour, and the file is smaller
    hatch(panel, mask == IGNORED)
    return panel, numbers(mask, colors)
