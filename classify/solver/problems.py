"""Objectives of many problems at once: value, gradient and curvature.

Every problem has scikit-learn's objective,

    ``f(w, b) = C * sum_i s_i loss_i(w, b) + 0.5 * ||w||^2``,

with sample weights ``s`` and an intercept ``b`` that is not penalised. A problem's parameters are
one flat vector: for each of its columns the weights, then the intercept. `BinaryProblems` have
one column each (one-vs-rest, one-vs-one, code books, two classes) and the logistic or the squared
hinge loss, `SoftmaxProblems` have one for each class.

All problems, or those that are still being solved, are evaluated in one pass over the rows; see
`classify.solver.passes`. ``C`` belongs to the problem, so several values of C can ride in one pass.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from classify.solver.arrays import Arrays, Design, HostArrays, RowPasses
from classify.solver.codes import Code
from classify.solver.design import DesignMatrix
from classify.solver.losses import LOGISTIC, BinaryLink, BinaryLoss, SoftmaxLink
from classify.solver.passes import Group, Passes, SignedScores
from classify.solver.strategies import Strategy, strategy_of
from classify.solver.threads import Workers, each_piece, row_dots

Array = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating[Any]]
Integers = npt.NDArray[np.intp]


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


class Sides(NamedTuple):
    """Which classes are on which side of each binary problem.

    `positive` (n_problems,) is a class each; `negative` (n_problems,) is one too (one-vs-one), or
    None for all others (one-vs-rest). A `code` (n_classes, n_problems) stands in place of both: 1
    for the classes that are positive, -1 for the negative ones, 0 for those that are left out.
    """

    positive: Integers
    negative: Integers | None = None
    code: Code | None = None

    @classmethod
    def of_code(cls, code: Code) -> Sides:
        """Take the sides from a code book."""
        return cls(np.argmax(code > 0, axis=0), None, code)

    @property
    def by_class(self) -> bool:
        """Whether rows are sorted by class, of which each meets columns of its own."""
        return self.negative is not None or self.code is not None

    def meets(self, label: int, problems: Integers) -> tuple[Integers, Array]:
        """Return the columns that a class meets, and the signs of its rows' scores in them."""
        if self.code is not None:
            row = self.code[label, problems]
            columns = np.flatnonzero(row)
            return columns, -row[columns].astype(np.float64)
        assert self.negative is not None
        positive, negative = self.positive[problems], self.negative[problems]
        columns = np.flatnonzero((positive == label) | (negative == label))
        return columns, np.where(positive[columns] == label, -1.0, 1.0)

    def masses(self, mass: Array) -> tuple[Array, Array]:
        """Sum the classes' weights on the positive and on the negative side of each problem."""
        if self.code is not None:
            wide = self.code[: len(mass)].astype(np.float64)
            return mass @ np.maximum(wide, 0), mass @ np.maximum(-wide, 0)
        positive = mass[self.positive]
        if self.negative is None:
            return positive, mass.sum() - positive
        return positive, mass[self.negative]


class BinaryProblems(Problems):
    """Binary problems: one-vs-rest, one-vs-one, a code book's, or two classes.

    Shapes: `labels` (n_rows,), `sample_weight` (n_rows,), `C` (n_problems,).
    """

    def __init__(
        self,
        design: Design,
        labels: Integers,
        sample_weight: Array | None,
        C: Array,
        sides: Sides,
        workers: Workers,
        intercept: bool = True,
        loss: BinaryLoss = LOGISTIC,
    ) -> None:
        self.sides, self.loss = sides, loss
        super().__init__(design, labels, sample_weight, C, 1, workers, intercept)
        self.arrays = HostArrays(labels, sample_weight, workers, loss)
        if sides.by_class:
            step = np.diff(labels)
            if not np.isin(np.flatnonzero(step < 0) + 1, design.edges).all():
                raise ValueError("one-vs-one needs its rows sorted by class")
            # A run: the rows of one class, in memory all of them, and those of a chunk otherwise.
            ends = np.union1d(np.flatnonzero(step) + 1, design.edges)
            self._runs = list(
                zip(ends[:-1].tolist(), ends[1:].tolist(), labels[ends[:-1]].tolist(), strict=True)
            )

    def groups(self, problems: Integers) -> list[Group]:
        """One group of all rows (one-vs-rest), or one a run of a class's rows."""
        if not self.sides.by_class:
            return [Group(0, self.design.n_rows, np.arange(len(problems)))]
        labels = {label for _, _, label in self._runs}
        meets = {label: self.sides.meets(label, problems) for label in labels}
        return [
            Group(start, stop, *meets[label], kind=label)
            for start, stop, label in self._runs
            if len(meets[label][0])
        ]

    def weighted_link(self, problems: Integers) -> Any:
        """Bind the loss; without signs from the group, each row brings its own."""
        return BinaryLink(self.labels, self.weight, self.sides.positive[problems], self.loss)

    def restricted(
        self, design: Design, rows: Integers, stride: Array, workers: Workers
    ) -> BinaryProblems:
        """Set up the same problems over other features of some of the rows."""
        weight, C = self._scaled(rows, stride)
        common = design, self.labels[rows], weight, C
        return BinaryProblems(*common, self.sides, workers, self.intercept, self.loss)

    def base_rates(self) -> Array:
        """Return each problem's best intercept, by the weights of its two sides."""
        n_classes = int(self.sides.positive.max()) + 1
        if self.sides.code is not None:
            n_classes = len(self.sides.code)
        mass = np.bincount(self.labels, self.weight, minlength=n_classes)
        return self.loss.intercept(*self.sides.masses(mass.astype(np.float64)))


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


def n_heads(strategy: str | Strategy, n_classes: int) -> int:
    """Count a strategy's linear heads (rows of ``coef_``): 1 for two classes, whatever it is."""
    return strategy_of(strategy).n_heads(n_classes)
