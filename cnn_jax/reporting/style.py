"""The look that all pictures share: colours, lines, labels, and a PNG that never changes by itself.

Nothing is said by hue alone: curves differ in colour (Okabe and Ito, 2008), line style and marker.
The same input gives the same bytes, whatever the user's own settings.
"""

import functools
import re
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cnn_jax.records.files import SOFTWARE

_Item = TypeVar("_Item")

DPI = 150

TRAIN: dict[str, Any] = {"color": "#0072B2", "linestyle": "-", "marker": ""}
VALIDATION: dict[str, Any] = {"color": "#D55E00", "linestyle": "--", "marker": "s"}

# Okabe and Ito's colours without black, which the mean keeps, and without yellow, which white paper
# swallows.
_CURVE_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_CURVE_STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
_CURVE_MARKERS = ("o", "s", "^", "D", "v", "P", "X")

_SETTINGS = {
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


_FURTHER_FONTS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Source Han Sans SC",
    "WenQuanYi Zen Hei",
    "Droid Sans Fallback",
    "Hiragino Sans",
    "PingFang SC",
    "Microsoft YaHei",
    "Malgun Gothic",
    "Nanum Gothic",
    "IPAGothic",
    "Unifont",
    "Arial Unicode MS",
)
"""Fonts with Chinese, Japanese and Korean characters, which DejaVu Sans lacks."""


_NO_GLYPH = r"Glyph (\d+) .*missing from font"
_told: set[str] = set()
"""Characters whose absence has been told, once a process."""


@functools.cache
def _fonts() -> list[str]:
    """DejaVu Sans, which comes with Matplotlib, and for what it lacks the first fonts that are
    installed: one may have no Korean."""
    installed = {font.name for font in font_manager.fontManager.ttflist}
    return ["DejaVu Sans", *[name for name in _FURTHER_FONTS if name in installed][:3]]


@contextmanager
def style() -> Iterator[None]:
    """The look of all pictures, independent of the user's own Matplotlib settings; glyphs no font
    has become boxes, of which `save` tells."""
    own = {
        key: value
        for key, value in matplotlib.rcParamsDefault.items()
        if not key.startswith(("backend", "interactive"))
    }
    settings: Any = own | _SETTINGS | {"font.family": _fonts()}
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=_NO_GLYPH)
        yield


def save(figure: Figure, path: str | Path, *, tight: bool = False) -> None:
    """Write the PNG, and the folders above it, without anything that varies between two runs of the
    same code.

    `tight` cuts the picture to what is drawn, so that nothing written outside of the figure is
    lost.
    """
    FigureCanvasAgg(figure)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    area = {"bbox_inches": "tight", "pad_inches": 0.08} if tight else {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings("always", message=_NO_GLYPH)
        figure.savefig(
            path,
            format="png",
            dpi=DPI,
            metadata={"Software": SOFTWARE},
            pil_kwargs={"optimize": True},
            **area,
        )
    missing = set()
    for warning in caught:
        found = re.match(_NO_GLYPH, str(warning.message))
        if found:
            missing.add(chr(int(found[1])))
        else:
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )
    if missing - _told:
        characters = "".join(sorted(missing))
        print(
            f"note: no installed font has {characters}: pictures show boxes instead; install one"
            " that does, such as Noto Sans CJK."
        )
        _told.update(missing)


def curve_style(index: int) -> dict[str, Any]:
    """Colour, line style and marker of curve number `index`: their periods 6, 5 and 7 give 210
    curves before one repeats."""
    return {
        "color": _CURVE_COLORS[index % len(_CURVE_COLORS)],
        "linestyle": _CURVE_STYLES[index % len(_CURVE_STYLES)],
        "marker": _CURVE_MARKERS[index % len(_CURVE_MARKERS)],
    }


def legend_beside(axes: Axes) -> None:
    """A legend at the right of the axes, in the order in which the curves end: so that it can be
    matched by height as well."""
    lines = [line for line in axes.lines if not str(line.get_label()).startswith("_")]
    lines.sort(key=lambda line: -np.asarray(line.get_ydata())[-1])
    axes.legend(
        handles=lines, loc="upper left", bbox_to_anchor=(1.01, 1), handlelength=4.5, borderaxespad=0
    )


def note(axes: Axes, text: str, **look: Any) -> None:
    """Say in the middle of empty axes why they are empty."""
    look = {"ha": "center", "va": "center", "color": "#555555", "fontstyle": "italic"} | look
    axes.text(0.5, 0.5, text, transform=axes.transAxes, **look)


def label(text: str, width: int) -> str:
    """A text as a label: one line, and never hidden by Matplotlib.

    What is longer than `width` columns (wide characters count two) loses its middle: names of
    variants and scenes often differ at the end alone.
    """
    text = " ".join(str(text).split())
    columns = [2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text]
    if sum(columns) > width:
        head = max(1, int((np.cumsum(columns) <= width // 2).sum()))
        tail = int((np.cumsum(columns[::-1]) <= width - width // 2 - 1).sum())
        text = f"{text[:head]}…{text[len(text) - tail :]}"
    # Matplotlib hides labels that begin with an underscore.
    return " " + text if text.startswith("_") else text


def evenly(items: Sequence[_Item], most: int) -> list[_Item]:
    """At most so many of the items, evenly spaced, the first and the last among them."""
    places = np.linspace(0, len(items) - 1, min(most, len(items)))
    return [items[place] for place in places.round().astype(int)]


def percent(share: float) -> str:
    """A share between 0 and 1 in percent, with no more digits than a cell has room for."""
    if share < 0.0005:
        return "<0.1"
    return ">99.9" if 0.9995 <= share < 1 else f"{100 * share:.1f}"


def readable(count: float) -> str:
    """A count, from 10,000 on in three digits and a unit: 987, 1,126, 12.3 k, 4.56 M."""
    if count < 9999.5:
        return f"{count:,.0f}"
    # The rounding decides the unit: 999,950 is 1.00 M, not 1000 k.
    size, unit = next(
        (size, unit)
        for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k"))
        if count >= size * 0.9995
    )
    return f"{count / size:#.3g}".rstrip(".") + f" {unit}"
