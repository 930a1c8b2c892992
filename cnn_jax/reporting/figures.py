"""Pictures of a run: curves, examples, confusions and the data itself, as small PNG files that never change by themselves.

Nothing is said by hue alone. Curves differ in colour (Okabe and Ito, 2008), line style and marker; regions carry the number of
their class and an outline; ignored pixels are hatched; errors are bright on dark. The same input gives the same bytes.

Photographs are shrunk to a budget of pixels per picture, so that the pictures of a run can be committed beside its numbers.
"""

import math
import unicodedata
import warnings
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from PIL import Image
from scipy import ndimage

from cnn_jax.data.scenes import IGNORED
from cnn_jax.evaluation.metrics import iou as class_iou

ERROR_COLOR = (255, 176, 0)
"""Wrong pixels: far brighter than the dimmed photograph under them, so they stand out in grey too."""

_HATCH_LIGHT, _HATCH_DARK = 225, 120
_OUTLINE = (20, 20, 20)
# Okabe and Ito's colours without black, which the mean keeps, and without yellow, which white paper swallows.
_CURVE_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_CURVE_STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
_CURVE_MARKERS = ("o", "s", "^", "D", "v", "P", "X")

_NOTHING = "\N{EN DASH}"
_DPI = 150
_GAP_PX = 8
_LINE_PX = 24
# A photograph costs one to two bytes a pixel in the PNG; so much of it stays near 1 MB.
_PHOTOGRAPH_BUDGET_PX = 640_000
_LARGEST_PANEL_PX = 330
_SMALLEST_PANEL_PX = 96

_STYLE = {
    "font.family": ["DejaVu Sans"],
    "font.size": 8,
    "text.parse_math": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#D9D9D9",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "hatch.linewidth": 0.8,
}


