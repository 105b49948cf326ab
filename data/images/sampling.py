"""Stratified choices of rows: the same ones on every machine and with every numpy."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from data.common import group_split


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


def hold_out_groups(
    labels: npt.NDArray[np.int64],
    groups: npt.NDArray[np.int64],
    group_names: Sequence[str],
    fraction: float,
    seed: int,
) -> npt.NDArray[np.bool_]:
    """Choose rows that are held out for the test split, of a group all or none.

    Groups are ranked by a hash of the seed and their names, as `hold_out` ranks images, once for
    each of the orders that `group_split.hold_out_groups` tries.

    Shape: (n,). No row is chosen where no group can be spared.
    """
    used = np.unique(groups).tolist()

    def ranked(order: int) -> list[int]:
        names = [f"{seed}\0{order}\0{group_names[group]}" for group in used]
        ranks = [hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest() for name in names]
        return sorted(range(len(used)), key=ranks.__getitem__)

    return group_split.hold_out_groups(labels, groups, fraction, ranked)
