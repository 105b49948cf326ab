"""Logistic objectives for many problems at once: value, gradient and curvature.

Every problem has scikit-learn's objective,

    ``f(w, b) = C * sum_i s_i loss_i(w, b) + 0.5 * ||w||^2``,

with sample weights ``s`` and an intercept ``b`` that is not penalised. A problem's parameters are
one flat vector: for each of its columns the weights, then the intercept. `BinaryProblems` have
one column each (one-vs-rest, one-vs-one, two classes), `SoftmaxProblems` one for each class.

All problems, or those that are still being solved, are evaluated in one pass over the rows; see
`classify.solver.passes`. ``C`` belongs to the problem, so several values of C can ride in one pass.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import numpy.typing as npt

from classify.solver.arrays import Arrays, Design, HostArrays, RowPasses
from classify.solver.design import DesignMatrix
from classify.solver.losses import BinaryLink, SoftmaxLink, logistic_curvature
from classify.solver.passes import Group, Passes, SignedScores
from classify.solver.threads import Workers, each_piece, row_dots

Array = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating[Any]]
Integers = npt.NDArray[np.intp]

STRATEGIES = ("multinomial", "ovr", "ovo")


class Problems(ABC):
    """Problems over the same rows.

    Shapes: `labels` (n_rows,), `sample_weight` (n_rows,), `C` (n_problems,).
    """

    def __init__(
        self,
        design: Design,
        labels: Integers,
        sample_weight: Array | None,
        C: Array,
        columns: int,
        workers: Workers,
        intercept: bool = True,
    ) -> None:
        self.intercept = intercept
        self.design, self.labels, self.workers = design, labels, workers
        self.weight = sample_weight
        self.C = np.asarray(C, dtype=np.float64)
        self.n_problems = len(self.C)
        self.columns = columns
        self.n_parameters = columns * (design.n_features + 1)
        self.passes: RowPasses = self._passes()
        self.arrays: Arrays = HostArrays(labels, sample_weight, workers)

    def _passes(self) -> RowPasses:
        assert isinstance(self.design, DesignMatrix)
        return Passes(self.design, self.workers)

    @property
    def meetings(self) -> int:
        """How many scores a pass with all problems computes."""
        groups = self.groups(np.arange(self.n_problems))
        return sum((group.stop - group.start) * len(group.columns) for group in groups)

    def weight_sum(self, group: Group) -> float:
        """Return the summed weights of a group's rows."""
        if self.weight is None:
            return float(group.stop - group.start)
        return float(self.weight[group.start : group.stop].sum())

    @abstractmethod
    def groups(self, problems: Integers) -> list[Group]:
        """List which rows meet which columns when `problems`, in this order, are in the pass."""

    @abstractmethod
    def weighted_link(self, problems: Integers) -> Any:
        """Bind the loss to the problems of a pass, with the sample weights."""

    @abstractmethod
    def curvature(self, scores: Any) -> Any:
        """Return each column's second derivative of every row's loss, without sample weights.

        `scores` are ``(rows, k)``, signed or not, in the columns of a group; left as they are.
        """

    @abstractmethod
    def restricted(
        self, design: Design, rows: Integers, stride: Array, workers: Workers
    ) -> Problems:
        """Set up the same problems over other features of some of the rows.

        Shapes: `rows` (design.n_rows,), `stride` (design.n_rows,).
        """

    def _scaled(self, rows: Integers, stride: Array) -> tuple[Array | None, Array]:
        """Return weights of some rows, and C, so that each counts for as many as `stride` says."""
        most = float(stride.max())
        weight = None if self.weight is None else self.weight[rows]
        if (stride != most).any():
            weight = stride / most if weight is None else weight * (stride / most)
        return weight, self.C * most

    @abstractmethod
    def base_rates(self) -> Array:
        """Return the intercepts that are best where all weights are zero.

        Shapes: returns (n_problems * columns,).
        """

    def centred(self, points: Array) -> Array:
        """Return the points with what the losses do not see, and the penalty forbids, taken out."""
        return points

    def split(self, points: Array) -> tuple[Array, Array]:
        """Split parameters into weights and intercepts.

        Shapes: `points` (k, n_parameters), `weights` (k * columns, n_features), `intercepts` (k *
        columns,).
        """
        table = points.reshape(-1, self.design.n_features + 1)
        return table[:, :-1], table[:, -1]

    def evaluate(self, problems: Integers, points: Array) -> tuple[Array, Array]:
        """Evaluate objectives and gradients in one pass over the rows.

        Shapes: `problems` (k,), `points` (k, n_parameters), `values` (k,), `gradients` (k,
        n_parameters).
        """
        weights, intercepts = self.split(points)
        losses, totals, products = self.passes.fused(
            self.groups(problems), weights, intercepts, self.weighted_link(problems)
        )
        values = self.value(problems, weights, losses)
        return values, self.assemble(problems, weights, totals, products)

    def scores(self, problems: Integers, points: Array) -> SignedScores:
        """Compute the signed scores of all rows at some points: half a pass."""
        groups = self.groups(problems)
        return SignedScores(groups, self.passes.scores(groups, *self.split(points)), fresh=True)

    def value(self, problems: Integers, weights: Array, losses: Array) -> Array:
        """Weigh summed losses by C and add the penalty.

        Shapes: `problems` (k,), `weights` (k * columns, n_features), returns (k,).
        """
        squares = row_dots(self.workers, weights, weights).reshape(len(problems), -1).sum(axis=1)
        return self.C[problems] * losses[: len(problems)] + 0.5 * squares

    def assemble(self, problems: Integers, weights: Array, totals: Array, products: Array) -> Array:
        """Weigh a pass's sums by C and add the penalty's part.

        Shapes: `problems` (k,), `weights` (k * columns, n_features), `totals` (k * columns,),
        `products` (k * columns, n_features), returns (k, n_parameters).
        """
        C = np.repeat(self.C[problems], self.columns)
        gradients = np.empty((len(weights), self.design.n_features + 1))

        def weigh(part: slice) -> None:
            np.multiply(products[part], C[part, None], out=gradients[part, :-1])
            gradients[part, :-1] += weights[part]

        each_piece(self.workers, products, weigh)
        gradients[:, -1] = totals * C if self.intercept else 0.0
        return gradients.reshape(len(problems), -1)


