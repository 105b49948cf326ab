"""Figures as SVG text in one style: colour-blind safe, for light and dark, always the same bytes.

Colours are those of Okabe and Ito, with a marker shape for each strategy as a second cue. Text
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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

import numpy as np

from classify.wording import display_name, upper_first

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {"multinomial": "#009e73", "ovr": "#0072b2", "ovo": "#d55e00"}
MARKERS = {"multinomial": "^", "ovr": "o", "ovo": "s"}
# Stand-ins that `inline` recognises; nothing else in a figure has exactly these colours.
INK, PAPER, FAINT = "#1b1b1f", "#fffffe", "#d4d4d9"
# Up to this many classes a confusion matrix has names and counts in it.
LEGIBLE_CLASSES = 20
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


def accuracies(strategies: Mapping[str, Any]) -> str:
    """Draw a dot plot of accuracies with their Wilson intervals.

    Parameters
    ----------
    strategies : mapping
        The ``strategies`` of results.json.

    Returns
    -------
    str
        SVG.
    """
    title = "Test accuracy with 95 % intervals: " + "; ".join(
        f"{display_name(name)} {100 * entry['test']['accuracy']:.2f} %"
        for name, entry in strategies.items()
    )
    with figure_in_style(4.8, 0.75 + 0.42 * len(strategies)) as (figure, axes):
        ends = []
        for row, (name, entry) in enumerate(strategies.items()):
            value = 100 * entry["test"]["accuracy"]
            low, high = (100 * end for end in entry["test"]["accuracy_ci95"])
            ends += [low, high]
            colour = COLOURS.get(name, INK)
            axes.plot([low, high], [row, row], color=colour, linewidth=2.2, solid_capstyle="round")
            axes.plot(value, row, marker=MARKERS.get(name, "D"), markersize=8, color=colour)
            axes.annotate(
                f"{value:.2f}", (value, row), (0, 8), textcoords="offset points", ha="center",
                fontsize=9,
            )  # fmt: skip
        axes.set_yticks(range(len(strategies)), [display_name(name) for name in strategies])
        axes.set_ylim(len(strategies) - 0.5, -0.75)
        percent_axis(axes, min(ends), max(ends))
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel("test accuracy (%), the axis does not start at zero")
        return write_svg(figure, "accuracy", title)


def class_f1(
    class_names: Sequence[str], strategies: Mapping[str, Any], a: str = "ovr", b: str = "ovo"
) -> str:
    """Draw each class's F1 under two strategies, joined by a line, hardest class first.

    Parameters
    ----------
    class_names : sequence of str
        The classes to show.
    strategies : mapping
        The ``strategies`` of results.json.
    a, b : str
        The two strategies.

    Returns
    -------
    str
        SVG.
    """
    title = f"F1 of each class under {display_name(a)} and {display_name(b)}, in percent"
    values = {
        side: [100 * strategies[side]["test"]["per_class"][name]["f1"] for name in class_names]
        for side in (a, b)
    }
    order = np.argsort(np.mean([values[a], values[b]], axis=0), kind="stable")
    with figure_in_style(4.8, 1.0 + 0.26 * len(class_names)) as (figure, axes):
        for row, i in enumerate(order):
            axes.plot([values[a][i], values[b][i]], [row, row], color=INK, linewidth=1.2, zorder=1)
        for side, size in ((a, 7.5), (b, 5.5)):
            axes.plot(
                [values[side][i] for i in order], range(len(order)), linestyle="",
                marker=MARKERS.get(side, "D"), markersize=size, color=COLOURS.get(side, INK),
                label=display_name(side), zorder=2,
            )  # fmt: skip
        axes.set_yticks(range(len(order)), [shorten(class_names[i]) for i in order])
        axes.set_ylim(len(order) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel("F1 on the test set (%)")
        figure.legend(loc="outside upper center", ncols=2)
        return write_svg(figure, "class-f1", title)


def confusion(name: str, class_names: Sequence[str], matrix: Sequence[Sequence[int]]) -> str:
    """Draw a confusion matrix: colour is the share of the true class, numbers are counts.

    Parameters
    ----------
    name : str
        The strategy.
    class_names : sequence of str
        Names of rows and columns.
    matrix : sequence of sequence of int
        Counts, rows are the truth.

    Returns
    -------
    str
        SVG; beyond `LEGIBLE_CLASSES` classes with colours only and every tenth index.
    """
    from matplotlib.colors import PowerNorm

    counts = np.asarray(matrix, dtype=np.int64)
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    n = len(counts)
    legible = n <= LEGIBLE_CLASSES
    right = 100 * np.trace(counts) / max(counts.sum(), 1)
    title = (
        f"Confusion matrix of {display_name(name)}: {n} by {n} classes, rows are the truth, "
        f"{right:.2f} % on the diagonal"
    )
    side = max(3.4, min(0.36 * n, 7.2)) if legible else 4.6
    with figure_in_style(side + 1.3, side + 0.9) as (figure, axes):
        # Errors are rare, so the scale is that of square roots: 1 % is visible beside 100 %.
        norm = PowerNorm(0.5, 0, 100)
        if legible:
            image = axes.pcolormesh(
                shares, cmap="Blues", norm=norm, edgecolors="#ffffff", linewidth=0.6
            )
            _write_counts(axes, counts, shares)
            labels = [shorten(text, 12) for text in class_names]
            axes.set_xticks(
                np.arange(n) + 0.5, labels, rotation=45, ha="right", rotation_mode="anchor"
            )
            axes.set_yticks(np.arange(n) + 0.5, labels)
        else:
            image = axes.imshow(
                shares, cmap="Blues", norm=norm, interpolation="none", extent=(0, n, n, 0)
            )
            step = max(10, 10 * (n // 100))
            axes.set_xticks(np.arange(0, n, step) + 0.5, range(0, n, step))
            axes.set_yticks(np.arange(0, n, step) + 0.5, range(0, n, step))
        axes.set(xlim=(0, n), ylim=(n, 0), aspect="equal", title=upper_first(display_name(name)))
        axes.set_xlabel("answer" if legible else "answer (class index)")
        axes.set_ylabel("truth" if legible else "truth (class index)")
        axes.grid(visible=False)
        axes.tick_params(length=0)
        bar = figure.colorbar(image, ax=axes, shrink=0.8, pad=0.02, ticks=[0, 1, 5, 20, 50, 100])
        bar.ax.set_yticklabels(["0", "1", "5", "20", "50", "100 %"])
        bar.outline.set_visible(False)
        return write_svg(figure, f"confusion-{name}", title)


def _write_counts(axes: Axes, counts: Any, shares: Any) -> None:
    digits = len(str(int(counts.max(initial=0))))
    size = 8.5 if len(counts) <= 10 and digits <= 3 else 7.5 if len(counts) <= 12 else 6.0
    for row, column in zip(*np.nonzero(counts), strict=True):
        axes.text(
            column + 0.5, row + 0.5, str(counts[row, column]), ha="center", va="center",
            fontsize=size, color="#ffffff" if shares[row, column] > 30 else "#08306b",
        )  # fmt: skip


def validation(strategies: Mapping[str, Any]) -> str:
    """Draw validation accuracy and log-loss over C, with the chosen values.

    Parameters
    ----------
    strategies : mapping
        The ``strategies`` of results.json; those with an empty ``validation`` are left out.

    Returns
    -------
    str
        SVG.
    """
    shown = {name: entry for name, entry in strategies.items() if entry["validation"]}
    title = "Validation accuracy and log-loss over C; chosen: " + ", ".join(
        f"{display_name(name)} {entry['C']:.3g}" for name, entry in shown.items()
    )
    with figure_in_style(4.8, 4.6, nrows=2, sharex=True) as (figure, axes):
        for name, entry in shown.items():
            path = entry["validation"]
            x = [step["C"] for step in path]
            chosen = int(np.argmin([abs(np.log(c / entry["C"])) for c in x]))
            for panel, key, factor in zip(axes, ("accuracy", "log_loss"), (100, 1), strict=True):
                y = [np.nan if step[key] is None else factor * step[key] for step in path]
                colour = COLOURS.get(name, INK)
                panel.plot(
                    x, y, color=colour, linewidth=1.6, marker=MARKERS.get(name, "D"), markersize=3,
                    label=display_name(name),
                )  # fmt: skip
                panel.plot(
                    x[chosen], y[chosen], marker=MARKERS.get(name, "D"), markersize=9, color=colour,
                    markeredgecolor=INK, linestyle="", zorder=3,
                )  # fmt: skip
        axes[0].set_xscale("log")
        axes[1].xaxis.set_major_formatter(power_of_ten)
        axes[0].set_ylabel("accuracy (%)")
        axes[1].set_ylabel("log-loss (nats)")
        axes[1].set_xlabel("C (inverse regularisation strength)")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=3)
        return write_svg(figure, "validation", title)


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
