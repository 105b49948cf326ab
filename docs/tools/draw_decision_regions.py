"""Draw docs/guide/decision-regions.svg: what OvR and OvO decide in the plane of two discriminants.

    python docs/tools/draw_decision_regions.py STORE.h5 --classes cat,dog,horse [--out FILE.svg]

The features of the training images of some classes are reduced to two dimensions by a linear
discriminant analysis, in the space of their first principal components. Heads are fitted to these
two numbers alone, which is why their regions can be drawn; heads on all features do better. Points
are test images. The first figure is of the first two classes alone.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from classify import MultinomialLogistic, OneVsOneLogistic, OneVsRestLogistic
from classify.report.figures.style import (
    INK,
    PALETTE,
    PAPER,
    SHAPES,
    figure_in_style,
    write_svg,
)
from data.chosen_classes import open_classes, parse_classes

PAGE = Path(__file__).resolve().parents[1] / "guide" / "decision-regions.svg"
COMPONENTS = 50
# Test images of each class that are drawn, and cells of the regions along each side.
POINTS, CELLS = 60, 160
FAINT = 0.28
Floats = npt.NDArray[np.float64]


class Plane(NamedTuple):
    """Images in the plane of two discriminants, with the classes' names."""

    names: tuple[str, ...]
    train: Floats  # (n_train, 2)
    train_labels: npt.NDArray[np.int64]
    test: Floats  # (n_test, 2)
    test_labels: npt.NDArray[np.int64]


def reduce(path: Path, classes: tuple[str, ...]) -> Plane:
    """Read the rows of some classes, and reduce their features to two numbers."""
    from sklearn.decomposition import PCA
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    store = open_classes(path, classes)
    X, y = np.asarray(store.train.features, dtype=np.float64), store.train.labels
    n_components = min(COMPONENTS, X.shape[1], len(X) - 1)
    plane = make_pipeline(
        StandardScaler(),
        PCA(n_components, random_state=0),
        LinearDiscriminantAnalysis(n_components=2),
    )
    points = plane.fit(X, y).transform(X)
    test = plane.transform(np.asarray(store.test.features, dtype=np.float64))
    return Plane(store.class_names, points, y, test, store.test.labels)


def drawn(plane: Plane, classes: int) -> npt.NDArray[np.intp]:
    """Choose test images of the first classes, as many of each."""
    of_each = [np.flatnonzero(plane.test_labels == k)[:POINTS] for k in range(classes)]
    return np.concatenate(of_each)


def mesh(plane: Plane) -> tuple[Floats, Floats, Floats]:
    """Return the abscissae, ordinates and points of the cells of the plane."""
    shown = plane.test[drawn(plane, len(plane.names))]
    low, high = shown.min(axis=0), shown.max(axis=0)
    low, high = low - 0.06 * (high - low), high + 0.06 * (high - low)
    x, y = (np.linspace(low[i], high[i], CELLS) for i in (0, 1))
    return x, y, np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)


def regions(axes: Any, x: Floats, y: Floats, answers: npt.NDArray[np.intp], n: int) -> None:
    """Fill the cells in the colours of their classes; ``n`` stands for no clear answer."""
    colours = [*PALETTE[:n], "#77777d"]
    for k in range(n + 1):
        mine = (answers == k).reshape(len(y), len(x)).astype(float)
        if mine.any():
            axes.contourf(x, y, mine, levels=[0.5, 1.5], colors=[colours[k]], alpha=FAINT)


def points(axes: Any, plane: Plane, n: int) -> None:
    """Draw test images of the first classes."""
    for k in range(n):
        some = [i for i in drawn(plane, n) if plane.test_labels[i] == k]
        axes.scatter(
            *plane.test[some].T, s=11, color=PALETTE[k], marker=SHAPES[k], linewidths=0.4,
            edgecolors=PAPER, label=plane.names[k], zorder=3,
        )  # fmt: skip


def lines(axes: Any, x: Floats, y: Floats, scores: Floats, colours: list[str]) -> None:
    """Draw where each head is undecided."""
    for k, colour in enumerate(colours):
        found = scores[:, k].reshape(len(y), len(x))
        axes.contour(x, y, found, levels=[0.0], colors=[colour], linewidths=1.6)


