"""Sections 3 and 4: class by class, and what is taken for what."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from classify.report.figures.style import (
    COLOURS,
    FAINT,
    INK,
    MARKERS,
    figure_in_style,
    fit_text,
    full_names,
    printable,
    text_width,
    within_percent,
    write_svg,
)
from classify.wording import display_name, upper_first

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Up to this many classes a matrix has names and counts in it.
LEGIBLE_CLASSES = 20
# A matrix of more classes has cells for groups of neighbours, which would be less than a pixel.
CELLS = 200
# A slope chart with more lines than this cannot be read; the table has all classes.
SLOPES = 20
# Of a run of more heads so many have matrices and reliability diagrams.
SHOWN = 3
# Inches: of the slope chart, and of a name and a number beside each of its ends.
WIDTH, BESIDE = 4.8, 1.75
# Points for a name beside a matrix.
NAME = 72.0


def draw(results: Mapping[str, Any]) -> dict[str, str]:
    """Draw the figures of these sections."""
    strategies, names = results["strategies"], results["class_names"]
    order = order_of(results)
    matrices = {
        name: np.array(entry["test"]["confusion_matrix"], dtype=np.int64)[np.ix_(order, order)]
        for name, entry in strategies.items()
    }
    ordered = [names[i] for i in order]
    figures = {}
    if {"ovr", "ovo"} <= set(strategies) and not results.get("one_problem"):
        figures["class-f1"] = class_f1(names, strategies)
        difference = matrices["ovr"] - matrices["ovo"]
        if difference.any():
            figures["confusion-difference"] = confusion_difference(ordered, difference)
    for name in shown_heads(strategies):
        matrix = matrices[name]
        figures[f"confusion-{name}"] = confusion(name, ordered, matrix, strategies[name])
    return figures


def shown_heads(strategies: Mapping[str, Any]) -> list[str]:
    """Choose the heads that are shown one by one: of many, the most accurate, and OvR and OvO."""
    if len(strategies) <= SHOWN:
        return list(strategies)
    best = sorted(strategies, key=lambda name: -strategies[name]["test"]["accuracy"])
    asked = [name for name in ("ovr", "ovo") if name in strategies]
    chosen = list(dict.fromkeys([best[0], *asked, *best]))[:SHOWN]
    return [name for name in strategies if name in chosen]


def order_of(results: Mapping[str, Any]) -> list[int]:
    """Order classes so that those that are taken for each other are neighbours."""
    return results.get("class_order") or list(range(len(results["class_names"])))


def class_f1(
    class_names: Sequence[str], strategies: Mapping[str, Any], a: str = "ovr", b: str = "ovo"
) -> str:
    """Draw each class's F1 under two strategies as the two ends of a line."""
    values = np.array(
        [
            [100 * strategies[side]["test"]["per_class"][name]["f1"] for name in class_names]
            for side in (a, b)
        ]
    )
    change = values[1] - values[0]
    shown = np.argsort(-np.abs(change), kind="stable")[:SLOPES]
    values, change = values[:, shown], change[shown]
    names = [class_names[i] for i in shown]
    title = (
        f"F1 of {len(shown)} classes under {display_name(a)} and {display_name(b)}, in percent: "
    ) + "; ".join(f"{name} {x:.1f} and {y:.1f}" for name, x, y in zip(names, *values, strict=True))
    heads = [strategy_title(side, strategies[side]).replace(" (", "\n(") for side in (a, b)]
    top = 0.35 if "\n" not in "".join(heads) else 0.55
    height = 0.65 + top + 0.27 * len(shown)
    low, high = float(values.min()), float(values.max())
    room = 0.06 * max(high - low, 1.0)
    low, high = within_percent(low - room, high + room)
    widest = max(text_width(f"{printable(name)}\u2002100.0", 9) for name in names)
    beside = min(BESIDE, 0.25 + widest / 72)
    with figure_in_style(WIDTH, height) as (figure, axes):
        # The axes are as wide as the figure, and measured in inches, so that no label moves them.
        figure.set_layout_engine("none")
        axes.set_position([0, 0.3 / height, 1, 1 - (0.3 + top) / height])
        ends = (beside, WIDTH - beside)
        axes.set(xlim=(0, WIDTH), ylim=(low, high))
        gap = (high - low) / (height - 0.3 - top) * 0.17
        for side in range(2):
            places = _spread(values[side], gap, low + gap / 2, high - gap / 2)
            _name_ends(axes, ends[side], names, values[side], places)
        for i in range(len(shown)):
            better = b if change[i] > 0 else a
            colour = INK if abs(change[i]) < 0.05 else COLOURS.get(better, INK)
            axes.plot(ends, values[:, i], color=colour, linewidth=1.6, clip_on=False)
            for x, y, strategy in zip(ends, values[:, i], (a, b), strict=True):
                axes.plot(
                    x, y, marker=MARKERS.get(strategy, "D"), markersize=5, color=colour,
                    clip_on=False,
                )  # fmt: skip
        axes.set_xticks(ends, heads)
        axes.xaxis.tick_top()
        axes.tick_params(length=0, labelsize=10, pad=6)
        axes.set_yticks([])
        axes.grid(visible=False)
        for spine in axes.spines.values():
            spine.set_visible(False)
        axes.set_xlabel("F1 on the test set (%)")
        return write_svg(figure, "class-f1", title)


