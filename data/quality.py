"""Rows that are odd rather than wrong: copies of one another, and nothing but zeros.

Two images with the very same embedding are copies of one image as a rule, and a test image that
is a copy of a training image is no test. They are named, not refused: real data sets have some.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from data.common.raw_io import BLOCK_BYTES
from data.format.blocks import name_rows
from data.format.records import Features

# Rows that should have nothing in common: the split of the first one, of the other, and the doubt.
_ACROSS = (
    ("train", "test", "a training row: test images that were trained on?"),
    ("train", "validation", "a training row: validation images that were trained on?"),
    ("test", "validation", "a test row: test images that settings are chosen on?"),
)


def odd_rows(features: Features) -> list[str]:
    """Name the rows that are all zeros, and those that equal another row bit by bit."""
    splits = list(features.splits.values())
    ids = [name for split in splits for name in split.ids]
    starts = np.cumsum([0, *map(len, splits)]).tolist()
    marks, zero = [], []
    for split, offset in zip(splits, starts, strict=False):
        for start, block in _blocks(split.features):
            marks.append(_fingerprints(block))
            zero += [offset + start + int(row) for row in np.flatnonzero(~block.any(axis=1))]
    found = []
    if zero:
        named = name_rows(len(zero), [ids[row] for row in zero])
        found.append(f"Nothing but zeros in {named}: do the weights belong to the model?")
    whole = np.concatenate(marks) if marks else np.empty(0, np.uint64)
    copies = [pair for pair in _pairs(whole, set(zero)) if _equal(splits, starts, *pair)]
    names = [name for name, split in features.splits.items() for _ in range(len(split))]
    within = [f"{ids[b]} = {ids[a]}" for a, b in copies if names[a] == names[b]]
    told = [(within, "another row of their split: copies of an image?")]
    for first, later, what in _ACROSS:
        across = [
            f"{later} {ids[b]} = {first} {ids[a]}"
            for a, b in copies
            if (names[a], names[b]) == (first, later)
        ]
        told.append((across, what))
    for copied, other in told:
        if copied:
            have = "has" if len(copied) == 1 else "have"
            named = name_rows(len(copied), copied)
            found.append(f"{named} {have} the very same embedding as {other}")
    return found


def _blocks(table: Any) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    n, width = table.shape
    step = max(1, BLOCK_BYTES // max(1, 4 * width))
    for start in range(0, n, step):
        stop = min(start + step, n)
        yield start, table[start:stop] if isinstance(table, np.ndarray) else table.read(start, stop)


def _fingerprints(block: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    """Hash each row by a product with fixed odd numbers, modulo 2**64: equal rows, equal marks."""
    bits = np.ascontiguousarray(block).view(f"u{block.itemsize}")
    factors = np.random.Philox(key=0).random_raw(block.shape[1]) | np.uint64(1)
    marks: npt.NDArray[np.uint64] = np.einsum("ij,j->i", bits.astype(np.uint64), factors)
    return marks


def _pairs(marks: npt.NDArray[np.uint64], leave: set[int]) -> Iterator[tuple[int, int]]:
    """Pair each row whose mark occurred before with the first row that has it."""
    _, first, back = np.unique(marks, return_index=True, return_inverse=True)
    for row in np.flatnonzero(first[back] != np.arange(len(marks))).tolist():
        if row not in leave:
            yield int(first[back[row]]), row


def _equal(splits: list[Any], starts: list[int], a: int, b: int) -> bool:
    return _row(splits, starts, a) == _row(splits, starts, b)


def _row(splits: list[Any], starts: list[int], row: int) -> bytes:
    number = int(np.searchsorted(starts, row, side="right")) - 1
    table, row = splits[number].features, row - starts[number]
    found = table[row] if isinstance(table, np.ndarray) else table.read(row, row + 1)[0]
    return bytes(np.ascontiguousarray(found).tobytes())