def learning_curves(metrics: Sequence[Mapping[str, float]], path: str | Path) -> None:
    """Draw loss, IoU on validation and learning rate against the step.

    `metrics` holds the rows of a metrics.jsonl: each has `step` and any of `train/loss`, `validation/loss`,
    `train/learning_rate`, `validation/miou` and `validation/iou/<class>`. Rows may come in any order and lack any key; of two
    values for one step (a resumed run) the later row counts. Values that are null or not finite are left out, and the panel of
    the loss says at which step the first of them stood. The PNG is written to `path`.
    """
    with _style():
        figure = Figure(figsize=(10, 5), dpi=_DPI)
        grid = figure.add_gridspec(2, 2, width_ratios=(1, 1.25), height_ratios=(1.6, 1), hspace=0.28, wspace=0.18)
        loss = figure.add_subplot(grid[0, 0])
        rate = figure.add_subplot(grid[1, 0], sharex=loss)
        iou = figure.add_subplot(grid[:, 1], sharex=loss)

        loss.set_title("Loss")
        _curve(loss, _series(metrics, "train/loss"), label="train", color="#0072B2", linestyle="-", marker="")
        _curve(loss, _series(metrics, "validation/loss"), label="validation", color="#D55E00", linestyle="--", marker="s")
        _legend_or_note(loss, "no loss recorded")
        broken = _first_not_finite(metrics, "train/loss")
        if broken is not None:
            loss.annotate(f"not finite at step {broken:,}", (1, 1), xycoords="axes fraction", ha="right", va="bottom")
        loss.tick_params(labelbottom=False)

        rate.set_title("Learning rate")
        _curve(rate, _series(metrics, "train/learning_rate"), color="#333333", linestyle="-", marker="")
        if not rate.lines:
            _note(rate, "no learning rate recorded")
        rate.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
        rate.set_ylim(bottom=0)
        rate.set_xlabel("step")

        iou.set_title("IoU on validation")
        prefix = "validation/iou/"
        names = list(dict.fromkeys(key.removeprefix(prefix) for row in metrics for key in row if key.startswith(prefix)))
        for index, name in enumerate(names):
            _curve(iou, _series(metrics, prefix + name), label=_label(name, 26), **_curve_style(index))
        _curve(iou, _series(metrics, "validation/miou"), label="mean (mIoU)", color="black", linewidth=2.6, marker="o", zorder=5)
        iou.set_ylim(0, 1)
        iou.set_xlabel("step")
        # Ordered as the curves end, so that legend and curves can be matched by height as well.
        curves = sorted(iou.lines, key=lambda line: -line.get_ydata()[-1])
        if curves:
            iou.legend(handles=curves, loc="upper left", bbox_to_anchor=(1.01, 1), handlelength=4.5, borderaxespad=0)
        else:
            _note(iou, "no validation recorded")
        loss.set_xlim(0, 1.02 * max([1, *(row["step"] for row in metrics)]))
        loss.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        loss.xaxis.set_major_formatter("{x:,.0f}")
        _save(figure, path, tight=True)


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

    `images` are uint8 [height, width, 3], `truths` and `predictions` uint8 [height, width] with class indices or `IGNORED`, each
    row of its own size; all are shrunk or enlarged to the same width (masks by nearest neighbour). `colors` are sRGB, 0 to 255,
    in the order of `class_names`. `titles`, one a row, stand above the rows. The PNG is written to `path`; six rows of
    photographs stay under 1.5 MB, and more rows are drawn smaller.

    Raises `ValueError` if there is no row, or if lengths, shapes or class indices don't agree.
    """
    titles = titles or [""] * len(images)
    rows = list(zip(images, truths, predictions, titles, strict=True))
    for image, truth, prediction, _ in rows:
        _check(image, truth, class_names, colors)
        _check(image, prediction, class_names, colors)
    panel_px = _panel_px(2 * len(rows), images)

    cells = []
    for image, truth, prediction, title in rows:
        image, truth, prediction = _fit(image, truth, prediction, panel_px=panel_px)
        panels = (
            (image, None),
            (paint(truth, colors), truth),
            (paint(prediction, colors), prediction),
            (paint_errors(image, truth, prediction), None),
        )
        cells.append((title, panels))
    ignored = any((mask == IGNORED).any() for mask in (*truths, *predictions))
    with _style():
        handles = [*_class_swatches(class_names, colors), *_ignored_swatch(ignored)]
        handles.append(Patch(facecolor=_unit(ERROR_COLOR), edgecolor="black", linewidth=0.6, label="wrong"))
        _mosaic(cells, ("Image", "Truth", "Prediction", "Errors"), 1, handles, colors, path)


def contact_sheet(
    images: Sequence[np.ndarray],
    masks: Sequence[np.ndarray],
    class_names: Sequence[str],
    colors: Sequence[tuple[int, int, int]],
    path: str | Path,
    titles: Sequence[str] | None = None,
) -> None:
    """Draw images in a grid, each beside the same image under its mask.

    `images` are uint8 [height, width, 3], `masks` uint8 [height, width] with class indices or `IGNORED`, in any sizes. `colors`
    are sRGB, 0 to 255, in the order of `class_names`. `titles` stand above the images. The PNG is written to `path`; the more
    images, the smaller each.

    Raises `ValueError` if there is no image, or if lengths, shapes or class indices don't agree.
    """
    titles = titles or [""] * len(images)
    cells = []
    panel_px = _panel_px(2 * len(images), images)
    for image, mask, title in zip(images, masks, titles, strict=True):
        _check(image, mask, class_names, colors)
        image, mask = _fit(image, mask, panel_px=panel_px)
        cells.append((title, ((image, None), (_overlay(image, mask, colors), mask))))
    ignored = any((mask == IGNORED).any() for mask in masks)
    pairs = max(1, round(math.sqrt(len(cells) / 2)))
    with _style():
        handles = [*_class_swatches(class_names, colors), *_ignored_swatch(ignored)]
        _mosaic(cells, ("Image", "Mask") * pairs, pairs, handles, colors, path)


def confusion_matrix(matrix: np.ndarray, class_names: Sequence[str], path: str | Path) -> None:
    """Draw a confusion matrix with the IoU of each class beside it.

    `matrix` is int64 [classes, classes], rows truth, columns prediction, in pixels. A cell holds its share of the row (shaded)
    and its count. Rows without pixels show a dash, as does the IoU of a class in neither truth nor prediction, which the mean
    leaves out. The PNG is written to `path`.

    Raises `ValueError` if the shape isn't square or doesn't match `class_names`.
    """
    matrix = np.asarray(matrix)
    count = len(class_names)
    if count == 0 or matrix.shape != (count, count):
        raise ValueError(f"a confusion matrix of {count} classes has shape ({count}, {count}), not {matrix.shape}")
    matrix = matrix.astype(np.float64)
    rows = matrix.sum(1)
    shares = np.divide(matrix, rows[:, None], out=np.zeros_like(matrix), where=rows[:, None] > 0)
    iou = class_iou(matrix)
    names = [_label(name, 24) for name in class_names]

    cell_in = max(0.62 if count <= 12 else 0.5, 2.2 / count)
    side_in, bar_in, gap_in = count * cell_in, 1.1, 0.18
    small = 7 if count <= 12 else 5.5
    with _style():
        figure = Figure(figsize=(side_in + gap_in + bar_in, side_in), dpi=_DPI)
        axes = figure.add_axes((0, 0, side_in / (side_in + gap_in + bar_in), 1))
        bars = figure.add_axes(((side_in + gap_in) / (side_in + gap_in + bar_in), 0, bar_in / (side_in + gap_in + bar_in), 1))

        # Light for nothing, dark for all: little ink, and lightness alone carries the order.
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for row in range(count):
            for column in range(count):
                share, pixels = shares[row, column], matrix[row, column]
                text = f"{_percent(share)}\n{_readable(pixels)}" if pixels else "0" if rows[row] else _NOTHING
                ink = "white" if share > 0.72 else "black" if pixels else "#777777"
                weight = "bold" if row == column else "normal"
                axes.text(column, row, text, ha="center", va="center", color=ink, fontsize=small, fontweight=weight)
        axes.set_xticks(range(count), names, rotation=40, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(count), names)
        axes.set_xlabel("predicted class")
        axes.set_ylabel("true class")
        axes.set_xticks(np.arange(count + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(count + 1) - 0.5, minor=True)
        axes.grid(False)
        axes.grid(True, which="minor", color="#BFBFBF", linewidth=0.5)
        axes.tick_params(which="both", length=0)
        axes.spines[:].set_visible(False)
        axes.set_title("% of true class, pixels")

        bars.barh(range(count), np.nan_to_num(iou), height=0.55, facecolor="#DDDDDD", edgecolor="#555555", linewidth=0.6)
        for row, value in enumerate(iou):
            bars.text(0.04, row, _NOTHING if np.isnan(value) else f"{value:.3f}", va="center", fontsize=small + 0.5)
        bars.set_xlim(0, 1)
        bars.set_ylim(count - 0.5, -0.5)
        bars.set_yticks([])
        bars.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        bars.grid(False)
        mean = np.nanmean(iou) if np.isfinite(iou).any() else math.nan
        bars.set_title("IoU")
        bars.set_xlabel(f"mean {_NOTHING}" if math.isnan(mean) else f"mean {mean:.3f}", fontweight="bold")
        _save(figure, path, tight=True)


def paint(mask: np.ndarray, colors: Sequence[tuple[int, int, int]]) -> np.ndarray:
    """Colour a mask: uint8 [height, width] of class indices or `IGNORED` to uint8 [height, width, 3].

    Classes get `colors` (sRGB, 0 to 255) with a dark line, one pixel wide, between neighbours; ignored pixels are hatched grey.
    """
    table = np.zeros((256, 3), np.uint8)
    table[: len(colors)] = colors
    painted = table[mask]
    border = np.zeros(mask.shape, bool)
    border[:, :-1] |= mask[:, :-1] != mask[:, 1:]
    border[:-1] |= mask[:-1] != mask[1:]
    painted[border] = _OUTLINE
    _hatch(painted, mask == IGNORED)
    return painted


def paint_errors(image: np.ndarray, truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Show where a prediction is wrong: uint8 [height, width, 3], from an image of that shape and two masks [height, width].

    Wrong pixels are `ERROR_COLOR`, pixels that truth ignores are hatched, and the rest is the image in dark grey.
    """
    # Steps of four: nobody sees them in so dark a grey, and the file is smaller.
    grey = (_luminance(image) * 0.45).astype(np.uint8) & 0xFC
    painted = np.repeat(grey[..., None], 3, axis=-1)
    painted[truth != prediction] = ERROR_COLOR
    _hatch(painted, truth == IGNORED)
    return painted


