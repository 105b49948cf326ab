"""Scores of many rows by many heads, in blocks that do no harm to the memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from classify.codings.decisions import ProblemSums, sums_of_class
from classify.linear_head import Head, PairHead, Scores, SpanHead, pairs_of
from classify.solver.out_of_core import answer_steps, is_source, row_steps
from classify.solver.threads import Workers, workers
from classify.solver.tuning import PIECE_NUMBERS, STEP_ROWS

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


def scorer(head: Head, dtype: npt.DTypeLike) -> Callable[[npt.NDArray[Any]], Scores]:
    """Return what makes scores of rows of a dtype: a table, or of pairs as they are used."""
    return head.by_class(dtype) if isinstance(head, PairHead) else head.scorer(dtype)


def one_by_one(head: Head) -> bool:
    """Tell whether one thread answers sooner than several.

    Pairs that score class by class do so in thousands of short steps a block, between which threads
    wait for Python's lock: 2,000 rows of 1,000 classes took 17 s alone and 22 s with two.
    """
    return isinstance(head, PairHead)


def score_steps(X: Any, n_rows: int, head: Head) -> list[tuple[int, int]]:
    """Cut rows into steps in which they are scored and answered for."""
    if isinstance(head, PairHead) and not is_source(X):
        step = max(STEP_ROWS, PIECE_NUMBERS // head.n_classes)
        return [(low, min(low + step, n_rows)) for low in range(0, n_rows, step)]
    return answer_steps(X, n_rows, head.n_heads)


def scored(
    X: Any,
    head: Head,
    work: Callable[[slice, Any], Result],
    rows: npt.NDArray[np.intp] | None = None,
    n_jobs: int | None = 1,
) -> Iterator[tuple[slice, Result]]:
    """Yield where in `rows` (all by default) a block is, and ``work(where, scores)``.

    Scores are ``(n_block, n_heads)``, as `scorer` makes them. Several blocks of features in memory
    are shared by threads.
    """
    scores = scorer(head, X.dtype)

    def visit(step: tuple[int, int]) -> tuple[slice, Result]:
        where = slice(*step)
        if rows is not None:
            return where, work(where, scores(rows_of(X, rows[where])))
        return where, work(where, scores(X.read(*step) if is_source(X) else X[where]))

    count = len(X) if rows is None else len(rows)
    if rows is None or not is_source(X):
        steps = score_steps(X, count, head)
    else:
        steps = row_steps(X, count, head.n_heads)
    if len(steps) == 1 or is_source(X) or one_by_one(head):
        yield from map(visit, steps)
        return
    with workers(n_jobs) as pool:
        yield from pool.stream(visit, steps)


def answers(
    X: Any,
    head: Head,
    answer: Callable[[Any], npt.NDArray[Any]],
    rows: npt.NDArray[np.intp] | None = None,
    n_jobs: int | None = 1,
) -> npt.NDArray[Any]:
    """Return ``answer(scores)`` of all rows, or of some."""
    found = scored(X, head, lambda _, scores: answer(scores), rows, n_jobs)
    return np.concatenate([part for _, part in found])


def sums_of_pairs(
    X: Any,
    head: Head,
    labels: npt.NDArray[np.intp],
    n_classes: int,
    pool: Workers,
    rows: npt.NDArray[np.intp] | None = None,
    weights: npt.NDArray[np.float64] | None = None,
    loss: str = "logistic",
) -> ProblemSums:
    """Judge each of one-vs-one's pairs on the rows of its own classes, which alone are scored.

    `labels` are those of `rows`, all by default, as indices among the classes of the head, and
    `weights` theirs.
    """
    sums = ProblemSums.zeros(head.n_heads)
    order = np.argsort(labels, kind="stable")
    of_pairs = head.by_class(X.dtype) if isinstance(head, PairHead) else None

    def visit(step: tuple[int, int]) -> list[tuple[int, npt.NDArray[Any], Any]]:
        mine = order[slice(*step)]
        block, own = rows_of(X, mine if rows is None else rows[mine]), labels[mine]
        found = []
        products = None if of_pairs is None else of_pairs(block)
        for label in np.unique(own).tolist():
            part = slice(*np.searchsorted(own, [label, label + 1]))
            weight = None if weights is None else weights[mine[part]]
            if products is not None:
                found.append((label, products[part].with_class(label), weight))
            elif not isinstance(head, PairHead):
                plain = head.plain if isinstance(head, SpanHead) else head
                scores = plain.with_class(label, n_classes).scores(block[part])
                found.append((label, scores, weight))
        return found

    for found in pool.stream(visit, score_steps(X, len(labels), head)):
        for label, scores, weight in found:
            sums_of_class(scores, label, pairs_of(label, n_classes), sums, weight, loss)
    return sums
