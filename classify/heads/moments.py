"""Sums over the training rows that closed-form heads are made of, from one pass over the features.

Rows are multiplied in their own precision, block by block, after a shift has been taken off that
lies near their mean; blocks are added up in float64, in the order of the rows. So a feature far
from zero keeps its digits, and the sums do not depend on the number of threads.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse

from classify.heads.interface import Floats, RowSet
from classify.solver.design import NOT_FINITE
from classify.solver.threads import Workers, thread_count

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.intp]

# Rows of a block: sums of more cost digits in float32, fewer waste time on the sums of blocks.
FEWEST_ROWS, MOST_ROWS, BLOCK_BYTES = 512, 4096, 16 << 20
# Rows that the shift is taken from.
SHIFT_ROWS = 256
# Features whose deviations are further from 1 than this are brought near it by a power of two:
# their squares would leave the range of float32.
FAR_EXPONENT = 20


class Moments(NamedTuple):
    """Weighted sums over rows; a class without rows has the mean of all."""

    total: float  # of the weights
    class_weights: Array  # (n_classes,)
    mean: Array  # (n_features,)
    class_means: Array  # (n_classes, n_features)
    variance: Array  # (n_features,), of all rows, divided by the total
    scatter: Array  # (n_features, n_features) about the mean; empty where it was not asked for

    @property
    def scale(self) -> Array:
        """Return the standard deviations, 1 where a feature is constant."""
        return scale_of(self.variance, self.mean)

    @property
    def between(self) -> Array:
        """Return each class's mean less the mean of all (n_classes, n_features)."""
        return self.class_means - self.mean


def scale_of(variance: Array, mean: Array) -> Array:
    """Return standard deviations (n_features,), 1 where they are but the rounding of the mean."""
    scale = np.sqrt(np.maximum(variance, 0))
    return np.where(scale <= 10 * np.finfo(float).eps * np.abs(mean), 1.0, scale)