def _overlay(image: np.ndarray, mask: np.ndarray, colors: Sequence[tuple[int, int, int]]) -> np.ndarray:
    """The mask's colours over the image, which only lends light and shade, so that dark water keeps the colour of its class."""
    painted = paint(mask, colors)
    shade = 96 + _luminance(image) * (159 / 255)
    blended = (0.65 * painted + 0.35 * shade[..., None]).astype(np.uint8) & 0xFC
    blended[mask == IGNORED] = painted[mask == IGNORED]
    return blended


def _luminance(image: np.ndarray) -> np.ndarray:
    return image.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)


def _hatch(painted: np.ndarray, where: np.ndarray) -> None:
    """Fill the pixels `where` with grey diagonal stripes, in place."""
    row, column = np.indices(where.shape)
    stripes = np.where((row + column) % 8 < 2, _HATCH_DARK, _HATCH_LIGHT).astype(np.uint8)
    painted[where] = stripes[where, None]


def _mosaic(cells, headings, cells_per_row, handles, colors, path) -> None:
    """Lay out titled cells of panels pixel by pixel, `headings` on top and the legend `handles` below, and save.

    Panels are `(picture, mask or None)`; where there is a mask, its regions get the numbers of their classes.
    """
    panels_per_cell = len(headings) // cells_per_row
    widths = [max(cell[1][panel][0].shape[1] for cell in cells) for panel in range(panels_per_cell)]
    cell_px = sum(widths) + _GAP_PX * panels_per_cell
    width_px = max(cell_px * cells_per_row + _GAP_PX, 420)
    lines = [cells[start : start + cells_per_row] for start in range(0, len(cells), cells_per_row)]
    title_px = _LINE_PX if any(title for title, _ in cells) else 0
    figure = Figure(figsize=(width_px / _DPI, 1), dpi=_DPI)
    FigureCanvasAgg(figure)
    legend_px = _fitted_legend(figure, handles, width_px)
    heights = [max(panels[0][0].shape[0] for _, panels in line) + title_px + _GAP_PX for line in lines]
    height_px = _LINE_PX + sum(heights) + legend_px + 2 * _GAP_PX
    figure.set_size_inches(width_px / _DPI, height_px / _DPI)

    def write(text, left, top, **font):
        figure.text(left / width_px, 1 - top / height_px, text, va="top", **font)

    for panel, heading in enumerate(headings):
        cell, place = divmod(panel, panels_per_cell)
        write(heading, _GAP_PX + cell * cell_px + sum(widths[:place]) + _GAP_PX * place, 5, fontsize=8, fontweight="bold")
    top = _LINE_PX
    for line, line_px in zip(lines, heights, strict=True):
        for index, (title, panels) in enumerate(line):
            left = _GAP_PX + index * cell_px
            write(_label(title, cell_px // 11), left, top + 5, fontsize=7)
            for (picture, mask), column_px in zip(panels, widths, strict=True):
                height, width = picture.shape[:2]
                bottom = height_px - top - title_px - height
                box = (left / width_px, bottom / height_px, width / width_px, height / height_px)
                axes = figure.add_axes(box)
                axes.imshow(picture, interpolation="nearest", aspect="auto")
                axes.set_axis_off()
                if mask is not None:
                    _number_regions(axes, mask, colors)
                left += column_px + _GAP_PX
        top += line_px
    _save(figure, path)


def _fitted_legend(figure: Figure, handles, width_px: int) -> int:
    """Put a legend at the foot of the figure in as many columns as fit; returns its height in pixels."""
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


def _number_regions(axes: Axes, mask: np.ndarray, colors: Sequence[tuple[int, int, int]]) -> None:
    """Write the class index into the largest regions of a mask, where they are widest."""
    halo = [withStroke(linewidth=1.6, foreground="white")]
    for index in range(len(colors)):
        regions, count = ndimage.label(mask == index)
        if not count:
            continue
        sizes = np.bincount(regions.ravel())[1:]
        for rank, region in enumerate((np.argsort(-sizes, kind="stable")[:4] + 1).tolist()):
            # The frame counts as a border, or numbers would be cut in half by it.
            depth = ndimage.distance_transform_edt(np.pad(regions == region, 1))[1:-1, 1:-1]
            row, column = np.unravel_index(depth.argmax(), depth.shape)
            # A class's largest region may be a tight fit; the others must have room, or numbers would hide them.
            if depth[row, column] >= (4 if rank == 0 else 8):
                axes.text(column, row, str(index), ha="center", va="center", fontsize=6, fontweight="bold", path_effects=halo)


def _class_swatches(class_names: Sequence[str], colors: Sequence[tuple[int, int, int]]) -> list[Patch]:
    return [
        Patch(facecolor=_unit(color), edgecolor="black", linewidth=0.6, label=f"{index} {_label(name, 40)}")
        for index, (name, color) in enumerate(zip(class_names, colors, strict=True))
    ]


def _ignored_swatch(present: bool) -> list[Patch]:
    light, dark = _unit((_HATCH_LIGHT,) * 3), _unit((_HATCH_DARK,) * 3)
    return [Patch(facecolor=light, edgecolor=dark, hatch="/////", linewidth=0.6, label="ignored")] if present else []


def _check(image, mask, class_names, colors) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"an image is uint8 [height, width, 3], not {image.dtype} {image.shape}")
    if mask.shape != image.shape[:2] or mask.dtype != np.uint8:
        raise ValueError(f"the mask of an image {image.shape} is uint8 {image.shape[:2]}, not {mask.dtype} {mask.shape}")
    if len(class_names) != len(colors):
        raise ValueError(f"{len(class_names)} class names need as many colours, not {len(colors)}")
    unknown = np.setdiff1d(np.unique(mask), [*range(len(colors)), IGNORED])
    if unknown.size:
        raise ValueError(f"mask values {unknown.tolist()} are neither one of {len(colors)} classes nor {IGNORED} (ignored)")


def _panel_px(photographs: int, images: Sequence[np.ndarray]) -> int:
    """The width that keeps so many photographs of these proportions in the budget of pixels."""
    if not photographs:
        raise ValueError("a picture needs at least one image")
    tallest = max(min(image.shape[0] / image.shape[1], 1.0) for image in images)
    width = int(math.sqrt(_PHOTOGRAPH_BUDGET_PX / (photographs * tallest)))
    return min(max(width, _SMALLEST_PANEL_PX), _LARGEST_PANEL_PX)


def _fit(image: np.ndarray, *masks: np.ndarray, panel_px: int) -> list[np.ndarray]:
    """Bring an image and its masks to the size of a panel: `panel_px` wide, or as high where they are higher than wide."""
    height, width = image.shape[:2]
    scale = panel_px / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    smooth = Image.Resampling.BOX if scale < 1 else Image.Resampling.NEAREST
    picture = np.asarray(Image.fromarray(image).resize(size, smooth))
    # Six bits a channel: noise below that is most of the file and none of the picture.
    fitted = [(np.minimum(picture, 253) + 2) & 0xFC]
    fitted += [np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST)) for mask in masks]
    return fitted


