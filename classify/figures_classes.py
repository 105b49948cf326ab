"""Sections 3 and 4: class by class, and what is taken for what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from classify.figures import COLOURS, INK, MARKERS, figure_in_style, shorten, write_svg
from classify.wording import display_name, upper_first

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Up to this many classes a confusion matrix has names and counts in it.
LEGIBLE_CLASSES = 20
# A chart with more rows than this is longer than a screen; the table has them all.
CLASSES_CHARTED = 40


def draw(results: Mapping[str, Any]) -> dict[str, str]:
    """Draw the figures of these sections.

    Parameters
    ----------
    results : mapping
        A checked results.json.

    Returns
    -------
    dict of str to str
        SVG documents by name; those that make no sense for this run are left out.
    """
    strategies, names = results["strategies"], results["class_names"]
    figures = {}
    if {"ovr", "ovo"} <= set(strategies) and len(names) <= CLASSES_CHARTED:
        figures["class-f1"] = class_f1(names, strategies)
    for name, entry in strategies.items():
        figures[f"confusion-{name}"] = confusion(name, names, entry["test"]["confusion_matrix"])
    return figures


def class_f1(
    class_names: Sequence[str], strategies: Mapping[str, Any], a: str = "ovr", b: str = "ovo"
) -> str:
    """Draw each class's F1 under two strategies, joined by a line, hardest class first.

    Parameters
    ----------
    class_names : sequence of str
        The classes to show.
    strategies : mapping
        The ``strategies`` of results.json.
    a, b : str
        The two strategies.

    Returns
    -------
    str
        SVG.
    """
    title = f"F1 of each class under {display_name(a)} and {display_name(b)}, in percent"
    values = {
        side: [100 * strategies[side]["test"]["per_class"][name]["f1"] for name in class_names]
        for side in (a, b)
    }
    order = np.argsort(np.mean([values[a], values[b]], axis=0), kind="stable")
    with figure_in_style(4.8, 1.0 + 0.26 * len(class_names)) as (figure, axes):
        for row, i in enumerate(order):
            axes.plot([values[a][i], values[b][i]], [row, row], color=INK, linewidth=1.2, zorder=1)
        for side, size in ((a, 7.5), (b, 5.5)):
            axes.plot(
                [values[side][i] for i in order], range(len(order)), linestyle="",
                marker=MARKERS.get(side, "D"), markersize=size, color=COLOURS.get(side, INK),
                label=display_name(side), zorder=2,
            )  # fmt: skip
        axes.set_yticks(range(len(order)), [shorten(class_names[i]) for i in order])
        axes.set_ylim(len(order) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel("F1 on the test set (%)")
        figure.legend(loc="outside upper center", ncols=2)
        return write_svg(figure, "class-f1", title)


def confusion(name: str, class_names: Sequence[str], matrix: Sequence[Sequence[int]]) -> str:
    """Draw a confusion matrix: colour is the share of the true class, numbers are counts.

    Parameters
    ----------
    name : str
        The strategy.
    class_names : sequence of str
        Names of rows and columns.
    matrix : sequence of sequence of int
        Counts, rows are the truth.

    Returns
    -------
    str
        SVG; beyond `LEGIBLE_CLASSES` classes with colours only and every tenth index.
    """
    from matplotlib.colors import PowerNorm

    counts = np.asarray(matrix, dtype=np.int64)
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    n = len(counts)
    legible = n <= LEGIBLE_CLASSES
    right = 100 * np.trace(counts) / max(counts.sum(), 1)
    title = (
        f"Confusion matrix of {display_name(name)}: {n} by {n} classes, rows are the truth, "
        f"{right:.2f} % on the diagonal"
    )
    side = max(3.4, min(0.36 * n, 7.2)) if legible else 4.6
    with figure_in_style(side + 1.3, side + 0.9) as (figure, axes):
        # Errors are rare, so the scale is that of square roots: 1 % is visible beside 100 %.
        norm = PowerNorm(0.5, 0, 100)
        if legible:
            image = axes.pcolormesh(
                shares, cmap="Blues", norm=norm, edgecolors="#ffffff", linewidth=0.6
            )
            _write_counts(axes, counts, shares)
            labels = [shorten(text, 12) for text in class_names]
            axes.set_xticks(
                np.arange(n) + 0.5, labels, rotation=45, ha="right", rotation_mode="anchor"
            )
            axes.set_yticks(np.arange(n) + 0.5, labels)
        else:
            image = axes.imshow(
                shares, cmap="Blues", norm=norm, interpolation="none", extent=(0, n, n, 0)
            )
            step = max(10, 10 * (n // 100))
            axes.set_xticks(np.arange(0, n, step) + 0.5, range(0, n, step))
            axes.set_yticks(np.arange(0, n, step) + 0.5, range(0, n, step))
        axes.set(xlim=(0, n), ylim=(n, 0), aspect="equal", title=upper_first(display_name(name)))
        axes.set_xlabel("answer" if legible else "answer (class index)")
        axes.set_ylabel("truth" if legible else "truth (class index)")
        axes.grid(visible=False)
        axes.tick_params(length=0)
        bar = figure.colorbar(image, ax=axes, shrink=0.8, pad=0.02, ticks=[0, 1, 5, 20, 50, 100])
        bar.ax.set_yticklabels(["0", "1", "5", "20", "50", "100 %"])
        bar.outline.set_visible(False)
        return write_svg(figure, f"confusion-{name}", title)


def _write_counts(axes: Axes, counts: Any, shares: Any) -> None:
    digits = len(str(int(counts.max(initial=0))))
    size = 8.5 if len(counts) <= 10 and digits <= 3 else 7.5 if len(counts) <= 12 else 6.0
    for row, column in zip(*np.nonzero(counts), strict=True):
        axes.text(
            column + 0.5, row + 0.5, str(counts[row, column]), ha="center", va="center",
            fontsize=size, color="#ffffff" if shares[row, column] > 30 else "#08306b",
        )  # fmt: skip
