"""Logistic objectives for many problems at once: value, gradient and curvature.

Every problem has scikit-learn's objective,

    ``f(w, b) = C * sum_i s_i loss_i(w, b) + 0.5 * ||w||^2``,

with sample weights ``s`` and an intercept ``b`` that is not penalised. A problem's parameters are
one flat vector: for each of its columns the weights, then the intercept. `BinaryProblems` are one
column each (one-vs-rest, one-vs-one, two classes); `SoftmaxProblems` are one column a class.

All problems, or those that are still being solved, are evaluated in one pass over the rows; see
`classify.passes`. ``C`` belongs to the problem, so several values of C can ride in one pass.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import numpy.typing as npt

from classify.design_matrix import DesignMatrix
from classify.losses import logistic, softmax
from classify.passes import Group, Link, Passes
from classify.threads import Workers

Array = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating[Any]]
Integers = npt.NDArray[np.intp]


class Problems(ABC):
    """Problems over the same rows.

    Parameters
    ----------
    design : DesignMatrix
        The features.
    labels : ndarray of int, shape (n_rows,)
        Class index of each row of `design`.
    sample_weight : ndarray of float64, shape (n_rows,), or None
        Weight of each row's loss; 1 by default.
    C : ndarray of float64, shape (n_problems,)
        Weight of the losses against the penalty, per problem.
    columns : int
        Columns per problem.
    workers : Workers
        Threads.
    """

    def __init__(
        self,
        design: DesignMatrix,
        labels: Integers,
        sample_weight: Array | None,
        C: Array,
        columns: int,
        workers: Workers,
    ) -> None:
        self.design, self.labels, self.workers = design, labels, workers
        self.weight = sample_weight
        self.C = np.asarray(C, dtype=np.float64)
        self.n_problems = len(self.C)
        self.columns = columns
        self.n_parameters = columns * (design.n_features + 1)
        self.passes = Passes(design, workers)

    @abstractmethod
    def groups(self, problems: Integers) -> list[Group]:
        """List which rows meet which columns when `problems`, in this order, are in the pass."""

    @abstractmethod
    def link(
        self, scores: Floats, start: int, stop: int, group: Group, problems: Integers
    ) -> tuple[Floats, Floats]:
        """Turn a block's signed scores into losses and residuals.

        Parameters
        ----------
        scores : ndarray, shape (stop - start, k)
            Signed scores in the group's columns; overwritten.
        start, stop : int
            Rows.
        group : Group
            What the rows meet.
        problems : ndarray of int
            The problems in the pass.

        Returns
        -------
        loss : ndarray, shape (stop - start, k / columns)
            One column a problem, without sample weights.
        residual : ndarray, shape (stop - start, k)
            Derivative of the loss with respect to `scores`, without sample weights.
        """

    @abstractmethod
    def curvature(
        self, scores: Floats, start: int, stop: int, group: Group, directions: Floats | None
    ) -> Floats:
        """Return the loss's second derivative in the scores, or its product with directions.

        Parameters
        ----------
        scores : ndarray, shape (stop - start, k)
            Signed scores in the group's columns.
        start, stop : int
            Rows.
        group : Group
            What the rows meet.
        directions : ndarray, shape (stop - start, k), or None
            Signed scores of a direction.

        Returns
        -------
        ndarray, shape (stop - start, k)
            Without directions, the diagonal (each column's own second derivative); with them,
            the second derivative applied to them. No sample weights.
        """

    def members(self, problems: Integers, rows: Integers) -> npt.NDArray[np.bool_]:
        """Mark which rows take part in which columns.

        Parameters
        ----------
        problems : ndarray of int, shape (k,)
            Which problems.
        rows : ndarray of int, shape (n,)
            Rows of the design.

        Returns
        -------
        ndarray of bool, broadcastable to (n, k * columns)
            All do, unless a subclass says otherwise.
        """
        return np.ones((1, 1), dtype=bool)

    def split(self, points: Array) -> tuple[Array, Array]:
        """Split parameters into weights and intercepts.

        Parameters
        ----------
        points : ndarray of float64, shape (k, n_parameters)
            Parameters of some problems.

        Returns
        -------
        weights : ndarray of float64, shape (k * columns, n_features)
            A view.
        intercepts : ndarray of float64, shape (k * columns,)
            A view.
        """
        table = points.reshape(-1, self.design.n_features + 1)
        return table[:, :-1], table[:, -1]

    def weighted_link(self, problems: Integers) -> Link:
        """Bind `link` to the problems of a pass, and multiply by the sample weights.

        Parameters
        ----------
        problems : ndarray of int
            The problems in the pass.

        Returns
        -------
        callable
            What `classify.passes.Passes.fused` asks for.
        """

        def link(scores: Floats, start: int, stop: int, group: Group) -> tuple[Floats, Floats]:
            loss, residual = self.link(scores, start, stop, group, problems)
            if self.weight is not None:
                weight = self.weight[start:stop, None].astype(residual.dtype)
                loss, residual = loss * weight, residual * weight
            return loss, residual

        return link

    def evaluate(self, problems: Integers, points: Array) -> tuple[Array, Array]:
        """Evaluate objectives and gradients in one pass over the rows.

        Parameters
        ----------
        problems : ndarray of int, shape (k,)
            Which problems.
        points : ndarray of float64, shape (k, n_parameters)
            Their parameters.

        Returns
        -------
        values : ndarray of float64, shape (k,)
            Objectives.
        gradients : ndarray of float64, shape (k, n_parameters)
            Gradients.
        """
        weights, intercepts = self.split(points)
        losses, totals, products = self.passes.fused(
            self.groups(problems), weights, intercepts, self.weighted_link(problems)
        )
        squares = np.einsum("ij,ij->i", weights, weights).reshape(len(problems), -1).sum(axis=1)
        values = self.C[problems] * losses[: len(problems)] + 0.5 * squares
        return values, self.assemble(problems, weights, totals, products)

    def assemble(self, problems: Integers, weights: Array, totals: Array, products: Array) -> Array:
        """Weigh a pass's sums by C and add the penalty's part.

        Parameters
        ----------
        problems : ndarray of int, shape (k,)
            Which problems.
        weights : ndarray of float64, shape (k * columns, n_features)
            What the penalty's derivative is: the weights themselves.
        totals : ndarray of float64, shape (k * columns,)
            Summed residuals.
        products : ndarray of float64, shape (k * columns, n_features)
            Residuals times features.

        Returns
        -------
        ndarray of float64, shape (k, n_parameters)
            The gradients.
        """
        C = np.repeat(self.C[problems], self.columns)
        gradients = np.empty((len(weights), self.design.n_features + 1))
        np.multiply(products, C[:, None], out=gradients[:, :-1])
        gradients[:, :-1] += weights
        np.multiply(totals, C, out=gradients[:, -1])
        return gradients.reshape(len(problems), -1)

    def hessian_product(self, problems: Integers, points: Array, directions: Array) -> Array:
        """Multiply the Hessians at `points` by `directions`.

        Parameters
        ----------
        problems : ndarray of int, shape (k,)
            Which problems.
        points, directions : ndarray of float64, shape (k, n_parameters)
            Where, and what is multiplied.

        Returns
        -------
        ndarray of float64, shape (k, n_parameters)
            The products.
        """
        groups = self.groups(problems)
        along, along_intercepts = self.split(directions)
        at = self.passes.scores(groups, *self.split(points))
        of = self.passes.scores(groups, along, along_intercepts)
        bent = []
        for group, scores, direction in zip(groups, at, of, strict=True):
            product = self.curvature(scores, group.start, group.stop, group, direction)
            if self.weight is not None:
                product = product * self.weight[group.start : group.stop, None]
            bent.append(product.astype(scores.dtype, copy=False))
        totals, products = self.passes.back(groups, bent, len(along))
        return self.assemble(problems, along, totals, products)


class BinaryProblems(Problems):
    """Binary logistic problems: one-vs-rest, one-vs-one, or two classes.

    Parameters
    ----------
    design : DesignMatrix
        The features; for one-vs-one with its rows sorted by class.
    labels : ndarray of int, shape (n_rows,)
        Class index of each row of `design`.
    sample_weight : ndarray of float64, shape (n_rows,), or None
        Weight of each row's loss.
    C : ndarray of float64, shape (n_problems,)
        Per problem.
    positive : ndarray of int, shape (n_problems,)
        The class whose rows are positive.
    negative : ndarray of int, shape (n_problems,), or None
        The class whose rows are negative; ``None`` for all the rest.
    workers : Workers
        Threads.
    """

    def __init__(
        self,
        design: DesignMatrix,
        labels: Integers,
        sample_weight: Array | None,
        C: Array,
        positive: Integers,
        negative: Integers | None,
        workers: Workers,
    ) -> None:
        super().__init__(design, labels, sample_weight, C, 1, workers)
        self.positive, self.negative = positive, negative
        if negative is not None:
            if np.any(np.diff(labels) < 0):
                raise ValueError("one-vs-one needs its rows sorted by class")
            self._edges = np.searchsorted(labels, np.arange(int(labels[-1]) + 2))

    def groups(self, problems: Integers) -> list[Group]:
        """One group of all rows (one-vs-rest), or one a class (one-vs-one)."""
        if self.negative is None:
            return [Group(0, self.design.n_rows, np.arange(len(problems)))]
        positive, negative = self.positive[problems], self.negative[problems]
        found = []
        for label in range(len(self._edges) - 1):
            start, stop = int(self._edges[label]), int(self._edges[label + 1])
            columns = np.flatnonzero((positive == label) | (negative == label))
            if len(columns) and stop > start:
                sign = np.where(positive[columns] == label, -1.0, 1.0)
                found.append(Group(start, stop, columns, sign))
        return found

    def members(self, problems: Integers, rows: Integers) -> npt.NDArray[np.bool_]:
        """One-vs-one: a row takes part in its own class's pairs."""
        if self.negative is None:
            return super().members(problems, rows)
        own = self.labels[rows, None]
        return (own == self.positive[problems]) | (own == self.negative[problems])

    def link(
        self, scores: Floats, start: int, stop: int, group: Group, problems: Integers
    ) -> tuple[Floats, Floats]:
        """Apply the logistic loss; without signs from the group, each row brings its own."""
        if group.sign is not None:
            return logistic(scores)
        own = self.labels[start:stop, None] == self.positive[problems]
        loss, residual = logistic(np.negative(scores, out=scores, where=own))
        return loss, np.negative(residual, out=residual, where=own)

    def curvature(
        self, scores: Floats, start: int, stop: int, group: Group, directions: Floats | None
    ) -> Floats:
        """Return ``p (1 - p)``, which knows no sign, times the directions."""
        e = np.exp(-np.abs(scores))
        second = e / (1 + e) ** 2
        return second if directions is None else second * directions


class SoftmaxProblems(Problems):
    """Multinomial logistic problems: one for each value of C, a column for each class.

    Parameters
    ----------
    design : DesignMatrix
        The features.
    labels : ndarray of int, shape (n_rows,)
        Class index of each row.
    sample_weight : ndarray of float64, shape (n_rows,), or None
        Weight of each row's loss.
    C : ndarray of float64, shape (n_problems,)
        Per problem.
    n_classes : int
        Number of classes.
    workers : Workers
        Threads.
    """

    def __init__(
        self,
        design: DesignMatrix,
        labels: Integers,
        sample_weight: Array | None,
        C: Array,
        n_classes: int,
        workers: Workers,
    ) -> None:
        super().__init__(design, labels, sample_weight, C, n_classes, workers)

    def groups(self, problems: Integers) -> list[Group]:
        """All rows meet all columns."""
        return [Group(0, self.design.n_rows, np.arange(len(problems) * self.columns))]

    def link(
        self, scores: Floats, start: int, stop: int, group: Group, problems: Integers
    ) -> tuple[Floats, Floats]:
        """Apply the softmax loss, problem by problem."""
        labels = np.repeat(self.labels[start:stop], len(problems))
        loss, residual = softmax(scores.reshape(-1, self.columns), labels)
        return loss.reshape(stop - start, -1), residual.reshape(stop - start, -1)

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
