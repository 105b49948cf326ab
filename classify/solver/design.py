"""The rows a fit looks at: features that are standardised and sorted without being copied.

Standardised scores ``((x - shift) / scale) @ w + b`` are raw scores with other weights,
``x @ (w / scale) + (b - (shift / scale) @ w)``, and gradients map back the same way. So the
product runs on the features as they lie in memory; only the small factors change.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from classify.solver.threads import Workers, some_rows
from classify.solver.tuning import (
    BLOCK_BYTES,
    COPY_BYTES,
    FEWEST_ROWS,
    LARGEST_FOLD,
    MOMENT_ROWS,
    MOST_ROWS,
    SMALL_BACK,
    SMALL_PRODUCT,
)

Array = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating[Any]]
Integers = npt.NDArray[np.intp]


class Blocks(Protocol):
    """Rows that are in memory."""

    def block(self, start: int, stop: int) -> Floats:
        """Return raw rows ``start`` to ``stop``, in the design's order."""


class DesignMatrix:
    """Features with a shift and a scale per column, and an order of rows.

    Shapes: `X` (n_rows, n_features), `shift, scale` (n_features,), `order` (n_used,).
    """

    def __init__(
        self,
        X: Floats,
        shift: Array | None = None,
        scale: Array | None = None,
        order: Integers | None = None,
    ) -> None:
        self.X = X
        self.shift, self.scale, self.order = shift, scale, order
        self.n_rows = len(X) if order is None else len(order)
        self.n_features = X.shape[1]
        self.dtype = X.dtype
        # Rows between two edges are loaded together; in memory they all are.
        self.edges: Integers = np.array([0, self.n_rows])
        self.block_rows = product_rows(self.n_features, self.dtype.itemsize)

    def take(self, rows: Integers, workers: Workers) -> DesignMatrix:
        """Return the same features with other rows of `X`; small ones are copied."""
        if np.array_equal(rows, np.arange(len(self.X))):
            return DesignMatrix(self.X, self.shift, self.scale)
        if len(rows) * self.n_features * self.X.itemsize <= COPY_BYTES:
            return DesignMatrix(some_rows(workers, self.X, rows), self.shift, self.scale)
        return DesignMatrix(self.X, self.shift, self.scale, rows)

    def standardized(self, shift: Array, scale: Array) -> DesignMatrix:
        """Return the same rows, shifted and scaled on the fly, or copied where that loses digits.

        Shapes: `shift, scale` (n_features,).
        """
        if np.any(np.abs(shift) > LARGEST_FOLD * scale):
            X = self.X if self.order is None else self.X[self.order]
            return DesignMatrix(((X - shift) / scale).astype(self.dtype))
        return DesignMatrix(self.X, shift, scale, self.order)

    def in_double(self) -> DesignMatrix:
        """Return a copy of these rows in double precision."""
        X = self.X if self.order is None else self.X[self.order]
        return DesignMatrix(X.astype(np.float64), self.shift, self.scale)

    def fold(self, weights: Array, intercepts: Array) -> tuple[Floats, Floats]:
        """Turn weights for the columns as they stand into weights for the raw features.

        Shapes: `weights` (n_columns, n_features), `intercepts` (n_columns,), `weights` (n_features,
        n_columns), `intercepts` (n_columns,).
        """
        if self.scale is not None:
            weights = weights / self.scale
        if self.shift is not None:
            intercepts = intercepts - weights @ self.shift
        return (
            np.ascontiguousarray(weights.T, dtype=self.dtype),
            intercepts.astype(self.dtype),
        )

    def unfold(self, products: Array, totals: Array, features: slice = slice(None)) -> Array:
        """Turn ``R.T @ X`` into ``R.T @ ((X - shift) / scale)``, in its place.

        Shapes: `products` (n_columns, n_features), `totals` (n_columns,), returns (n_columns,
        n_features).
        """
        part = products[:, features]
        if self.shift is not None:
            part -= totals[:, None] * self.shift[features]
        if self.scale is not None:
            part /= self.scale[features]
        return products

    def spans(self, rows: int) -> list[tuple[int, int]]:
        """Cut the rows into what one thread takes at a time."""
        return [(low, min(low + rows, self.n_rows)) for low in range(0, self.n_rows, rows)]

    def load(self, start: int, stop: int) -> Blocks:
        """Bring rows into memory, for a thread that will ask for blocks of them."""
        return self

    def block(self, start: int, stop: int) -> Floats:
        """Return raw rows ``start`` to ``stop``: a view where the order allows.

        Shapes: returns (stop - start, n_features).
        """
        if self.order is None:
            return self.X[start:stop]
        return self.X[self.order[start:stop]]

    def dense(self, rows: Integers) -> Floats:
        """Copy some rows, shifted and scaled.

        Shapes: `rows` (k,), returns (k, n_features).
        """
        rows = rows if self.order is None else self.order[rows]
        # Without a mode that needs no check, numpy's gather takes several times as long.
        block = np.take(self.X, rows, axis=0, mode="clip")
        if self.shift is not None:
            block -= self.shift.astype(self.dtype)
        if self.scale is not None:
            block /= self.scale.astype(self.dtype)
        return block


