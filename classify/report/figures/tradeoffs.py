"""The figures of a comparison: accuracies side by side, and against what they cost."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from classify.report.figures.style import (
    COLOURS,
    INK,
    MARKERS,
    PAPER,
    figure_in_style,
    fit_text,
    full_names,
    percent_axis,
    power_of_ten,
    printable,
    shorten,
    within_percent,
    write_svg,
)
from classify.wording import display_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COSTS = {
    "n_features": "embedding width",
    "extraction_seconds_per_1000": "extraction, seconds per 1,000 images",
    "fit_seconds": "fit, seconds",
}
# Beyond this ratio of the largest to the smallest a linear axis heaps points up at its left end.
LINEAR_UP_TO = 20.0
# Points for a line of a label.
LABEL = 130.0


def backbones(rows: Sequence[Mapping[str, Any]], figure_name: str = "backbones") -> str:
    """Draw accuracies with intervals for every backbone and strategy."""
    labels = list(dict.fromkeys(row["label"] for row in rows))
    names = list(dict.fromkeys(row["strategy"] for row in rows))
    title = "Test accuracy with 95 % intervals of every backbone and strategy"
    with figure_in_style(5.6, 1.1 + 0.62 * len(labels)) as (figure, axes):
        step = 0.72 / max(len(names), 1)
        for name in names:
            mine = [row for row in rows if row["strategy"] == name]
            offset = (names.index(name) - (len(names) - 1) / 2) * step
            y = [labels.index(row["label"]) + offset for row in mine]
            colour = COLOURS.get(name, INK)
            for row, height in zip(mine, y, strict=True):
                ends = [100 * end for end in row["accuracy_ci95"]]
                axes.plot(ends, [height, height], color=colour, linewidth=2, clip_on=False)
            _marks(axes, name, [100 * row["accuracy"] for row in mine], y, mine, 6.5)
        ends = [100 * end for row in rows for end in row["accuracy_ci95"]]
        percent_axis(axes, min(ends), max(ends))
        axes.set_yticks(range(len(labels)), ["\n".join(_wrap(label)) for label in labels])
        full_names(axes.get_yticklabels(), labels)
        axes.set_ylim(len(labels) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel("test accuracy (%), the axis does not start at zero")
        figure.legend(loc="outside upper center", ncols=3)
        return write_svg(figure, figure_name, title)


def known_costs(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Say which costs can be drawn."""
    return {key: what for key, what in COSTS.items() if any(row[key] is not None for row in rows)}


def numbered(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """List the backbones in the order of their numbers in the figure."""
    return list(dict.fromkeys(row["label"] for row in rows))


def draw_tradeoffs(rows: Sequence[Mapping[str, Any]], figure_name: str) -> str:
    """Draw accuracy, with its interval, against every cost that is known."""
    costs, labels = known_costs(rows), numbered(rows)
    title = f"Test accuracy against {'; '.join(costs.values())}. " + "; ".join(
        f"{i} is {label}" for i, label in enumerate(labels, start=1)
    )
    size = (4.8, 0.6 + 2.3 * len(costs))
    with figure_in_style(*size, nrows=len(costs), squeeze=False) as (figure, panels):
        for axes, (key, what) in zip(panels[:, 0], costs.items(), strict=True):
            _panel(axes, [row for row in rows if row[key] is not None], key, labels)
            axes.set_xlabel(what)
            axes.set_ylabel("accuracy (%)")
        handles = {
            text: handle
            for axes in panels[:, 0]
            for handle, text in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=3)
        return write_svg(figure, figure_name, title)


def _panel(axes: Axes, rows: Sequence[Mapping[str, Any]], key: str, labels: Sequence[str]) -> None:
    for name in dict.fromkeys(row["strategy"] for row in rows):
        mine = [row for row in rows if row["strategy"] == name]
        x, y = [row[key] for row in mine], [100 * row["accuracy"] for row in mine]
        colour = COLOURS.get(name, INK)
        for row, place in zip(mine, x, strict=True):
            ends = [100 * end for end in row["accuracy_ci95"]]
            axes.plot([place, place], ends, color=colour, linewidth=1.4, clip_on=False)
        _marks(axes, name, x, y, mine, 6)
    for label in dict.fromkeys(row["label"] for row in rows):
        # Rows are sorted, so the first one of a backbone is its highest point.
        best = next(row for row in rows if row["label"] == label)
        axes.annotate(
            str(labels.index(label) + 1), (best[key], 100 * best["accuracy_ci95"][1]), (0, 3),
            textcoords="offset points", ha="center", fontsize=9,
        )  # fmt: skip
    axes.margins(x=0.12, y=0.16)
    axes.set_ylim(*within_percent(*axes.get_ylim()))
    values = [row[key] for row in rows]
    if min(values) > 0 and max(values) / min(values) > LINEAR_UP_TO:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(power_of_ten)


def _marks(
    axes: Axes, name: str, x: Any, y: Any, rows: Sequence[Mapping[str, Any]], size: float
) -> None:
    """Draw the accuracies of a strategy, hollow where the fit did not converge."""
    colour, marker = COLOURS.get(name, INK), MARKERS.get(name, "D")
    axes.plot(
        x, y, linestyle="", color=colour, marker=marker, markersize=size, clip_on=False,
        label=display_name(name), zorder=2.5,
    )  # fmt: skip
    late = [not row.get("converged", True) for row in rows]
    if any(late):
        axes.plot(
            np.array(x)[late], np.array(y)[late], linestyle="", color=colour, marker=marker,
            markersize=size, markerfacecolor=PAPER, clip_on=False, zorder=3,
            label=f"{display_name(name)}, not converged",
        )  # fmt: skip


class _Wrapper(textwrap.TextWrapper):
    """Breaks names of models between their parts, too, which have no spaces."""

    wordsep_re = re.compile(r"(\s+|(?<=[_./-])(?=\w))")


def _wrap(label: str, width: int = 20, lines: int = 3) -> list[str]:
    """Break a label into a few lines; what is too long for them loses its middle."""
    label = printable(label).replace(" px", "\N{NO-BREAK SPACE}px")
    for length in range(min(len(label), width * lines), 3, -1):
        broken = _Wrapper(width).wrap(shorten(label, length))
        if len(broken) <= lines:
            return [fit_text(line, LABEL) for line in broken] or [" "]
    return [fit_text(label, LABEL) or " "]
