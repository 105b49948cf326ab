"""Class probabilities from pairwise probabilities.

Wu, Lin and Weng, "Probability estimates for multi-class classification by pairwise coupling",
Journal of Machine Learning Research 5 (2004) 975-1005, section 4 ("the second approach"). Given
``r_ij``, an estimate of the probability of class ``i`` among classes ``i`` and ``j``, the class
probabilities ``p`` minimise

    ``sum_i sum_{j != i} (r_ji p_i - r_ij p_j)^2``   subject to   ``sum_i p_i = 1``.

With ``Q_ii = sum_{j != i} r_ji^2`` and ``Q_ij = -r_ji r_ij`` that is ``min p'Qp / 2``, solved by
the paper's algorithm 2, the iteration that LIBSVM runs (``multiclass_probability`` in
``svm.cpp``), with LIBSVM's clipping and stopping rule so that the answers are the same. Here every
step is made for a whole chunk of rows at once, and rows that have met the stopping rule leave.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

# LIBSVM's: a pairwise probability of exactly 0 or 1 would make the linear system singular.
CLIP = 1e-7
# The Q of one chunk: n_classes^2 numbers a row, small enough to stay in a processor's cache
# for 10 classes and within tens of megabytes for 100.
CHUNK_NUMBERS = 4_000_000


def couple(first: Array, n_classes: int) -> Array:
    """Couple the pairwise probabilities of each row into class probabilities.

    Parameters
    ----------
    first : ndarray of float64, shape (n_samples, n_classes * (n_classes - 1) / 2)
        For each pair ``(i, j)`` with ``i < j``, in the order of `class_pairs`, the probability
        of class ``i`` among the two.
    n_classes : int
        Number of classes.

    Returns
    -------
    ndarray of float64, shape (n_samples, n_classes)
        Rows sum to 1.
    """
    n_samples = first.shape[0]
    result = np.empty((n_samples, n_classes))
    step = max(1, min(2048, CHUNK_NUMBERS // n_classes**2))
    for start in range(0, n_samples, step):
        rows = slice(start, start + step)
        result[rows] = _couple_chunk(np.clip(first[rows], CLIP, 1.0 - CLIP), n_classes).T
    return result


def _couple_chunk(first: Array, k: int) -> Array:
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