def into_span(design: DesignMatrix) -> tuple[DesignMatrix, Array]:
    """Turn few rows into coordinates of their span; also return its basis, (n_features, n_rows).

    The weights that minimise a loss of scores and their own norm are a sum of rows, so nothing is
    lost but features that no row has.
    """
    X = design.X if design.order is None else design.X[design.order]
    rows = X.astype(np.float64)
    if design.shift is not None:
        rows -= design.shift
    if design.scale is not None:
        rows /= design.scale
    basis, triangle = np.linalg.qr(rows.T)
    return DesignMatrix(np.ascontiguousarray(triangle.T, dtype=design.dtype)), basis


def product_rows(n_features: int, itemsize: int) -> int:
    """Say how many rows of features of so many bytes are in one product."""
    rows = BLOCK_BYTES // max(1, n_features * itemsize)
    return int(np.clip(rows // FEWEST_ROWS * FEWEST_ROWS, FEWEST_ROWS, MOST_ROWS))


def thin_product(block: Floats, weights: Floats) -> Floats:
    """Multiply a block of rows by a few columns, by batches that BLAS does not pack.

    Shapes: `block` (k, n_features), `weights` (n_features, n_columns), returns (k, n_columns).
    """
    n_rows, n_features = block.shape
    n_columns = weights.shape[1]
    rows = _batch(n_rows, n_features, n_columns, SMALL_PRODUCT)
    if not rows:
        return block @ weights
    whole = n_rows // rows * rows
    result = np.empty((n_rows, n_columns), dtype=block.dtype)
    np.matmul(
        block[:whole].reshape(-1, rows, n_features),
        weights,
        out=result[:whole].reshape(-1, rows, n_columns),
    )
    if whole < n_rows:
        np.matmul(block[whole:], weights, out=result[whole:])
    return result


def thin_back(block: Floats, residual: Floats) -> Floats:
    """Multiply a few columns, transposed, by a block of rows: ``residual.T @ block``.

    Shapes: `block` (k, n_features), `residual` (k, n_columns), returns (n_columns, n_features).
    """
    n_rows, n_features = block.shape
    n_columns = residual.shape[1]
    rows = _batch(n_rows, n_features, n_columns, SMALL_BACK)
    if not rows:
        return residual.T @ block
    whole = n_rows // rows * rows
    parts = np.matmul(
        residual[:whole].reshape(-1, rows, n_columns).transpose(0, 2, 1),
        block[:whole].reshape(-1, rows, n_features),
    )
    result: Floats = parts.sum(axis=0)
    if whole < n_rows:
        result += residual[whole:].T @ block[whole:]
    return result


def _batch(n_rows: int, n_features: int, n_columns: int, limit: int) -> int:
    """Say how many rows BLAS multiplies without packing; 0 where batches do not pay."""
    rows = 64
    while rows > 16 and rows * n_features * n_columns > limit:
        rows //= 2
    few = n_rows < rows or n_features < 32 or rows * n_features * n_columns > limit
    return 0 if few else rows


def column_sums(table: Floats) -> Array:
    """Sum the columns of a tall table in float64.

    Shapes: `table` (n_rows, n_columns), returns (n_columns,).
    """
    return np.ones(len(table)) @ table.astype(np.float64, copy=False)


NOT_FINITE = "X contains NaN or infinity"


def mean_and_scale(
    design: DesignMatrix, workers: Workers, weight: Array | None = None
) -> tuple[Array, Array]:
    """Compute what standardises features: mean and standard deviation of each.

    Chan, Golub and LeVeque, "Algorithms for computing the sample variance", *The American
    Statistician* 37 (1983) 242-247: blocks are centred on their own means and then merged, so that
    a feature far from zero keeps its digits.

    Shapes: `weight` (n_rows,), `mean` (n_features,), `scale` (n_features,).
    """

    def work(span: tuple[int, int]) -> tuple[float, Array, Array]:
        start, stop = span
        rows = design.load(start, stop)
        count, mean, square = 0.0, np.zeros(design.n_features), np.zeros(design.n_features)
        for low in range(start, stop, design.block_rows):
            high = min(low + design.block_rows, stop)
            block = rows.block(low, high)
            w = np.ones(high - low) if weight is None else weight[low:high]
            mass = float(w.sum())
            if mass <= 0:
                continue
            block = block.astype(np.float64)
            # Centred on one of its rows first, so that a constant feature varies by exactly zero.
            first = block[0].copy()
            with np.errstate(invalid="ignore"):  # infinities are found at the end
                block -= first
                centre = w @ block / mass
                block -= centre
                spread = w @ np.square(block, out=block)
                centre += first
            count, mean, square = _merge(count, mean, square, mass, centre, spread)
        return count, mean, square

    total, mean, square = 0.0, np.zeros(design.n_features), np.zeros(design.n_features)
    for part in workers.stream(work, design.spans(MOMENT_ROWS)):
        if part[0] > 0:
            total, mean, square = _merge(total, mean, square, *part)
    if not np.isfinite(mean).all():
        raise ValueError(NOT_FINITE)
    scale = np.sqrt(square / max(total, np.finfo(float).tiny))
    constant = scale <= 10 * np.finfo(float).eps * np.abs(mean)
    return mean, np.where(constant, 1.0, scale)


def refuse_not_finite(design: DesignMatrix, workers: Workers) -> None:
    """Look for NaN and infinities in one pass."""

    def work(span: tuple[int, int]) -> bool:
        start, stop = span
        rows = design.load(start, stop)
        return all(
            bool(np.isfinite(rows.block(low, min(low + design.block_rows, stop))).all())
            for low in range(start, stop, design.block_rows)
        )

    if not all(workers.stream(work, design.spans(MOMENT_ROWS))):
        raise ValueError(NOT_FINITE)


def _merge(
    n: float, mean: Array, square: Array, n_new: float, mean_new: Array, square_new: Floats
) -> tuple[float, Array, Array]:
    total = n + n_new
    delta = mean_new - mean
    with np.errstate(invalid="ignore"):
        square = square + square_new + delta**2 * (n * n_new / total)
    return total, mean + delta * (n_new / total), square


def all_finite(X: npt.NDArray[np.floating[Any]], workers: Workers) -> bool:
    """Say whether sums of rows are finite, which they are not where a number is not.

    Shapes: `X` (n_rows, n_features).
    """
    steps = range(0, len(X), MOMENT_ROWS)
    with np.errstate(over="ignore", invalid="ignore"):
        sums = workers.map(lambda low: np.sum(X[low : low + MOMENT_ROWS]), steps)
    return bool(np.isfinite(sums).all())
