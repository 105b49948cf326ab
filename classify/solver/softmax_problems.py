"""The multinomial's objective, for many problems at once; see `classify.solver.problems`."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from classify.solver.design import DesignMatrix
from classify.solver.links import SoftmaxLink
from classify.solver.passes import Group
from classify.solver.problems import Problems
from classify.solver.threads import Workers

Array = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating[Any]]
Integers = npt.NDArray[np.intp]


class SoftmaxProblems(Problems):
    """Multinomial logistic problems: one for each value of C, a column for each class.

    Shapes: `labels` (n_rows,), `sample_weight` (n_rows,), `C` (n_problems,).
    """

    def __init__(
        self,
        design: DesignMatrix,
        labels: Integers,
        sample_weight: Array | None,
        C: Array,
        n_classes: int,
        workers: Workers,
        intercept: bool = True,
    ) -> None:
        super().__init__(design, labels, sample_weight, C, n_classes, workers, intercept)

    def groups(self, problems: Integers) -> list[Group]:
        """All rows meet all columns."""
        return [Group(0, self.design.n_rows, np.arange(len(problems) * self.columns))]

    def weighted_link(self, problems: Integers) -> Any:
        """Bind the softmax loss, problem by problem."""
        return SoftmaxLink(self.labels, self.weight, self.columns)

    def curvature(
        self, scores: Floats, start: int, stop: int, group: Group, directions: Floats | None
    ) -> Floats:
        """Return ``p_k (1 - p_k)``, or ``(diag(p) - p p') directions``."""
        z = scores.reshape(-1, self.columns)
        p = np.exp(z - z.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        if directions is None:
            return (p * (1 - p)).reshape(scores.shape)
        bent = p * directions.reshape(z.shape)
        return (bent - p * bent.sum(axis=1, keepdims=True)).reshape(scores.shape)

    def restricted(
        self, design: DesignMatrix, rows: Integers, stride: Array, workers: Workers
    ) -> SoftmaxProblems:
        """Set up the same problems over other features of some of the rows."""
        weight, C = self._scaled(rows, stride)
        common = design, self.labels[rows], weight, C
        return SoftmaxProblems(*common, self.columns, workers, self.intercept)

    def centred(self, points: Array) -> Array:
        """Subtract the mean over the classes: adding it to all of them changes no probability."""
        return without_mean(points.reshape(len(points), self.columns, -1)).reshape(points.shape)

    def base_rates(self) -> Array:
        """Return the classes' log shares, less their mean."""
        mass = np.bincount(self.labels, self.weight, minlength=self.columns)
        low = np.finfo(float).eps * max(float(mass.sum()), np.finfo(float).tiny)
        logs = np.log(np.maximum(mass, low))
        return np.tile(logs - logs.mean(), self.n_problems)


def without_mean(table: Array) -> Array:
    """Subtract means over the second axis; twice, since the first leaves rounding."""
    table = table - table.mean(axis=1, keepdims=True)
    return np.asarray(table - table.mean(axis=1, keepdims=True))
