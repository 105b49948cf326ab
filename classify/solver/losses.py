"""The two losses as functions of scores, in forms that neither overflow nor cancel.

Each returns the loss, and the residual: the loss's derivative with respect to the scores.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

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
    second = 1 - p
    second *= p
    return p, second


def softmax(z: Floats, labels: npt.NDArray[np.intp]) -> tuple[Floats, Floats]:
    """Evaluate the multinomial loss ``log(sum_k exp(z_k)) - z_label``.

    Shapes: `z` (n_rows, n_classes), `labels` (n_rows,), `loss` (n_rows,), `residual` (n_rows,
    n_classes).
    """
    # One class after the other: along rows of a few classes numpy's reductions crawl.
    t = np.ascontiguousarray(z.T)
    own = labels, np.arange(len(z))
    # Relative to the label's score, so that the small loss of a well-classified row is a
    # log1p of small numbers and not a difference of large ones.
    t -= t[own]
    top = t.max(axis=0)
    others, total = softmax_shares(t[:, None], top[None], own)[1:]
    loss = top + np.where(top > 0, np.log(total[0]), np.log1p(others[0]))
    t[own] = -others[0] / total[0]
    z[...] = t.T
    return loss, z


def softmax_shares(t: Floats, top: Floats, own: Any) -> tuple[Floats, Floats, Floats]:
    """Turn scores into the softmax, with the label's share apart.

    Shapes: `t` (n_classes, n_problems, n_rows), `top` (n_problems, n_rows), `own, others, total`
    (n_problems, n_rows).
    """
    t -= top
    np.exp(t, out=t)
    label, row = own
    mine = np.ascontiguousarray(t[label, :, row].T)
    t[label, :, row] = 0
    others = t.sum(axis=0)
    total = mine + others
    t /= total
    return mine, others, total


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

    def bend_sums(
        self, scores: Floats, start: int, stop: int, group: Group, along: Floats
    ) -> Array:
        """Sum a block's first and second derivatives, as a line search needs them.

        Shapes: `scores` (k, stop - start), `along` (k, stop - start), returns (5, k).
        """
        residual, curved, second = self._bend(scores, start, stop, group, along)
        if self.weight is not None:
            weight = self.weight[start:stop].astype(along.dtype)
            residual, curved, second = residual * weight, curved * weight, second * weight
        parts = residual * along, curved * along, residual, curved, second
        # numpy adds up neighbours pairwise, which keeps the digits that the sums cancel.
        return np.stack([part.sum(axis=1) for part in parts]).astype(np.float64)

    @abstractmethod
    def _link(
        self, scores: Floats, start: int, stop: int, group: Group
    ) -> tuple[Floats, Floats]: ...

    @abstractmethod
    def _bend(
        self, scores: Floats, start: int, stop: int, group: Group, along: Floats
    ) -> tuple[Floats, Floats, Floats]: ...


class BinaryLink(RowLink):
    """The logistic loss, a column a problem.

    Shapes: `labels` (n_rows,), `weight` (n_rows,), `positive` (k,).
    """

    def __init__(self, labels: Integers, weight: Array | None, positive: Integers) -> None:
        super().__init__(labels, weight)
        self.positive = positive
        place = np.full(int(max(positive.max(initial=-1), labels.max(initial=-1))) + 1, -1)
        place[positive] = np.arange(len(positive))
        # One column a class, so one entry a row at most is the row's own: few of the block's.
        self._single = np.array_equal(place[positive], np.arange(len(positive)))
        self._place = place

    def _flip(self, block: Floats, start: int, stop: int, axis: int) -> None:
        """Negate, in place, the entries of rows in their own class's columns, along `axis`."""
        labels = self.labels[start:stop]
        if not self._single:
            own = labels[:, None] == self.positive
            np.negative(block, out=block, where=own if axis == 1 else own.T)
            return
        column = self._place[labels]
        rows = np.flatnonzero(column >= 0)
        column = column[rows]
        index = rows * block.shape[1] + column if axis == 1 else column * block.shape[1] + rows
        flat = block.reshape(-1)
        flat[index] = -flat[index]

    def _link(self, scores: Floats, start: int, stop: int, group: Group) -> tuple[Floats, Floats]:
        if group.sign is not None:
            return logistic(scores)
        self._flip(scores, start, stop, 1)
        loss, residual = logistic(scores)
        self._flip(residual, start, stop, 1)
        return loss, residual

    def _bend(
        self, scores: Floats, start: int, stop: int, group: Group, along: Floats
    ) -> tuple[Floats, Floats, Floats]:
        if group.sign is None:
            self._flip(scores, start, stop, 0)
        residual, second = logistic_curvature(scores)
        if group.sign is None:
            self._flip(residual, start, stop, 0)
        return residual, second * along, second


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

    def _bend(
        self, scores: Floats, start: int, stop: int, group: Group, along: Floats
    ) -> tuple[Floats, Floats, Floats]:
        shape = scores.shape
        p = scores.reshape(-1, self.columns, stop - start).transpose(1, 0, 2)
        on = along.reshape(-1, self.columns, stop - start).transpose(1, 0, 2)
        own = self.labels[start:stop], np.arange(stop - start)
        mine, others, total = softmax_shares(p, p.max(axis=0), own)
        residual = p.copy()
        residual[own[0], :, own[1]] = -(others / total).T
        p[own[0], :, own[1]] = (mine / total).T
        curved = p * on
        curved -= p * curved.sum(axis=0)
        second = p - p * p
        parts = (part.transpose(1, 0, 2).reshape(shape) for part in (residual, curved, second))
        return next(parts), next(parts), next(parts)
