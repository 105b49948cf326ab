"""Means and standard deviations of features, in float64 and in one pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from classify.solver.design import DesignMatrix
from classify.solver.threads import Workers
from classify.solver.tuning import MOMENT_ROWS

Array = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating[Any]]

NOT_FINITE = "X contains NaN or infinity"


def mean_and_scale(
    design: DesignMatrix, workers: Workers, weight: Array | None = None
) -> tuple[Array, Array]:
    """Compute what standardises features: mean and standard deviation of each.

    Chan, Golub and LeVeque, "Algorithms for computing the sample variance", *The American
    Statistician* 37 (1983) 242-247: blocks are centred on their own means and then merged, so that
    a feature far from zero keeps its digits.

    Shapes: `weight` (n_rows,), `mean` (n_features,), `scale` (n_features,).
    """

    def work(span: tuple[int, int]) -> tuple[float, Array, Array]:
        start, stop = span
        rows = design.load(start, stop)
        count, mean, square = 0.0, np.zeros(design.n_features), np.zeros(design.n_features)
        for low in range(start, stop, design.block_rows):
            high = min(low + design.block_rows, stop)
            block = rows.block(low, high)
            w = np.ones(high - low) if weight is None else weight[low:high]
            mass = float(w.sum())
            if mass <= 0:
                continue
            block = block.astype(np.float64)
            # Centred on one of its rows first, so that a constant feature varies by exactly zero.
            first = block[0].copy()
            with np.errstate(invalid="ignore"):  # infinities are found at the end
                block -= first
                centre = w @ block / mass
                block -= centre
                spread = w @ np.square(block, out=block)
                centre += first
            count, mean, square = _merge(count, mean, square, mass, centre, spread)
        return count, mean, square

    total, mean, square = 0.0, np.zeros(design.n_features), np.zeros(design.n_features)
    for part in workers.stream(work, design.spans(MOMENT_ROWS)):
        if part[0] > 0:
            total, mean, square = _merge(total, mean, square, *part)
    if not np.isfinite(mean).all():
        raise ValueError(NOT_FINITE)
    scale = np.sqrt(square / max(total, np.finfo(float).tiny))
    constant = scale <= 10 * np.finfo(float).eps * np.abs(mean)
    return mean, np.where(constant, 1.0, scale)


def refuse_not_finite(design: DesignMatrix, workers: Workers) -> None:
    """Look for NaN and infinities in one pass."""

    def work(span: tuple[int, int]) -> bool:
        start, stop = span
        rows = design.load(start, stop)
        return all(
            bool(np.isfinite(rows.block(low, min(low + design.block_rows, stop))).all())
            for low in range(start, stop, design.block_rows)
        )

    if not all(workers.stream(work, design.spans(MOMENT_ROWS))):
        raise ValueError(NOT_FINITE)


def _merge(
    n: float, mean: Array, square: Array, n_new: float, mean_new: Array, square_new: Floats
) -> tuple[float, Array, Array]:
    total = n + n_new
    delta = mean_new - mean
    with np.errstate(invalid="ignore"):
        square = square + square_new + delta**2 * (n * n_new / total)
    return total, mean + delta * (n_new / total), square


def all_finite(X: npt.NDArray[np.floating[Any]], workers: Workers) -> bool:
    """Say whether sums of rows are finite, which they are not where a number is not.

    Shapes: `X` (n_rows, n_features).
    """
    steps = range(0, len(X), MOMENT_ROWS)
    with np.errstate(over="ignore", invalid="ignore"):
        sums = workers.map(lambda low: np.sum(X[low : low + MOMENT_ROWS]), steps)
    return bool(np.isfinite(sums).all())
