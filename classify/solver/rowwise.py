"""Work on the rows of large tables of parameters, a piece of them at a time, in threads.

Thousands of problems have parameters that no cache holds: what is done to them element by element
takes as long as the memory takes, and temporary arrays of that size take longer still.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from classify.solver.threads import Workers
from classify.solver.tuning import PIECE_NUMBERS

Array = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating[Any]]


def each_piece(workers: Workers, table: Floats, work: Callable[[slice], None]) -> None:
    """Do something for all rows of a table, some at a time.

    Shapes: `table` (n_rows, n_columns).
    """
    step = max(1, PIECE_NUMBERS // max(1, table.shape[1]))
    workers.share(work, [slice(low, low + step) for low in range(0, len(table), step)])


def row_dots(workers: Workers, a: Floats, b: Floats) -> Array:
    """Multiply two tables row by row.

    Shapes: `a, b` (n_rows, n_columns), returns (n_rows,).
    """
    result = np.empty(len(a))

    def multiply(part: slice) -> None:
        result[part] = np.einsum("ij,ij->i", a[part], b[part])

    each_piece(workers, a, multiply)
    return result


def some_rows(workers: Workers, table: Floats, rows: npt.NDArray[np.intp]) -> Any:
    """Copy some rows of a table; most of the time goes into fresh pages, which threads share.

    Shapes: `table` (n_rows, n_columns), `rows` (k,), returns (k, n_columns).
    """
    result = np.empty((len(rows), table.shape[1]), table.dtype)

    def copy(part: slice) -> None:
        # Without a mode that needs no check, numpy fills a buffer first, and copies that.
        np.take(table, rows[part], axis=0, out=result[part], mode="clip")

    each_piece(workers, result, copy)
    return result
