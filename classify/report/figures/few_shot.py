"""Section 9: accuracy against labelled images per class."""

from __future__ import annotations

from collections.abc import Mapping
from math import log10
from typing import Any

import numpy as np

from classify.report.figures.style import (
    COLOURS,
    INK,
    MARKERS,
    PAPER,
    figure_in_style,
    within_percent,
    write_svg,
)
from classify.wording import display_name

# Labels nearer to each other than this share of the axis would run into each other.
ROOM = 0.055


def draw(results: Mapping[str, Any]) -> dict[str, str]:
    """Draw the figures of this section."""
    found = results.get("few_shot")
    if not found or any(len(curve) < 2 for curve in found["curves"].values()):
        return {}
    return {"few-shot": few_shot(found)}


def few_shot(found: Mapping[str, Any]) -> str:
    """Draw the curve of every strategy, with the intervals of the draws."""
    curves = found["curves"]
    title = "Test accuracy against labelled images per class. " + "; ".join(
        f"{display_name(name)}: "
        + ", ".join(
            f"{_count(point)} {100 * point['mean']:.1f} %"
            + ("" if all(point.get("converged", ())) else " (not all fits converged)")
            for point in curve
        )
        for name, curve in curves.items()
    )
    first = next(iter(curves.values()))
    # One image of each class is as many rows as there are classes.
    places = [point["n_train"] / first[0]["n_train"] for point in first]
    decades = log10(places[-1] / places[0])
    with figure_in_style(4.8, 3.4) as (figure, axes):
        for i, (name, curve) in enumerate(curves.items()):
            aside = 10 ** (0.008 * decades * (i - (len(curves) - 1) / 2))
            x = [place * aside for place in places]
            colour, marker = COLOURS.get(name, INK), MARKERS.get(name, "D")
            for place, point in zip(x, curve, strict=True):
                if point["ci95"]:
                    ends = [100 * end for end in point["ci95"]]
                    axes.plot([place, place], ends, color=colour, linewidth=1.4, clip_on=False)
            means = [100 * point["mean"] for point in curve]
            axes.plot(
                x, means, color=colour, linewidth=1.4, marker=marker, markersize=4.5,
                label=display_name(name), clip_on=False,
            )  # fmt: skip
            late = [not all(point.get("converged", ())) for point in curve]
            if any(late):
                axes.plot(
                    np.array(x)[late], np.array(means)[late], linestyle="", color=colour,
                    marker=marker, markersize=6, markerfacecolor=PAPER, clip_on=False, zorder=3,
                    label=f"{display_name(name)}, not all converged",
                )  # fmt: skip
        axes.set_ylim(*within_percent(*axes.get_ylim()))
        axes.set_xscale("log")
        axes.minorticks_off()
        ticks: list[tuple[float, str]] = []
        for place, point in reversed(list(zip(places, first, strict=True))):
            if not ticks or log10(ticks[-1][0] / place) > ROOM * decades:
                ticks.append((place, _count(point)))
        axes.set_xticks([place for place, _ in ticks], [text for _, text in ticks])
        axes.set_xlabel("labelled images per class")
        axes.set_ylabel("test accuracy (%)")
        figure.legend(
            loc="outside upper center",
            ncols=3 if len(axes.get_legend_handles_labels()[0]) <= 3 else 2,
        )
        return write_svg(figure, "few-shot", title)


def _count(point: Mapping[str, Any]) -> str:
    count = point["per_class"]
    if count is None:
        return "all"
    return f"{count // 1000}k" if count >= 1000 else str(count)
