"""How lessons show things: words in the notebook's language, pictures, matrices, tables.

Figures are drawn without pyplot, so that a notebook, a page and a test get the same ones; each has
a text for those who don't see it.
"""

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

LANGUAGES = ("en", "es")
INK, ACCENT, WARM, COOL, PALE = "#1f2937", "#0f766e", "#c2410c", "#1d4ed8", "#f1f5f9"
"""The colours of figures: text, then three that differ in lightness, then a background."""

STYLE = {
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#94a3b8",
    "axes.labelcolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e2e8f0",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
}


def words(language: str) -> Callable[[str, str], str]:
    """The function that figures take their words from: `say("edges", "bordes")` is the one in the
    notebook's language, "en" or "es"."""
    place = LANGUAGES.index(language)
    return lambda english, spanish: (english, spanish)[place]


def grouped(number: int) -> str:
    """A whole number with its digits in groups of three, apart by a narrow space: neither point nor
    comma means the same in both languages."""
    return f"{number:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def panels(
    rows: int = 1, columns: int = 1, size: tuple[float, float] = (3.2, 2.6), **options: Any
) -> tuple[Figure, np.ndarray]:
    """A figure and its axes `[rows, columns]`, each of `size` inches; `options` as
    `Figure.subplots` takes them."""
    with rc_context(STYLE):
        figure = Figure((size[0] * columns, size[1] * rows), layout="constrained")
        return figure, figure.subplots(rows, columns, squeeze=False, **options)


def show(figure: Figure, alt: str) -> None:
    """Display a figure as a small file, a PNG of 128 colours or, where photographs make that large,
    a JPEG; `alt` says what it shows."""
    from IPython.display import Image as Picture
    from IPython.display import display

    drawn, png, jpeg = io.BytesIO(), io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=90)
    picture = Image.open(drawn).convert("RGB")
    picture.quantize(128, dither=Image.Dither.NONE).save(png, "png", optimize=True)
    picture.save(jpeg, "jpeg", quality=65, optimize=True)
    small = png if png.tell() < max(30_000, jpeg.tell()) else jpeg
    display(Picture(small.getvalue(), alt=alt))


def pictures(
    items: Sequence[tuple[str, Any]],
    alt: str,
    *,
    columns: int = 0,
    side: float = 2.3,
    cmap: str = "gray",
    limits: tuple[float, float] | None = None,
) -> None:
    """Pictures with titles above them, in rows.

    Args:
        items: of each its title and its pixels: `[height, width]`, shown in greys from the least
            value to the largest (bytes from 0 to 255), or `[height, width, 3]`, bytes or 0 to 1.
        alt: what they show.
        columns: pictures in a row; 0: all.
        side: of each, in inches.
        cmap: of pictures with one channel.
        limits: values shown as the first and the last colour, in place of those above.
    """
    columns = columns or len(items)
    rows = -(-len(items) // columns)
    tallest = max(np.shape(pixels)[0] / np.shape(pixels)[1] for _, pixels in items)
    title = 0.2 * max(text.count("\n") + 1 for text, _ in items) + 0.1
    figure, axes = panels(rows, columns, (side, side * tallest + title))
    for place in axes.flat:
        place.axis("off")
    for place, (text, pixels) in zip(axes.flat, items, strict=False):
        pixels = np.asarray(pixels)
        bounds = limits or ((0, 255) if pixels.dtype == np.uint8 else (pixels.min(), pixels.max()))
        place.imshow(pixels, cmap=cmap, vmin=bounds[0], vmax=bounds[1], interpolation="nearest")
        place.set_title(text)
    show(figure, alt)


def matrices(
    items: Sequence[tuple[str, Any] | str],
    alt: str,
    *,
    marked: Sequence[tuple[int, int, int, int, int]] = (),
    digits: int = 0,
    cell: float = 0.42,
    limits: tuple[float, float] | None = None,
) -> None:
    """Matrices side by side, every number in its cell: large ones light, so that a matrix of grey
    levels is its own picture.

    Args:
        items: of each matrix its title and its values `[height, width]` (NaN leaves a cell empty);
            a text, such as "=", stands between two of them.
        alt: what they show.
        marked: cells to frame: number of the item, row, column, height, width.
        digits: after the point.
        cell: side of a cell, in inches.
        limits: values shown darkest and lightest; None: each matrix's own.
    """
    widths = [0.8 if isinstance(item, str) else np.shape(item[1])[1] for item in items]
    height = max(1 if isinstance(item, str) else np.shape(item[1])[0] for item in items)
    figure = Figure(
        (cell * (sum(widths) + 0.5 * (len(items) - 1)) + 0.1, cell * height + 0.55),
        layout="constrained",
    )
    axes = figure.subplots(1, len(items), width_ratios=widths, squeeze=False)[0]
    for number, (place, item) in enumerate(zip(axes, items, strict=True)):
        place.axis("off")
        if isinstance(item, str):
            place.text(0.5, 0.5, item, ha="center", va="center", fontsize=16, color=INK)
            continue
        title, values = item[0], np.asarray(item[1], float)
        rows, columns = values.shape
        place.set(xlim=(0, columns), ylim=(rows, 0), aspect="equal")
        place.set_title(title, fontsize=10, color=INK)
        least, most = limits or (np.nanmin(values), np.nanmax(values))
        for (row, column), value in np.ndenumerate(values):
            share = (value - least) / (most - least) if most > least else 0.7
            empty = np.isnan(value)
            face = "white" if empty else str(0.25 + 0.75 * min(max(share, 0), 1))
            place.add_patch(Rectangle((column, row), 1, 1, facecolor=face, edgecolor="#94a3b8"))
            if not empty:
                text = f"{value:.{digits}f}".replace("-", "\N{MINUS SIGN}")
                ink = "white" if share < 0.35 else "black"
                size = 9.5 if len(text) < 5 else 7.5
                place.text(column + 0.5, row + 0.5, text, ha="center", va="center", color=ink)
                place.texts[-1].set_fontsize(size)
        for item_number, row, column, tall, wide in marked:
            if item_number == number:
                style = {"fill": False, "edgecolor": WARM, "linewidth": 3, "clip_on": False}
                place.add_patch(Rectangle((column, row), wide, tall, **style))
    show(figure, alt)


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Display a table; columns of numbers are set to the right."""
    from IPython.display import Markdown, display

    def numeric(value):
        return isinstance(value, int | float | np.number) or str(value).lstrip("-+")[:1].isdigit()

    right = [all(numeric(row[place]) for row in rows) for place in range(len(header))]
    lines = [header, ["---:" if number else "---" for number in right], *rows]
    display(Markdown("\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)))
