"""What heads in closed form share: shifted systems solved together, and answers to a block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import linalg
from scipy.linalg import lapack

from classify.heads.interface import Floats, HeadAnswers, HeadKind, TrainedHead
from classify.heads.linear import LinearTrained
from classify.solver.threads import Workers

Array = npt.NDArray[np.float64]

# From so many shifts on one eigendecomposition is faster than a factorisation each, and one
# tridiagonal form, of which few columns are solved: they took 0.41 s, 0.06 s and 0.18 s for 1,280
# columns on one core of a Xeon VM, of which factorisations use all.
MANY_SHIFTS, SEVERAL_SHIFTS = 10, 6
# Columns that are turned back from the tridiagonal form at a time.
TOGETHER = 256


class ClosedFormKind(HeadKind):
    """A kind of linear head whose settings all come from one pass over the features."""

    trained = LinearTrained

    def answers(self, heads: Sequence[TrainedHead], block: Floats) -> list[HeadAnswers]:
        """Answer rows by each head of a path; rows are converted to float64 once."""
        return super().answers(heads, block.astype(np.float64, copy=False))


def solve_shifted(
    matrix: Array, right: Array, shifts: Sequence[float], pool: Workers
) -> Iterator[Array]:
    """Yield the solutions of ``(matrix + shift I) x = right`` for each shift, not below 0.

    `matrix` is symmetric without negative eigenvalues but for rounding; where a shift is too small
    to tell, directions without any variance have no part in the solution. Eigendecompositions and
    tridiagonal forms are made in one thread: LAPACK's own threads cost more than they bring.

    Shapes: `matrix` (k, k), `right` (k, n_columns), yields (k, n_columns).
    """

    def factorise(shift: float) -> Array | None:
        shifted = matrix.copy()
        shifted[np.diag_indices_from(shifted)] += shift
        try:  # numpy's lets other threads run, which scipy's does not
            factor = np.linalg.cholesky(shifted)
        except np.linalg.LinAlgError:
            return None
        # Transposed it lies as LAPACK wants it.
        found: Array = linalg.cho_solve((factor.T, False), right, check_finite=False)
        return found

    if len(shifts) >= SEVERAL_SHIFTS and len(shifts) * right.shape[1] <= len(matrix):
        form = _Tridiagonal.of(matrix)
        if form.smallest + min(shifts) > _least(len(matrix), form.largest):
            yield from form.solve(right, shifts)
            return
    if len(shifts) < MANY_SHIFTS:
        solutions = pool.map(factorise, shifts)
        if all(solution is not None for solution in solutions):
            yield from solutions  # type: ignore[misc]
            return
    values, vectors = linalg.eigh(matrix, driver="evd", check_finite=False)
    seen = vectors.T @ right
    least = _least(len(values), float(values[-1]))
    for shift in shifts:
        sizes = np.maximum(values, 0) + shift
        inverse = np.divide(1, sizes, out=np.zeros_like(sizes), where=sizes > least)
        yield vectors @ (inverse[:, None] * seen)


def _least(n: int, largest: float) -> float:
    """Return the eigenvalue below which a direction is but rounding, given the largest."""
    return 10 * n * np.finfo(np.float64).eps * max(largest, 0.0)


class _Tridiagonal(NamedTuple):
    """A symmetric matrix as ``Q T Q'`` with a tridiagonal ``T`` and Householder reflectors ``Q``.

    ``T + shift I`` is solved in a few steps a row, whatever the shift (Golub and Van Loan, *Matrix
    Computations*, 8.3).
    """

    diagonal: Array  # (n,)
    beside: Array  # (n - 1,)
    reflectors: Array  # (n - 1, n - 1), as LAPACK's dormqr takes them
    factors: Array  # (n - 1,), of the reflectors
    smallest: float  # eigenvalues
    largest: float

    @classmethod
    def of(cls, matrix: Array) -> _Tridiagonal:
        n = len(matrix)
        work, _ = lapack.dsytrd_lwork(n, lower=1)
        form, diagonal, beside, factors, _ = lapack.dsytrd(matrix, lower=1, lwork=int(work))
        ends = [
            float(linalg.eigvalsh_tridiagonal(diagonal, beside, "i", (i, i), check_finite=False)[0])
            for i in (0, n - 1)
        ]
        reflectors = np.asfortranarray(form[1:, :-1])
        return cls(diagonal, beside, reflectors, factors, *ends)

    def solve(self, right: Array, shifts: Sequence[float]) -> Iterator[Array]:
        """Yield the solutions for each shift, `right` and they (n, n_columns)."""
        turned = self._turn(right, "T")
        n_columns = right.shape[1]
        step = max(1, TOGETHER // n_columns)
        for low in range(0, len(shifts), step):
            solutions = [
                lapack.dptsv(self.diagonal + shift, self.beside, turned)[2]
                for shift in shifts[low : low + step]
            ]
            found = self._turn(np.hstack(solutions), "N")
            for first in range(0, found.shape[1], n_columns):
                yield found[:, first : first + n_columns]

    def _turn(self, table: Array, how: str) -> Array:
        """Multiply by ``Q``, or its transpose: of the first row it is the identity."""
        below = np.asfortranarray(table[1:])
        work = lapack.dormqr("L", how, self.reflectors, self.factors, below, -1)[1][0]
        found = lapack.dormqr("L", how, self.reflectors, self.factors, below, int(work))[0]
        return np.vstack([table[:1], found])
