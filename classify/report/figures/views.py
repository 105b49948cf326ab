"""Section 11: the test rows in two directions of LDA and of PCA."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from classify.report.figures.style import (
    PALETTE,
    SHAPES,
    figure_in_style,
    fit_text,
    name_entries,
    write_svg,
)

# More points than this are drawn as an image, which keeps the page small.
VECTOR_POINTS = 400


def draw(results: Mapping[str, Any]) -> dict[str, str]:
    """Draw the figures of this section."""
    views = results.get("views")
    if not views:
        return {}
    coloured = hardest_classes(results)
    return {kind: scatter(kind, views, results["class_names"], coloured) for kind in ("lda", "pca")}


def hardest_classes(results: Mapping[str, Any]) -> list[int]:
    """Name the classes that get a colour: all, or those of lowest F1 if there are too many."""
    names = results["class_names"]
    entries = [entry["test"]["per_class"] for entry in results["strategies"].values()]
    f1 = [np.mean([entry[name]["f1"] for entry in entries]) for name in names]
    present = [i for i in range(len(names)) if entries[0][names[i]]["support"]]
    return sorted(sorted(present, key=lambda i: f1[i])[: len(PALETTE)])


def scatter(
    kind: str, views: Mapping[str, Any], class_names: Sequence[str], coloured: Sequence[int]
) -> str:
    """Draw one view."""
    points, labels = np.array(views[kind]["points"]), np.array(views["labels"])
    title = f"{len(labels)} test images in the first two directions of {kind.upper()}, by class"
    with figure_in_style(4.8, 4.4 + 0.2 * ((len(coloured) + 2) // 3)) as (figure, axes):
        image = len(labels) > VECTOR_POINTS
        rest = ~np.isin(labels, coloured)
        axes.scatter(
            *points[rest].T, s=6, color="#88889a", alpha=0.35, linewidth=0, rasterized=image
        )
        for i, label in enumerate(coloured):
            mine = points[labels == label]
            axes.scatter(
                *mine.T, s=13, color=PALETTE[i], marker=SHAPES[i], alpha=0.85, linewidth=0,
                rasterized=image, label=str(i),
            )  # fmt: skip
        # The outermost points would leave the rest no room.
        for axis, values in (("x", points[:, 0]), ("y", points[:, 1])):
            low, high = np.percentile(values, [0.25, 99.75])
            room = 0.06 * (high - low or 1.0)
            getattr(axes, f"set_{axis}lim")(low - room, high + room)
        share = views[kind]["explained"]
        of = "variance between classes" if kind == "lda" else "variance"
        labels_of = [f"{100 * value:.0f} % of the {of}" for value in share]
        if len(labels_of) < 2:
            labels_of.append("first principal component")
        axes.set_xlabel(labels_of[0])
        axes.set_ylabel(labels_of[1])
        axes.tick_params(labelbottom=False, labelleft=False, length=0)
        axes.set_title(kind.upper())
        legend = figure.legend(loc="outside lower center", ncols=3, markerscale=1.6)
        names = [class_names[label] for label in coloured]
        name_entries(legend, [fit_text(name, 72) for name in names], names)
        return write_svg(figure, kind, title)
