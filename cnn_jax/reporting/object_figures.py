"""Pictures of objects: what was found, missed and falsely alarmed of, and curves of precision.

Nothing is said by hue alone: what is right has a full outline, a false alarm a dashed one, and what
was missed a dotted one; each names its class.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from cnn_jax.data import objects
from cnn_jax.data.objects import AnnotatedImage, Annotation
from cnn_jax.data.resizing import displayable
from cnn_jax.evaluation.coco import AREAS, RECALLS, Matches
from cnn_jax.records.metrics import NOTHING
from cnn_jax.records.object_record import told
from cnn_jax.reporting.image_figures import swatch
from cnn_jax.reporting.mosaic import fit, mosaic, panel_px
from cnn_jax.reporting.style import DPI, curve_style, label, save, style

LOOKS: dict[str, dict[str, Any]] = {
    "found": {"color": "#FFFFFF", "linestyle": "-"},
    "false alarm": {"color": "#FFB000", "linestyle": (0, (4, 2))},
    "missed": {"color": "#00FFFF", "linestyle": (0, (1, 1))},
    "counts nowhere": {"color": "#BBBBBB", "linestyle": (0, (6, 3, 1, 3))},
}
MOST_NAMED = 30
"""Objects of a picture whose classes and scores are written, the largest."""


def f1(one: Matches) -> float:
    """Of an image: twice what was found, of what was there and what was said to be; NaN where
    neither is."""
    said = int((~one.ignored).sum())
    there = int(one.wanted.sum())
    hits = int((one.truth[~one.ignored] >= 0).sum())
    return 2 * hits / (said + there) if said + there else float("nan")


def gallery(
    images: Sequence[np.ndarray],
    truths: Sequence[AnnotatedImage],
    predictions: Sequence[Sequence[Annotation]],
    every: Sequence[Matches],
    names: Sequence[str],
    colors: Sequence[tuple[int, int, int]],
    path: str | Path,
    masks: bool = False,
) -> None:
    """Draws one image a row: as it is, with its true objects, and with what was found.

    `images` are `[height, width, channels]`, `predictions` have scores, and `every` says which of
    them are right. `colors` are sRGB, 0 to 255, in the order of `names`. The PNG is written to
    `path`.
    """
    width_px = panel_px(3 * len(images), images)
    cells = []
    for image, truth, found, one in zip(images, truths, predictions, every, strict=True):
        [picture] = fit(displayable(image), panel_px=width_px)
        scale = picture.shape[0] / image.shape[0]
        hits = int((one.truth >= 0).sum())
        title = (
            f"{truth.name}: {hits} found, {len(one.missed)} missed,"
            f" {int(((one.truth < 0) & ~one.ignored).sum())} false alarms"
        )
        panels = [
            (picture, None),
            (
                tinted(picture, truth.objects, truth, colors, scale, masks),
                _marker(_true(truth), names, scale),
            ),
            (
                tinted(picture, found, truth, colors, scale, masks),
                _marker(told(truth, found, one), names, scale),
            ),
        ]
        cells.append((title, panels))
    with style():
        handles = [
            Line2D([], [], color=look["color"], linestyle=look["linestyle"], label=kind,
                   path_effects=[withStroke(linewidth=3, foreground="black")])
            for kind, look in LOOKS.items()
        ]  # fmt: skip
        handles = [*_class_swatches(names, colors), *handles]
        mosaic(cells, path, headings=("Image", "Truth", "Found"), handles=handles)


def _class_swatches(names, colors):
    """The entries of a legend, of 20 classes at most."""
    return [
        swatch(tuple(channel / 255 for channel in color), label(name, 40))
        for name, color in zip(names[:20], colors, strict=False)
    ]


def _true(truth: AnnotatedImage) -> list[tuple[Annotation, str]]:
    """The true objects, each with how it is drawn."""
    return [(one, "counts nowhere" if one.crowd else "found") for one in truth.objects]


def tinted(
    picture: np.ndarray,
    every: Sequence[Annotation],
    image: AnnotatedImage,
    colors: Sequence[tuple[int, int, int]],
    scale: float = 1.0,
    masks: bool = True,
) -> np.ndarray:
    """A picture uint8 `[height, width, 3]`, `scale` times as large as the image, with the masks of
    objects in the colours of their classes; unchanged where `masks` is False."""
    if not masks:
        return picture
    shown = picture.astype(np.float32)
    for one in every:
        part, top, left = objects.part_of(one, image.height_px, image.width_px)
        if not part.size:
            continue
        first, last = round(top * scale), round((top + part.shape[0]) * scale)
        start, end = round(left * scale), round((left + part.shape[1]) * scale)
        first, start = min(first, shown.shape[0] - 1), min(start, shown.shape[1] - 1)
        last, end = max(last, first + 1), max(end, start + 1)
        rows = np.minimum((np.arange(last - first) / scale).astype(int), part.shape[0] - 1)
        columns = np.minimum((np.arange(end - start) / scale).astype(int), part.shape[1] - 1)
        seen = part[rows][:, columns]
        room = shown[first:last, start:end]
        seen = seen[: room.shape[0], : room.shape[1]]
        edge = seen & ~scipy.ndimage.binary_erosion(seen)
        color = np.array(colors[one.label], np.float32)
        room[seen] = 0.5 * room[seen] + 0.5 * color
        room[edge] = color
    return (shown + 0.5).astype(np.uint8) & 0xFC


def boxed(
    picture: np.ndarray, every: Sequence[Annotation], colors: Sequence[tuple[int, int, int]]
) -> np.ndarray:
    """A picture uint8 `[height, width, 3]` with the outlines of boxes, two pixels wide, in the
    colours of their classes."""
    shown = picture.copy()
    for one in every:
        left, top, right, bottom = objects.clipped_px(one.box, *picture.shape[:2])
        part = shown[top:bottom, left:right]
        for side in (part[:2], part[-2:], part[:, :2], part[:, -2:]):
            side[:] = colors[one.label]
    return shown


def contact_sheet(
    images: Sequence[np.ndarray],
    truths: Sequence[AnnotatedImage],
    names: Sequence[str],
    colors: Sequence[tuple[int, int, int]],
    path: str | Path,
    titles: Sequence[str],
) -> None:
    """Draws images in a grid, each beside itself with its objects; crowds have broken outlines."""
    width_px = panel_px(2 * len(images), images)
    cells = []
    for image, truth, title in zip(images, truths, titles, strict=True):
        [picture] = fit(displayable(image), panel_px=width_px)
        scale = picture.shape[0] / image.shape[0]
        masked = [one for one in truth.objects if one.shape is not None]
        over = tinted(picture, masked, truth, colors, scale)
        cells.append((title, ((picture, None), (over, _marker(_true(truth), names, scale)))))
    pairs = max(1, round(math.sqrt(len(cells) / 2)))
    with style():
        headings, handles = ("Image", "Objects") * pairs, _class_swatches(names, colors)
        mosaic(cells, path, headings=headings, cells_per_row=pairs, handles=handles)


def _marker(every, names, scale):
    """What to draw over a panel, of objects with their kinds: outlines, and of the largest the
    class and the score."""
    areas = [-one.box_area for one, _ in every]
    named = set(np.argsort(areas, kind="stable")[:MOST_NAMED].tolist())

    def draw(axes: Axes) -> None:
        limits = axes.get_xlim(), axes.get_ylim()
        for index, (one, kind) in enumerate(every):
            left, top, right, bottom = (at * scale - 0.5 for at in one.box)
            box = Rectangle(
                (left, top), right - left, bottom - top, fill=False, linewidth=0.9, **LOOKS[kind]
            )
            box.set_path_effects([withStroke(linewidth=2.0, foreground="black")])
            axes.add_patch(box)
            if index in named and (one.score is not None or len(names) > 1):
                score = "" if one.score is None else f" {one.score:.2f}"
                word = f"{label(names[one.label], 12)}{score}" if right - left > 40 else score[1:]
                axes.text(
                    left, top - 1, word, fontsize=4, color=LOOKS[kind]["color"], clip_on=True,
                    path_effects=[withStroke(linewidth=1.2, foreground="black")], va="bottom",
                )  # fmt: skip
        axes.set_xlim(limits[0])
        axes.set_ylim(limits[1])

    return draw


def heat_maps(
    images: Sequence[np.ndarray],
    heats: Sequence[np.ndarray],
    titles: Sequence[str],
    path: str | Path,
) -> None:
    """Draws images beside their heat maps float `[h, w]`, where an object's centre is thought to
    be; a heat map may be of the image's upper left part, which alone is shown then, and coarser."""
    width_px = panel_px(2 * len(images), images)
    cells = []
    for image, heat, title in zip(images, heats, titles, strict=True):
        picture = displayable(image)
        coarse = max(
            1, round(min(picture.shape[0] / heat.shape[0], picture.shape[1] / heat.shape[1]))
        )
        grey = (np.clip(heat, 0, 1) * 255).astype(np.uint8)
        enlarged = grey.repeat(coarse, 0).repeat(coarse, 1)[: picture.shape[0], : picture.shape[1]]
        picture = picture[: enlarged.shape[0], : enlarged.shape[1]]
        picture, enlarged = fit(picture, enlarged, panel_px=width_px)
        cells.append((title, ((picture, None), (np.repeat(enlarged[..., None], 3, -1), None))))
    with style():
        mosaic(cells, path, headings=("Image", "Centres: black 0, white 1"))


