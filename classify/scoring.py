"""Scores of many rows by many heads, in blocks that do no harm to the memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from classify.solver.out_of_core import answer_steps, is_source, row_steps

if TYPE_CHECKING:
    from classify.linear_head import Head


@dataclass(frozen=True)
class HeldOut:
    """Rows that no head of theirs was fitted to."""

    X: Any  # features, of these and other rows: an array or a source of rows
    rows: npt.NDArray[np.intp]  # which of them
    labels: npt.NDArray[np.intp]  # their classes, indices among those that there are heads for
    head: Head  # fitted to other rows


def rows_of(X: Any, rows: npt.NDArray[np.intp]) -> npt.NDArray[Any]:
    """Collect some rows of an array or of a source, in their order."""
    return X.gather(rows) if is_source(X) else X[rows]


def scorer(
    head: Head, dtype: npt.DTypeLike
) -> Callable[[npt.NDArray[Any]], npt.NDArray[Any]]:
    """Return what `Head.scores` is, but for the heads' conversion, which is done once."""
    return head.scorer(dtype)


def scored(
    X: Any, head: Head, rows: npt.NDArray[np.intp] | None = None
) -> Iterator[tuple[slice, npt.NDArray[Any]]]:
    """Yield where in `rows` (all by default) a block is, and its scores, ``(n_block, n_heads)``."""
    scores = scorer(head, X.dtype)
    if rows is None:
        for low, high in answer_steps(X, len(X), head.n_heads):
            yield slice(low, high), scores(X.read(low, high) if is_source(X) else X[low:high])
        return
    for low, high in row_steps(X, len(rows), head.n_heads):
        yield slice(low, high), scores(rows_of(X, rows[low:high]))
