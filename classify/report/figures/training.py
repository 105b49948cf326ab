"""Section 9: the course of heads that are trained epoch by epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from classify.report.figures.style import (
    COLOURS,
    INK,
    PAPER,
    figure_in_style,
    within_percent,
    write_svg,
)
from classify.wording import display_name

_SIDES = (("", "training", "--"), ("validation_", "validation", "-"))


def draw(results: Mapping[str, Any]) -> dict[str, str]:
    """Draw the figures of this section."""
    shown = trained(results)
    return {"training": curves(shown)} if shown else {}


def trained(results: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the heads that have curves."""
    return {
        name: entry
        for name, entry in results["strategies"].items()
        if (entry.get("notes") or {}).get("curves")
    }


def curves(shown: Mapping[str, Mapping[str, Any]]) -> str:
    """Draw loss and accuracy of the training and the validation rows, epoch by epoch."""
    title = "Loss and accuracy by epoch, of training and validation rows; the best epoch: " + (
        ", ".join(f"{display_name(name)} {best_epoch(entry)}" for name, entry in shown.items())
    )
    with figure_in_style(4.8, 4.6, nrows=2, sharex=True) as (figure, axes):
        for name, entry in shown.items():
            colour, best = COLOURS.get(name, INK), best_epoch(entry)
            for kind, side, line in _SIDES:
                for panel, key, factor in zip(axes, ("loss", "accuracy"), (1, 100), strict=True):
                    y = [factor * value for value in entry["notes"]["curves"][kind + key]]
                    panel.plot(
                        range(1, len(y) + 1), y, color=colour, linestyle=line, linewidth=1.6,
                        label=f"{display_name(name)}, {side}", clip_on=False,
                    )  # fmt: skip
                    if kind:
                        panel.plot(
                            best, y[best - 1], marker="o", markersize=7, color=colour, zorder=3,
                            markeredgecolor=INK, linestyle="", clip_on=False,
                            markerfacecolor=colour if entry["converged"] else PAPER,
                        )  # fmt: skip
        axes[1].set_ylim(*within_percent(*axes[1].get_ylim()))
        axes[1].xaxis.get_major_locator().set_params(integer=True)
        axes[0].set_ylabel("log-loss (nats)")
        axes[1].set_ylabel("accuracy (%)")
        axes[1].set_xlabel("epoch")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=2)
        return write_svg(figure, "training", title)


def best_epoch(entry: Mapping[str, Any]) -> int:
    """Return the epoch of the lowest validation loss, counted from 1."""
    losses: Sequence[float] = entry["notes"]["curves"]["validation_loss"]
    return 1 + losses.index(min(losses))
