"""Covariances within classes, and their shrinkage by Ledoit and Wolf, class by class.

O. Ledoit and M. Wolf, "A well-conditioned estimator for large-dimensional covariance matrices",
*Journal of Multivariate Analysis* 88 (2004) 365-411: a class's covariance is moved towards a
multiple of the identity by a share that its rows tell. As scikit-learn's
``LinearDiscriminantAnalysis(shrinkage="auto")``, each class has a share of its own, in features
standardised by the class's own deviations, and classes are added up by their shares of the rows.
A weight counts as so many rows.

The share needs the squared norm of a class's covariance and the fourth powers of its rows' norms.
Classes of fewer rows than features have the first from the products of their rows, and are
multiplied together, many in one product.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from classify.heads.interface import Floats, RowSet
from classify.heads.moments import (
    SHIFT_ROWS,
    Units,
    block_rows,
    in_double,
    scale_of,
    units_of,
)
from classify.solver.design import NOT_FINITE
from classify.solver.threads import Workers

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.intp]

# Rows of a large class that are kept until its deviations are known, instead of being read again.
KEPT_BYTES = 32 << 20
# Rows of a covariance that stay in a core's own cache from one step to the next.
STRIP = 32


class ClassCovariance(NamedTuple):
    """Covariances within classes, (n_features, n_features); a class without rows has no part."""

    class_weights: Array  # (n_classes,)
    class_means: Array  # (n_classes, n_features), of zeros where there are no rows
    pooled: Array  # the classes' own, added up by their shares of the rows
    shrunk: Array  # the same of those that are shrunk
    shrinkages: Array  # (n_classes,), 0 where there are no rows


class _Part(NamedTuple):
    """What some classes add: products not yet divided by the weight of all rows."""

    classes: Integers
    means: Array
    shrinkages: Array
    scatter: Floats
    shrunk: Floats | float  # a factor of the scatter, where it is one
    diagonal: Array  # to be added to what is shrunk


def class_covariance(rows: RowSet, pool: Workers) -> ClassCovariance:
    """Compute both covariances from one reading of the rows, class by class.

    Classes of more rows than a block has are read again for the norms of their rows.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        found = _add_up(rows, pool, in_double(rows))
        if not np.isfinite(found.pooled).all() and not in_double(rows):
            found = _add_up(rows, pool, True)
    if not np.isfinite(found.pooled).all():
        raise ValueError(NOT_FINITE)
    return found


def _add_up(rows: RowSet, pool: Workers, double: bool) -> ClassCovariance:
    k, d = rows.n_classes, rows.n_features
    dtype = np.dtype(np.float64 if double else np.float32)
    weight = np.bincount(rows.labels, rows.weights, minlength=k).astype(np.float64)
    means, shrinkages = np.zeros((k, d)), np.zeros(k)
    pooled, shrunk, diagonal = np.zeros((d, d)), np.zeros((d, d)), np.zeros(d)

    def work(places: Integers) -> _Part:
        some = rows.take(places)
        first, last = int(some.labels.min()), int(some.labels.max())
        return _large(some, dtype) if first == last else _small(some, dtype)

    for part in pool.stream(work, _groups(rows, dtype)):
        means[part.classes], shrinkages[part.classes] = part.means, part.shrinkages
        for low in range(0, d, STRIP):
            strip = slice(low, low + STRIP)
            pooled[strip] += part.scatter[strip]
            if isinstance(part.shrunk, float):
                shrunk[strip] += part.scatter[strip] * part.shrunk
            else:
                shrunk[strip] += part.shrunk[strip]
        diagonal += part.diagonal
    total = weight.sum()
    pooled /= total
    shrunk /= total
    shrunk[np.diag_indices(d)] += diagonal / total
    return ClassCovariance(weight, means, pooled, shrunk, shrinkages)


def _groups(rows: RowSet, dtype: np.dtype[np.floating]) -> Iterator[Integers]:
    """Yield the places of classes' rows, ascending: of one large class, or of several small."""
    step = block_rows(rows.n_features, dtype.itemsize)
    order = np.argsort(rows.labels, kind="stable")
    ends = np.cumsum(np.bincount(rows.labels, minlength=rows.n_classes)).tolist()
    low = high = 0
    for end in ends:
        if high > low and end - low > step:
            yield np.sort(order[low:high])
            low = high
        high = end
    if high > low:
        yield np.sort(order[low:high])


def _shrinkage(norm: float, fourth: float, weight: float, diagonal: Array) -> tuple[float, float]:
    """Return Ledoit and Wolf's share, and the mean variance that it shrinks to.

    Of standardised rows: `norm` is the squared Frobenius norm of their products, `fourth` the sum
    of the fourth powers of their norms; `diagonal` (n_features,) holds the variances.
    """
    d = len(diagonal)
    mu = float(diagonal.sum()) / d
    squares = norm / weight**2
    beta = (fourth / weight - squares) / (d * weight)
    delta = (squares - 2 * mu * float(diagonal.sum()) + d * mu**2) / d
    beta = max(0.0, min(beta, delta))
    return (0.0 if beta == 0 or d == 1 else beta / delta), mu


