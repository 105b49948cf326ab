"""Section 2: the accuracy of every strategy as a dot plot."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from classify.figures import COLOURS, INK, MARKERS, figure_in_style, percent_axis, write_svg
from classify.wording import display_name


def draw(results: Mapping[str, Any]) -> dict[str, str]:
    """Draw the figures of this section.

    Parameters
    ----------
    results : mapping
        A checked results.json.

    Returns
    -------
    dict of str to str
        SVG documents by name.
    """
    return {"accuracy": accuracies(results["strategies"])}


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
