"""Pictures made of pictures: titled panels laid out pixel by pixel, so that a pixel of a panel is a
pixel of the file.

Photographs are shrunk to a budget of pixels per picture, so that the pictures of a run can be
committed beside its numbers.
"""

import math
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from cnn_jax.data.resizing import resized
from cnn_jax.reporting.style import DPI, label, save

GAP_PX = 8
_LINE_PX = 24
_CLOSE_LINE_PX = 19
_COLUMN_PX = 10.5  # of a caption's average letter
_SMALLEST_WIDTH_PX = 420
# A photograph costs one to two bytes a pixel in the PNG; so much of it stays near 1 MB.
_PHOTOGRAPH_BUDGET_PX = 640_000
_LARGEST_PANEL_PX = 330
_SMALLEST_PANEL_PX = 96

Panel = tuple[np.ndarray, Callable[[Axes], None] | None]
"""A picture uint8 [height, width, 3], and what to draw over it, in its pixels."""


def mosaic(
    cells: Sequence[tuple[str, Sequence[Panel]]],
    path: str | Path,
    *,
    headings: Sequence[str] = ("",),
    cells_per_row: int = 1,
    handles: Sequence = (),
    caption: str = "",
) -> None:
    """Lay out titled cells of panels and save; within `style()`.

    A title of several lines has its first in bold. `headings` stand over the columns of panels,
    which are the same for every cell (`len(headings) / cells_per_row` each; a cell may have fewer
    panels). `handles` are the entries of the legend below, `caption` stands over everything, in as
    many lines as it needs.
    """
    panels_per_cell = len(headings) // cells_per_row
    widths = [
        max((panels[column][0].shape[1] for _, panels in cells if column < len(panels)), default=0)
        for column in range(panels_per_cell)
    ]
    cell_px = sum(widths) + GAP_PX * panels_per_cell
    width_px = max(cell_px * cells_per_row + GAP_PX, _SMALLEST_WIDTH_PX)
    lines = [cells[start : start + cells_per_row] for start in range(0, len(cells), cells_per_row)]
    title_lines = max(title.count("\n") + 1 if title else 0 for title, _ in cells)
    line_px = _LINE_PX if title_lines <= 1 else _CLOSE_LINE_PX
    title_px = title_lines * line_px + (_LINE_PX - _CLOSE_LINE_PX if title_lines > 1 else 0)
    figure = Figure(figsize=(width_px / DPI, 1), dpi=DPI)
    FigureCanvasAgg(figure)
    legend_px = _fitted_legend(figure, handles, width_px) if handles else 0
    heights = [
        max(panel[0].shape[0] for _, panels in line for panel in panels) + title_px + GAP_PX
        for line in lines
    ]
    captions = textwrap.wrap(caption, int(width_px / _COLUMN_PX))
    caption_px = len(captions) * _CLOSE_LINE_PX + (_LINE_PX - _CLOSE_LINE_PX if caption else 0)
    heading_px = _LINE_PX if any(headings) else 0
    height_px = caption_px + heading_px + sum(heights) + legend_px + 2 * GAP_PX
    figure.set_size_inches(width_px / DPI, height_px / DPI)

    def write(text, left, top, **font):
        figure.text(left / width_px, 1 - top / height_px, text, va="top", **font)

    for number, text in enumerate(captions):
        write(text, GAP_PX, 5 + number * _CLOSE_LINE_PX, fontsize=8)
    for column, heading in enumerate(headings):
        cell, place = divmod(column, panels_per_cell)
        left = GAP_PX + cell * cell_px + sum(widths[:place]) + GAP_PX * place
        write(heading, left, caption_px + 5, fontsize=8, fontweight="bold")
    top = caption_px + heading_px
    for line, height in zip(lines, heights, strict=True):
        for index, (title, panels) in enumerate(line):
            left = GAP_PX + index * cell_px
            for number, text in enumerate(title.split("\n")):
                weight = "bold" if number == 0 and title_lines > 1 else "normal"
                columns = (
                    cell_px // 11
                    if title_lines == 1
                    else int((cell_px - GAP_PX) / (9.5 if weight == "bold" else 8.5))
                )
                write(
                    label(text, columns),
                    left,
                    top + 5 + number * line_px,
                    fontsize=7,
                    fontweight=weight,
                )
            for (picture, annotate), column_px in zip(panels, widths, strict=False):
                panel_height, panel_width = picture.shape[:2]
                bottom = height_px - top - title_px - panel_height
                if annotate is None:  # axes take ten times as long
                    figure.figimage(picture, left, bottom)
                else:
                    box = (
                        left / width_px,
                        bottom / height_px,
                        panel_width / width_px,
                        panel_height / height_px,
                    )
                    axes = figure.add_axes(box)
                    axes.imshow(picture, interpolation="nearest", aspect="auto")
                    axes.set_axis_off()
                    annotate(axes)
                left += column_px + GAP_PX
        top += height
    save(figure, path)


def panel_px(photographs: int, images: Sequence[np.ndarray]) -> int:
    """The width that keeps so many photographs of these proportions in the budget of pixels."""
    if not photographs:
        raise ValueError("a picture needs at least one image")
    tallest = max(min(image.shape[0] / image.shape[1], 1.0) for image in images)
    width = int(math.sqrt(_PHOTOGRAPH_BUDGET_PX / (photographs * tallest)))
    return min(max(width, _SMALLEST_PANEL_PX), _LARGEST_PANEL_PX)


def fit(image: np.ndarray, *masks: np.ndarray, panel_px: int) -> list[np.ndarray]:
    """Bring an image and its masks to the size of a panel: `panel_px` wide, or as high where they
    are higher than wide.

    Small images grow by nearest neighbour, so that their pixels can be seen; masks are never
    interpolated.
    """
    height, width = image.shape[:2]
    scale = panel_px / max(height, width)
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    smooth = Image.Resampling.BOX if scale < 1 else Image.Resampling.NEAREST
    picture = resized(image, *size, smooth)
    # Six bits a channel: noise below that is most of the file and none of the picture.
    fitted = [(np.minimum(picture, 253) + 2) & 0xFC]
    fitted += [resized(mask, *size, Image.Resampling.NEAREST) for mask in masks]
    return fitted


def _fitted_legend(figure: Figure, handles, width_px: int) -> int:
    """Put a legend at the foot of the figure in as many columns as fit; returns its height in
    pixels."""
    for columns in range(len(handles), 0, -1):
        legend = figure.legend(
            handles=handles,
            loc="lower center",
            ncols=columns,
            handleheight=1.1,
            handlelength=1.8,
            columnspacing=1.4,
            borderpad=0.4,
        )
        extent = legend.get_window_extent()
        if extent.width <= width_px or columns == 1:
            return math.ceil(extent.height)
        legend.remove()
    return 0
