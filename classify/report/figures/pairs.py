"""Section 5: one-vs-one pair by pair, one-vs-rest class by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from classify.report.figures.classes import (
    LEGIBLE_CLASSES,
    coarsened,
    matrix_figure,
    order_of,
    paint,
    write_cells,
)
from classify.report.figures.style import (
    PALETTE,
    SHAPES,
    figure_in_style,
    fit_text,
    name_entries,
    percent_of_ten,
    within_percent,
    write_svg,
)

CURVES = 10


def draw(results: Mapping[str, Any]) -> dict[str, str]:
    """Draw the figures of this section."""
    strategies, names, figures = results["strategies"], results["class_names"], {}
    if pairs := strategies.get("ovo", {}).get("pairs"):
        known = set(pairs["classes"])
        order = [i for i in order_of(results) if i in known]
        figures["pairs"] = pair_errors([names[i] for i in order], pair_matrix(pairs, order))
    if (detection := strategies.get("ovr", {}).get("detection")) and detection["classes"]:
        figures["roc"] = roc(names, detection, results["n_test"])
    return figures


def pair_matrix(pairs: Mapping[str, Any], order: Sequence[int]) -> Any:
    """Lay the accuracies of pairs out below the diagonal.

    Shapes: returns (n_classes, n_classes).
    """
    k = len(order)
    place = {c: i for i, c in enumerate(order)}
    at = [place[c] for c in pairs["classes"]]
    full = np.full((k, k), np.nan)
    for i, row in enumerate(pairs["accuracy"]):
        for j, value in enumerate(row, start=i + 1):
            a, b = sorted((at[i], at[j]))
            full[b, a] = np.nan if value is None else value
    return full


def pair_errors(class_names: Sequence[str], accuracy: Any) -> str:
    """Draw the held-out errors of every pair as a triangle.

    Shapes: accuracy (n_classes, n_classes).
    """
    from matplotlib.colors import PowerNorm

    cells = 100 * (1 - coarsened(accuracy, _mean_of_known))
    errors = 100 * (1 - accuracy)
    most = max(1.0, float(np.nanmax(cells, initial=0.0)))
    b, a = divmod(int(np.argmax(np.nan_to_num(errors, nan=-1.0))), len(errors))
    title = (
        f"Held-out errors of each pair of classes in percent, a triangle; most for "
        f"{class_names[a]} and {class_names[b]}, {errors[b, a]:.2f} %"
    )
    with matrix_figure(class_names) as (figure, axes):
        norm = PowerNorm(0.5, 0, most)
        # Lines around the cells would be drawn around the empty half too.
        lines = {"edgecolors": "none"} if len(class_names) <= LEGIBLE_CLASSES else {}
        image = paint(
            axes, class_names, np.ma.masked_invalid(cells), cmap="Oranges", norm=norm, **lines
        )
        if len(class_names) <= LEGIBLE_CLASSES:
            filled = np.isfinite(errors)
            texts = [[f"{value:.1f}" for value in row] for row in errors]
            write_cells(axes, filled, texts, np.nan_to_num(errors) > 0.4 * most, "#1b1b1e")
        axes.set(xlabel="", ylabel="", title="OvO: errors of each pair, %")
        bar = figure.colorbar(image, ax=axes, shrink=0.8, pad=0.02)
        bar.outline.set_visible(False)
        return write_svg(figure, "pairs", title)


def _mean_of_known(values: Any) -> float:
    """Average what is not NaN; NaN where there is nothing, without numpy's warning."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else np.nan


def roc(class_names: Sequence[str], detection: Mapping[str, Any], n_test: int) -> str:
    """Draw the ROC curves of the hardest classes, with false alarms on a logarithmic scale."""
    curves = detection["curves"][:CURVES]
    entries = detection["classes"][: len(curves)]
    title = "ROC curves of OvR, class against rest; average precision: " + ", ".join(
        f"{class_names[entry['class']]} {entry['average_precision']:.3f}" for entry in entries
    )
    x = np.array(detection["false_alarms"][1:])
    with figure_in_style(4.8, 3.5 + 0.2 * ((len(curves) + 1) // 2)) as (figure, axes):
        for i, curve in enumerate(curves):
            axes.plot(
                x, 100 * np.array(curve[1:]), color=PALETTE[i], marker=SHAPES[i], markersize=4.5,
                markevery=(i % 5, 10), linewidth=1.5, drawstyle="steps-post",
                label=str(i),
            )  # fmt: skip
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(percent_of_ten)
        axes.minorticks_off()
        # Fewer false alarms than one image cannot be told apart.
        axes.set_xlim(max(x[0], 0.5 / n_test), 1.2)
        axes.set_ylim(*within_percent(axes.get_ylim()[0], 100))
        axes.set_xlabel("false alarms (% of the other classes' images)")
        axes.set_ylabel("hits (% of the class's images)")
        legend = figure.legend(
            loc="outside lower center", ncols=2, title="class, average precision"
        )
        names = [class_names[entry["class"]] for entry in entries]
        shown = [
            f"{fit_text(name, 84)}\u2002{entry['average_precision']:.3f}"
            for name, entry in zip(names, entries, strict=True)
        ]
        name_entries(legend, shown, names)
        return write_svg(figure, "roc", title)