def precision_recall(
    precision: Mapping[str, np.ndarray], names: Sequence[str], path: str | Path
) -> None:
    """Draws precision against recall at IoU 0.5, a panel for boxes and one for masks, a curve for
    each class (of many, those with the highest and the lowest AP) and, of several, their mean.

    `precision` is float64 `[classes, 101]` of each kind, NaN of classes without objects.
    """
    with style():
        figure = Figure(figsize=(4.6 * len(precision), 3.8), dpi=DPI, layout="constrained")
        FigureCanvasAgg(figure)
        for number, (kind, values) in enumerate(precision.items(), 1):
            axes = figure.add_subplot(1, len(precision), number)
            axes.set_title(f"{'Boxes' if kind == 'box' else 'Masks'}, IoU 0.5")
            known = [i for i in range(len(names)) if np.isfinite(values[i]).any()]
            known.sort(key=lambda i: -float(np.nanmean(values[i])))
            shown = known if len(known) <= 8 else known[:4] + known[-4:]
            for place, index in enumerate(shown):
                ap = np.nanmean(values[index])
                look = {**curve_style(place), "marker": ""}
                axes.plot(
                    RECALLS, values[index], label=f"{label(names[index], 20)} {ap:.2f}", **look
                )
            if len(known) > 1:  # else it would cover the one class
                mean = values[known].mean(0)
                axes.plot(
                    RECALLS, mean, color="black", linewidth=2.4, label=f"mean {mean.mean():.2f}"
                )
            if known:
                axes.legend(loc="lower left", fontsize=7)
            axes.set_xlim(0, 1)
            axes.set_ylim(0, 1.02)
            axes.set_xlabel("recall")
            axes.set_ylabel("precision")
        save(figure, path)


