"""Scores of many rows by many heads, in blocks that do no harm to the memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from classify.solver.out_of_core import answer_steps, is_source, row_steps

if TYPE_CHECKING:
    from classify.linear_head import LinearHead


@dataclass(frozen=True)
class HeldOut:
    """Rows that no head of theirs was fitted to."""

    X: Any  # features (n_rows, n_features) of these and other rows
    rows: npt.NDArray[np.intp]  # (n_held,): which of them
    labels: npt.NDArray[np.intp]  # (n_held,): indices among the classes that there are heads for
    head: LinearHead


def rows_of(X: Any, rows: npt.NDArray[np.intp]) -> npt.NDArray[Any]:
    """Collect some rows (k, n_features) of features, in the order given."""
    return X.gather(rows) if is_source(X) else X[rows]


def scorer(
    head: LinearHead, dtype: npt.DTypeLike
) -> Callable[[npt.NDArray[Any]], npt.NDArray[Any]]:
    """Prepare a function of linear scores for many blocks: heads are converted once."""
    coef, intercept = head.coef.astype(dtype).T, head.intercept.astype(dtype)
    return lambda block: block @ coef + intercept


def scored(
    X: Any, head: LinearHead, rows: npt.NDArray[np.intp] | None = None
) -> Iterator[tuple[slice, npt.NDArray[Any]]]:
    """Yield blocks of rows, as slices of `rows` (all by default), with their linear scores."""
    scores = scorer(head, X.dtype)
    if rows is None:
        for low, high in answer_steps(X, len(X), len(head.coef)):
            yield slice(low, high), scores(X.read(low, high) if is_source(X) else X[low:high])
        return
    for low, high in row_steps(X, len(rows), len(head.coef)):
        yield slice(low, high), scores(rows_of(X, rows[low:high]))