def block_rows(n_features: int, itemsize: int) -> int:
    """Say how many rows are multiplied at a time."""
    return int(np.clip(BLOCK_BYTES // max(1, n_features * itemsize), FEWEST_ROWS, MOST_ROWS))


def thread_bytes(n_features: int, products: bool = True) -> int:
    """Count what one thread takes: blocks that wait, are copied, and their products."""
    blocks = 4 * max(BLOCK_BYTES, 4 * FEWEST_ROWS * n_features)
    sample = 3 * 8 * SHIFT_ROWS * n_features
    return blocks + sample + (3 * 4 * n_features**2 if products else 0)


def threads_for(rows: RowSet, n_jobs: int | None, fixed: int, each: int) -> int:
    """Say how many threads there is memory for, beside what is `fixed`; one at least."""
    n_threads = thread_count(n_jobs)
    if rows.memory is None:
        return n_threads
    return max(1, min(n_threads, (rows.memory - fixed) // each))


def in_double(rows: RowSet) -> bool:
    """Tell whether products are made in float64: where that costs next to nothing, or rows are."""
    return rows.X.dtype == np.float64 or len(rows) < 2 * rows.n_features


class Units(NamedTuple):
    """What is taken off features, and then multiplied with, before they are squared."""

    shift: Floats  # (n_features,), numbers of the features' own precision
    factor: Floats | None  # powers of two; None where all are 1

    def apply(self, block: Floats, dtype: npt.DTypeLike) -> Any:
        """Return a block shifted and multiplied: in its place, or a copy of one that is a view."""
        # Fresh pages take as long as what is written to them.
        own = block if block.flags.owndata and block.dtype == dtype else None
        found = np.subtract(block, self.shift, out=own, dtype=dtype)
        if self.factor is not None:
            found *= self.factor.astype(dtype)
        return found


def units_of(sample: Floats) -> Units:
    """Choose a shift and powers of two by some rows; a constant feature's shift is its value."""
    double = sample.astype(np.float64)
    first = double[0]
    shift = (first + (double - first).mean(axis=0)).astype(sample.dtype)
    with np.errstate(over="ignore"):
        deviation = (double - shift).std(axis=0)
    # frexp's exponent of a number in [0.5, 1) is 0, and so is that of 0.
    exponent = np.frexp(np.where(np.isfinite(deviation), deviation, 0))[1]
    far = np.abs(exponent) > FAR_EXPONENT
    return Units(shift, np.ldexp(1.0, np.where(far, -exponent, 0)) if far.any() else None)


class _Part(NamedTuple):
    """The sums of one block."""

    classes: Integers  # those it has
    sums: Floats  # of each of them
    total: Array  # sums of all rows
    square: Floats  # (n_features,), or (n_features, n_features)


def moments_of(rows: RowSet, pool: Workers, *, scatter: bool = True) -> Moments:
    """Add up the rows, their squares, and their products with each other if asked for.

    ``ValueError`` where a number is not finite.
    """
    places = np.unique(np.linspace(0, len(rows) - 1, min(SHIFT_ROWS, len(rows))).astype(np.intp))
    units = units_of(_read(rows.take(places)))
    with np.errstate(over="ignore", invalid="ignore"):
        found = _sums(rows, pool, units, in_double(rows), scatter)
        if not np.isfinite(found.variance).all() and not in_double(rows):
            found = _sums(rows, pool, units, True, scatter)  # squares beyond float32's range
    if not np.isfinite(found.variance).all():
        raise ValueError(NOT_FINITE)
    return found


def _read(rows: RowSet) -> Floats:
    return np.concatenate([block for _, block in rows.blocks()])


def _sums(rows: RowSet, pool: Workers, units: Units, double: bool, scatter: bool) -> Moments:
    dtype = np.float64 if double else np.float32
    n_features = rows.n_features

    def work(item: tuple[slice, Floats]) -> _Part:
        where, block = item
        weights = None if rows.weights is None else rows.weights[where]
        table = units.apply(block, dtype)
        classes, sums = class_sums(table, rows.labels[where], weights)
        if weights is not None:
            table *= np.sqrt(weights).astype(dtype)[:, None]
        square = table.T @ table if scatter else np.einsum("ij,ij->j", table, table)
        return _Part(classes, sums, sums.sum(axis=0, dtype=np.float64), square)

    weight = np.bincount(rows.labels, rows.weights, minlength=rows.n_classes).astype(np.float64)
    by_class = np.zeros((rows.n_classes, n_features))
    sums = np.zeros(n_features)
    square = np.zeros((n_features, n_features) if scatter else n_features)
    step = block_rows(n_features, np.dtype(dtype).itemsize)
    for part in pool.stream(work, rows.blocks(step)):
        by_class[part.classes] += part.sums
        sums += part.total
        square += part.square
    return _about_the_mean(weight, by_class, sums, square, units)


def _about_the_mean(
    weight: Array, by_class: Array, sums: Array, square: Array, units: Units
) -> Moments:
    """Turn sums about the shift into means, and products about the mean, in units of features."""
    total = float(weight.sum())
    mean = sums / total
    means = np.where((weight > 0)[:, None], by_class / np.maximum(weight, 1e-300)[:, None], mean)
    shift = units.shift.astype(np.float64)
    unit = np.ones(len(mean)) if units.factor is None else 1 / units.factor
    if square.ndim == 2:
        square -= np.outer(total * mean, mean)
        if units.factor is not None:
            square *= unit
            square *= unit[:, None]
        variance, scatter = np.diag(square) / total, square
    else:
        variance, scatter = (square / total - mean**2) * unit**2, np.zeros((0, 0))
    return Moments(
        total, weight, shift + mean * unit, shift + means * unit, np.maximum(variance, 0), scatter
    )


def class_sums(
    table: Floats, labels: Integers, weights: Array | None
) -> tuple[Integers, npt.NDArray[Any]]:
    """Sum a block's rows by class: the classes that it has, and (n_there, n_features)."""
    classes, codes = np.unique(labels, return_inverse=True)
    ones = np.ones(len(labels)) if weights is None else weights
    places = codes.astype(np.int32), np.arange(len(labels), dtype=np.int32)
    shape = len(classes), len(labels)
    table_of = sparse.csr_matrix((ones.astype(table.dtype), places), shape=shape)
    return classes, table_of @ table
