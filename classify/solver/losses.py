"""The losses as functions of scores, in forms that neither overflow nor cancel.

Each returns the loss, and the residual: the loss's derivative with respect to the scores.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from classify.solver.passes import Group

Array = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating[Any]]
Integers = npt.NDArray[np.intp]


def logistic(u: Floats) -> tuple[Floats, Floats]:
    """Evaluate the logistic loss ``log(1 + exp(u))``.

    ``u`` is minus the margin: the score itself for a row of the negative class, minus the score
    for a row of the positive class. Written this way the residual of a well-classified row keeps
    its relative precision (``sigmoid(z) - 1`` would cancel).
    """
    loss = np.abs(u)
    np.negative(loss, out=loss)
    np.exp(loss, out=loss)
    np.log1p(loss, out=loss)
    loss += np.maximum(u, 0)
    return loss, sigmoid(np.negative(u))


def sigmoid(minus: Floats) -> Floats:
    """Return ``1 / (1 + exp(minus))`` in its argument's place: no branch, no cancellation."""
    with np.errstate(over="ignore"):  # an infinite exponential is a residual of zero
        np.exp(minus, out=minus)
    minus += 1
    return np.reciprocal(minus, out=minus)


def logistic_curvature(u: Floats) -> tuple[Floats, Floats]:
    """Evaluate the first two derivatives of the logistic loss ``log(1 + exp(u))``."""
    p = sigmoid(np.negative(u, out=u))
    curvature = 1 - p
    curvature *= p
    return p, curvature


def squared_hinge(u: Floats) -> tuple[Floats, Floats]:
    """Evaluate the squared hinge loss ``max(0, 1 + u)^2`` of minus the margins."""
    over = np.maximum(u + 1, 0)
    return over * over, 2 * over


def squared_hinge_curvature(u: Floats) -> tuple[Floats, Floats]:
    """Evaluate the first two derivatives of the squared hinge loss; at its kink, from the left."""
    over = np.maximum(np.add(u, 1, out=u), 0, out=u)
    curvature = np.where(over > 0, u.dtype.type(2), u.dtype.type(0))
    over *= 2
    return over, curvature


class BinaryLoss(ABC):
    """A loss of binary problems as a function of ``u``, minus the margin.

    ``u`` is the score of a row of the negative class, minus the score of one of the positive.
    """

    name: ClassVar[str]
    at_zero: ClassVar[float]  # the second derivative for a score of zero
    symmetric: ClassVar[bool]  # whether the second derivative is the same for -u

    @abstractmethod
    def value(self, u: Floats) -> tuple[Floats, Floats]:
        """Return the loss and its derivative."""

    @abstractmethod
    def curvature(self, u: Floats) -> tuple[Floats, Floats]:
        """Return the first two derivatives; `u` is overwritten."""

    @abstractmethod
    def intercept(self, positive: Array, negative: Array) -> Array:
        """Return the best intercept where all weights are zero, for so much weight on each side."""


class LogisticLoss(BinaryLoss):
    """``log(1 + exp(u))``."""

    name, at_zero, symmetric = "logistic", 0.25, True

    def value(self, u: Floats) -> tuple[Floats, Floats]:
        """Return the loss and its derivative."""
        return logistic(u)

    def curvature(self, u: Floats) -> tuple[Floats, Floats]:
        """Return the first two derivatives; `u` is overwritten."""
        return logistic_curvature(u)

    def intercept(self, positive: Array, negative: Array) -> Array:
        """Return the log odds."""
        low = np.finfo(float).eps * np.maximum(positive + negative, np.finfo(float).tiny)
        return np.asarray(np.log(np.maximum(positive, low) / np.maximum(negative, low)))


class SquaredHingeLoss(BinaryLoss):
    """``max(0, 1 + u)^2``: the loss of a linear support vector machine."""

    name, at_zero, symmetric = "squared_hinge", 2.0, False

    def value(self, u: Floats) -> tuple[Floats, Floats]:
        """Return the loss and its derivative."""
        return squared_hinge(u)

    def curvature(self, u: Floats) -> tuple[Floats, Floats]:
        """Return the first two derivatives; `u` is overwritten."""
        return squared_hinge_curvature(u)

    def intercept(self, positive: Array, negative: Array) -> Array:
        """Return the mean of the labels 1 and -1: all rows are within the margin."""
        total = np.maximum(positive + negative, np.finfo(float).tiny)
        return np.asarray((positive - negative) / total)


