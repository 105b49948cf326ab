"""Linear heads for raw features: what a fit returns, starts from, and is scored with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating[Any]]
Scorer = Callable[[Floats], Floats]


@dataclass(frozen=True)
class LinearHead:
    """Weights (n_heads, n_features) and intercepts (n_heads,) of linear heads."""

    coef: Array
    intercept: Array

    @property
    def n_heads(self) -> int:
        """Return how many heads there are."""
        return len(self.intercept)

    @property
    def size(self) -> int:
        """Return how many numbers are kept for the weights."""
        return int(self.coef.size)

    def one(self, i: int) -> LinearHead:
        """Return one of the heads."""
        return LinearHead(self.coef[i : i + 1], self.intercept[i : i + 1])

    def finite(self) -> bool:
        """Tell whether all numbers are finite."""
        return bool(np.isfinite(self.coef).all() and np.isfinite(self.intercept).all())

    def scorer(self, dtype: npt.DTypeLike) -> Scorer:
        """Return `scores` for features of a dtype: the heads are converted once."""
        coef, intercept = self.coef.astype(dtype).T, self.intercept.astype(dtype)
        return lambda block: block @ coef + intercept

    def scores(self, X: Floats) -> Floats:
        """Return ``X @ coef.T + intercept`` in the features' dtype, ``(n_rows, n_heads)``."""
        return self.scorer(X.dtype)(X)


@dataclass(frozen=True)
class PairHead:
    """One-vs-one's heads as sums of the few rows that they were fitted to.

    The weights of a pair are a sum of the rows of its two classes. So a row has one coefficient for
    every other class, and a pair of two classes of three rows six, in place of one for each
    feature. `span` (n_rows, n_features) holds the rows, sorted by class, in the units of a score's
    weights for raw features less `shift` (n_features,); `starts` (n_classes + 1,) where classes
    begin; `duals` (n_rows, n_classes) each row's coefficients, 0 in its own class; `offset`
    (n_heads,) the scores of a row that is `shift`.
    """

    span: Floats
    shift: Array
    starts: npt.NDArray[np.intp]
    duals: Array
    offset: Array

    @property
    def n_classes(self) -> int:
        """Return how many classes there are."""
        return len(self.starts) - 1

    @property
    def n_heads(self) -> int:
        """Return how many heads there are."""
        return len(self.offset)

    @property
    def size(self) -> int:
        """Return how many numbers are kept for the weights."""
        return int(self.duals.size)

    def finite(self) -> bool:
        """Tell whether all numbers are finite."""
        return bool(np.isfinite(self.duals).all() and np.isfinite(self.offset).all())

    def _of_pairs(self, of_rows: Array) -> Array:
        """Sum, for every pair, its coefficients times a number of each row."""
        sums = np.add.reduceat(self.duals * of_rows[:, None], self.starts[:-1], axis=0)
        first, second = np.triu_indices(self.n_classes, k=1)
        return np.asarray(sums[first, second] + sums[second, first])

    @cached_property
    def intercept(self) -> Array:
        """Return the intercepts for raw features (n_heads,)."""
        return np.asarray(self.offset - self._of_pairs(self.span @ self.shift))

    @cached_property
    def coef(self) -> Array:
        """Write the weights out (n_heads, n_features): far more numbers than are kept here."""
        k, starts = self.n_classes, self.starts
        coef = np.empty((self.n_heads, self.span.shape[1]))
        span = self.span.astype(np.float64, copy=False)
        low = 0
        for a in range(k - 1):
            rows = slice(starts[a], starts[a + 1])
            part = coef[low : low + k - 1 - a]
            np.matmul(self.duals[rows, a + 1 :].T, span[rows], out=part)
            later = slice(starts[a + 1], None)
            part += np.add.reduceat(
                self.duals[later, a, None] * span[later], starts[a + 1 : -1] - starts[a + 1], axis=0
            )
            low += len(part)
        return coef

    def one(self, i: int) -> LinearHead:
        """Return one of the heads."""
        k = self.n_classes
        ends = np.cumsum(np.arange(k - 1, 0, -1))
        a = int(np.searchsorted(ends, i, side="right"))
        b = int(i - (ends[a] - (k - 1 - a)) + a + 1)
        weights = np.zeros(self.span.shape[1])
        for mine, other in ((a, b), (b, a)):
            rows = slice(self.starts[mine], self.starts[mine + 1])
            weights += self.duals[rows, other] @ self.span[rows]
        return LinearHead(weights[None], self.offset[i : i + 1] - weights @ self.shift)

    def scorer(self, dtype: npt.DTypeLike) -> Scorer:
        """Return `scores` for features of a dtype: products with the rows, then sums for pairs."""
        k, starts = self.n_classes, self.starts
        shift, span = self.shift.astype(dtype), self.span.astype(dtype).T
        duals, offset = self.duals.astype(dtype), self.offset.astype(dtype)
        sizes = np.diff(starts)
        # The t-th rows of all classes; where a class has no t-th row, its coefficients are 0.
        slots = np.minimum(starts[:-1] + np.arange(sizes.max())[:, None], len(duals) - 1)
        there = np.arange(sizes.max())[:, None] < sizes
        later = np.ascontiguousarray(
            np.where(there[:, :, None], duals[slots], 0).transpose(2, 0, 1)
        )

        def scores(block: Floats) -> Floats:
            products = (block - shift) @ span
            by_slot = [products[:, rows] for rows in slots]
            out = np.empty((len(block), len(offset)), dtype)
            low = 0
            for a in range(k - 1):
                rows, high = slice(starts[a], starts[a + 1]), low + k - 1 - a
                part = products[:, rows] @ duals[rows, a + 1 :]
                part += offset[low:high]
                for slot, weights in zip(by_slot, later[a], strict=True):
                    part += slot[:, a + 1 :] * weights[a + 1 :]
                out[:, low:high] = part
                low = high
            return out

        return scores

    def scores(self, X: Floats) -> Floats:
        """Return the scores of rows of raw features, ``(n_rows, n_heads)``."""
        return self.scorer(X.dtype)(X)


Head = LinearHead | PairHead


def blended(heads: list[Head], weights: list[float]) -> Head:
    """Add up heads of one fit, each times its weight."""
    last = heads[-1]
    if isinstance(last, PairHead):
        pairs = [head for head in heads if isinstance(head, PairHead)]
        duals = _sum([head.duals for head in pairs], weights)
        offset = _sum([head.offset for head in pairs], weights)
        return PairHead(last.span, last.shift, last.starts, duals, offset)
    coef = _sum([head.coef for head in heads], weights)
    return LinearHead(coef, _sum([head.intercept for head in heads], weights))


def _sum(tables: list[Array], weights: list[float]) -> Array:
    total = np.zeros_like(tables[0])
    with np.errstate(over="ignore", invalid="ignore"):
        for table, weight in zip(tables, weights, strict=True):
            total += weight * table
    return total
