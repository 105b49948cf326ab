"""Features larger than memory: a design whose rows stay where they are, and come in chunks.

The features are a *source*, anything that is like `data.format.stored_rows.StoredRows`: it has
``shape`` and ``dtype``, ``read(start, stop, out)`` fills an array with consecutive rows in any
thread, and
``gather(rows)`` collects arbitrary ones.

A chunk is a fixed number of consecutive rows of the source. A thread reads one, in one go, and
does with it all that a pass has to do. One-vs-one wants its rows sorted by class, and the rows of
a class lie all over the file; so they are sorted within each chunk only. Then a class is not one
run of rows but one a chunk, and each run meets the columns of its class, as in memory.
"""

from __future__ import annotations

import itertools
import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from classify.solver.design import DesignMatrix
from classify.solver.threads import Workers
from classify.solver.tuning import (
    BLOCK_BYTES,
    LARGEST_FOLD,
    STEP_NUMBERS,
    STEP_ROWS,
    WHOLE_NUMBERS,
    WIDE_COLUMNS,
    WIDE_NUMBERS,
)

Array = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating[Any]]
Integers = npt.NDArray[np.intp]


def is_source(X: Any) -> bool:
    """Say whether features are a source of rows rather than an array."""
    return hasattr(X, "gather") and hasattr(X, "read")


def row_steps(source: Any, n_rows: int, columns: int) -> list[tuple[int, int]]:
    """Cut rows into steps in which a source's rows are scored."""
    row = max(1, source.shape[1] * source.dtype.itemsize)
    step = max(1, min(BLOCK_BYTES // row, max(STEP_ROWS, STEP_NUMBERS // max(1, columns))))
    return [(low, min(low + step, n_rows)) for low in range(0, n_rows, step)]


def answer_steps(X: Any, n_rows: int, columns: int) -> list[tuple[int, int]]:
    """Cut rows into steps in which they are scored and answered for.

    Shapes: `X` (n, n_features).
    """
    if columns >= WIDE_COLUMNS and not is_source(X):
        step = max(2 * STEP_ROWS, WIDE_NUMBERS // columns)
        return [(low, min(low + step, n_rows)) for low in range(0, n_rows, step)]
    if is_source(X) or n_rows * columns > WHOLE_NUMBERS:
        return row_steps(X, n_rows, columns)
    return [(0, n_rows)]


def chunk_order(rows: Integers, labels: Integers, chunk_rows: int) -> Integers:
    """Order rows by class within each chunk.

    Shapes: `rows` (n_used,), `labels` (n_used,), returns (n_used,).
    """
    return np.lexsort((labels, rows // chunk_rows))


class ChunkedDesign(DesignMatrix):
    """A design over a source of rows.

    Shapes: `order` (n_used,).
    """

    def __init__(self, source: Any, chunk_rows: int, order: Integers | None = None) -> None:
        super().__init__(source, order=order)
        self.source = source
        self.dtype = np.dtype(source.dtype)
        self._chunk_rows = chunk_rows
        starts = np.arange(0, len(source) + chunk_rows, chunk_rows)
        if order is None:
            self.edges = np.minimum(starts, len(source))
        else:
            chunk = order // chunk_rows
            if np.any(np.diff(chunk) < 0):
                raise ValueError("the rows of a chunk must be used one after the other")
            self.edges = np.searchsorted(chunk, np.arange(len(starts)))
        self._buffers = threading.local()
        self._apart: tuple[Array, Array] | None = None

    def take(self, rows: Integers, workers: Workers) -> DesignMatrix:
        """Return the same features with other rows; they must be in the order of the chunks."""
        whole = len(rows) == len(self.source) and np.array_equal(rows, np.arange(len(rows)))
        return ChunkedDesign(self.source, self._chunk_rows, None if whole else rows)

    def standardized(self, shift: Array, scale: Array) -> DesignMatrix:
        """Return the same rows, shifted and scaled on the fly.

        Columns that are so far from zero for their scale that folding the shift into the weights
        would lose digits are standardised block by block, each time that they are read.
        """
        result = ChunkedDesign(self.source, self._chunk_rows, self.order)
        result._buffers = self._buffers
        if np.any(np.abs(shift) > LARGEST_FOLD * scale):
            result._apart = shift, scale
        else:
            result.shift, result.scale = shift, scale
        return result

    def spans(self, rows: int) -> list[tuple[int, int]]:
        """Cut the rows into what one thread reads at a time: chunks."""
        edges = self.edges.tolist()
        return [(low, high) for low, high in itertools.pairwise(edges) if low < high]

    def load(self, start: int, stop: int) -> _Chunk:
        """Read the chunk that holds these rows; this thread's last one is overwritten."""
        if self.order is None:
            low, high = start, stop
        else:
            low = int(self.order[start]) // self._chunk_rows * self._chunk_rows
            high = min(low + self._chunk_rows, len(self.source))
        # One buffer a thread, kept for all passes: chunks are large, and allocated once.
        if getattr(self._buffers, "rows", None) is None:
            shape = (min(self._chunk_rows, len(self.source)), self.n_features)
            self._buffers.rows = np.empty(shape, self.dtype)
        return _Chunk(
            self, self.source.read(low, high, self._buffers.rows[: high - low]), low, start
        )

    def block(self, start: int, stop: int) -> Floats:
        """Return rows ``start`` to ``stop`` of this design."""
        return self.dense_raw(np.arange(start, stop))

    def dense_raw(self, rows: Integers) -> Floats:
        """Copy some rows as `load` hands them over."""
        return self.apart(self.source.gather(rows if self.order is None else self.order[rows]))

    def dense(self, rows: Integers) -> Floats:
        """Copy some rows, shifted and scaled, from the front of the file to its end."""
        block = self.dense_raw(rows)
        if self.shift is not None:
            block -= self.shift.astype(self.dtype)
        if self.scale is not None:
            block /= self.scale.astype(self.dtype)
        return block

    def apart(self, block: Floats) -> Floats:
        """Standardise a block here, if that cannot be done in the weights."""
        if self._apart is None:
            return block
        shift, scale = self._apart
        return ((block - shift) / scale).astype(self.dtype)


class _Chunk:
    """Rows of a design that are in memory."""

    def __init__(self, design: ChunkedDesign, rows: Floats, first: int, start: int) -> None:
        self.design, self.rows = design, rows
        self.first, self.start = first, start  # rows[0] in the source's numbers; the design's

    def block(self, start: int, stop: int) -> Floats:
        """Return rows ``start`` to ``stop`` of the design: a view where the order allows."""
        order = self.design.order
        if order is None:
            return self.design.apart(self.rows[start - self.first : stop - self.first])
        return self.design.apart(self.rows[order[start:stop] - self.first])