LOGISTIC = LogisticLoss()
BINARY_LOSSES: dict[str, BinaryLoss] = {loss.name: loss for loss in (LOGISTIC, SquaredHingeLoss())}


def softmax(z: Floats, labels: npt.NDArray[np.intp]) -> tuple[Floats, Floats]:
    """Evaluate the multinomial loss ``log(sum_k exp(z_k)) - z_label``.

    Shapes: `z` (n_rows, n_classes), `labels` (n_rows,), `loss` (n_rows,), `residual` (n_rows,
    n_classes).
    """
    # One class after the other: along rows of a few classes numpy's reductions crawl.
    t = np.ascontiguousarray(z.T)
    of_row = labels, np.arange(len(z))
    # Relative to the label's score, so that the small loss of a well-classified row is a
    # log1p of small numbers and not a difference of large ones.
    t -= t[of_row]
    top = t.max(axis=0)
    others, total = softmax_terms(t[:, None], top[None], of_row)[1:]
    loss = top + np.where(top > 0, np.log(total[0]), np.log1p(others[0]))
    t[of_row] = -others[0] / total[0]
    z[...] = t.T
    return loss, z


def softmax_terms(t: Floats, top: Floats, of_row: Any) -> tuple[Floats, Floats, Floats]:
    """Turn scores into the softmax, with the label's share apart.

    Shapes: `t` (n_classes, n_problems, n_rows), `top` and what is returned (n_problems,
    n_rows): exponentials of the scores less the largest, the label's, the others' sum, and both.
    """
    t -= top
    np.exp(t, out=t)
    label, row = of_row
    of_label = np.ascontiguousarray(t[label, :, row].T)
    t[label, :, row] = 0
    others = t.sum(axis=0)
    total = of_label + others
    t /= total
    return of_label, others, total


class DirectionSums(NamedTuple):
    """A loss's derivatives along a direction, summed over rows, for each of k columns."""

    slope: Array  # first derivative in the signed scores, times the direction's scores
    curvature: Array  # second derivative applied to the direction's scores, times these
    residual: Array  # first derivative
    mixed: Array  # second derivative applied to the direction's scores
    diagonal: Array  # the second derivative's diagonal


class RowLink(ABC):
    """A loss for the problems of a pass, with sample weights.

    Shapes: `labels` (n_rows,), `weight` (n_rows,).
    """

    def __init__(self, labels: Integers, weight: Array | None) -> None:
        self.labels, self.weight = labels, weight

    def __call__(
        self, scores: Floats, start: int, stop: int, group: Group
    ) -> tuple[Floats, Floats]:
        """Turn a block's signed scores into losses and residuals.

        Shapes: `scores` (stop - start, k), `loss` (stop - start, k / columns of a problem),
        `residual` (stop - start, k).
        """
        loss, residual = self._link(scores, start, stop, group)
        if self.weight is not None:
            weight = self.weight[start:stop, None].astype(residual.dtype)
            loss, residual = loss * weight, residual * weight
        return loss, residual

    def direction_sums(
        self, scores: Floats, start: int, stop: int, group: Group, along: Floats
    ) -> DirectionSums:
        """Sum a block's first and second derivatives, as a line search needs them.

        Shapes: `scores` (k, stop - start), `along` (k, stop - start), returns (5, k).
        """
        residual, product, diagonal = self._curvature(scores, start, stop, group, along)
        if self.weight is not None:
            weight = self.weight[start:stop].astype(along.dtype)
            residual, product, diagonal = residual * weight, product * weight, diagonal * weight
        parts = residual * along, product * along, residual, product, diagonal
        # numpy adds up neighbours pairwise, which keeps the digits that the sums cancel.
        return DirectionSums(*(part.sum(axis=1).astype(np.float64) for part in parts))

    @abstractmethod
    def curvature(self, scores: Floats, start: int, stop: int, group: Group) -> Floats:
        """Return each column's second derivative of a block's losses, without sample weights.

        Shapes: `scores` (stop - start, k), left as they are; returns (stop - start, k).
        """

    @abstractmethod
    def _link(
        self, scores: Floats, start: int, stop: int, group: Group
    ) -> tuple[Floats, Floats]: ...

    @abstractmethod
    def _curvature(
        self, scores: Floats, start: int, stop: int, group: Group, along: Floats
    ) -> tuple[Floats, Floats, Floats]: ...


