"""What heads in closed form share: shifted systems solved together, and answers to a block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from scipy import linalg

from classify.heads.interface import Floats, HeadAnswers, HeadKind, TrainedHead
from classify.heads.linear import LinearTrained

Array = npt.NDArray[np.float64]

# From so many shifts on one eigendecomposition is faster than a factorisation each: they took
# 0.39 s and 0.04 s for 1,280 columns on one core (`python -m benchmarks --part closed-form`).
MANY_SHIFTS = 8


class ClosedFormKind(HeadKind):
    """A kind of linear head whose settings all come from one pass over the features."""

    trained = LinearTrained

    def answers(self, heads: Sequence[TrainedHead], block: Floats) -> list[HeadAnswers]:
        """Answer rows by each head of a path; rows are converted to float64 once."""
        return super().answers(heads, block.astype(np.float64, copy=False))


def solve_shifted(matrix: Array, right: Array, shifts: Sequence[float]) -> Iterator[Array]:
    """Yield the solutions of ``(matrix + shift I) x = right`` for each shift, not below 0.

    `matrix` is symmetric without negative eigenvalues but for rounding; where a shift is too small
    to tell, directions without any variance have no part in the solution. Call it with BLAS limited
    to one thread: LAPACK's own threads cost more than they bring. `matrix` is overwritten.

    Shapes: `matrix` (k, k), `right` (k, n_columns), yields (k, n_columns).
    """
    if len(shifts) < MANY_SHIFTS:
        for shift in shifts:
            try:
                factor = linalg.cho_factor(_shifted(matrix, shift), overwrite_a=True)
            except linalg.LinAlgError:
                break
            yield linalg.cho_solve(factor, right)
        else:
            return
        shifts = shifts[shifts.index(shift) :]
    values, vectors = linalg.eigh(matrix, driver="evd", overwrite_a=True, check_finite=False)
    seen = vectors.T @ right
    least = 10 * len(values) * np.finfo(np.float64).eps * max(float(values[-1]), 0.0)
    for shift in shifts:
        sizes = np.maximum(values, 0) + shift
        inverse = np.divide(1, sizes, out=np.zeros_like(sizes), where=sizes > least)
        yield vectors @ (inverse[:, None] * seen)


def _shifted(matrix: Array, shift: float) -> Array:
    found = np.array(matrix, order="F")
    found[np.diag_indices_from(found)] += shift
    return found
