"""Section 6: reliability diagrams, before and after temperature scaling."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from classify.report.figures.classes import shown_heads, strategy_title
from classify.report.figures.style import COLOURS, INK, MARKERS, figure_in_style, write_svg
from classify.wording import display_name

# Bins of fewer images than this get a mark, but no line goes through it.
FEW = 10


def draw(results: Mapping[str, Any]) -> dict[str, str]:
    """Draw the figures of this section."""
    return {
        f"reliability-{name}": reliability(name, entry["calibration"], entry)
        for name, entry in results["strategies"].items()
        if entry.get("calibration") and name in shown_heads(results["strategies"])
    }


def reliability(
    name: str, calibration: Mapping[str, Any], entry: Mapping[str, Any] | None = None
) -> str:
    """Draw accuracy against confidence, before and after."""
    sides: list[tuple[str, Any, str, Any]] = [("before", calibration["before"], "none", ":")]
    if calibration["after"]:
        sides.append(("after", calibration["after"], COLOURS.get(name, INK), "-"))
    title = f"Reliability of {display_name(name)}: expected calibration error " + ", ".join(
        f"{100 * judged['ece']:.2f} % {side}" for side, judged, _, _ in sides
    )
    from matplotlib.lines import Line2D

    with figure_in_style(3.7, 4.2) as (figure, axes):
        axes.plot([0, 100], [0, 100], color=INK, linewidth=0.8, dashes=(4, 3))
        for _, judged, fill, line in sides:
            bins = [(100 * b["confidence"], 100 * b["accuracy"], b["n"]) for b in judged["bins"]]
            x, y, n = np.transpose(bins)
            sizes = 14 + 160 * np.sqrt(n / n.sum())
            colour = COLOURS.get(name, INK)
            # The share of a few images is chance, and a line through it would stand out most.
            full = n >= FEW
            axes.plot(
                x[full],
                y[full],
                color=colour,
                linewidth=1.2,
                linestyle=line,
                zorder=2,
                clip_on=False,
            )
            axes.scatter(
                x, y, s=sizes, marker=MARKERS.get(name, "D"), facecolor=fill, edgecolor=colour,
                linewidth=1.2, zorder=3, clip_on=False,
            )  # fmt: skip
        axes.set(xlim=(0, 100), ylim=(0, 100), aspect="equal")
        axes.set_xlabel("confidence (%)")
        axes.set_ylabel("right (%)")
        axes.set_title(strategy_title(name, entry or {}))
        # Marks in the legend are of one size, whatever the bins' are.
        marks = [
            Line2D(
                [], [], marker=MARKERS.get(name, "D"), markersize=7, color=COLOURS.get(name, INK),
                markerfacecolor=fill, linestyle=line,
                label=f"{side}: ECE {100 * judged['ece']:.2f} %"
                + ("" if side == "before" or calibration.get("converged", True) else ", not conv."),
            )
            for side, judged, fill, line in sides
        ]  # fmt: skip
        figure.legend(handles=marks, loc="outside lower center", ncols=2, columnspacing=1.2)
        return write_svg(figure, f"reliability-{name}", title)
