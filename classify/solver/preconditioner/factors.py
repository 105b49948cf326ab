"""Products and factors of small dense matrices."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from classify.solver.tuning import LEAF

Floats = npt.NDArray[np.floating[Any]]


def square(block: Floats) -> Floats:
    """Return ``block.T @ block``; BLAS computes one half and mirrors it."""
    return block.T @ block


def orthonormal(block: Floats) -> Floats:
    """Make the columns of ``(n, k)`` orthonormal; they span the same."""
    for _ in range(2):  # the second time mends what the condition of the first cost
        try:
            factor = np.linalg.cholesky(square(block).astype(np.float64))
        except np.linalg.LinAlgError:  # rounding spoilt it; reflections are slower and always work
            return np.asarray(np.linalg.qr(block)[0])
        block = block @ np.linalg.inv(factor).T.astype(block.dtype)
    return block


def inverse_factor_plus_identity(gram: Floats) -> Floats:
    """Return lower triangular ``F`` with ``F' F`` the inverse of ``I + gram``.

    `gram` is ``(n, n)`` or a batch ``(k, n, n)``, semidefinite up to rounding; overwritten.
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
            # Rounding made it indefinite: a larger diagonal is a smaller step, never a wrong one.
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