class BinaryProblems(Problems):
    """Binary logistic problems: one-vs-rest, one-vs-one, or two classes.

    Shapes: `labels` (n_rows,), `sample_weight` (n_rows,), `C` (n_problems,), `positive`
    (n_problems,), `negative` (n_problems,).
    """

    def __init__(
        self,
        design: Design,
        labels: Integers,
        sample_weight: Array | None,
        C: Array,
        positive: Integers,
        negative: Integers | None,
        workers: Workers,
        intercept: bool = True,
    ) -> None:
        super().__init__(design, labels, sample_weight, C, 1, workers, intercept)
        self.positive, self.negative = positive, negative
        if negative is not None:
            step = np.diff(labels)
            if not np.isin(np.flatnonzero(step < 0) + 1, design.edges).all():
                raise ValueError("one-vs-one needs its rows sorted by class")
            # A run: the rows of one class, in memory all of them, and those of a chunk otherwise.
            ends = np.union1d(np.flatnonzero(step) + 1, design.edges)
            self._runs = list(
                zip(ends[:-1].tolist(), ends[1:].tolist(), labels[ends[:-1]].tolist(), strict=True)
            )

    def groups(self, problems: Integers) -> list[Group]:
        """One group of all rows (one-vs-rest), or one a run of a class's rows (one-vs-one)."""
        if self.negative is None:
            return [Group(0, self.design.n_rows, np.arange(len(problems)))]
        positive, negative = self.positive[problems], self.negative[problems]
        meets: dict[int, tuple[Integers, Array]] = {}
        for label in {label for _, _, label in self._runs}:
            columns = np.flatnonzero((positive == label) | (negative == label))
            meets[label] = columns, np.where(positive[columns] == label, -1.0, 1.0)
        return [
            Group(start, stop, *meets[label], kind=label)
            for start, stop, label in self._runs
            if len(meets[label][0])
        ]

    def weighted_link(self, problems: Integers) -> Any:
        """Bind the logistic loss; without signs from the group, each row brings its own."""
        return BinaryLink(self.labels, self.weight, self.positive[problems])

    def restricted(
        self, design: Design, rows: Integers, stride: Array, workers: Workers
    ) -> BinaryProblems:
        """Set up the same problems over other features of some of the rows."""
        weight, C = self._scaled(rows, stride)
        common = design, self.labels[rows], weight, C
        return BinaryProblems(*common, self.positive, self.negative, workers, self.intercept)

    def base_rates(self) -> Array:
        """Return each problem's log odds."""
        mass = np.bincount(self.labels, self.weight, minlength=int(self.positive.max()) + 1)
        positive = mass[self.positive]
        negative = mass.sum() - positive if self.negative is None else mass[self.negative]
        low = np.finfo(float).eps * max(float(mass.sum()), np.finfo(float).tiny)
        return np.log(np.maximum(positive, low) / np.maximum(negative, low))

    def curvature(self, scores: Any) -> Any:
        """Return ``p (1 - p)``, which knows no sign."""
        return logistic_curvature(scores.copy())[1]


class SoftmaxProblems(Problems):
    """Multinomial logistic problems: one for each value of C, a column for each class.

    Shapes: `labels` (n_rows,), `sample_weight` (n_rows,), `C` (n_problems,).
    """

    def groups(self, problems: Integers) -> list[Group]:
        """All rows meet all columns."""
        return [Group(0, self.design.n_rows, np.arange(len(problems) * self.columns))]

    def weighted_link(self, problems: Integers) -> Any:
        """Bind the softmax loss, problem by problem."""
        return SoftmaxLink(self.labels, self.weight, self.columns)

    def curvature(self, scores: Any) -> Any:
        """Return ``p_k (1 - p_k)``."""
        z = scores.reshape(-1, self.columns)
        p = np.exp(z - z.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        return (p * (1 - p)).reshape(scores.shape)

    def restricted(
        self, design: Design, rows: Integers, stride: Array, workers: Workers
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


def class_pairs(n_classes: int) -> Integers:
    """List one-vs-one's pairs in scikit-learn's order; the second of a pair is its positive class.

    Shapes: returns (n_classes * (n_classes - 1) / 2, 2).
    """
    return np.stack(np.triu_indices(n_classes, k=1), axis=1)


def n_heads(strategy: str, n_classes: int) -> int:
    """Count a strategy's linear heads (rows of ``coef_``): 1 for two classes, whatever it is."""
    if strategy not in STRATEGIES:
        raise ValueError(f"unknown strategy {strategy!r}; expected one of {', '.join(STRATEGIES)}")
    if n_classes == 2:
        return 1
    return n_classes * (n_classes - 1) // 2 if strategy == "ovo" else n_classes
