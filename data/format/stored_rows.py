"""Rows of features that stay on the disk, and are read when they are asked for.

A store's tables are contiguous and uncompressed, so a block of rows is one read at an offset. The
descriptor stays open: a file that is removed or replaced meanwhile goes on being read as it was
when it was verified. One that is cut or cannot be read any more is an error that names it.
"""

from __future__ import annotations

import itertools
import os
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data.common.raw_io import raw_bytes
from data.format.loading import AGAIN, Stored, iter_table, verify_table
from data.format.records import StoreError

# Half precision is read and widened in pieces of this size.
PIECE_BYTES = 1 << 20
# Wanted rows that are nearer to each other than this are read in one go: skipping costs more.
GAP_BYTES = 128 << 10
# ... up to so much in one read.
SPAN_BYTES = 4 << 20


class StoredRows:
    """A table of features in a store."""

    def __init__(self, path: Path, descriptor: int, stored: Stored) -> None:
        self.path, self.name = path, stored.name
        self.shape: tuple[int, int] = (stored.shape[0], stored.shape[1])
        self.ndim = 2
        self.dtype: np.dtype[Any] = np.dtype(np.float32)
        self._stored, self._table = stored.dtype, stored
        self._descriptor = os.dup(descriptor)
        self._close = weakref.finalize(self, os.close, self._descriptor)

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        rows, width = self.shape
        return f"<StoredRows {rows:,} x {width:,} {self._stored} of {self.path.name}{self.name}>"

    @property
    def nbytes(self) -> int:
        """Bytes that all rows would take in memory, as `dtype`."""
        return self.shape[0] * self.shape[1] * self.dtype.itemsize

    def close(self) -> None:
        """Let go of the file; also done when the object is no longer used."""
        self._close()

    def read(self, start: int, stop: int, out: npt.NDArray[Any] | None = None) -> npt.NDArray[Any]:
        """Read consecutive rows. Several threads may read at the same time.

        Shapes: ``out`` (stop - start, n_features); returns (stop - start, n_features).
        """
        if not 0 <= start <= stop <= self.shape[0]:
            raise IndexError(f"rows {start} to {stop} of {self.shape[0]}")
        width = self.shape[1]
        rows = np.empty((stop - start, width), np.float32) if out is None else out
        if self._stored == rows.dtype and rows.flags.c_contiguous:
            self._fill(start, rows)
            return rows
        step = max(1, PIECE_BYTES // max(1, width * self._stored.itemsize))
        piece = np.empty((min(step, stop - start), width), self._stored)
        for low in range(start, stop, step):
            part = piece[: min(step, stop - low)]
            self._fill(low, part)
            rows[low - start : low - start + len(part)] = part
        return rows

    def gather(self, rows: npt.NDArray[np.intp]) -> npt.NDArray[Any]:
        """Read any rows, from the front of the file to its end.

        Shapes: ``rows`` (k,); returns (k, n_features).
        """
        rows = np.asarray(rows, dtype=np.intp)
        result = np.empty((len(rows), self.shape[1]), self.dtype)
        if not len(rows):
            return result
        order = np.argsort(rows, kind="stable")
        ascending = rows[order]
        width = max(1, self.shape[1] * self._stored.itemsize)
        # A span ends at a gap, and where a multiple of the largest span lies in between.
        far = np.diff(ascending) > max(1, GAP_BYTES // width)
        far |= np.diff(ascending // max(1, SPAN_BYTES // width)) > 0
        for some in np.split(np.arange(len(rows)), np.flatnonzero(far) + 1):
            first, last = int(ascending[some[0]]), int(ascending[some[-1]])
            result[order[some]] = self.read(first, last + 1)[ascending[some] - first]
        return result

    def verify(self, ids: Sequence[str]) -> None:
        """Compare all rows with their digest, and refuse NaN; `ids` name the rows."""
        verify_table(self.path, self._descriptor, self._table, ids)

    def blocks(self, ids: Sequence[str], *, verify: bool) -> Iterator[tuple[int, npt.NDArray[Any]]]:
        """Yield all rows as they are stored, block by block, and where each block begins.

        A digest that does not agree is an error after the last block.
        """
        step = max(1, SPAN_BYTES // max(1, self.shape[1] * self._stored.itemsize))
        found = iter_table(self.path, self._descriptor, self._table, step, verify=verify, ids=ids)
        yield from zip(range(0, len(self), step), found, strict=True)

    @property
    def stored_dtype(self) -> np.dtype[Any]:
        """Return the type that the file has."""
        return self._stored

    def _fill(self, start: int, rows: npt.NDArray[Any]) -> None:
        if not self._close.alive:  # the number may by now be another file's
            raise ValueError(f"{self!r} is closed")
        position = start * self.shape[1] * self._stored.itemsize
        try:
            self._table.read(self._descriptor, position, raw_bytes(rows))
        except EOFError as error:
            raise StoreError(
                f"{self.path} was cut while it was being read: {error}, and {self.name} goes on "
                f"after it. {AGAIN}"
            ) from error
        except OSError as error:
            raise StoreError(
                f"{self.path} cannot be read any more: {error.strerror}. See that its disk is "
                "there, and run the same command again"
            ) from error


class SelectedRows:
    """Some rows of a source, in their order there, as a source of their own."""

    def __init__(self, source: Any, rows: npt.NDArray[np.intp]) -> None:
        self.source = source
        self.rows = np.asarray(rows, dtype=np.intp)  # ascending, (n_rows,)
        self.shape: tuple[int, int] = (len(self.rows), source.shape[1])
        self.ndim, self.dtype = 2, source.dtype

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes that these rows would take in memory."""
        return self.shape[0] * self.shape[1] * int(self.dtype.itemsize)

    def read(self, start: int, stop: int, out: npt.NDArray[Any] | None = None) -> npt.NDArray[Any]:
        """Read consecutive ones of these rows.

        Shapes: ``out`` (stop - start, n_features); returns (stop - start, n_features).
        """
        if not 0 <= start <= stop <= self.shape[0]:
            raise IndexError(f"rows {start} to {stop} of {self.shape[0]}")
        mine = self.rows[start:stop]
        together = len(mine) > 0 and int(mine[-1]) - int(mine[0]) == len(mine) - 1
        if together:
            found: npt.NDArray[Any] = self.source.read(int(mine[0]), int(mine[-1]) + 1, out)
            return found
        rows: npt.NDArray[Any] = self.source.gather(mine)
        if out is None:
            return rows
        out[:] = rows
        return out

    def gather(self, rows: npt.NDArray[np.intp]) -> npt.NDArray[Any]:
        """Read any of these rows, in their order.

        Shapes: ``rows`` (k,); returns (k, n_features).
        """
        found: npt.NDArray[Any] = self.source.gather(self.rows[np.asarray(rows, dtype=np.intp)])
        return found


class StackedRows:
    """Tables of one width, one after the other, as one source of rows."""

    def __init__(self, parts: tuple[StoredRows | SelectedRows | SideBySideRows, ...]) -> None:
        self.parts = parts
        self._starts = np.cumsum([0, *map(len, parts)])
        self.shape: tuple[int, int] = (int(self._starts[-1]), parts[0].shape[1])
        self.ndim, self.dtype = 2, parts[0].dtype

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes that all rows would take in memory."""
        return sum(part.nbytes for part in self.parts)

    def read(self, start: int, stop: int, out: npt.NDArray[Any] | None = None) -> npt.NDArray[Any]:
        """Read consecutive rows, of several tables where they go on in the next.

        Shapes: ``out`` (stop - start, n_features); returns (stop - start, n_features).
        """
        if not 0 <= start <= stop <= self.shape[0]:
            raise IndexError(f"rows {start} to {stop} of {self.shape[0]}")
        rows = np.empty((stop - start, self.shape[1]), self.dtype) if out is None else out
        for part, first in zip(self.parts, self._starts.tolist(), strict=False):
            low, high = max(start, first), min(stop, first + len(part))
            if low < high:
                part.read(low - first, high - first, rows[low - start : high - start])
        return rows

    def gather(self, rows: npt.NDArray[np.intp]) -> npt.NDArray[Any]:
        """Read any rows, in their order.

        Shapes: ``rows`` (k,); returns (k, n_features).
        """
        rows = np.asarray(rows, dtype=np.intp)
        result = np.empty((len(rows), self.shape[1]), self.dtype)
        for part, first in zip(self.parts, self._starts.tolist(), strict=False):
            mine = np.flatnonzero((rows >= first) & (rows < first + len(part)))
            result[mine] = part.gather(rows[mine] - first)
        return result


class SideBySideRows:
    """Tables of the same rows, their columns side by side, as one source of rows.

    Each comes with its order (n_rows,), which says which of its rows each row is; None where they
    are the same.
    """

    def __init__(self, parts: Sequence[tuple[StoredRows, npt.NDArray[np.intp] | None]]) -> None:
        self.parts = tuple(parts)
        ends = np.cumsum([0, *(table.shape[1] for table, _ in parts)]).tolist()
        self._columns = [slice(*pair) for pair in itertools.pairwise(ends)]
        self.shape: tuple[int, int] = (len(parts[0][0]), ends[-1])
        self.ndim, self.dtype = 2, parts[0][0].dtype

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes that all rows would take in memory."""
        return sum(table.nbytes for table, _ in self.parts)

    def read(self, start: int, stop: int, out: npt.NDArray[Any] | None = None) -> npt.NDArray[Any]:
        """Read consecutive rows, of each table its columns.

        Shapes: ``out`` (stop - start, n_features); returns (stop - start, n_features).
        """
        if not 0 <= start <= stop <= self.shape[0]:
            raise IndexError(f"rows {start} to {stop} of {self.shape[0]}")
        rows = np.empty((stop - start, self.shape[1]), self.dtype) if out is None else out
        for (table, order), columns in zip(self.parts, self._columns, strict=True):
            if order is None:
                table.read(start, stop, rows[:, columns])
            else:
                rows[:, columns] = table.gather(order[start:stop])
        return rows

    def gather(self, rows: npt.NDArray[np.intp]) -> npt.NDArray[Any]:
        """Read any rows, in their order.

        Shapes: ``rows`` (k,); returns (k, n_features).
        """
        rows = np.asarray(rows, dtype=np.intp)
        result = np.empty((len(rows), self.shape[1]), self.dtype)
        for (table, order), columns in zip(self.parts, self._columns, strict=True):
            result[:, columns] = table.gather(rows if order is None else order[rows])
        return result
