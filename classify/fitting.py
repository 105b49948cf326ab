"""From classes to problems to linear heads: one strategy fitted to one set of rows.

This is where the pieces meet: rows are standardised and, for one-vs-one, sorted by class; problems
are set up; the minimiser is started from zero or from a given head; and the result is folded
back into heads for the raw features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from classify.coding import class_pairs
from classify.design_matrix import DesignMatrix
from classify.duality import certify
from classify.lbfgs import minimise
from classify.objectives import BinaryProblems, Problems, SoftmaxProblems
from classify.precondition import SampledHessian, SharedBasis
from classify.solution import Certificate, Solution
from classify.standardize import mean_and_scale
from classify.threads import Workers

Array = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating[Any]]
Integers = npt.NDArray[np.intp]


# Multiply-adds and numbers that may go into one inverse Hessian per column: about a second of
# work, and memory of the order of the features'.
FACTOR_WORK = 7e10
FACTOR_NUMBERS = 50_000_000
# The shared basis: rows in its sample, largest dense block, numbers in all dense blocks.
SHARED_ROWS = 12_000
LEADING = 128
DENSE_NUMBERS = 16_000_000


@dataclass(frozen=True)
class Head:
    """Linear heads for raw features.

    Attributes
    ----------
    coef : ndarray of float64, shape (n_heads, n_features)
        Weights.
    intercept : ndarray of float64, shape (n_heads,)
        Intercepts.
    """

    coef: Array
    intercept: Array

    def scores(self, X: Floats) -> Floats:
        """Return ``X @ coef.T + intercept`` in the features' dtype, ``(n_rows, n_heads)``."""
        return X @ self.coef.astype(X.dtype).T + self.intercept.astype(X.dtype)


class Fitter:
    """One strategy on one set of rows, for any value of C.

    Parameters
    ----------
    strategy : {'multinomial', 'ovr', 'ovo'}
        How classes become problems.
    X : ndarray of float32 or float64, shape (n_rows, n_features)
        Features, C-contiguous.
    labels : ndarray of int, shape (n_rows,)
        Class indices.
    n_classes : int
        Number of classes, at least 2.
    workers : Workers
        Threads.
    sample_weight : ndarray of float64, shape (n_rows,), optional
        Weight of each row's loss, and of the row in the standardisation.
    standardize : bool
        Whether the penalty applies to weights of standardised features.
    rows : ndarray of int, optional
        Which rows of `X` to use; `labels` and `sample_weight` are those rows' own.
    """

    device = "cpu"
    # What another engine puts in place of numpy's: see `classify.torch_fitting`.
    _binary: type[BinaryProblems] = BinaryProblems
    _softmax: type[SoftmaxProblems] = SoftmaxProblems
    _certify = staticmethod(certify)

    def __init__(
        self,
        strategy: str,
        X: Floats,
        labels: Integers,
        n_classes: int,
        workers: Workers,
        *,
        sample_weight: Array | None = None,
        standardize: bool = False,
        rows: Integers | None = None,
    ) -> None:
        self.strategy, self.n_classes, self.workers = strategy, n_classes, workers
        if strategy == "ovo" and n_classes > 2:
            order = np.argsort(labels, kind="stable")
            labels = labels[order]
            sample_weight = None if sample_weight is None else sample_weight[order]
            rows = order if rows is None else rows[order]
        design = self._open(X)
        if rows is not None:
            design = design.take(rows)
        self.shift = self.scale = None
        if standardize:
            self.shift, self.scale = self._moments(design, sample_weight)
            design = design.standardized(self.shift, self.scale)
        self.design, self.labels, self.sample_weight = design, labels, sample_weight

        self._preconditioner: SampledHessian | SharedBasis | None = None

    def _open(self, X: Floats) -> DesignMatrix:
        return DesignMatrix(X)

    def _moments(self, design: DesignMatrix, sample_weight: Array | None) -> tuple[Array, Array]:
        return mean_and_scale(design, self.workers, sample_weight)

    def _choose(self, objective: Problems) -> SampledHessian | SharedBasis:
        """Choose an inverse for each column where that is affordable, a shared basis otherwise."""
        d = self.design.n_features
        columns = objective.n_problems * objective.columns
        sample = max(512, 2 * d)
        rows = min(sample, self.design.n_rows)
        side = min(rows, d)
        if (
            columns * side**2 * (rows + d) <= FACTOR_WORK
            and columns * side * max(side, d) <= FACTOR_NUMBERS
        ):
            return SampledHessian(sample)
        leading = int(min(LEADING, (DENSE_NUMBERS / columns) ** 0.5))
        return SharedBasis(SHARED_ROWS, leading)

    def problems(self, C: float) -> Problems:
        """Set up the strategy's problems for a value of C."""
        common = (self.design, self.labels, self.sample_weight)
        k = self.n_classes
        if k == 2:
            return self._binary(*common, np.array([C]), np.array([1]), None, self.workers)
        if self.strategy == "multinomial":
            return self._softmax(*common, np.array([C]), k, self.workers)
        if self.strategy == "ovr":
            return self._binary(*common, np.full(k, C), np.arange(k), None, self.workers)
        pairs = class_pairs(k)
        return self._binary(*common, np.full(len(pairs), C), pairs[:, 1], pairs[:, 0], self.workers)

    def solve(
        self, C: float, *, tol: float, max_iter: int, start: Head | None = None
    ) -> tuple[Head, Solution]:
        """Fit the heads for one value of C.

        Parameters
        ----------
        C : float
            Weight of the losses against the penalty.
        tol : float
            Largest duality gap relative to the objective, for every problem.
        max_iter : int
            Largest number of iterations.
        start : Head, optional
            Heads to start from; zero by default.

        Returns
        -------
        head : Head
            For raw features.
        solution : Solution
            In the standardised features, if they are.
        """
        objective = self.problems(C)
        points = np.zeros((objective.n_problems, objective.n_parameters))
        if start is not None:
            weights, intercepts = objective.split(points)
            weights[:] = start.coef if self.scale is None else start.coef * self.scale
            moved = 0.0 if self.shift is None else start.coef @ self.shift
            intercepts[:] = start.intercept + moved

        def certified(problems: Integers, at: Array) -> Certificate:
            return self._certify(objective, problems, at)

        if self._preconditioner is None:
            self._preconditioner = self._choose(objective)
        self._preconditioner.attach(objective)
        solution = minimise(
            objective,
            points,
            self._preconditioner,
            certified,
            tol=tol,
            max_iter=max_iter,
            rounding=float(np.finfo(self.design.dtype).eps) / 10,
        )
        return self.head(objective, solution.points), solution

    def head(self, objective: Problems, points: Array) -> Head:
        """Fold the standardisation into heads for raw features."""
        weights, intercepts = objective.split(points)
        if self.scale is not None:
            weights = weights / self.scale
        if self.shift is not None:
            intercepts = intercepts - weights @ self.shift
        return Head(weights.copy(), intercepts.copy())