class BinaryLink(RowLink):
    """A loss of binary problems, a column a problem.

    Shapes: `labels` (n_rows,), `weight` (n_rows,), `positive` (k,).
    """

    def __init__(
        self,
        labels: Integers,
        weight: Array | None,
        positive: Integers,
        loss: BinaryLoss = LOGISTIC,
    ) -> None:
        super().__init__(labels, weight)
        self.positive, self.loss = positive, loss
        place = np.full(int(max(positive.max(initial=-1), labels.max(initial=-1))) + 1, -1)
        place[positive] = np.arange(len(positive))
        # One column a class, so one entry a row at most is the row's own: few of the block's.
        self._single = np.array_equal(place[positive], np.arange(len(positive)))
        self._place = place

    def _flip(self, block: Floats, start: int, stop: int, axis: int) -> None:
        """Negate, in place, the entries of rows in their own class's columns, along `axis`."""
        labels = self.labels[start:stop]
        if not self._single:
            of_row = labels[:, None] == self.positive
            np.negative(block, out=block, where=of_row if axis == 1 else of_row.T)
            return
        column = self._place[labels]
        rows = np.flatnonzero(column >= 0)
        column = column[rows]
        index = rows * block.shape[1] + column if axis == 1 else column * block.shape[1] + rows
        flat = block.reshape(-1)
        flat[index] = -flat[index]

    def _link(self, scores: Floats, start: int, stop: int, group: Group) -> tuple[Floats, Floats]:
        if group.sign is not None:
            return self.loss.value(scores)
        self._flip(scores, start, stop, 1)
        loss, residual = self.loss.value(scores)
        self._flip(residual, start, stop, 1)
        return loss, residual

    def curvature(self, scores: Floats, start: int, stop: int, group: Group) -> Floats:
        """Return the losses' second derivatives."""
        # In the order that the scores have in memory.
        u = np.array(scores.T, order="C")
        if group.sign is None and not self.loss.symmetric:
            self._flip(u, start, stop, 0)
        return self.loss.curvature(u)[1].T

    def _curvature(
        self, scores: Floats, start: int, stop: int, group: Group, along: Floats
    ) -> tuple[Floats, Floats, Floats]:
        if group.sign is None:
            self._flip(scores, start, stop, 0)
        residual, diagonal = self.loss.curvature(scores)
        if group.sign is None:
            self._flip(residual, start, stop, 0)
        return residual, diagonal * along, diagonal


class SoftmaxLink(RowLink):
    """The multinomial loss, a column for each class of each problem.

    Shapes: `labels` (n_rows,), `weight` (n_rows,).
    """

    def __init__(self, labels: Integers, weight: Array | None, columns: int) -> None:
        super().__init__(labels, weight)
        self.columns = columns

    def _link(self, scores: Floats, start: int, stop: int, group: Group) -> tuple[Floats, Floats]:
        z = scores.reshape(-1, self.columns)
        # Each problem's rows, and their labels.
        labels = np.repeat(self.labels[start:stop], len(z) // max(1, stop - start))
        loss, residual = softmax(z, labels)
        return loss.reshape(stop - start, -1), residual.reshape(stop - start, -1)

    def curvature(self, scores: Floats, start: int, stop: int, group: Group) -> Floats:
        """Return ``p_k (1 - p_k)``."""
        z = scores.reshape(-1, self.columns)
        p = np.exp(z - z.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        return np.asarray((p * (1 - p)).reshape(scores.shape))

    def _curvature(
        self, scores: Floats, start: int, stop: int, group: Group, along: Floats
    ) -> tuple[Floats, Floats, Floats]:
        shape = scores.shape
        p = scores.reshape(-1, self.columns, stop - start).transpose(1, 0, 2)
        on = along.reshape(-1, self.columns, stop - start).transpose(1, 0, 2)
        of_row = self.labels[start:stop], np.arange(stop - start)
        of_label, others, total = softmax_terms(p, p.max(axis=0), of_row)
        residual = p.copy()
        residual[of_row[0], :, of_row[1]] = -(others / total).T
        p[of_row[0], :, of_row[1]] = (of_label / total).T
        product = p * on
        product -= p * product.sum(axis=0)
        diagonal = p - p * p
        parts = (part.transpose(1, 0, 2).reshape(shape) for part in (residual, product, diagonal))
        return next(parts), next(parts), next(parts)
