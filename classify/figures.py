"""Figures as SVG text in one style: colour-blind safe, for light and dark, always the same bytes.

Strategies have colours of Okabe and Ito, classes those of Petroff, with marker shapes as a second
cue. Text
stays text, so that it can be searched, copied and read aloud, and takes the reader's fonts. Files
have a white ground of their own; `inline` makes them transparent and lets them take the page's text
colour, which is what light and dark schemes need.

References
----------
Okabe, M., Ito, K. (2008). Color Universal Design: how to make figures and presentations that are
    friendly to colorblind people.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {"multinomial": "#009e73", "ovr": "#0072b2", "ovo": "#d55e00"}
MARKERS = {"multinomial": "^", "ovr": "o", "ovo": "s"}
# Petroff's ten colours (2021, "Accessible color sequences for data visualization"), for classes.
PALETTE = (
    "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70",
    "#717581", "#92dadd",
)  # fmt: skip
SHAPES = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p")
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


@contextmanager
def figure_in_style(width: float, height: float, **kwargs: Any) -> Iterator[tuple[Figure, Any]]:
    """Open a figure in the common style, without pyplot and its global state.

    Parameters
    ----------
    width, height : float
        In inches.
    **kwargs : object
        For ``Figure.subplots``.

    Yields
    ------
    tuple
        The figure and its axes.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        # Names in scripts that the measuring font lacks: the reader's fonts will have them.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, figure.subplots(**kwargs)


def write_svg(figure: Figure, name: str, title: str) -> str:
    """Write a figure as a standalone SVG document with a title, in the same bytes each time.

    Parameters
    ----------
    figure : Figure
        From `figure_in_style`.
    name : str
        Unique on its page.
    title : str
        What the figure says, for those who do not see it.

    Returns
    -------
    str
        SVG.
    """
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
    # Identifiers are made unique, because several figures share one page.
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(url\(#|href="#)', rf"\1{name}-", svg)
    head = f'<svg role="img" aria-labelledby="{name}-title" stroke-linejoin="round" '
    svg = svg.replace("<svg ", head, 1)
    opening = svg.index(">", svg.index(head)) + 1
    return f'{svg[:opening]}\n <title id="{name}-title">{escape(title)}</title>{svg[opening:]}'


def inline(svg: str) -> str:
    """Prepare a figure of this module for use inside a page.

    Parameters
    ----------
    svg : str
        A standalone document.

    Returns
    -------
    str
        The ``<svg>`` element alone: transparent, in the colour of the page's text, and as wide as
        its container.
    """
    svg = svg[svg.index("<svg ") :]
    svg = re.sub(r'(<svg [^>]*?)\s+width="[\d.]+pt" height="[\d.]+pt"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg [^>]*?) height="[\d.]+pt"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg [^>]*?) width="[\d.]+pt"', r"\1", svg, count=1)
    return svg.replace(PAPER, "none").replace(INK, "currentColor").replace(FAINT, "#88889055")


def shorten(name: str, length: int = 18) -> str:
    """Cut a name to what fits beside an axis.

    Parameters
    ----------
    name : str
        Any text.
    length : int
        Characters at most.

    Returns
    -------
    str
        The name, or its beginning and end around an ellipsis, since names of a family often differ
        at the end; control characters become spaces.
    """
    name = "".join(c if c.isprintable() or c == "\N{NO-BREAK SPACE}" else " " for c in name)
    if len(name) <= length:
        return name
    tail = length // 3
    return f"{name[: length - 1 - tail]}…{name[-tail:]}"


def percent_axis(axis: Axes, low: float, high: float) -> None:
    """Zoom an accuracy axis to what is shown, with room for the numbers.

    Parameters
    ----------
    axis : Axes
        Its x axis is in percent.
    low, high : float
        Smallest and largest value shown.
    """
    room = max(0.6, 0.12 * (high - low))
    axis.set_xlim(max(-1.0, low - room), min(101.0, high + room))


def power_of_ten(value: float, _position: float | None = None) -> str:
    """Label a tick of a logarithmic axis without mathtext, which `_STYLE` turns off.

    Parameters
    ----------
    value : float
        A power of ten.

    Returns
    -------
    str
        Such as ``10⁻³``.
    """
    exponent = round(np.log10(value))
    return "10" + str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def percent_of_ten(value: float, _position: float | None = None) -> str:
    """Label a tick of a logarithmic axis of shares.

    Parameters
    ----------
    value : float
        A power of ten, 1 at most.

    Returns
    -------
    str
        In percent, such as ``0.01``.
    """
    return f"{100 * value:.10g}"
