"""The iterates of any objective that can be evaluated: a line search by whole evaluations.

What `classify.solver.moves` does with scores that are kept in memory, for objectives that keep
none: every look along a direction is one evaluation of value and gradient, one pass over the rows.
A step of one is taken as it is where the slope there is flat enough.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from classify.solver.line_search import ROUNDINGS, Look, fell, search
from classify.solver.tuning import CURVATURE

Array = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Integers = npt.NDArray[np.intp]


class Evaluates(Protocol):
    """What is needed of an objective."""

    def evaluate(self, problems: Integers, points: Array) -> tuple[Array, Array]:
        """Return values ``(k,)`` and gradients ``(k, n_parameters)``."""


class Trials:
    """Points of a set of problems, their objectives and gradients.

    Shapes: `problems` (k,), `points` (k, n_parameters).
    """

    def __init__(
        self, objective: Evaluates, problems: Integers, points: Array, rounding: float
    ) -> None:
        self.objective, self.problems, self.points = objective, problems, points.copy()
        self.rounding = rounding
        self.value, self.gradient = objective.evaluate(problems, self.points)

    def keep(self, mask: Bools) -> None:
        """Drop the problems that are not in `mask`."""
        for name in ("problems", "points", "value", "gradient"):
            setattr(self, name, getattr(self, name)[mask])

    def advance(self, directions: Array) -> Bools:
        """Go along descent directions; return which problems have moved."""
        slope = np.einsum("ij,ij->i", self.gradient, directions)
        value, gradient = self.value.copy(), self.gradient.copy()
        noise = ROUNDINGS * self.rounding * np.abs(self.value)
        taken = np.full(len(slope), np.nan)
        last, past = np.zeros_like(slope), slope.copy()
        at, bend = slope.copy(), np.full_like(slope, np.nan)
        above = np.zeros(len(slope), dtype=bool)

        def look(step: Array) -> Look:
            new = np.flatnonzero(step != taken)  # the others have ended at their last step
            if len(new):
                f, g = self.objective.evaluate(
                    self.problems[new], self.points[new] + step[new, None] * directions[new]
                )
                value[new], gradient[new], taken[new] = f, g, step[new]
                at[new] = np.einsum("ij,ij->i", g, directions[new])
                above[new] = ~(f <= self.value[new] + noise[new])
                with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
                    bend[new] = (at[new] - past[new]) / (step[new] - last[new])
                finite = new[np.isfinite(at[new])]
                last[finite], past[finite] = step[finite], at[finite]
                # A slope that has not changed says nothing about where it vanishes.
                bend[new] = np.where(bend[new] > 0, bend[new], np.finfo(float).tiny)
            return Look(at, bend, above)

        search(look, slope, CURVATURE)
        moved = fell(self.value, value, slope, at, noise)
        self.points = np.where(
            moved[:, None], self.points + taken[:, None] * directions, self.points
        )
        self.gradient = np.where(moved[:, None], gradient, self.gradient)
        self.value = np.where(moved, value, self.value)
        return moved
