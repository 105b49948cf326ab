"""Scores of many rows by many heads, in blocks that do no harm to the memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from classify.chunked import is_source, row_steps

if TYPE_CHECKING:
    from classify.fitting import Head


@dataclass(frozen=True)
class HeldOut:
    """Rows that no head of theirs was fitted to.

    Attributes
    ----------
    X : ndarray, shape (n_rows, n_features), or StoredRows
        Features, of these and other rows.
    rows : ndarray of int, shape (n_held,)
        Which of them.
    labels : ndarray of int, shape (n_held,)
        Their classes, as indices among those that there are heads for.
    head : Head
        Heads that were fitted to other rows.
    """

    X: Any
    rows: npt.NDArray[np.intp]
    labels: npt.NDArray[np.intp]
    head: Head


def rows_of(X: Any, rows: npt.NDArray[np.intp]) -> npt.NDArray[Any]:
    """Collect some rows of features.

    Parameters
    ----------
    X : ndarray, shape (n_rows, n_features), or StoredRows
        Features.
    rows : ndarray of int, shape (k,)
        Which rows.

    Returns
    -------
    ndarray, shape (k, n_features)
        In the order of `rows`.
    """
    return X.gather(rows) if is_source(X) else X[rows]


def scored(
    X: Any, head: Head, rows: npt.NDArray[np.intp] | None = None
) -> Iterator[tuple[slice, npt.NDArray[Any]]]:
    """Score rows in blocks.

    Parameters
    ----------
    X : ndarray, shape (n_rows, n_features), or StoredRows
        Features.
    head : Head
        Linear heads.
    rows : ndarray of int, optional
        Which rows; all by default.

    Yields
    ------
    tuple
        Where in `rows` a block is, and its scores, ``(n_block, n_heads)``.
    """
    rows = np.arange(len(X)) if rows is None else rows
    # As `Head.scores`, but converted once, not in every block.
    coef, intercept = head.coef.astype(X.dtype).T, head.intercept.astype(X.dtype)
    for low, high in row_steps(X, len(rows), len(head.coef)):
        block = slice(low, high)
        yield block, rows_of(X, rows[block]) @ coef + intercept
