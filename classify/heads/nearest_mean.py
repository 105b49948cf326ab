"""``nearest-mean``: the class whose mean is nearest, by one of four distances.

``euclidean`` of raw features, ``standardized`` Euclidean of features with deviations of 1,
``cosine`` between rows and means of norm 1, and ``centred cosine`` of features less their mean.
Probabilities are those of normal distributions about the means, with one variance, pooled over
classes and features, and equal priors. The Euclidean ones are linear heads; the cosines divide by
the norm of a row, and are no linear function of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from classify.codings import decisions
from classify.heads.interface import (
    FitContext,
    Floats,
    HeadAnswers,
    HeadKind,
    RowSet,
    Setting,
    TrainedHead,
)
from classify.heads.linear import LinearTrained
from classify.heads.moments import class_sums, moments_of, thread_bytes, threads_for
from classify.solver.row_norms import normalized
from classify.solver.threads import Workers, workers
from classify.solver.tuning import NORM_NUMBERS

Array = npt.NDArray[np.float64]

EUCLIDEAN, STANDARDIZED, COSINE, CENTRED = DISTANCES = (
    "euclidean",
    "standardized",
    "cosine",
    "centred cosine",
)
# A class without rows is as far as this many squared deviations.
_FAR = -1e6


class CosineMeans(TrainedHead):
    """Directions of classes, and how sharply an angle tells them apart.

    Shapes: centre (n_features,), directions (n_classes, n_features) of norm 1 or 0, offsets
    (n_classes,).
    """

    def __init__(
        self,
        centre: Array,
        directions: Array,
        offsets: Array,
        sharpness: float,
        setting: Mapping[str, Any],
    ) -> None:
        self.n_classes, self.n_features = directions.shape
        self.centre, self.directions, self.offsets = centre, directions, offsets
        self.sharpness, self.setting = sharpness, dict(setting)

    def answers(self, block: Floats) -> HeadAnswers:
        """Answer rows of raw features."""
        rows = normalized(block.astype(np.float64) - self.centre, "l2")
        values = rows @ self.directions.T + self.offsets
        scores = self.sharpness * values
        if self.n_classes == 2:
            scores = scores[:, 1:] - scores[:, :1]
        logs = decisions.log_probabilities("multinomial", scores, self.n_classes)
        return HeadAnswers(values, logs)

    def state(self) -> dict[str, Any]:
        """Return the arrays."""
        return {
            "centre": self.centre,
            "directions": self.directions,
            "offsets": self.offsets,
            "sharpness": self.sharpness,
            "setting": self.setting,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> TrainedHead:
        """Make the head again, a linear one where the state is that of one."""
        if "coef" in state:
            return LinearTrained.from_state(state)
        centre, directions, offsets = (
            np.asarray(state[name], dtype=np.float64)
            for name in ("centre", "directions", "offsets")
        )
        if directions.ndim != 2 or (len(offsets), len(centre)) != directions.shape:
            raise ValueError("directions and centre of a nearest-mean head do not fit together")
        return cls(centre, directions, offsets, float(state["sharpness"]), state["setting"])


class NearestMean(HeadKind):
    """Nearest class means."""

    trained = CosineMeans

    def grid(self, rows: RowSet) -> list[dict[str, Any]]:
        """List the distances."""
        return [{"distance": name} for name in DISTANCES]

    def fit(self, rows: RowSet, setting: Setting, context: FitContext) -> TrainedHead:
        """Fit one distance."""
        kept = _kept_bytes(rows.n_features, rows.n_classes)
        each = thread_bytes(rows.n_features, products=False)
        with workers(threads_for(rows, context.n_jobs, kept, each)) as pool:
            if setting["distance"] in (COSINE, CENTRED):
                return _cosine(rows, setting, pool)
            return _euclidean(rows, setting, pool)

    def fit_bytes(self, n_rows: int, n_features: int, n_classes: int) -> int:
        """Count the sums of the classes, and a thread's own."""
        return _kept_bytes(n_features, n_classes) + thread_bytes(n_features, products=False)


def _kept_bytes(n_features: int, n_classes: int) -> int:
    return 8 * 10 * n_classes * n_features


def _euclidean(rows: RowSet, setting: Setting, pool: Workers) -> TrainedHead:
    """Return scores ``-|x - m|^2 / (2 variance)``, less what all classes have in common."""
    found = moments_of(rows, pool, scatter=False)
    scale = found.scale if setting["distance"] == STANDARDIZED else np.ones(rows.n_features)
    between = found.between / scale
    total = float((found.variance / scale**2).sum())
    spread = found.class_weights @ np.square(between).sum(axis=1) / found.total
    variance = _pooled(total - float(spread), total, rows.n_features)
    coef = between / scale / variance
    intercept = -np.square(between).sum(axis=1) / (2 * variance) - coef @ found.mean
    intercept[found.class_weights == 0] = _FAR
    return LinearTrained(coef, intercept, setting)


def _pooled(within: float, total: float, n_features: int) -> float:
    """Return the variance of a feature within classes; of all rows where there is none."""
    least = 1e-9 * total
    return (within if within > least else total) / n_features or 1.0


def _cosine(rows: RowSet, setting: Setting, pool: Workers) -> TrainedHead:
    centre = np.zeros(rows.n_features)
    if setting["distance"] == CENTRED:
        centre = moments_of(rows, pool, scatter=False).mean

    def work(item: tuple[slice, Floats]) -> tuple[npt.NDArray[np.intp], Array, float]:
        where, block = item
        weights = None if rows.weights is None else rows.weights[where]
        table = normalized(block.astype(np.float64) - centre, "l2")
        squares = np.einsum("ij,ij->i", table, table)
        size = squares.sum() if weights is None else weights @ squares
        return *class_sums(table, rows.labels[where], weights), float(size)

    weight = np.bincount(rows.labels, rows.weights, minlength=rows.n_classes).astype(np.float64)
    step = max(1, NORM_NUMBERS // rows.n_features)
    sums, total = np.zeros((rows.n_classes, rows.n_features)), 0.0
    for classes, part, size in pool.stream(work, rows.blocks(step)):
        sums[classes] += part
        total += size
    means = sums / np.maximum(weight, np.finfo(np.float64).tiny)[:, None]
    within = (total - float(weight @ np.square(means).sum(axis=1))) / weight.sum()
    variance = _pooled(within, total / weight.sum(), rows.n_features)
    offsets = np.where(weight > 0, 0.0, _FAR)
    return CosineMeans(centre, normalized(means, "l2"), offsets, 1 / variance, setting)