def one_head(axes: Any, plane: Plane, grid: tuple[Floats, Floats, Floats]) -> float:
    """Draw the binary problem of the first two classes; return its test accuracy."""
    x, y, cells = grid
    mine, judged = plane.train_labels < 2, plane.test_labels < 2
    head = MultinomialLogistic(1.0, standardize=True)
    head.fit(plane.train[mine], plane.train_labels[mine])
    scores = head.decision_function(cells).reshape(-1, 1)
    regions(axes, x, y, (scores[:, 0] > 0).astype(np.intp), 2)
    lines(axes, x, y, scores, [INK])
    points(axes, plane, 2)
    axes.set_title(f"Binary: one head, {plane.names[0]} or {plane.names[1]}")
    return float(head.score(plane.test[judged], plane.test_labels[judged]))


def rest(axes: Any, plane: Plane, grid: tuple[Floats, Floats, Floats]) -> float:
    """Draw a head for each class, and where none or several of them say yes."""
    x, y, cells = grid
    head = OneVsRestLogistic(1.0, standardize=True).fit(plane.train, plane.train_labels)
    scores = head.decision_function(cells)
    n = len(plane.names)
    regions(axes, x, y, scores.argmax(axis=1), n)
    unclear = (scores > 0).sum(axis=1) != 1
    _hatch(axes, x, y, unclear)
    lines(axes, x, y, scores, list(PALETTE[:n]))
    points(axes, plane, n)
    axes.set_title(f"One-vs-rest: {n} heads, class against rest")
    return float(head.score(plane.test, plane.test_labels))


def pairs(axes: Any, plane: Plane, grid: tuple[Floats, Floats, Floats]) -> float:
    """Draw a head for each pair of classes, and where their votes are even."""
    x, y, cells = grid
    head = OneVsOneLogistic(1.0, standardize=True).fit(plane.train, plane.train_labels)
    n = len(plane.names)
    scores = cells @ head.coef_.T + head.intercept_
    votes = np.zeros((len(cells), n))
    for k, (a, b) in enumerate(head.pairs_):
        votes[:, b] += scores[:, k] > 0
        votes[:, a] += scores[:, k] <= 0
    answers = head.decision_function(cells).argmax(axis=1)
    regions(axes, x, y, answers, n)
    _hatch(axes, x, y, (votes == votes.max(axis=1, keepdims=True)).sum(axis=1) > 1)
    lines(axes, x, y, scores, [INK] * len(head.pairs_))
    points(axes, plane, n)
    axes.set_title(f"One-vs-one: {len(head.pairs_)} heads, a vote each")
    return float(head.score(plane.test, plane.test_labels))


def _hatch(axes: Any, x: Floats, y: Floats, cells: npt.NDArray[np.bool_]) -> None:
    if cells.any():
        inside = cells.reshape(len(y), len(x)).astype(float)
        axes.contourf(x, y, inside, levels=[0.5, 1.5], colors=[PAPER], alpha=0.65)
        axes.contour(x, y, inside, levels=[0.5], colors=[INK], linewidths=0.8, linestyles=":")


def draw(plane: Plane) -> tuple[str, dict[str, float]]:
    """Draw the three figures side by side; return them and the accuracies of their heads."""
    grid = mesh(plane)
    with figure_in_style(11.5, 4.3, ncols=3, sharex=True, sharey=True) as (figure, axes):
        found = {
            "binary": one_head(axes[0], plane, grid),
            "one-vs-rest": rest(axes[1], plane, grid),
            "one-vs-one": pairs(axes[2], plane, grid),
        }
        for each in axes:
            each.set(xlabel="first discriminant", xticks=[], yticks=[])
            each.grid(visible=False)
        axes[0].set_ylabel("second discriminant")
        handles, names = axes[1].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=len(names))
        title = "Decision regions of " + ", ".join(plane.names) + " in two discriminants"
        return write_svg(figure, "decision-regions", title), found


def main(argv: list[str]) -> None:
    """Draw a store's classes, and print how many test images each kind of head gets right."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("--classes", type=parse_classes, required=True)
    parser.add_argument("--out", type=Path, default=PAGE)
    options = parser.parse_args(argv)
    svg, accuracies = draw(reduce(options.store, options.classes))
    options.out.write_text(svg + "\n", encoding="utf-8")
    for name, accuracy in accuracies.items():
        print(f"{name}: {100 * accuracy:.1f} % of the test images, by two numbers each")


if __name__ == "__main__":
    main(sys.argv[1:])
