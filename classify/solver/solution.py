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
    """What is known about some problems' points."""

    # (k, n_parameters): The points with their intercepts made optimal.
    points: Array
    # (k,): Objectives there.
    objective: Array
    # (k,): Norms of the gradient there.
    grad_norm: Array
    # (k,): Duality gaps: no objective is further above its minimum.
    gap_bound: Array


@dataclass(frozen=True)
class Solution:
    """The outcome of solving a set of problems that share their rows."""

    # (n_problems, n_parameters): The minimisers found.
    points: Array
    # How each problem ended.
    status: tuple[Status, ...]
    # (n_problems,): ``C * sum(loss) + 0.5 * ||w||^2`` at `points`.
    objective: Array
    # (n_problems,): Euclidean norm of that objective's gradient at `points`.
    grad_norm: Array
    # (n_problems,): Duality gap: `objective` is at most this much above the minimum. See
    # `classify.solver.certificate`.
    gap_bound: Array
    # (n_problems,): Iterations each problem took.
    n_iter: npt.NDArray[np.int64]
    # Reads of all rows, all problems together.
    n_passes: int
    # Sum over the passes of the columns in the product: what the work is proportional to.
    column_products: int
    # Iteration by iteration, the problems that were at work (by their place in `points`) and their
    # objectives.
    trace: tuple[tuple[npt.NDArray[np.intp], Array], ...] = field(default=(), repr=False)

    def improved(self, places: npt.NDArray[np.intp], other: Solution) -> Solution:
        """Put another solve of some problems, which went on from here, in their places."""

        def put(before: Array, after: Array) -> Array:
            result = before.copy()
            result[places] = after
            return result

        status = list(self.status)
        for place, end in zip(places.tolist(), other.status, strict=True):
            status[place] = end
        n_iter = self.n_iter.copy()
        n_iter[places] += other.n_iter
        return Solution(
            points=put(self.points, other.points),
            objective=put(self.objective, other.objective),
            grad_norm=put(self.grad_norm, other.grad_norm),
            gap_bound=put(self.gap_bound, other.gap_bound),
            status=tuple(status),
            n_iter=n_iter,
            n_passes=self.n_passes + other.n_passes,
            column_products=self.column_products + other.column_products,
            trace=(*self.trace, *((places[rows], value) for rows, value in other.trace)),
        )

    @property
    def converged(self) -> bool:
        """Whether every problem reached its tolerance."""
        return self.status.count(Status.CONVERGED) == len(self.status)

    def certificate(self) -> dict[str, Any]:
        """Summarise the solve, worst problem first, as plain numbers.

        Returns
        -------
        dict
            ``grad_norm``, ``objective``, ``gap_bound`` (sums over the problems, but the norm of
            all gradients together), ``relative_gap`` (the largest of any problem), ``converged``,
            ``status``, ``n_iter`` (the largest), ``n_problems``, ``n_passes``, under ``problems``
            the arrays per problem, and under ``hardest`` the trace of the problem that took the
            most iterations: its ``problem`` number, its ``objective`` at the end, and for each
            iteration the ``gaps``, at most so far above the minimum.
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
        heights = np.concatenate([values[rows == problem] for rows, values in self.trace])
        end, bound = self.objective[problem], self.gap_bound[problem]
        return {
            "problem": problem,
            "objective": float(end),
            # The dual objective is a floor, and what rounding hides is no less than the last bound.
            "gaps": np.maximum(heights - (end - bound), bound).tolist(),
        }


_SEVERITY = {Status.CONVERGED: 0, Status.PRECISION: 1, Status.MAX_ITER: 2}