def by_size(twelve: Mapping[str, Mapping[str, float]], path: str | Path) -> None:
    """Draws AP and AR of all objects and of COCO's three sizes, for boxes and masks."""
    with style():
        figure = Figure(figsize=(5.2, 3.4), dpi=DPI, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        bars = [(kind, name) for kind in twelve for name in ("ap", "ar")]
        width = 0.8 / len(bars)
        for place, (kind, name) in enumerate(bars):
            keys = [name, *(f"{name}_{area}" for area in AREAS[1:])]
            values = [twelve[kind][key] for key in keys]
            at = np.arange(4) + (place - (len(bars) - 1) / 2) * width
            color = curve_style(place)["color"]
            hatch = "" if name == "ap" else "///"
            drawn = axes.bar(
                at, np.nan_to_num(values), width, color=color, hatch=hatch, edgecolor="white",
                label=f"{name.upper()} of {'boxes' if kind == 'box' else 'masks'}",
            )  # fmt: skip
            texts = [NOTHING if np.isnan(value) else f"{value:.2f}" for value in values]
            axes.bar_label(drawn, texts, fontsize=6)
        names = ("all", "small\n< 32² px", "medium\n< 96² px", "large")
        axes.set_xticks(np.arange(4), names)
        axes.set_ylim(0, 1.05)
        axes.set_title("By size of objects, IoU 0.5 to 0.95")
        axes.legend(fontsize=7, ncols=2)
        axes.grid(axis="x", visible=False)
        save(figure, path)
