"""Rows sampled by their weight, and the inverses of what they add up to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating[Any]]
Integers = npt.NDArray[np.intp]

# Matrices up to this size are inverted directly.
LEAF = 32


def square(block: Floats) -> Floats:
    """Return ``block.T @ block``; BLAS computes one half and mirrors it."""
    return block.T @ block


def orthonormal(block: Floats) -> Floats:
    """Make columns orthonormal: by a Cholesky factor, or by reflections where rounding spoils that.

    Parameters
    ----------
    block : ndarray, shape (n, k)
        Columns, more rows than those.

    Returns
    -------
    ndarray, shape (n, k)
        Orthonormal columns of the same span, in the same dtype.
    """
    for _ in range(2):  # the second time mends what the condition of the first cost
        try:
            factor = np.linalg.cholesky(square(block).astype(np.float64))
        except np.linalg.LinAlgError:
            return np.asarray(np.linalg.qr(block)[0])
        block = block @ np.linalg.inv(factor).T.astype(block.dtype)
    return block


def span_and_gram(rows: Floats) -> tuple[Floats, Floats]:
    """Find an orthonormal basis of the span of fewer rows than features, and their scatter in it.

    With ``Q`` the basis and ``T`` the scatter, ``A'A = Q' T Q`` of rows ``A``, and the inverse of
    ``I + A'A`` is ``(I - Q'Q) + Q' inv(I + T) Q``. Woodbury's form of the same, ``I - A' inv(I +
    AA') A``, is a difference of nearly equal numbers where the curvature is large: from a few
    million times the penalty's, rounding in single precision leaves nothing of it.
    """
    basis = np.ascontiguousarray(np.linalg.qr(rows.T)[0].T)
    return basis, square(rows @ basis.T)


def project_and_solve(basis: Floats, factor: Callable[[Floats], Floats], v: Floats) -> Floats:
    """Apply ``(I - Q'Q) (I - Q'Q) + Q' F'F Q`` to a vector, or to the rows of a table.

    Projected twice, what is left in the span is the square of a rounding error, and what is
    applied is positive definite, rounded as it may be.
    """
    inside = v @ basis.T
    beside = v - inside @ basis
    return beside + (factor(inside) - beside @ basis.T) @ basis


def systematic_sample(size: Array, n: int) -> tuple[Integers, Array]:
    """Draw about `n` rows with probability proportional to size, without chance.

    Systematic sampling (Madow, *Ann. Math. Stat.* 20, 1949): equal steps along the cumulated
    probabilities. Rows that would be drawn more than once are all taken.

    Parameters
    ----------
    size : ndarray of float64, shape (n_rows,)
        Not negative.
    n : int
        Rows to draw.

    Returns
    -------
    rows : ndarray of int
        Drawn rows, ascending.
    chance : ndarray of float64
        The probability with which each was drawn.
    """
    if n >= len(size):
        return np.arange(len(size)), np.ones(len(size))
    certain = np.zeros(len(size), dtype=bool)
    chance = np.zeros(len(size))
    for _ in range(20):
        rest = n - int(certain.sum())
        mass = float(size[~certain].sum())
        if rest <= 0 or mass <= 0:
            break
        chance = np.where(certain, 1.0, size * (rest / mass))
        over = (chance >= 1) & ~certain
        if not over.any():
            break
        certain |= over
    chance = np.minimum(np.where(certain, 1.0, chance), 1.0)
    edges = np.floor(np.cumsum(chance) + 0.5)
    drawn = np.diff(edges, prepend=0.0) > 0
    rows = np.flatnonzero(drawn | certain)
    return rows, chance[rows]


def inverse_factor_plus_identity(gram: Floats) -> Floats:
    """Factorise the inverse of ``I + gram``; a growing diagonal mends what rounding spoilt.

    Parameters
    ----------
    gram : ndarray, shape (..., n, n)
        Symmetric, positive semidefinite up to rounding; overwritten. Several in one array cost
        the interpreter no more than one.

    Returns
    -------
    ndarray, shape (..., n, n)
        Lower triangular ``F``; ``F' F`` is the inverse.
    """
    index = np.arange(gram.shape[-1])
    diagonal = gram[..., index, index].copy()
    jitter = 1.0
    while True:
        gram[..., index, index] = diagonal + gram.dtype.type(jitter)
        try:
            return _inverse_factor(gram)
        except np.linalg.LinAlgError:
            if gram.ndim > 2:  # the others need no mending
                gram[..., index, index] = diagonal
                return np.stack([inverse_factor_plus_identity(one) for one in gram])
            jitter = max(jitter * 100, float(diagonal.max(initial=1.0)) * 1e-7)


def _inverse_factor(matrix: Floats) -> Floats:
    """Invert the Cholesky factors of matrices, by halves.

    Matrix products do the work: on one thread they are several times as fast as LAPACK's
    factorisation, and numpy's let other threads run where scipy's wrappers of LAPACK do not.
    """
    n = matrix.shape[-1]
    if n <= LEAF:
        return np.tril(np.linalg.inv(np.linalg.cholesky(matrix)))
    half = n // 2
    factor = np.zeros_like(matrix)
    first = _inverse_factor(matrix[..., :half, :half])
    below = matrix[..., half:, :half] @ first.swapaxes(-1, -2)
    second = _inverse_factor(matrix[..., half:, half:] - below @ below.swapaxes(-1, -2))
    factor[..., :half, :half], factor[..., half:, half:] = first, second
    factor[..., half:, :half] = -(second @ below) @ first
    return factor
