"""Two classes: ROC and precision-recall curves with their bands, and costs over thresholds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from classify.heads.registry import distinct
from classify.report.figures.classes import shown_heads
from classify.report.figures.style import (
    COLOURS,
    INK,
    MARKERS,
    figure_in_style,
    fit_text,
    write_svg,
)
from classify.wording import display_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# With more heads than this their bands would hide each other.
BANDS = 3


def judged_heads(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is known of the heads of two classes, one of each problem, by name."""
    strategies = results["strategies"]
    judged = {name: entry for name, entry in strategies.items() if entry.get("binary")}
    return {name: judged[name]["binary"] for name in distinct(judged, 2)}


def drawn_heads(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of them that a page draws, and whose thresholds it lists."""
    judged = judged_heads(results)
    shown = shown_heads({name: results["strategies"][name] for name in judged})
    return {name: judged[name] for name in shown}


def draw(results: Mapping[str, Any]) -> dict[str, str]:
    """Draw the figures of this section."""
    heads, names = drawn_heads(results), results["class_names"]
    if not heads:
        return {}
    first = next(iter(heads.values()))
    positive, negative = names[first["positive"]], names[first["negative"]]
    found = {
        "binary-roc": roc(heads, positive, negative),
        "binary-precision-recall": precision_recall(heads, positive),
    }
    if first["cost"]:
        found["binary-cost"] = costs(heads, positive, negative)
    return found


def roc(heads: Mapping[str, Any], positive: str, negative: str) -> str:
    """Draw true against false positive rates, with pointwise intervals."""
    title = f"ROC curves of {positive} against {negative}; area under the curve: " + ", ".join(
        f"{display_name(name)} {entry['auc']:.3f}" for name, entry in heads.items()
    )
    with figure_in_style(4.4, 4.5 + 0.2 * len(heads)) as (figure, axes):
        axes.plot([0, 100], [0, 100], color=INK, linewidth=0.8, dashes=(4, 3))
        for name, entry in heads.items():
            curve = entry["roc"]
            x = 100 * np.array(curve["false_positive_rate"])
            _line(axes, name, x, curve, "true_positive_rate", len(heads), "post")
            for row in _marked(entry):
                point = [row[k]["share"] for k in ("false_positive_rate", "true_positive_rate")]
                _mark(axes, name, 100 * point[0], 100 * point[1], row)
        axes.set(xlim=(0, 100), ylim=(0, 100), aspect="equal")
        axes.set_xlabel(f"false positives (% of {fit_text(negative, 110)})")
        axes.set_ylabel(f"true positives (% of {fit_text(positive, 110)})")
        figure.legend(
            handles=_entries(heads, lambda entry: f"area {entry['auc']:.3f}"),
            loc="outside lower center",
        )
        return write_svg(figure, "binary-roc", title)


def precision_recall(heads: Mapping[str, Any], positive: str) -> str:
    """Draw precision against recall, with pointwise intervals."""
    title = f"Precision and recall of {positive}; average precision: " + ", ".join(
        f"{display_name(name)} {entry['average_precision']:.3f}" for name, entry in heads.items()
    )
    with figure_in_style(4.4, 4.5 + 0.2 * len(heads)) as (figure, axes):
        share = 100 * next(iter(heads.values()))["positive_share"]
        axes.plot([0, 100], [share, share], color=INK, linewidth=0.8, dashes=(4, 3))
        for name, entry in heads.items():
            curve = entry["precision_recall"]
            x = 100 * np.array(curve["recall"])
            _line(axes, name, x, curve, "precision", len(heads), "pre")
            for row in _marked(entry):
                if row["precision"]["share"] is not None:
                    x, y = row["true_positive_rate"]["share"], row["precision"]["share"]
                    _mark(axes, name, 100 * x, 100 * y, row)
        axes.set(xlim=(0, 100), ylim=(0, 100), aspect="equal")
        axes.set_xlabel(f"recall (% of {fit_text(positive, 110)} that is flagged)")
        axes.set_ylabel("precision (% of what is flagged)")
        figure.legend(
            handles=_entries(heads, lambda e: f"average {e['average_precision']:.3f}"),
            loc="outside lower center",
        )
        return write_svg(figure, "binary-precision-recall", title)


def costs(heads: Mapping[str, Any], positive: str, negative: str) -> str:
    """Draw the mean cost of an image over thresholds, on test and validation images."""
    title = "Mean cost of an image over thresholds; at the chosen one: " + ", ".join(
        f"{display_name(name)} {entry['cost']['cost']:.3g}" for name, entry in heads.items()
    )
    with figure_in_style(4.4, 3.6 + 0.2 * len(heads)) as (figure, axes):
        first = next(iter(heads.values()))["cost"]
        for key, answer in (("always_negative", negative), ("always_positive", positive)):
            level = first["against"][key]["cost"]
            axes.axhline(level, color=INK, linewidth=0.8, dashes=(4, 3))
            axes.annotate(
                f"always {fit_text(answer, 90)}", (1.0, level), (0, 2), ha="right",
                textcoords="offset points", fontsize=8,
            )  # fmt: skip
        for name, entry in heads.items():
            cost, colour = entry["cost"], COLOURS.get(name, INK)
            axes.plot(cost["curve"]["threshold"], cost["curve"]["test"], color=colour)
            if cost["curve"]["validation"]:
                axes.plot(
                    cost["curve"]["threshold"], cost["curve"]["validation"], color=colour,
                    linewidth=1.2, linestyle=":",
                )  # fmt: skip
            axes.plot([cost["threshold"]] * 2, cost["cost_ci95"], color=colour, linewidth=2.2)
            axes.plot(
                cost["threshold"], cost["cost"], marker=MARKERS.get(name, "D"), color=colour,
                markersize=8, zorder=3,
            )  # fmt: skip
        axes.set_xlim(0, 1)
        axes.set_ylim(bottom=0)
        axes.set_xlabel(f"threshold of the probability of {fit_text(positive, 110)}")
        axes.set_ylabel("mean cost of an image")
        handles = _entries(heads, lambda e: f"above {e['cost']['threshold']:.3g}")
        figure.legend(handles=handles, loc="outside lower center")
        return write_svg(figure, "binary-cost", title)


def _line(
    axes: Axes, name: str, x: Any, curve: Mapping[str, Any], what: str, n_heads: int, step: Any
) -> None:
    colour = COLOURS.get(name, INK)
    low, high = (100 * np.array(curve[end]) for end in ("low", "high"))
    if n_heads <= BANDS:
        axes.fill_between(x, low, high, step=step, color=colour, alpha=0.18, linewidth=0)
    axes.plot(
        x, 100 * np.array(curve[what]), color=colour, linewidth=1.8, drawstyle=f"steps-{step}",
        clip_on=False,
    )  # fmt: skip


def _marked(entry: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Choose the thresholds that are marked: one half, and the one with the least cost."""
    return [
        row
        for row in entry["thresholds"]
        if row["kind"] == "cost" or (row["kind"] == "fixed" and row["threshold"] == 0.5)
    ]


def _mark(axes: Axes, name: str, x: float, y: float, row: Mapping[str, Any]) -> None:
    colour = COLOURS.get(name, INK)
    filled = colour if row["kind"] == "cost" else "none"
    axes.plot(
        x, y, marker=MARKERS.get(name, "D"), markersize=8, color=colour, markerfacecolor=filled,
        markeredgewidth=1.6, clip_on=False, zorder=4,
    )  # fmt: skip


def _entries(heads: Mapping[str, Any], words: Any) -> list[Any]:
    from matplotlib.lines import Line2D

    return [
        Line2D(
            [], [], color=COLOURS.get(name, INK), marker=MARKERS.get(name, "D"), markersize=7,
            label=f"{display_name(name)}: {words(entry)}",
        )
        for name, entry in heads.items()
    ]  # fmt: skip
