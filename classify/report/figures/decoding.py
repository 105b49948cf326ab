"""Section 7: what decoding and the choice of C make of one-vs-one's answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from classify.report.figures.style import (
    COLOURS,
    INK,
    MARKERS,
    figure_in_style,
    filling,
    percent_axis,
    write_svg,
)


def draw(results: Mapping[str, Any]) -> dict[str, str]:
    """Draw the figures of this section."""
    rows = list(variants(results))
    return {"decoding": dots(rows)} if results.get("decoding") else {}


def variants(results: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """List the ways to answer that are compared, from one-vs-rest to one-vs-one."""
    own = results.get("own_c") or {}
    if "ovr" in results["strategies"]:
        ovr = results["strategies"]["ovr"]
        yield "OvR", "ovr", {**ovr["test"], "converged": ovr["converged"]}
    if "ovr" in own:
        yield "OvR, a C for each class", "ovr", own["ovr"]
    for way in results.get("decoding") or []:
        yield f"OvO, {way['way']}", "ovo", way
    if "ovo" in own:
        yield "OvO, a C for each pair", "ovo", own["ovo"]


def dots(rows: Sequence[tuple[str, str, Mapping[str, Any]]]) -> str:
    """Draw accuracies with their intervals as dots."""
    title = "Test accuracy with 95 % intervals: " + "; ".join(
        f"{label} {100 * entry['accuracy']:.2f} %" for label, _, entry in rows
    )
    with figure_in_style(4.8, 0.75 + 0.36 * len(rows)) as (figure, axes):
        ends = []
        for at, (_, strategy, entry) in enumerate(rows):
            value = 100 * entry["accuracy"]
            low, high = (100 * end for end in entry["accuracy_ci95"])
            ends += [low, high]
            colour = COLOURS.get(strategy, INK)
            axes.plot(
                [low, high],
                [at, at],
                color=colour,
                linewidth=2,
                solid_capstyle="round",
                clip_on=False,
            )
            axes.plot(
                value,
                at,
                marker=MARKERS.get(strategy, "D"),
                markersize=7,
                color=colour,
                markerfacecolor=filling(colour, entry),
                clip_on=False,
                zorder=3,
            )
            axes.annotate(
                f"{value:.2f}", (value, at), (0, 6), textcoords="offset points", ha="center",
                fontsize=9,
            )  # fmt: skip
        axes.set_yticks(
            range(len(rows)),
            [
                label + ("" if entry.get("converged", True) else "\n(not converged)")
                for label, _, entry in rows
            ],
        )
        axes.set_ylim(len(rows) - 0.5, -0.75)
        percent_axis(axes, min(ends), max(ends))
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel("test accuracy (%)")
        return write_svg(figure, "decoding", title)
