"""Rows sampled by their weight, and the inverses of what they add up to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from classify.solver.preconditioner.factors import square

Array = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating[Any]]
Integers = npt.NDArray[np.intp]


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
    """Draw about `n` rows with probability proportional to size, without chance; return both.

    Systematic sampling (Madow, *Ann. Math. Stat.* 20, 1949): equal steps along the cumulated
    probabilities. Rows that would be drawn more than once are all taken.
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
