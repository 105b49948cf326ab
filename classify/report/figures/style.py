"""Figures as SVG text in one style: colour-blind safe, for light and dark, always the same bytes.

Strategies have colours of Okabe and Ito, classes those of Petroff, with marker shapes as a second
cue. Text stays text, so that it can be searched, copied and read aloud, and takes the reader's
fonts. Files have a white ground of their own; `inline` makes them transparent and lets them take
the page's text colour, which is what light and dark schemes need.

References
----------
Okabe, M., Ito, K. (2008). Color Universal Design: how to make figures and presentations that are
    friendly to colorblind people.
"""

from __future__ import annotations

import io
import re
import threading
import unicodedata
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

import numpy as np

from classify.heads.registry import HEADS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend
    from matplotlib.text import Text

# Petroff's ten colours (2021, "Accessible color sequences for data visualization"), for classes.
PALETTE = (
    "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70",
    "#717581", "#92dadd",
)  # fmt: skip
SHAPES = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p")
_HEADS = ("multinomial", "ovr", "ovo")
_OTHERS = [name for name in HEADS if name not in _HEADS]
# Heads of the solver's logistic problems have colours of their own; the others share the rest, and
# a shape tells those of one colour apart.
COLOURS = dict(zip(_HEADS, ("#009e73", "#0072b2", "#d55e00"), strict=True)) | {
    name: PALETTE[i % len(PALETTE)] for i, name in enumerate(_OTHERS)
}
MARKERS = dict(zip(_HEADS, ("^", "o", "s"), strict=True)) | {
    name: SHAPES[(i + i // len(PALETTE) + 3) % len(SHAPES)] for i, name in enumerate(_OTHERS)
}
# Stand-ins that `inline` recognises; nothing else in a figure has exactly these colours.
INK, PAPER, FAINT = "#1b1b1f", "#fffffe", "#d4d4d9"
_FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', Arial, sans-serif"
_STYLE: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a class may be called $100$
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.labelsize": 10,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "figure.facecolor": PAPER,
    "axes.facecolor": "none",
    "savefig.facecolor": PAPER,
}


# What matplotlib measures texts in; the reader's fonts are narrower, or as wide.
MEASURED = "DejaVu Sans"
# matplotlib's settings, and Python's filters of warnings, are the whole process's.
_one_at_a_time = threading.RLock()
_FULL = "full name: "


@contextmanager
def figure_in_style(width: float, height: float, **kwargs: Any) -> Iterator[tuple[Figure, Any]]:
    """Open a figure in the common style, without pyplot and its global state."""
    import matplotlib
    from matplotlib.figure import Figure

    with _one_at_a_time, matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        # Names in scripts that the measuring font lacks: the reader's fonts will have them.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, figure.subplots(**kwargs)


def write_svg(figure: Figure, name: str, title: str) -> str:
    """Write a figure as a standalone SVG document with a title, in the same bytes each time."""
    import matplotlib

    stream = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    svg = stream.getvalue()
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"(font-family:|font: [\d.]+px) [^;\"]*", rf"\1 {_FONTS}", svg)
    # A style sheet inside one figure would reach the whole page.
    svg = re.sub(r"<style.*?</style>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(rf'<g id="{_FULL}([^"]*)">', r"<g><title>\1</title>", svg)
    # Identifiers are made unique, because several figures share one page.
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(url\(#|href="#)', rf"\1{name}-", svg)
    title = escape(printable(title))
    head = f'<svg role="img" aria-labelledby="{name}-title" stroke-linejoin="round" '
    svg = svg.replace("<svg ", head, 1)
    opening = svg.index(">", svg.index(head)) + 1
    return f'{svg[:opening]}\n <title id="{name}-title">{title}</title>{svg[opening:]}'


def inline(svg: str) -> str:
    """Prepare a figure of this module for use inside a page."""
    svg = svg[svg.index("<svg ") :]
    svg = re.sub(r'(<svg [^>]*?)\s+width="[\d.]+pt" height="[\d.]+pt"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg [^>]*?) height="[\d.]+pt"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg [^>]*?) width="[\d.]+pt"', r"\1", svg, count=1)
    return svg.replace(PAPER, "none").replace(INK, "currentColor").replace(FAINT, "#88889055")


def shorten(name: str, length: int = 18) -> str:
    """Cut a name to what fits beside an axis, keeping its end: names of a family differ there."""
    name = printable(name)
    if len(name) <= length:
        return name
    tail = length // 3
    return f"{name[: length - 1 - tail]}…{name[-tail:]}"


def printable(text: str) -> str:
    """Make a space of every character that cannot be drawn, and that XML may not hold."""
    return "".join(c if c.isprintable() or c == "\N{NO-BREAK SPACE}" else " " for c in text)


def text_width(text: str, size: float) -> float:
    """Measure a text, in points, in the widest font that a reader is likely to have."""
    return size * sum(map(_advance, text))


@lru_cache(maxsize=4096)
def _advance(letter: str) -> float:
    """Width of a letter as a share of the font's size; a whole one where the font lacks it."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    if unicodedata.combining(letter):
        return 0.0
    font = get_font(findfont(FontProperties(family=MEASURED)))
    if not font.get_char_index(ord(letter)):
        return 1.0
    font.set_size(100, 72)
    return float(font.load_char(ord(letter)).linearHoriAdvance) / 65536 / 100


def fit_text(name: str, width: float, size: float = 9.0) -> str:
    """Cut a name to a width, keeping its beginning and its end."""
    name = printable(name)
    if text_width(name, size) <= width:
        return name
    for length in range(min(len(name), int(8 * width / size)), 2, -1):
        if text_width(short := shorten(name, length), size) <= width:
            return short
    return "…"


def name_entries(legend: Legend, shown: Sequence[str], names: Sequence[str]) -> None:
    """Write names into a legend, also those that begin with an underscore."""
    for text, short in zip(legend.get_texts(), shown, strict=True):
        text.set_text(short)
    full_names(legend.get_texts(), names)


def full_names(texts: Iterable[Text], names: Sequence[str]) -> None:
    """Let drawn texts carry the names that they were cut from, as the titles a pointer shows."""
    for text, name in zip(texts, names, strict=True):
        text.set_gid(_FULL + printable(name))


def filling(colour: str, entry: Mapping[str, Any]) -> str:
    """Fill a mark, or leave it hollow where its fit did not converge."""
    return colour if entry.get("converged", True) else PAPER


def mark_accuracy(
    axes: Axes, row: float, strategy: str, entry: Mapping[str, Any], size: float
) -> None:
    """Draw an accuracy and its interval; the mark is hollow where the fit did not converge."""
    value, colour = 100 * entry["accuracy"], COLOURS.get(strategy, INK)
    axes.plot(
        [100 * end for end in entry["accuracy_ci95"]], [row, row], color=colour,
        linewidth=2.2 if size > 7 else 2, solid_capstyle="round", clip_on=False,
    )  # fmt: skip
    axes.plot(
        value, row, marker=MARKERS.get(strategy, "D"), markersize=size, color=colour,
        clip_on=False, markerfacecolor=filling(colour, entry), zorder=3,
    )  # fmt: skip
    axes.annotate(
        f"{value:.2f}", (value, row), (0, 8 if size > 7 else 6), textcoords="offset points",
        ha="center", fontsize=9, annotation_clip=False,
    )  # fmt: skip


def percent_axis(axis: Axes, low: float, high: float) -> None:
    """Zoom an accuracy axis to what is shown, with room for the numbers."""
    room = max(0.6, 0.12 * (high - low))
    axis.set_xlim(*within_percent(low - room, high + room))


def within_percent(low: float, high: float) -> tuple[float, float]:
    """Keep the ends of an axis of shares to what shares can be, 0 to 100 %.

    What stands at the ends itself is drawn whole with ``clip_on=False``.
    """
    return max(0.0, low), min(100.0, high)


def power_of_ten(value: float, _position: float | None = None) -> str:
    """Label a tick of a logarithmic axis without mathtext, which `_STYLE` turns off."""
    exponent = round(np.log10(value))
    return "10" + str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def percent_of_ten(value: float, _position: float | None = None) -> str:
    """Label a tick of a logarithmic axis of shares."""
    return f"{100 * value:.10g}"
