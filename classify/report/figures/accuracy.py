"""Section 2: the accuracy of every strategy as a dot plot."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from classify.report.figures.style import (
    COLOURS,
    INK,
    MARKERS,
    figure_in_style,
    filling,
    percent_axis,
    within_percent,
    write_svg,
)
from classify.wording import display_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Further than this from every accuracy, in points, a reference line would squeeze them together.
NEAR = 5.0


def draw(results: Mapping[str, Any]) -> dict[str, str]:
    """Draw the figures of this section."""
    return {"accuracy": accuracies(results["strategies"], results.get("majority"))}


def accuracies(strategies: Mapping[str, Any], majority: Mapping[str, Any] | None = None) -> str:
    """Draw a dot plot of accuracies with their Wilson intervals."""
    title = "Test accuracy with 95 % intervals: " + "; ".join(
        f"{display_name(name)} {100 * entry['test']['accuracy']:.2f} %"
        for name, entry in strategies.items()
    )
    always = None if majority is None else 100 * majority["test_accuracy"]
    ends = [100 * end for entry in strategies.values() for end in entry["test"]["accuracy_ci95"]]
    low, high = min(ends), max(ends)
    if majority is not None and always is not None:
        title += f"; always {majority['class']} {always:.2f} %"
    far = always is not None and not low - NEAR <= always <= high + NEAR
    panels = {"ncols": 2, "sharey": True, "width_ratios": [1, 5]} if far else {}
    with figure_in_style(4.8, 1.1 + 0.42 * len(strategies), **panels) as (figure, found):
        axes = found[1] if far else found
        for row, (name, entry) in enumerate(strategies.items()):
            _dot(axes, row, name, entry)
        # Panels share the ticks of the first.
        (found[0] if far else axes).set_yticks(
            range(len(strategies)),
            [
                display_name(name) + ("" if entry["converged"] else "\n(not converged)")
                for name, entry in strategies.items()
            ],
        )
        axes.set_ylim(len(strategies) - 0.5, -0.75)
        if always is not None and not far:
            low, high = min(low, always), max(high, always)
        percent_axis(axes, low, high)
        figure.supxlabel("test accuracy (%), the axis does not start at zero", fontsize=10)
        line = found[0] if far else axes
        if always is not None:
            line.axvline(
                always, color=INK, linewidth=0.9, dashes=(4, 3), zorder=1, clip_on=False,
                label="always the most frequent class",
            )  # fmt: skip
            figure.legend(*line.get_legend_handles_labels(), loc="outside upper right")
        if far and always is not None:
            line.set_xlim(*within_percent(always - 1, always + 1))
            line.set_xticks([always], [f"{always:.1f}"])
            axes.tick_params(axis="y", labelleft=False)
            axes.spines["left"].set_linestyle((0, (2, 3)))  # the axis is broken here
        for panel in found if far else (axes,):
            panel.grid(axis="y", visible=False)
            panel.tick_params(axis="y", length=0)
        return write_svg(figure, "accuracy", title)


def _dot(axes: Axes, row: int, name: str, entry: Mapping[str, Any]) -> None:
    """Draw an accuracy and its interval; the mark is hollow where the fit did not converge."""
    value = 100 * entry["test"]["accuracy"]
    colour = COLOURS.get(name, INK)
    axes.plot(
        [100 * end for end in entry["test"]["accuracy_ci95"]], [row, row], color=colour,
        linewidth=2.2, solid_capstyle="round", clip_on=False,
    )  # fmt: skip
    axes.plot(
        value, row, marker=MARKERS.get(name, "D"), markersize=8, color=colour, clip_on=False,
        markerfacecolor=filling(colour, entry), zorder=3,
    )  # fmt: skip
    axes.annotate(
        f"{value:.2f}", (value, row), (0, 8), textcoords="offset points", ha="center", fontsize=9,
        annotation_clip=False,
    )  # fmt: skip