def _name_ends(axes: Axes, x: float, names: Sequence[str], values: Any, places: Any) -> None:
    """Write name and number beside the left or right ends of lines, no wider than there is room."""
    drawn, left = [], x < WIDTH / 2
    for name, value, place in zip(names, values, places, strict=True):
        number = f"{value:.1f}"
        room = 72 * (BESIDE - 0.2) - text_width(f"\u2002{number}", 9)
        short = fit_text(name, room)
        drawn.append(
            axes.annotate(
                f"{short}\u2002{number}" if left else f"{number}\u2002{short}",
                (x, value), (x - 0.12 if left else x + 0.12, place),
                ha="right" if left else "left", va="center", fontsize=9,
                annotation_clip=False,
                arrowprops={"arrowstyle": "-", "color": FAINT, "linewidth": 0.8},
            )
        )  # fmt: skip
    full_names(drawn, names)


def _spread(values: Any, gap: float, low: float = -np.inf, high: float = np.inf) -> Any:
    """Move values as little as possible so that they are at least `gap` apart, within two ends."""
    from sklearn.isotonic import isotonic_regression

    order = np.argsort(values, kind="stable")
    steps = gap * np.arange(len(values))
    result = np.empty(len(values))
    moved = isotonic_regression(values[order] - steps)
    result[order] = np.clip(moved, low, max(low, high - steps[-1])) + steps
    return result


def strategy_title(name: str, entry: Mapping[str, Any]) -> str:
    """Name a strategy above what is drawn of it, and say if its fit did not converge."""
    return upper_first(display_name(name)) + (
        "" if entry.get("converged", True) else " (not converged)"
    )


def confusion(
    name: str, class_names: Sequence[str], matrix: Any, entry: Mapping[str, Any] | None = None
) -> str:
    """Draw a confusion matrix: colour is the share of the true class, numbers are counts.

    Shapes: matrix (n_classes, n_classes).
    """
    from matplotlib.colors import PowerNorm

    counts = np.asarray(matrix, dtype=np.int64)
    right = 100 * np.trace(counts) / max(counts.sum(), 1)
    counts = coarsened(counts, np.sum)
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    n = len(class_names)
    title = (
        f"Confusion matrix of {display_name(name)}: {n} by {n} classes, rows are the truth, "
        f"{right:.2f} % on the diagonal"
    )
    with matrix_figure(class_names) as (figure, axes):
        # Errors are rare, so the scale is that of square roots: 1 % is visible beside 100 %.
        image = paint(axes, class_names, shares, cmap="Blues", norm=PowerNorm(0.5, 0, 100))
        if n <= LEGIBLE_CLASSES:
            write_cells(
                axes, counts != 0, [[str(c) for c in row] for row in counts], shares > 30, "#08306b"
            )
        axes.set_title(strategy_title(name, entry or {}))
        bar = figure.colorbar(image, ax=axes, shrink=0.8, pad=0.02, ticks=[0, 1, 5, 20, 50, 100])
        bar.ax.set_yticklabels(["0", "1", "5", "20", "50", "100 %"])
        bar.outline.set_visible(False)
        return write_svg(figure, f"confusion-{name}", title)


