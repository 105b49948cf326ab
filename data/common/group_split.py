"""Rows held out by whole groups, with as even a share of every class as the groups allow."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

# Tries with the groups in another order each, where there are not too many for that.
_TRIES = 16
_MOST_STEPS = 200_000
# A group may be taken back where that brings the shares nearer: so often all are looked at.
_PASSES = 4

Cells = list[list[tuple[int, int]]]


def hold_out_groups(
    labels: npt.NDArray[np.int64],
    groups: npt.NDArray[np.int64],
    fraction: float,
    order: Callable[[int], Sequence[int]],
) -> npt.NDArray[np.bool_]:
    """Choose rows (n_rows,) to hold out, so that no group is on both sides.

    The aim is ``fraction`` of every class's rows, and a row at least of a class in two groups or
    more. Groups are visited in some order, and one is held out, or taken back, where that brings
    the shares nearer to the aim; the best of several orders is taken. Every class keeps a group
    that is not held out, so a group that holds a class in whole never is. Nothing is held out where
    that is so of every group.

    ``order(i)`` is the order of the i-th try: indices into the sorted groups.
    Shapes: labels, groups (n_rows,).
    """
    classes, labels = np.unique(labels, return_inverse=True)
    names, codes = np.unique(groups, return_inverse=True)
    k = len(classes)
    pairs, counts = np.unique(codes * k + labels, return_counts=True)
    cells: Cells = [[] for _ in names]
    for pair, count in zip(pairs.tolist(), counts.tolist(), strict=True):
        cells[pair // k].append((pair % k, count))
    sizes = np.bincount(labels, minlength=k)
    n_with = np.bincount(pairs % k, minlength=k)  # groups that have rows of a class
    aims = np.where(n_with > 1, np.maximum(fraction * sizes, 1.0), 0.0).tolist()
    best, least = [False] * len(names), np.inf
    for i in range(max(1, min(_TRIES, _MOST_STEPS // max(1, len(pairs))))):
        held, far = _held(cells, order(i), aims, n_with.tolist())
        if far < least:
            best, least = held, far
    return np.asarray(best, dtype=bool)[codes]


def _held(
    cells: Cells, order: Sequence[int], aims: list[float], left: list[int]
) -> tuple[list[bool], float]:
    """Hold groups out in an order; also say how far the classes' counts are from their aims."""
    left = list(left)  # groups of each class that are not held out
    counts = [0] * len(aims)
    held = [False] * len(cells)

    def change(group: int) -> float:
        """Give the change in the squared distance, relative to the aims; infinite if forbidden."""
        total, sign = 0.0, -1 if held[group] else 1
        for label, n in cells[group]:
            if sign > 0 and left[label] < 2:
                return np.inf
            now = counts[label] - aims[label]
            total += n * (2 * sign * now + n) / aims[label]
        return total

    def turn(group: int) -> None:
        held[group] = not held[group]
        sign = 1 if held[group] else -1
        for label, n in cells[group]:
            left[label] -= sign
            counts[label] += sign * n

    for _ in range(_PASSES):
        nearer = False
        for group in order:
            if change(group) < -1e-9:
                turn(group)
                nearer = True
        if not nearer:
            break
    missing = {label for label, aim in enumerate(aims) if aim and not counts[label]}
    if missing:  # classes whose groups are all larger than their share
        with_class: dict[int, list[int]] = {label: [] for label in missing}
        for group in order:
            for label, _ in cells[group]:
                if label in missing:
                    with_class[label].append(group)
        for label, groups in with_class.items():
            nearest = min(groups, key=change)
            if not counts[label] and change(nearest) < np.inf:
                turn(nearest)
    return held, sum((n - aim) ** 2 / aim for n, aim in zip(counts, aims, strict=True) if aim)
