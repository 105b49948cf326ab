"""What heads in closed form share: shifted systems solved together, and answers to a block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from scipy import linalg

from classify.heads.interface import Floats, HeadAnswers, HeadKind, TrainedHead
from classify.heads.linear import LinearTrained
from classify.solver.threads import Workers

Array = npt.NDArray[np.float64]

# From so many shifts on one eigendecomposition is faster than a factorisation each: they took
# 0.41 s and 0.06 s for 1,280 columns on one core of a Xeon VM, of which factorisations use all.
MANY_SHIFTS = 10


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
    to tell, directions without any variance have no part in the solution. An eigendecomposition
    runs in one thread: LAPACK's own threads cost more than they bring.

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

    if len(shifts) < MANY_SHIFTS:
        solutions = pool.map(factorise, shifts)
        if all(solution is not None for solution in solutions):
            yield from solutions  # type: ignore[misc]
            return
    values, vectors = linalg.eigh(matrix, driver="evd", check_finite=False)
    seen = vectors.T @ right
    least = 10 * len(values) * np.finfo(np.float64).eps * max(float(values[-1]), 0.0)
    for shift in shifts:
        sizes = np.maximum(values, 0) + shift
        inverse = np.divide(1, sizes, out=np.zeros_like(sizes), where=sizes > least)
        yield vectors @ (inverse[:, None] * seen)
