"""``lda``: linear discriminant analysis with a shrunk covariance.

As scikit-learn's ``LinearDiscriminantAnalysis(solver="lsqr", shrinkage=...)``: a normal
distribution for each class, all with one covariance, and priors that are the classes' (weighted)
shares of the rows. A shrinkage that is a number moves the covariance within classes so far towards
a multiple of the identity; ``ledoit-wolf`` is ``shrinkage="auto"`` (`classify.heads.
class_covariance`). Rows of a class that are all the same leave no covariance: then the variance of
all rows takes its place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from classify.heads.class_covariance import ClassCovariance, class_covariance
from classify.heads.closed_form import ClosedFormKind, solve_shifted
from classify.heads.interface import FitContext, RowSet, Setting, TrainedHead
from classify.heads.linear import LinearTrained
from classify.heads.moments import Moments, moments_of, thread_bytes, threads_for
from classify.solver.threads import Workers, workers

Array = npt.NDArray[np.float64]

LEDOIT_WOLF = "ledoit-wolf"
# A feature's variance within classes, of that of all rows, below which classes are read one by one:
# the difference of sums that were made in float32 would have few digits.
CANCELLED = 1e-3
SHRINKAGES = (1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.001)


class Lda(ClosedFormKind):
    """Linear discriminant analysis."""

    def grid(self, rows: RowSet) -> list[dict[str, Any]]:
        """List the shrinkages, that of Ledoit and Wolf first."""
        return [{"shrinkage": value} for value in (LEDOIT_WOLF, *SHRINKAGES)]

    def fit(self, rows: RowSet, setting: Setting, context: FitContext) -> TrainedHead:
        """Fit one shrinkage."""
        with workers(_threads(rows, context)) as pool:
            classes = None
            if setting["shrinkage"] != LEDOIT_WOLF:
                classes = _Classes.of_moments(moments_of(rows, pool))
            if classes is None:
                classes = _Classes.of_covariance(class_covariance(rows, pool))
            return classes.heads([setting], pool)[0]

    def path(
        self, rows: RowSet, held: RowSet, grid: Sequence[Setting], context: FitContext
    ) -> Iterator[TrainedHead]:
        """Fit all shrinkages from one reading of the rows."""
        with workers(_threads(rows, context)) as pool:
            heads = _Classes.of_covariance(class_covariance(rows, pool)).heads(grid, pool)
        for head in heads:
            yield head
            context.on_steps(1)

    def fit_bytes(self, n_rows: int, n_features: int, n_classes: int) -> int:
        """Count both covariances, a class's own and factors of them, and a thread's own."""
        return _kept_bytes(n_features, n_classes) + _thread_bytes(n_features)


def _kept_bytes(n_features: int, n_classes: int) -> int:
    heads = 8 * (4 + len(SHRINKAGES)) * n_classes * n_features
    return 8 * 4 * n_features**2 + heads


def _thread_bytes(n_features: int) -> int:
    return thread_bytes(n_features) + 8 * 2 * n_features**2


def _threads(rows: RowSet, context: FitContext) -> int:
    kept = _kept_bytes(rows.n_features, rows.n_classes)
    return threads_for(rows, context.n_jobs, kept, _thread_bytes(rows.n_features))


class _Classes:
    """Classes' means and the covariance within them."""

    def __init__(self, weights: Array, means: Array, pooled: Array, shrunk: Array | None) -> None:
        self.pooled, self.shrunk = pooled, shrunk
        self.weights, self.total = weights, weights.sum()
        self.mean = weights @ means / self.total
        # Scores of all classes move together with the centre, so it is left out of the means.
        self.between = np.where((weights > 0)[:, None], means - self.mean, 0)
        self.size = float(np.trace(pooled)) / len(pooled)

    @classmethod
    def of_covariance(cls, found: ClassCovariance) -> _Classes:
        return cls(found.class_weights, found.class_means, found.pooled, found.shrunk)

    @classmethod
    def of_moments(cls, found: Moments) -> _Classes | None:
        """Take the scatter of means off that of all rows; None where too few digits are left."""
        root = np.sqrt(found.class_weights)[:, None] * found.between
        pooled = found.scatter
        pooled -= root.T @ root
        pooled /= found.total
        if np.any(np.diag(pooled) < CANCELLED * found.variance):
            return None
        return cls(found.class_weights, found.class_means, pooled, None)

    def heads(self, grid: Sequence[Setting], pool: Workers) -> list[TrainedHead]:
        if self.size <= 0:
            spread = float(self.weights @ np.square(self.between).sum(axis=1)) / self.total
            size = spread / len(self.pooled) or 1.0
            return [self._head(self.between / size, setting) for setting in grid]
        found: dict[int, TrainedHead] = {}
        shifts: dict[int, float] = {}
        for i, setting in enumerate(grid):
            if setting["shrinkage"] == LEDOIT_WOLF:
                assert self.shrunk is not None
                solution = next(solve_shifted(self.shrunk, self.between.T, [0.0], pool))
                found[i] = self._head(solution.T, setting)
            elif setting["shrinkage"] == 1:
                found[i] = self._head(self.between / self.size, setting)
            else:
                share = float(setting["shrinkage"])
                shifts[i] = share * self.size / (1 - share)
        solutions = solve_shifted(self.pooled, self.between.T, list(shifts.values()), pool)
        for i, solution in zip(shifts, solutions, strict=True):
            coef = solution.T / (1 - float(grid[i]["shrinkage"]))
            found[i] = self._head(coef, grid[i])
        return [found[i] for i in range(len(grid))]

    def _head(self, coef: Array, setting: Setting) -> TrainedHead:
        """Turn ``covariance^-1 (mean_k - mean)`` (n_classes, n_features) into a head."""
        priors = np.log(np.maximum(self.weights / self.total, np.finfo(np.float64).tiny))
        quadratic = np.einsum("ij,ij->i", self.between, coef)
        return LinearTrained(coef, priors - quadratic / 2 - coef @ self.mean, setting)
