"""Stratified choices of rows: the same ones on every machine and with every numpy."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt


def stratified_subset(
    labels: npt.NDArray[np.int64], limit: int, seed: int = 0
) -> npt.NDArray[np.int64]:
    """Choose rows so that the classes keep their shares.

    Each class gets its proportional share of ``limit``, rounded by largest remainders, but at
    least one row where ``limit`` allows one for every class. Within a class the rows with the
    smallest random keys are taken. The keys are raw output of PCG64, whose stream numpy
    guarantees for good (NEP 19), so that the choice never changes.

    Shapes: ``labels`` (n,); returns (min(limit, n),).
    """
    n_rows = len(labels)
    if limit >= n_rows:
        return np.arange(n_rows, dtype=np.int64)
    classes, index, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    counts = _shares(sizes.astype(np.int64), limit)
    keys = np.random.PCG64(seed).random_raw(n_rows)
    order = np.lexsort((keys, index))
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    chosen = [order[starts[c] : starts[c] + counts[c]] for c in range(len(classes))]
    return np.sort(np.concatenate(chosen)).astype(np.int64)


def _shares(sizes: npt.NDArray[np.int64], limit: int) -> npt.NDArray[np.int64]:
    """Split ``limit`` over classes of these sizes: largest remainders, exact, in integers."""
    total = int(sizes.sum())
    counts = sizes * limit // total
    if limit >= len(sizes):
        counts = np.maximum(counts, 1)
    # How far a class is below its exact share, in units of 1 / total of a row.
    missing = sizes * limit - counts * total
    for _ in range(limit - int(counts.sum())):
        best = int(np.argmax(missing))
        counts[best] += 1
        missing[best] -= total
    # The guaranteed single rows of small classes are paid for by those nearest above their share.
    for _ in range(int(counts.sum()) - limit):
        best = int(np.argmin(np.where(counts > 1, missing, np.iinfo(np.int64).max)))
        counts[best] -= 1
        missing[best] += total
    return counts


def hold_out(ids: Sequence[str], fraction: float, seed: int) -> npt.NDArray[np.bool_]:
    """Choose which members of one class are held out for the test split.

    They are ranked by a hash of the seed and their name, so that the choice depends neither on
    the order of the listing nor on a random generator, and most images stay where they are when
    others are added.

    Shape: (len(ids),).
    """
    chosen = np.zeros(len(ids), dtype=np.bool_)
    if len(ids) < 2:
        return chosen
    count = min(max(round(fraction * len(ids)), 1), len(ids) - 1)
    ranks = [hashlib.sha256(f"{seed}\0{name}".encode()).digest() for name in ids]
    chosen[sorted(range(len(ids)), key=ranks.__getitem__)[:count]] = True
    return chosen


# Groups are gone through in so many random orders, and the best outcome is taken.
GROUP_ORDERS = 16
# Fewer for many groups: the work is in proportion to the pairs of a group and a class that it has.
GROUP_WORK = 2_000_000
GROUP_PASSES = 10


def hold_out_groups(
    labels: npt.NDArray[np.int64],
    groups: npt.NDArray[np.int64],
    group_names: Sequence[str],
    fraction: float,
    seed: int,
) -> npt.NDArray[np.bool_]:
    """Choose rows that are held out for the test split, of a group all or none.

    Every class keeps training rows. Beyond that, classes should have test rows, and the share of
    each that is held out should be near the fraction. Groups are gone through in a random order,
    and each changes sides where that brings the shares nearer, until none does; of several orders
    the best is taken. An order ranks groups by a hash of the seed and their names, as `hold_out`
    does.

    Shape: (n,). No row is chosen where no group can be spared.
    """
    used, group_of_row = np.unique(groups, return_inverse=True)
    classes, class_of_row = np.unique(labels, return_inverse=True)
    pairs, counts = np.unique(group_of_row * len(classes) + class_of_row, return_counts=True)
    pair_class = pairs % len(classes)
    starts = np.searchsorted(pairs // len(classes), np.arange(len(used) + 1))
    parts = [(pair_class[start:stop], counts[start:stop]) for start, stop in pairwise(starts)]
    sizes = np.bincount(class_of_row, minlength=len(classes))
    best, least = np.zeros(len(used), np.bool_), np.inf
    for order in range(max(1, min(GROUP_ORDERS, GROUP_WORK // len(pairs)))):
        names = [f"{seed}\0{order}\0{group_names[group]}" for group in used.tolist()]
        ranks = [hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest() for name in names]
        ranked = sorted(range(len(used)), key=ranks.__getitem__)
        held, distance = _choose_groups(parts, sizes, ranked, fraction)
        if distance < least:
            best, least = held, distance
    return best[group_of_row]


def _choose_groups(
    parts: Sequence[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]],
    sizes: npt.NDArray[np.int64],
    ranked: Sequence[int],
    fraction: float,
) -> tuple[npt.NDArray[np.bool_], float]:
    """Move groups to the held out side and back while that brings it nearer to what is wanted."""
    held = np.zeros(len(parts), np.bool_)
    taken = np.zeros(len(sizes), np.int64)

    def distance(index: npt.NDArray[np.int64], count: npt.NDArray[np.int64]) -> float:
        size = sizes[index]
        # A class without test rows is worse than any share; one without training rows cannot be.
        empty = (count == 0) * 2.0 + np.where(count == size, np.inf, 0.0)
        return float((np.square(count / size - fraction) + empty).sum())

    for _ in range(GROUP_PASSES):
        moved = False
        for group in ranked:
            index, count = parts[group]
            now = taken[index]
            then = now - count if held[group] else now + count
            if distance(index, then) < distance(index, now):
                taken[index], held[group], moved = then, not held[group], True
        if not moved:
            break
    return held, distance(np.arange(len(sizes)), taken)
