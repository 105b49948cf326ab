"""What a solve returns: weights, how it ended, and a certificate of optimality per problem."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


class Status(Enum):
    """How a problem ended. The value is a sentence for a person, with the likely cause."""

    CONVERGED = "the bound on the objective's gap is within tol"
    MAX_ITER = (
        "the limit of iterations was reached first; raise max_iter, lower C, or standardize the "
        "features"
    )
    PRECISION = (
        "rounding hides any further decrease; lower C, standardize the features, or accept a "
        "larger tol"
    )


@dataclass(frozen=True)
class Certificate:
    """What is known about some problems' points.

    Attributes
    ----------
    points : ndarray of float64, shape (k, n_parameters)
        The points with their intercepts made optimal.
    objective : ndarray of float64, shape (k,)
        Objectives there.
    grad_norm : ndarray of float64, shape (k,)
        Norms of the gradient there.
    gap_bound : ndarray of float64, shape (k,)
        Duality gaps: no objective is further above its minimum.
    """

    points: Array
    objective: Array
    grad_norm: Array
    gap_bound: Array


@dataclass(frozen=True)
class Solution:
    """The outcome of solving a set of problems that share their rows.

    Attributes
    ----------
    points : ndarray of float64, shape (n_problems, n_parameters)
        The minimisers found.
    status : tuple of Status, length n_problems
        How each problem ended.
    objective : ndarray of float64, shape (n_problems,)
        ``C * sum(loss) + 0.5 * ||w||^2`` at `points`.
    grad_norm : ndarray of float64, shape (n_problems,)
        Euclidean norm of that objective's gradient at `points`.
    gap_bound : ndarray of float64, shape (n_problems,)
        Duality gap: `objective` is at most this much above the minimum. See
        `classify.solver.certificate`.
    n_iter : ndarray of int, shape (n_problems,)
        Iterations each problem took.
    n_passes : int
        Passes over the rows, all problems together.
    column_products : int
        Sum over the passes of the columns in the product: what the work is proportional to.
    course : tuple of (ndarray of int, ndarray of float64)
        Round by round, the problems that were at work (by their place in `points`) and their
        objectives.
    """

    points: Array
    status: tuple[Status, ...]
    objective: Array
    grad_norm: Array
    gap_bound: Array
    n_iter: npt.NDArray[np.int64]
    n_passes: int
    column_products: int
    course: tuple[tuple[npt.NDArray[np.intp], Array], ...] = field(default=(), repr=False)

    def improved(self, places: npt.NDArray[np.intp], other: Solution) -> Solution:
        """Put another solve of some problems, which went on from here, in their places."""

        def put(name: str) -> Any:
            mine = getattr(self, name).copy()
            mine[places] = getattr(other, name)
            return mine

        status = list(self.status)
        for place, end in zip(places.tolist(), other.status, strict=True):
            status[place] = end
        n_iter = self.n_iter.copy()
        n_iter[places] += other.n_iter
        names = ("points", "objective", "grad_norm", "gap_bound")
        return Solution(
            **{name: put(name) for name in names},
            status=tuple(status),
            n_iter=n_iter,
            n_passes=self.n_passes + other.n_passes,
            column_products=self.column_products + other.column_products,
            course=(*self.course, *((places[rows], value) for rows, value in other.course)),
        )

    @property
    def converged(self) -> bool:
        """Whether every problem reached its tolerance."""
        return all(status is Status.CONVERGED for status in self.status)

    def certificate(self) -> dict[str, Any]:
        """Summarise the solve, worst problem first, as plain numbers.

        Returns
        -------
        dict
            ``grad_norm``, ``objective``, ``gap_bound`` (sums over the problems, but the norm of
            all gradients together), ``relative_gap`` (the largest of any problem), ``converged``,
            ``status``, ``n_iter`` (the largest), ``n_problems``, ``n_passes``, under ``problems``
            the arrays per problem, and under ``hardest`` the course of the problem that took the
            most iterations: its ``problem`` number, its ``objective`` at the end, and for each
            round the ``gaps``, at most so far above the minimum.
        """
        scale = np.abs(self.objective)
        # An objective of zero is at its minimum: it is a sum of terms that are not negative.
        relative = np.where(scale > 0, self.gap_bound / np.where(scale > 0, scale, 1.0), 0.0)
        worst = int(np.argmax([_SEVERITY[status] for status in self.status]))
        return {
            "grad_norm": float(np.linalg.norm(self.grad_norm)),
            "objective": float(self.objective.sum()),
            "gap_bound": float(self.gap_bound.sum()),
            "relative_gap": float(relative.max()),
            "converged": self.converged,
            "status": self.status[worst].name,
            "n_iter": int(self.n_iter.max(initial=0)),
            "n_problems": len(self.status),
            "n_passes": self.n_passes,
            "problems": {
                "grad_norm": self.grad_norm.tolist(),
                "objective": self.objective.tolist(),
                "gap_bound": self.gap_bound.tolist(),
                "n_iter": self.n_iter.tolist(),
                "status": [status.name for status in self.status],
            },
            "hardest": self._hardest(relative),
        }

    def _hardest(self, relative: Array) -> dict[str, Any]:
        """Follow the problem with the most iterations; among equals, the one with the worst gap."""
        problem = int(np.lexsort((-relative, -self.n_iter))[0])
        heights = np.concatenate([values[rows == problem] for rows, values in self.course])
        end, bound = self.objective[problem], self.gap_bound[problem]
        return {
            "problem": problem,
            "objective": float(end),
            # The dual objective is a floor, and what rounding hides is no less than the last bound.
            "gaps": np.maximum(heights - (end - bound), bound).tolist(),
        }


_SEVERITY = {Status.CONVERGED: 0, Status.PRECISION: 1, Status.MAX_ITER: 2}
