"""The rows a fit looks at: features that are standardised and sorted without being copied.

Standardised scores ``((x - shift) / scale) @ w + b`` are raw scores with other weights,
``x @ (w / scale) + (b - (shift / scale) @ w)``, and gradients map back the same way. So the
product runs on the features as they lie in memory; only the small factors change.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from classify.solver.rowwise import some_rows
from classify.solver.threads import Workers
from classify.solver.tuning import (
    BLOCK_BYTES,
    COPY_BYTES,
    FEWEST_ROWS,
    LARGEST_FOLD,
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

    Parameters
    ----------
    X : ndarray of float32 or float64, shape (n_rows, n_features)
        Features, as they lie in memory.
    shift, scale : ndarray of float64, shape (n_features,), optional
        Column ``j`` stands for ``(X[:, j] - shift[j]) / scale[j]``.
    order : ndarray of int, shape (n_used,), optional
        The rows to use, in this order; all of them as they come by default.
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
        """Return the same features with other rows, in another order.

        Parameters
        ----------
        rows : ndarray of int
            Rows of `X`.
        workers : Workers
            Threads.

        Returns
        -------
        DesignMatrix
            A copy of the rows where that is small; otherwise it shares the features, and every
            pass gathers its blocks of rows, which takes half as long again.
        """
        if np.array_equal(rows, np.arange(len(self.X))):
            return DesignMatrix(self.X, self.shift, self.scale)
        if len(rows) * self.n_features * self.X.itemsize <= COPY_BYTES:
            return DesignMatrix(some_rows(workers, self.X, rows), self.shift, self.scale)
        return DesignMatrix(self.X, self.shift, self.scale, rows)

    def standardized(self, shift: Array, scale: Array) -> DesignMatrix:
        """Return the same rows, shifted and scaled on the fly.

        Parameters
        ----------
        shift, scale : ndarray of float64, shape (n_features,)
            What is subtracted from each column, and what it is then divided by.

        Returns
        -------
        DesignMatrix
            Shares the features, unless a column is so far from zero for its scale that folding
            the shift into the weights would lose digits: then it is a copy.
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

        Parameters
        ----------
        weights : ndarray of float64, shape (n_columns, n_features)
            Weights of the shifted and scaled features.
        intercepts : ndarray of float64, shape (n_columns,)
            Intercepts.

        Returns
        -------
        weights : ndarray, shape (n_features, n_columns)
            In the features' dtype, C-contiguous: the layout that the product is fastest with.
        intercepts : ndarray, shape (n_columns,)
            In the features' dtype.
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

        Parameters
        ----------
        products : ndarray of float64, shape (n_columns, n_features)
            ``R.T @ X``; overwritten.
        totals : ndarray of float64, shape (n_columns,)
            Column sums of ``R``.
        features : slice
            Of which features; the others are left alone.

        Returns
        -------
        ndarray of float64, shape (n_columns, n_features)
            The same for the shifted and scaled features.
        """
        part = products[:, features]
        if self.shift is not None:
            part -= totals[:, None] * self.shift[features]
        if self.scale is not None:
            part /= self.scale[features]
        return products

    def spans(self, rows: int) -> list[tuple[int, int]]:
        """Cut the rows into what one thread takes at a time.

        Parameters
        ----------
        rows : int
            How many rows that shall be.

        Returns
        -------
        list of (int, int)
            First row, last row + 1.
        """
        return [(low, min(low + rows, self.n_rows)) for low in range(0, self.n_rows, rows)]

    def load(self, start: int, stop: int) -> Blocks:
        """Bring rows into memory, for a thread that will ask for blocks of them.

        Parameters
        ----------
        start, stop : int
            Rows, in this design's order; not across an edge.

        Returns
        -------
        Blocks
            Good until the same thread loads others.
        """
        return self

    def block(self, start: int, stop: int) -> Floats:
        """Return raw rows ``start`` to ``stop``: a view where the order allows.

        Parameters
        ----------
        start, stop : int
            Rows, in this design's order.

        Returns
        -------
        ndarray, shape (stop - start, n_features)
            Not to be written to.
        """
        if self.order is None:
            return self.X[start:stop]
        return self.X[self.order[start:stop]]

    def dense(self, rows: Integers) -> Floats:
        """Copy some rows, shifted and scaled.

        Parameters
        ----------
        rows : ndarray of int, shape (k,)
            Rows, in this design's order.

        Returns
        -------
        ndarray, shape (k, n_features)
            In the features' dtype.
        """
        rows = rows if self.order is None else self.order[rows]
        # Without a mode that needs no check, numpy's gather takes several times as long.
        block = np.take(self.X, rows, axis=0, mode="clip")
        if self.shift is not None:
            block -= self.shift.astype(self.dtype)
        if self.scale is not None:
            block /= self.scale.astype(self.dtype)
        return block


def product_rows(n_features: int, itemsize: int) -> int:
    """Say how many rows of features of so many bytes are in one product."""
    rows = BLOCK_BYTES // max(1, n_features * itemsize)
    return int(np.clip(rows // FEWEST_ROWS * FEWEST_ROWS, FEWEST_ROWS, MOST_ROWS))


def thin_product(block: Floats, weights: Floats) -> Floats:
    """Multiply a block of rows by a few columns.

    Parameters
    ----------
    block : ndarray, shape (k, n_features)
        C-contiguous rows.
    weights : ndarray, shape (n_features, n_columns)
        C-contiguous.

    Returns
    -------
    ndarray, shape (k, n_columns)
        The product, by batches of rows small enough for BLAS's unpacked kernels.
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
    """Multiply a few columns, transposed, by a block of rows.

    Parameters
    ----------
    block : ndarray, shape (k, n_features)
        C-contiguous rows.
    residual : ndarray, shape (k, n_columns)
        C-contiguous.

    Returns
    -------
    ndarray, shape (n_columns, n_features)
        ``residual.T @ block``, by batches of rows as in `thin_product`.
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

    Parameters
    ----------
    table : ndarray, shape (n_rows, n_columns)
        C-contiguous.

    Returns
    -------
    ndarray of float64, shape (n_columns,)
        BLAS's sums: for few columns many times as fast as numpy's, which take one row at a time.
    """
    return np.ones(len(table)) @ table.astype(np.float64, copy=False)
