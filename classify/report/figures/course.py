"""Section 12: the course of the fits, and where the time went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from classify.report.figures.classes import strategy_title
from classify.report.figures.style import (
    COLOURS,
    INK,
    MARKERS,
    PALETTE,
    figure_in_style,
    fit_text,
    full_names,
    power_of_ten,
    write_svg,
)
from classify.wording import display_name, upper_first

STEPS = {
    "load": "reading the store", "select": "choosing the setting", "fit": "fitting",
    "evaluate": "evaluating",
    "analyse": "what this report shows", "report": "drawing it",
    "few_shot": "few-shot curves",
}  # fmt: skip


def draw(results: Mapping[str, Any]) -> dict[str, str]:
    """Draw the figures of this section."""
    strategies, figures = results["strategies"], {}
    if any(entry.get("course") for entry in strategies.values()):
        figures["course"] = course(results["class_names"], strategies)
    if len(spent(results["timings"])) > 1:
        figures["time"] = time_spent(results["timings"])
    return figures


def hardest_name(class_names: Sequence[str], classes: Sequence[int]) -> str:
    """Name a problem by its classes."""
    names = [class_names[i] for i in classes]
    return (
        " or ".join(names) if len(names) > 1 else f"{names[0]} or not" if names else "all classes"
    )


def course(class_names: Sequence[str], strategies: Mapping[str, Any]) -> str:
    """Draw the gap of each strategy's hardest problem, round by round."""
    shown = {name: entry["course"] for name, entry in strategies.items() if entry.get("course")}
    title = "Objective above its minimum, round by round; the last: " + ", ".join(
        f"{display_name(name)} {entry['relative_gaps'][-1]:.1e}" for name, entry in shown.items()
    )
    with figure_in_style(4.8, 3.4) as (figure, axes):
        for name, entry in shown.items():
            problem = hardest_name([fit_text(n, 70) for n in class_names], entry["classes"])
            # An objective of zero has no gap that a logarithm could show.
            gaps = np.maximum(entry["relative_gaps"], 1e-16)
            axes.plot(
                range(len(gaps)), gaps, color=COLOURS.get(name, INK), linewidth=1.6,
                marker=MARKERS.get(name, "D"), markersize=4,
                label=f"{strategy_title(name, strategies[name])}: {problem}",
            )  # fmt: skip
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(power_of_ten)
        axes.minorticks_off()
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_xlabel("iteration")
        axes.set_ylabel("above the minimum, relative")
        legend = figure.legend(loc="outside upper center", ncols=1)
        full_names(
            legend.get_texts(),
            [hardest_name(class_names, entry["classes"]) for entry in shown.values()],
        )
        return write_svg(figure, "course", title)


def spent(timings: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, float]]]]:
    """Sort the seconds of a run into bars."""
    strategies: dict[str, list[tuple[str, float]]] = {}
    bars = []
    for step, value in timings.items():
        if isinstance(value, dict):
            for name, seconds in value.items():
                strategies.setdefault(name, []).append((STEPS.get(step, step), float(seconds)))
        elif step not in ("total", "memory", "peak_memory_mb") and isinstance(value, (int, float)):
            label = STEPS.get(step, step.replace("_", " "))
            bars.append((label, [(label, float(value))]))
    own = [(upper_first(display_name(name)), parts) for name, parts in strategies.items()]
    return bars[:1] + own + bars[1:]


def time_spent(timings: Mapping[str, Any]) -> str:
    """Draw where the time of a run went."""
    bars = spent(timings)
    title = "Seconds of each step: " + "; ".join(
        f"{label} {sum(seconds for _, seconds in parts):.2f}" for label, parts in bars
    )
    steps = list(dict.fromkeys(step for _, parts in bars for step, _ in parts if len(parts) > 1))
    with figure_in_style(4.8, 1.1 + 0.34 * len(bars)) as (figure, axes):
        for at, (_, parts) in enumerate(bars):
            left = 0.0
            for step, seconds in parts:
                colour = PALETTE[steps.index(step)] if step in steps else PALETTE[8]
                axes.barh(at, seconds, left=left, height=0.62, color=colour)
                left += seconds
            axes.annotate(
                f"{left:.2f}", (left, at), (4, 0), textcoords="offset points", va="center",
                fontsize=9,
            )  # fmt: skip
        for i, step in enumerate(steps):
            axes.barh(0, 0, color=PALETTE[i], label=step)
        axes.set_yticks(range(len(bars)), [label for label, _ in bars])
        axes.set_ylim(len(bars) - 0.5, -0.5)
        axes.margins(x=0.12)
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel("seconds")
        if steps:
            figure.legend(loc="outside upper center", ncols=3)
        return write_svg(figure, "time", title)