def _large(rows: RowSet, dtype: np.dtype[np.floating]) -> _Part:
    """Sum up one class block by block; its rows are kept for a second look where they are few."""
    d = rows.n_features
    weights = np.ones(len(rows)) if rows.weights is None else rows.weights
    total = float(weights.sum())
    scatter, sums = np.zeros((d, d)), np.zeros(d)
    units: Units | None = None
    few = len(rows) * d * dtype.itemsize <= KEPT_BYTES
    kept: list[tuple[slice, Floats]] = []
    products = np.empty((d, d), dtype)
    for where, block in rows.blocks(_even_rows(rows, dtype)):
        units = units or units_of(block[:SHIFT_ROWS])._replace(factor=None)
        table = units.apply(block, dtype)
        sums += weights[where].astype(dtype) @ table
        kept += [(where, table)] if few else []
        if rows.weights is not None:
            table = table * np.sqrt(weights[where]).astype(dtype)[:, None]
        scatter += np.matmul(table.T, table, out=products)
    assert units is not None
    offset = sums / total
    for low in range(0, d, STRIP):
        scatter[low : low + STRIP] -= (total * offset[low : low + STRIP, None]) * offset
    mean = units.shift + offset
    variance = np.maximum(np.diag(scatter), 0) / total
    scale = scale_of(variance, mean)
    inverse = 1 / scale**2
    norm = 0.0
    for low in range(0, d, STRIP):
        norm += float(
            inverse[low : low + STRIP] @ (np.square(scatter[low : low + STRIP]) @ inverse)
        )
    fourth, by = 0.0, inverse.astype(dtype)
    close, between = offset.astype(dtype), float(offset**2 @ inverse)
    again = rows.blocks(_even_rows(rows, dtype))
    for where, table in kept or ((part, units.apply(block, dtype)) for part, block in again):
        cross = table @ (close * by)  # the offset is small beside the deviations
        norms = np.square(table, out=table) @ by - 2 * cross + between
        fourth += float(weights[where] @ norms.astype(np.float64) ** 2)
    share, mu = _shrinkage(norm, fourth, total, variance * inverse)
    diagonal = total * share * mu * scale**2
    return _Part(rows.labels[:1], mean[None], np.array([share]), scatter, 1 - share, diagonal)


def _even_rows(rows: RowSet, dtype: np.dtype[np.floating]) -> int:
    """Cut a class into blocks of about as many rows each."""
    n_blocks = -(-len(rows) // block_rows(rows.n_features, dtype.itemsize))
    return -(-len(rows) // n_blocks)


def _small(rows: RowSet, dtype: np.dtype[np.floating]) -> _Part:
    """Sum up several classes together, which are one block."""
    order = np.argsort(rows.labels, kind="stable")
    block = np.concatenate([block for _, block in rows.blocks()])[order]
    weights = np.ones(len(rows)) if rows.weights is None else rows.weights[order]
    classes, starts = np.unique(rows.labels[order], return_index=True)
    ends = [*starts[1:].tolist(), len(order)]
    table = np.empty(block.shape, dtype)
    means, shares = np.empty((len(classes), block.shape[1])), np.empty(len(classes))
    diagonal, factors = np.zeros(block.shape[1]), np.empty(len(order))
    for i, (low, high) in enumerate(zip(starts.tolist(), ends, strict=True)):
        units = units_of(block[low : min(high, low + SHIFT_ROWS)])._replace(factor=None)
        mine, part = weights[low:high], units.apply(block[low:high], dtype)
        total = float(mine.sum())
        offset = (mine.astype(dtype) @ part).astype(np.float64) / total
        part -= offset.astype(dtype)
        means[i] = units.shift + offset
        variance = (mine.astype(dtype) @ np.square(part)).astype(np.float64) / total
        scale = scale_of(variance, means[i])
        table[low:high] = part
        part /= scale.astype(dtype)
        _weigh(part, None if rows.weights is None else mine)
        products = part @ part.T
        norm = float(np.sum(np.square(products), dtype=np.float64))
        fourth = float(np.diag(products).astype(np.float64) ** 2 @ (1 / mine))
        shares[i], mu = _shrinkage(norm, fourth, total, variance / scale**2)
        diagonal += total * shares[i] * mu * scale**2
        factors[low:high] = 1 - shares[i]
    _weigh(table, None if rows.weights is None else weights)
    scatter = table.T @ table
    _weigh(table, factors)
    return _Part(classes, means, shares, scatter, table.T @ table, diagonal)


def _weigh(table: Floats, weights: Array | None) -> None:
    """Multiply rows by the roots of their weights, in place."""
    if weights is not None:
        table *= np.sqrt(weights).astype(table.dtype)[:, None]
