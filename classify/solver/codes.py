"""Code books of error-correcting output codes: which classes are on which side of each problem.

A code book is a matrix (n_classes, n_problems) of -1, 0 and 1: a problem has the rows of the
classes that have a 1 in its column as positive ones, those with a -1 as negative ones, and not the
others (Dietterich and Bakiri, "Solving multiclass learning problems via error-correcting output
codes", *JAIR* 2, 1995; Allwein, Schapire and Singer, "Reducing multiclass to binary", *JMLR* 1,
2000). One-vs-rest and one-vs-one are two of them.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import numpy.typing as npt

Code = npt.NDArray[np.int8]

# Up to so many classes all ways to divide them in two are taken, as Dietterich and Bakiri do.
EXHAUSTIVE = 7
# Random codes that one is chosen from, as Allwein, Schapire and Singer do; fewer of many classes,
# for which about so many multiply-adds are enough, since random rows are then far apart.
MOST_DRAWS, DRAW_WORK = 10_000, 2e9
# Draws that are judged at a time.
_TOGETHER = 256


def one_vs_rest_code(n_classes: int) -> Code:
    """Return the code book of one-vs-rest."""
    return (2 * np.eye(n_classes, dtype=np.int8) - 1).astype(np.int8)


def one_vs_one_code(n_classes: int) -> Code:
    """Return the code book of one-vs-one, pairs in scikit-learn's order."""
    first, second = np.triu_indices(n_classes, k=1)
    code = np.zeros((n_classes, len(first)), np.int8)
    code[first, np.arange(len(first))] = -1
    code[second, np.arange(len(first))] = 1
    return code


@functools.lru_cache(maxsize=64)
def code_book(n_classes: int, seed: int = 0) -> Code:
    """Choose a dense code book for so many classes; the same one each time.

    Up to seven classes it is the exhaustive one, of ``2^(n_classes - 1) - 1`` problems. For more it
    has ``ceil(10 log2(n_classes))``, the best of many random ones: that in which the two classes
    that are nearest to each other differ in the most problems, and no problem is there twice.
    """
    if n_classes < 3:
        found = np.array([[-1], [1]], np.int8)[:n_classes]
    elif n_classes <= EXHAUSTIVE:
        numbers = np.arange(1, 2 ** (n_classes - 1))
        # The last class is negative in all of them: the other half are the same problems.
        bits = numbers >> np.arange(n_classes)[:, None] & 1
        found = (2 * bits - 1).astype(np.int8)
    else:
        found = _best_of_random(n_classes, seed)
    found.flags.writeable = False
    return found


def _best_of_random(n_classes: int, seed: int) -> Code:
    """Draw random codes and return the one whose rows are farthest apart."""
    n_problems = int(np.ceil(10 * np.log2(n_classes)))
    n_draws = int(np.clip(DRAW_WORK / (n_classes**2 * n_problems), 20, MOST_DRAWS))
    # Its stream of numbers is the same in all versions of numpy, and so is a head's code book.
    random = np.random.RandomState(seed)
    best: tuple[tuple[int, int], Code] | None = None
    for low in range(0, n_draws, _TOGETHER):
        shape = min(_TOGETHER, n_draws - low), n_classes, n_problems
        drawn = (2 * random.randint(0, 2, shape) - 1).astype(np.int8)
        for code, together in zip(drawn, _agreements(drawn), strict=True):
            # Rows differ in half of what is left of the number of problems.
            merit = -_repeated(code), -int(together)
            if best is None or merit > best[0]:
                best = merit, code
    assert best is not None
    return best[1].copy()


def _agreements(codes: Code) -> Any:
    """Return the largest product of two rows of each of some codes."""
    wide = codes.astype(np.float32)
    products = np.matmul(wide, wide.swapaxes(1, 2))
    index = np.arange(codes.shape[1])
    products[:, index, index] = -np.inf
    return products.max(axis=(1, 2))


def _repeated(code: Code) -> int:
    """Count the columns that divide no classes, or as an earlier column does."""
    wide = code.astype(np.float32)
    same = np.abs(wide.T @ wide) == len(code)
    earlier = np.triu(same, k=1).any(axis=0)
    return int((earlier | (np.abs(wide.sum(axis=0)) == len(code))).sum())


def check_code(code: Any, n_classes: int) -> Code:
    """Check a code book that was given, and return it; a ``ValueError`` says what is wrong."""
    table = np.asarray(code)
    if table.ndim != 2 or len(table) != n_classes or not table.shape[1]:
        raise ValueError(
            f"code must be a matrix with one row for each of the {n_classes} classes, got shape "
            f"{table.shape}"
        )
    if not np.isin(table, (-1, 0, 1)).all():
        raise ValueError("code must hold -1, 0 and 1 only")
    for sign in (1, -1):
        empty = np.flatnonzero(~(table == sign).any(axis=0))
        if len(empty):
            which = "positive (1)" if sign > 0 else "negative (-1)"
            raise ValueError(f"column {empty[0]} of code has no {which} class")
    same = np.unique(table, axis=0)
    if len(same) < n_classes:
        raise ValueError("code has two classes with the same row, which no score tells apart")
    return table.astype(np.int8)
