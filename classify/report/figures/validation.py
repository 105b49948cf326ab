"""Section 8: validation accuracy and log-loss over C."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from classify.report.figures.style import (
    COLOURS,
    INK,
    MARKERS,
    PAPER,
    figure_in_style,
    filling,
    power_of_ten,
    within_percent,
    write_svg,
)
from classify.wording import display_name


def draw(results: Mapping[str, Any]) -> dict[str, str]:
    """Draw the figures of this section."""
    strategies = results["strategies"]
    along_C = {name: entry for name, entry in strategies.items() if _has_path_of_C(entry)}
    return {"validation": validation(along_C)} if along_C else {}


def _has_path_of_C(entry: Mapping[str, Any]) -> bool:
    return bool(entry["validation"]) and entry["C"] is not None


def validation(strategies: Mapping[str, Any]) -> str:
    """Draw validation accuracy and log-loss over C, with the chosen values."""
    shown = {name: entry for name, entry in strategies.items() if _has_path_of_C(entry)}
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
                    label=display_name(name), clip_on=False,
                )  # fmt: skip
                late = np.array([not step.get("converged", True) for step in path])
                if late.any():
                    panel.plot(
                        np.array(x)[late], np.array(y)[late], linestyle="", color=colour,
                        marker=MARKERS.get(name, "D"), markersize=5, markerfacecolor=PAPER,
                        clip_on=False, zorder=2.5,
                    )  # fmt: skip
                panel.plot(
                    x[chosen], y[chosen], marker=MARKERS.get(name, "D"), markersize=9, color=colour,
                    markeredgecolor=INK, linestyle="", zorder=3, clip_on=False,
                    markerfacecolor=filling(colour, path[chosen]),
                )  # fmt: skip
        axes[0].set_ylim(*within_percent(*axes[0].get_ylim()))
        axes[0].set_xscale("log")
        axes[0].minorticks_off()
        axes[1].minorticks_off()
        axes[1].xaxis.set_major_formatter(power_of_ten)
        axes[0].set_ylabel("accuracy (%)")
        axes[1].set_ylabel("log-loss (nats)")
        axes[1].set_xlabel("C (inverse regularisation strength)")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=3)
        return write_svg(figure, "validation", title)