def confusion_difference(class_names: Sequence[str], difference: Any) -> str:
    """Draw the confusion matrix of one-vs-rest minus that of one-vs-one.

    Shapes: difference (n_classes, n_classes).
    """
    from matplotlib.colors import LinearSegmentedColormap

    counts = np.asarray(difference, dtype=np.int64)
    title = (
        f"Confusion matrix of OvR minus that of OvO: {np.count_nonzero(counts)} of {counts.size} "
        "cells differ"
    )
    colours = LinearSegmentedColormap.from_list(
        "difference", [COLOURS["ovo"], "#fffffd", COLOURS["ovr"]]
    )
    with matrix_figure(class_names) as (figure, axes):
        cells = coarsened(counts, np.sum)
        most = max(1, int(np.abs(cells).max()))
        image = paint(axes, class_names, cells, cmap=colours, vmin=-most, vmax=most)
        if len(counts) <= LEGIBLE_CLASSES:
            texts = [[f"{c:+d}".replace("-", "−") for c in row] for row in counts]
            write_cells(axes, counts != 0, texts, np.abs(counts) > 0.6 * most, "#1b1b1e")
        axes.set_title("OvR − OvO, test images")
        bar = figure.colorbar(image, ax=axes, shrink=0.8, pad=0.02, ticks=[-most, 0, most])
        bar.ax.set_yticklabels([f"−{most}", "0", f"+{most}"])
        bar.outline.set_visible(False)
        return write_svg(figure, "confusion-difference", title)


def group_size(n_classes: int) -> int:
    """How many neighbouring classes share a cell of a matrix; 1 up to `CELLS` classes."""
    return -(-n_classes // CELLS)


def coarsened(values: Any, combine: Callable[..., Any]) -> Any:
    """Combine the cells of neighbouring classes where there are too many to see.

    Shapes: values (n_classes, n_classes).
    """
    n = len(values)
    size = group_size(n)
    if size == 1:
        return values
    starts = range(0, n, size)
    return np.array([[combine(values[i : i + size, j : j + size]) for j in starts] for i in starts])


@contextmanager
def matrix_figure(class_names: Sequence[str]) -> Iterator[tuple[Figure, Axes]]:
    """Open a figure that a matrix of these classes fits into."""
    n = len(class_names)
    side = max(3.4, min(0.36 * n, 7.2)) if n <= LEGIBLE_CLASSES else 4.6
    with figure_in_style(side + 1.3, side + 0.9) as (figure, axes):
        yield figure, axes


def paint(axes: Axes, class_names: Sequence[str], values: Any, **colours: Any) -> Any:
    """Fill the cells of a matrix with colours, and name its rows and columns.

    Shapes: values (n_classes, n_classes).
    """
    n = len(class_names)
    image: Any
    if n <= LEGIBLE_CLASSES:
        image = axes.pcolormesh(values, **{"edgecolors": "#ffffff", "linewidth": 0.6, **colours})
        labels = [fit_text(text, NAME) for text in class_names]
        axes.set_xticks(np.arange(n) + 0.5, labels, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(np.arange(n) + 0.5, labels)
        full_names(axes.get_xticklabels(), class_names)
        full_names(axes.get_yticklabels(), class_names)
        axes.set(xlabel="answer", ylabel="truth")
    else:
        end = len(values) * group_size(n)
        image = axes.imshow(values, interpolation="none", extent=(0, end, end, 0), **colours)
        step = max(10, 10 * (n // 100))
        places = np.arange(0, n, step)
        axes.set_xticks(places + 0.5, [str(i) for i in places])
        axes.set_yticks(places + 0.5, [str(i) for i in places])
        axes.set(xlabel="answer (place in this order)", ylabel="truth (place in this order)")
    axes.set(xlim=(0, n), ylim=(n, 0), aspect="equal")
    axes.grid(visible=False)
    axes.tick_params(length=0)
    return image


def write_cells(
    axes: Axes, where: Any, texts: Sequence[Sequence[str]], dark: Any, ink: str
) -> None:
    """Write texts into cells of a matrix.

    Shapes: where, dark (n_classes, n_classes).
    """
    # `ink` is for light cells, which are light in the dark scheme too.
    n = len(texts)
    longest = max((len(texts[i][j]) for i, j in zip(*np.nonzero(where), strict=True)), default=0)
    size = 8.5 if n <= 10 and longest <= 3 else 7.5 if n <= 12 else 6.0
    for row, column in zip(*np.nonzero(where), strict=True):
        axes.text(
            column + 0.5, row + 0.5, texts[row][column], ha="center", va="center", fontsize=size,
            color="#ffffff" if dark[row, column] else ink,
            in_layout=False,  # it is within its cell, and measuring hundreds takes seconds
        )  # fmt: skip
