"""Pictures of what a segmenter sees: its predictions and errors over the photograph, its maps, its
attention, how far it looks.

They are drawn from arrays alone; `cnn_jax.evaluation` computes those that need the network. Images
are uint8 [height, width, 3], masks uint8 [height, width] with class indices or `IGNORED`, colours
sRGB, 0 to 255, in the order of the class names.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, Patch, Rectangle

from cnn_jax.analysis.attribution import ClassExcitation
from cnn_jax.data.scenes import IGNORED
from cnn_jax.reporting.image_figures import heated, lit, swatch
from cnn_jax.reporting.mosaic import Panel, fit, mosaic, panel_px
from cnn_jax.reporting.scene_figures import (
    check,
    class_swatches,
    hatch,
    ignored_swatch,
    luminance,
    numbers,
)
from cnn_jax.reporting.style import DPI, label, save, style

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
    width_px = panel_px(3 * len(images), images)
    cells = []
    for image, truth, prediction, title in zip(images, truths, predictions, titles, strict=True):
        check(image, truth, class_names, colors)
        check(image, prediction, class_names, colors)
        panels = [(fit(image, panel_px=width_px)[0], None)]
        panels += [_laid_over(image, mask, colors, width_px) for mask in (prediction, truth)]
        cells.append((title, panels))
    with style():
        handles = [
            *class_swatches(class_names, colors),
            *ignored_swatch(any((mask == IGNORED).any() for mask in truths)),
        ]
        mosaic(cells, path, headings=("Photograph", "Prediction", "Truth"), handles=handles)


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
    width_px = panel_px(3 * len(images), images)
    cells = []
    for image, truth, prediction, title in zip(images, truths, predictions, titles, strict=True):
        check(image, truth, class_names, colors)
        check(image, prediction, class_names, colors)
        right = truth == prediction
        panels = [(fit(image, panel_px=width_px)[0], None)]
        for mask in (prediction, truth):
            shown = np.where(truth == IGNORED, IGNORED, np.where(right, _OTHER, mask)).astype(
                np.uint8
            )
            panels.append(_laid_over(image, shown, colors, width_px))
        cells.append((title, panels))
    with style():
        handles = class_swatches(class_names, colors)
        handles.append(Patch(facecolor="#E4E4E4", edgecolor="black", linewidth=0.6, label="right"))
        handles += ignored_swatch(any((mask == IGNORED).any() for mask in truths))
        headings = ("Photograph", "Wrong: the class predicted", "Wrong: the true class")
        mosaic(cells, path, headings=headings, handles=handles, caption=caption)


def feature_maps(
    image: np.ndarray, maps: Mapping[str, np.ndarray], path: str | Path, channels: int = 6
) -> None:
    """Draw what the levels of a segmenter make of an image: a level a row, in the order of `maps`,
    its strongest channels side by side.

    `maps` are float [h, w, channels] by name, as of `attribution.level_maps`. The strongest
    `channels` of a level are those that vary most over the image. A row shares one scale, from its
    least value (black) to its largest (white). The PNG is written to `path`.

    Raises `ValueError` if there is no map.
    """
    if not maps:
        raise ValueError("a picture of maps needs at least one")
    side = 168
    cells = [
        (
            "the photograph\n" + "x".join(map(str, image.shape)),
            [(fit(image, panel_px=side)[0], None)],
        )
    ]
    for name in _spread(list(maps)):
        values = np.nan_to_num(np.asarray(maps[name], np.float32))
        strongest = np.argsort(-values.std((0, 1)), kind="stable")[:channels]
        drawn = values[..., strongest]
        low, high = float(drawn.min()), float(drawn.max())
        shades = np.round(255 * (drawn - low) / ((high - low) or 1)).astype(np.uint8)
        height, width, total = values.shape
        title = (
            f"{name}\n{height}x{width}, {total} channels, {low:.2g} (black) to {high:.2g} (white)"
        )
        title += f"; channels {', '.join(map(str, strongest))}" if len(strongest) < total else ""
        grey = [np.repeat(shades[..., i, None], 3, axis=-1) for i in range(len(strongest))]
        cells.append((title, [(fit(one, panel_px=side)[0], None) for one in grey]))
    caption = f"Level by level, the {channels} channels that vary most over the photograph"
    with style():
        mosaic(cells, path, headings=[""] * channels, caption=caption)


def grad_cam(
    images: Sequence[np.ndarray],
    predictions: Sequence[np.ndarray],
    heats: Sequence[np.ndarray],
    classes: Sequence[int],
    class_names: Sequence[str],
    colors: Sequence[tuple[int, int, int]],
    path: str | Path,
    layer: str,
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
        silent = functools.partial(_silent, text="nothing here speaks for it")
        cells.append(
            (title, [(panel, None), (region, None), (warm, outline if heat.any() else silent)])
        )
    with style():
        levels = np.array([0, 0.25, 0.5, 0.75, 1])
        handles = [
            swatch(color, f"{heat:g}")
            for color, heat in zip(lit(np.full(5, 0.5), levels), levels, strict=True)
        ]
        mosaic(
            cells,
            path,
            headings=("Photograph", "Pixels predicted so", "Grad-CAM") * columns,
            cells_per_row=columns,
            handles=handles,
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
    names = _spread(list(excitations))
    gated = any(excitations[name].places is not None for name in names)
    row_in, gap_in = max(0.14 * len(classes), 0.5), 0.6
    head_in, foot_in = (0.95 if gated else 0.8), -0.25
    height_in = head_in + len(names) * (row_in + gap_in) + foot_in
    left_in, width_in, bar_in, gate_in = 1.25, 3.0, 0.62, 1.3
    total_in = left_in + 2 * (width_in + bar_in) + (gate_in if gated else 0)
    with style():
        figure = Figure(figsize=(total_in, height_in), dpi=DPI)
        caption = (
            "Squeeze and excitation by class: the mean number that each channel is multiplied by,"
            f" over {crops} crops,\neach weighed by how many of its pixels are of the class."
            " Channels are sorted by their mean over the classes."
        )
        if gated:
            caption += (
                "\nA value is multiplied by the larger of its channel's number and its place's"
                " gate; "
            )
            caption += "of the gate the mean is over the places of the class."
        figure.text(0.08 / total_in, 1 - 0.08 / height_in, caption, va="top", fontsize=8)
        for row, name in enumerate(names):
            values = np.asarray(excitations[name].channels)[list(classes)]
            values = values[:, np.argsort(-values.mean(0), kind="stable")]
            away = values - values.mean(0)
            end = max(float(np.abs(away).max()), _LEAST_DIFFERENCE)
            bottom_in = height_in - head_in - row * (row_in + gap_in) - row_in
            columns = (
                (
                    "excitation",
                    values,
                    {"cmap": "viridis", "vmin": values.min(), "vmax": values.max() + 1e-6},
                ),
                ("less the mean of the classes", away, {"cmap": "PuOr", "vmin": -end, "vmax": end}),
            )
            for column, (heading, drawn, scale) in enumerate(columns):
                at_in = left_in + column * (width_in + bar_in)
                box = (
                    at_in / total_in,
                    bottom_in / height_in,
                    width_in / total_in,
                    row_in / height_in,
                )
                axes = figure.add_axes(box)
                picture = axes.imshow(drawn, aspect="auto", interpolation="nearest", **scale)
                axes.grid(False)
                axes.set_title(
                    label(f"{name}, {values.shape[1]} channels", 44) if column == 0 else heading,
                    fontsize=8,
                )
                axes.set_yticks(
                    range(len(classes)),
                    [label(class_names[i], 18) for i in classes] if column == 0 else [],
                )
                axes.tick_params(labelsize=7, length=2)
                axes.tick_params(axis="y", length=2 if column == 0 else 0)
                bar = figure.add_axes(
                    (box[0] + box[2] + 0.05 / total_in, box[1], 0.09 / total_in, box[3])
                )
                figure.colorbar(picture, cax=bar).ax.tick_params(labelsize=6, length=2)
            gate = excitations[name].places
            if gate is None:
                continue
            at_in = left_in + 2 * (width_in + bar_in) + 0.05
            axes = figure.add_axes(
                (at_in / total_in, bottom_in / height_in, 0.85 / total_in, row_in / height_in)
            )
            shares = np.asarray(gate)[list(classes)]
            axes.barh(range(len(classes)), shares, color="#0072B2")
            for place, share in enumerate(shares):
                axes.text(
                    1.04,
                    place,
                    f"{share:.2f}",
                    va="center",
                    fontsize=6,
                    transform=axes.get_yaxis_transform(),
                )
            axes.set(xlim=(0, 1), ylim=(len(classes) - 0.5, -0.5), yticks=[])
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
    panel_height_in = max(panel_in * half[0] / half[1], 0.6)
    left_in, head_in, below_in, right_in = 0.5, 0.6, 0.4, 0.75
    width_in = columns * (left_in + panel_in) + right_in
    top_in, foot_in = 0.42 if columns == 1 else 0.28, 0.25
    height_in = top_in + rows * (head_in + panel_height_in + below_in) + foot_in
    norm = LogNorm(_LEAST_SHARE, 1, clip=True)
    with style():
        figure = Figure(figsize=(width_in, height_in), dpi=DPI)
        caption = (
            "Effective receptive field: mean size of the gradient of the central place's logits"
            " with respect to each pixel"
        )
        wrapped = caption.replace(": ", ":\n") if columns == 1 else caption
        figure.text(0.08 / width_in, 1 - 0.08 / height_in, wrapped, va="top", fontsize=8)
        for number, one in enumerate(fields):
            row, column = divmod(number, columns)
            bottom_in = (
                height_in
                - top_in
                - row * (head_in + panel_height_in + below_in)
                - head_in
                - panel_height_in
            )
            at_in = left_in + column * (left_in + panel_in)
            axes = figure.add_axes(
                (
                    at_in / width_in,
                    bottom_in / height_in,
                    panel_in / width_in,
                    panel_height_in / height_in,
                ),
                facecolor="#DDDDDD",
            )
            height, width = one.field.shape
            y, x = height // 2, width // 2
            extent = (-x - 0.5, width - x - 0.5, height - y - 0.5, -y - 0.5)
            share = one.field / (one.field.max() or 1)
            picture = axes.imshow(
                share,
                norm=norm,
                cmap="inferno",
                extent=extent,
                interpolation="nearest",
                aspect="auto",
            )
            for radius, line in zip(one.radii_px, ("-", "--"), strict=True):
                axes.add_patch(
                    Circle((0, 0), radius, fill=False, color="white", linewidth=1, linestyle=line)
                )
            down, across = one.theoretical_px
            if math.isfinite(down) and math.isfinite(across):
                corner = (-across / 2, -down / 2)
                axes.add_patch(
                    Rectangle(
                        corner, across, down, fill=False, color="white", linewidth=1, linestyle=":"
                    )
                )
            axes.set(xlim=(-half[1] - 0.5, half[1] - 0.5), ylim=(half[0] - 0.5, -half[0] - 0.5))
            axes.grid(False)
            axes.tick_params(labelsize=6, length=2)
            axes.set_xlabel("px from the central place", fontsize=7)
            axes.set_title(label(one.title, 40), fontsize=8, pad=24)
            facts = f"50% within {_px(one.radii_px[0])}, 95% within {_px(one.radii_px[1])}\n"
            facts += f"theoretical field: {_theoretical(one)}; {one.crops} crops"
            axes.text(0, 1.02, facts, transform=axes.transAxes, va="bottom", fontsize=7)
        bar = figure.add_axes(
            (1 - 0.6 / width_in, bottom_in / height_in, 0.1 / width_in, panel_height_in / height_in)
        )
        figure.colorbar(picture, cax=bar, format="%g").ax.tick_params(labelsize=6, length=2)
        bar.set_title("of the\nlargest", fontsize=6, fontweight="normal")
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
        figure.legend(handles=handles, loc="lower center", ncols=3, fontsize=7)
        save(figure, path)


def _silent(axes, *, text: str) -> None:
    axes.text(
        0.5,
        0.5,
        text,
        transform=axes.transAxes,
        ha="center",
        va="center",
        color="white",
        fontsize=7,
        fontstyle="italic",
    )


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
    every = max(
        1, max(mask.shape) // (4 * width_px)
    )  # of scenes far larger than the panel not every pixel is needed
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


def _spread(names: list[str]) -> list[str]:
    """At most `MOST_LEVELS` of the names, evenly spaced, the first and the last among them."""
    if len(names) <= MOST_LEVELS:
        return names
    return [names[i] for i in np.linspace(0, len(names) - 1, MOST_LEVELS).round().astype(int)]
