"""Scores of many rows by many heads, in blocks that do no harm to the memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from classify.solver.out_of_core import answer_steps, is_source, row_steps
from classify.solver.threads import workers

if TYPE_CHECKING:
    from classify.linear_head import Head

Result = TypeVar("Result")


@dataclass(frozen=True)
class HeldOut:
    """Rows that no head of theirs was fitted to."""

    X: Any  # features, of these and other rows: an array or a source of rows
    rows: npt.NDArray[np.intp]  # which of them
    labels: npt.NDArray[np.intp]  # their classes, indices among those that there are heads for
    head: Head  # fitted to other rows
    weights: npt.NDArray[np.float64] | None = None  # of these rows


def rows_of(X: Any, rows: npt.NDArray[np.intp]) -> npt.NDArray[Any]:
    """Collect some rows of an array or of a source, in their order."""
    return X.gather(rows) if is_source(X) else X[rows]


def scorer(head: Head, dtype: npt.DTypeLike) -> Callable[[npt.NDArray[Any]], npt.NDArray[Any]]:
    """Return what `Head.scores` is, but for the heads' conversion, which is done once."""
    return head.scorer(dtype)


def scored(
    X: Any,
    head: Head,
    work: Callable[[slice, npt.NDArray[Any]], Result],
    rows: npt.NDArray[np.intp] | None = None,
    n_jobs: int | None = 1,
) -> Iterator[tuple[slice, Result]]:
    """Yield where in `rows` (all by default) a block is, and ``work(where, scores)``.

    Scores are ``(n_block, n_heads)``. Several blocks of features in memory are shared by threads.
    """
    scores = scorer(head, X.dtype)

    def visit(step: tuple[int, int]) -> tuple[slice, Result]:
        where = slice(*step)
        if rows is not None:
            return where, work(where, scores(rows_of(X, rows[where])))
        return where, work(where, scores(X.read(*step) if is_source(X) else X[where]))

    count = len(X) if rows is None else len(rows)
    cut = answer_steps if rows is None or not is_source(X) else row_steps
    steps = cut(X, count, head.n_heads)
    if len(steps) == 1 or is_source(X):
        yield from map(visit, steps)
        return
    with workers(n_jobs) as pool:
        yield from pool.stream(visit, steps)


def answers(
    X: Any,
    head: Head,
    answer: Callable[[npt.NDArray[Any]], npt.NDArray[Any]],
    rows: npt.NDArray[np.intp] | None = None,
    n_jobs: int | None = 1,
) -> npt.NDArray[Any]:
    """Return ``answer(scores)`` of all rows, or of some."""
    found = scored(X, head, lambda _, scores: answer(scores), rows, n_jobs)
    return np.concatenate([part for _, part in found])
