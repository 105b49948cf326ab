"""From one-vs-one's pairwise probabilities to those of the classes.

Pairwise probabilities are coupled by Wu, Lin and Weng, "Probability estimates for multi-class
classification by pairwise coupling", Journal of Machine Learning Research 5 (2004) 975-1005,
section 4 ("the second approach"). Given ``r_ij``, an estimate of the probability of class ``i``
among classes ``i`` and ``j``, the class probabilities ``p`` minimise

    ``sum_i sum_{j != i} (r_ji p_i - r_ij p_j)^2``   subject to   ``sum_i p_i = 1``.

With ``Q_ii = sum_{j != i} r_ji^2`` and ``Q_ij = -r_ji r_ij`` that is ``min p'Qp / 2``, solved by
the paper's algorithm 2, the iteration that LIBSVM runs (``multiclass_probability`` in
``svm.cpp``), with LIBSVM's clipping and stopping rule so that the answers are the same. Every
step is made for a whole chunk of rows at once, and rows that have met the stopping rule leave.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from classify.linear_head import PairScores, Scores
from classify.solver.threads import workers
from classify.solver.tuning import PIECE_NUMBERS

Floats = npt.NDArray[np.floating[Any]]

# LIBSVM's: a pairwise probability of exactly 0 or 1 would make the linear system singular.
_CLIP = 1e-7
# The matrices of one chunk of rows: n_classes^2 numbers a row, small enough to stay in a
# processor's cache for 10 classes and within tens of megabytes for 100.
_COUPLED_NUMBERS = 4_000_000
# From so many classes on, probabilities are coupled row by row (`couple_many`), until no product of
# Q is further from their mean than this, in units of one over the number of classes.
MANY_CLASSES = 64
_COUPLED = 1e-5


def couple(first: npt.NDArray[np.float64], n_classes: int) -> npt.NDArray[np.float64]:
    """Couple probabilities (n_samples, n_pairs) of pairs' first classes into those of classes."""
    n_samples = first.shape[0]
    result = np.empty((n_samples, n_classes))
    step = max(1, min(2048, _COUPLED_NUMBERS // n_classes**2))
    for start in range(0, n_samples, step):
        rows = slice(start, start + step)
        result[rows] = _couple_chunk(np.clip(first[rows], _CLIP, 1.0 - _CLIP), n_classes).T
    return result


def _couple_chunk(first: npt.NDArray[np.float64], k: int) -> npt.NDArray[np.float64]:
    """Run the iteration for a chunk; arrays have their rows last, so that steps are contiguous."""
    rows = first.shape[0]
    i, j = np.triu_indices(k, k=1)
    # q[a, b] is Q_ab; the diagonal is filled in below.
    q = np.zeros((k, k, rows))
    cross = -(first * (1.0 - first)).T
    q[i, j] = cross
    q[j, i] = cross
    squares = np.zeros((k, k, rows))  # squares[a, b] = r_ba^2
    squares[i, j] = ((1.0 - first) ** 2).T
    squares[j, i] = (first**2).T
    q[np.arange(k), np.arange(k)] = squares.sum(axis=1)
    del squares

    p = np.full((k, rows), 1.0 / k)
    result = np.empty((k, rows))
    where = np.arange(rows)
    eps = 0.005 / k
    for _ in range(max(100, k)):
        qp = np.einsum("abr,br->ar", q, p)
        pqp = np.einsum("ar,ar->r", p, qp)
        busy = np.abs(qp - pqp).max(axis=0) >= eps
        if not busy.all():
            result[:, where[~busy]] = p[:, ~busy]
            if not busy.any():
                return result
            where, p, qp, pqp = where[busy], p[:, busy], qp[:, busy], pqp[busy]
            q = q[:, :, busy]
        for t in range(k):
            diff = (pqp - qp[t]) / q[t, t]
            p[t] += diff
            pqp = (pqp + diff * (diff * q[t, t] + 2.0 * qp[t])) / (1.0 + diff) ** 2
            qp += diff * q[t]
            qp /= 1.0 + diff
            p /= 1.0 + diff
    result[:, where] = p
    return result


def couple_many(scores: Scores, n_classes: int) -> npt.NDArray[np.float64]:
    """Couple the scores (n_samples, n_pairs) of many classes' pairs, in the scores' dtype.

    The same minimum as `couple` seeks, by conjugate gradients that keep the sum of the
    probabilities, preconditioned by the diagonal of Q: a few products with Q, in place of
    steps through the classes one by one.
    """
    # Loaded before its threads are limited: those of products this small wait more than they work.
    import scipy.linalg

    result = np.empty((len(scores), n_classes))
    (times,) = scipy.linalg.get_blas_funcs(("tpmv",), dtype=scores.dtype)
    step = max(16, _COUPLED_NUMBERS // n_classes**2)  # fewer would be all interpreter
    # Fresh pages take longer than what is written to them.
    work, space = np.empty((3, scores.shape[1]), scores.dtype), None
    if isinstance(scores, PairScores):
        space = np.empty((min(step, len(scores)), scores.shape[1]), scores.dtype)
    with workers(1):
        for low in range(0, len(scores), step):
            some = scores[low : low + step]
            table = some.table(space) if isinstance(some, PairScores) else some
            for row, found in zip(table, result[low : low + step], strict=True):
                found[:] = _couple_scores(row, times, n_classes, work)
    return result


def _couple_scores(
    row: Floats, times: Callable[..., Floats], k: int, work: Floats
) -> npt.NDArray[np.float64]:
    """Couple the scores of a row (n_pairs,), with room for three such rows to `work` in.

    In the order of the pairs, a number for each is a packed triangle: that of the later classes by
    the earlier ones, without a first row and a last column, which are empty.
    """
    limit = float(np.log((1 - _CLIP) / _CLIP))
    # The squares of both probabilities of each pair, and their product, step by step in cache.
    for low in range(0, len(row), PIECE_NUMBERS):
        step = slice(low, low + PIECE_NUMBERS)
        first, second, cross = work[:, step]
        np.clip(row[step], -limit, limit, out=second)
        np.exp(second, out=second)
        np.add(second, 1, out=first)
        np.reciprocal(first, out=first)
        second *= first
        np.multiply(first, second, out=cross)
        first *= first
        second *= second
    first, second, cross = work
    ones = np.ones(k - 1, row.dtype)

    def of_earlier(table: Floats, v: Floats) -> Floats:
        return times(k - 1, table, v, lower=1, trans=1)

    def of_later(table: Floats, v: Floats) -> Floats:
        return times(k - 1, table, v, lower=1)

    diagonal = np.zeros(k)
    diagonal[:-1] += of_earlier(second, ones)
    diagonal[1:] += of_later(first, ones)

    def product(p: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        v = p.astype(row.dtype)
        found = diagonal * p
        found[:-1] -= of_earlier(cross, v[1:])
        found[1:] -= of_later(cross, v[:-1])
        return found

    return _couple_row(product, diagonal)


def _couple_row(
    product: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]],
    diagonal: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    """Minimise ``p'Qp / 2`` over probabilities, given products with Q and its diagonal."""
    inverse = 1 / diagonal
    total = inverse.sum()
    p = inverse / total
    gradient = product(p)
    direction, past = np.zeros_like(p), 1.0
    for _ in range(max(100, len(p))):
        # LIBSVM's rule compares the gradient with its mean; this is stricter than it is.
        if np.abs(gradient - p @ gradient).max() < _COUPLED / len(p):
            break
        z = inverse * (gradient - (inverse @ gradient) / total)
        new = float(z @ gradient)
        direction = -z + (new / past) * direction
        past = new
        along = product(direction)
        curvature = float(direction @ along)
        if not (new > 0 and curvature > 0):  # rounding is all that is left
            break
        p = p + (new / curvature) * direction
        gradient = gradient + (new / curvature) * along
    p = np.maximum(p, 0.0)
    return np.asarray(p / p.sum())