def _series(metrics: Sequence[Mapping[str, float]], key: str) -> tuple[list[int], list[float]]:
    """Steps and finite values of one metric, in the order of the steps; the last row of a step counts."""
    values = {row["step"]: row[key] for row in metrics if key in row}
    finite = sorted((step, value) for step, value in values.items() if value is not None and math.isfinite(value))
    return [step for step, _ in finite], [value for _, value in finite]


def _first_not_finite(metrics: Sequence[Mapping[str, float]], key: str) -> int | None:
    values = {row["step"]: row[key] for row in metrics if key in row}
    return min((step for step, value in values.items() if value is None or not math.isfinite(value)), default=None)


def _curve(axes: Axes, series: tuple[list[int], list[float]], **style) -> None:
    """Draw a series with about ten markers, or nothing where it is empty; a single point always shows."""
    steps, values = series
    if not steps:
        return
    if len(steps) == 1:
        style["marker"] = style.get("marker") or "o"
    style = {"linewidth": 1.3, "markersize": 4.5, "markevery": max(1, len(steps) // 10)} | style
    axes.plot(steps, values, **style)


def _curve_style(index: int) -> dict:
    """Colour, line style and marker of the curve of a class: their periods 6, 5 and 7 give 210 curves before one repeats."""
    return {
        "color": _CURVE_COLORS[index % len(_CURVE_COLORS)],
        "linestyle": _CURVE_STYLES[index % len(_CURVE_STYLES)],
        "marker": _CURVE_MARKERS[index % len(_CURVE_MARKERS)],
    }


def _legend_or_note(axes: Axes, note: str) -> None:
    if axes.lines:
        axes.legend(loc="upper right", handlelength=3.5)
    else:
        _note(axes, note)


def _note(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color="#555555", fontstyle="italic")


def _label(text: str, width: int) -> str:
    """A text as a label: one line, cut to `width` columns (wide characters count two), and never hidden by Matplotlib."""
    text = " ".join(str(text).split())
    ends = np.cumsum([2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text])
    if text and ends[-1] > width:
        text = text[: max(1, int((ends < width).sum()))] + "…"
    # Matplotlib hides labels that begin with an underscore.
    return " " + text if text.startswith("_") else text


def _percent(share: float) -> str:
    """A share between 0 and 1 in percent, with no more digits than a cell has room for."""
    if share < 0.0005:
        return "<0.1"
    return ">99.9" if 0.9995 <= share < 1 else f"{100 * share:.1f}"


def _readable(count: float) -> str:
    """A count in three digits and a unit: 987, 12.3 k, 4.56 M."""
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        # The rounding decides the unit: 999,950 is 1.00 M, not 1000 k.
        if count >= size * 0.9995:
            return f"{count / size:#.3g}".rstrip(".") + unit
    return f"{count:.0f}"


def _unit(color: tuple[int, int, int]) -> tuple[float, ...]:
    return tuple(channel / 255 for channel in color)


@contextmanager
def _style():
    """The look of all pictures, independent of the user's own Matplotlib settings; glyphs no font has become boxes, quietly."""
    own = {key: value for key, value in matplotlib.rcParamsDefault.items() if not key.startswith(("backend", "interactive"))}
    with matplotlib.rc_context(own | _STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph \d+ .*missing from font")
        yield


def _save(figure: Figure, path: str | Path, *, tight: bool = False) -> None:
    """Write the PNG without anything that varies between two runs of the same code."""
    FigureCanvasAgg(figure)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    area = {"bbox_inches": "tight", "pad_inches": 0.08} if tight else {}
    figure.savefig(path, format="png", dpi=_DPI, metadata={"Software": None}, pil_kwargs={"optimize": True}, **area)
