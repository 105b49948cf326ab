"""Passes over the rows: scores, a loss, and the product back, block by block.

What a block of rows meets is a `Group` of columns. For one-vs-rest and the softmax there is one
group: all rows meet all columns. For one-vs-one the rows are sorted by class, and the rows of a
class meet only the pairs that the class takes part in: ``n_classes - 1`` columns instead of
``n_classes (n_classes - 1) / 2``.

Groups are cut into pieces by the shape of the data alone; threads take pieces, and their float64
sums are added in the order of the rows. The answer's bits do not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from classify.design_matrix import DesignMatrix, thin_product
from classify.threads import Workers

Array = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating[Any]]
Integers = npt.NDArray[np.intp]

# What one thread does at a time: enough for its start to cost nothing, little enough to share out.
PIECE_BYTES = 8_000_000


@dataclass(frozen=True, eq=False)
class Group:
    """Consecutive rows and the columns they meet.

    Attributes
    ----------
    start, stop : int
        Rows.
    columns : ndarray of int, shape (k,)
        Columns of the pass.
    sign : ndarray of float64, shape (k,), or None
        What these rows' scores are multiplied by: -1 where all of them are positive in the
        column, +1 where all are negative. ``None`` leaves the scores as they are.
    """

    start: int
    stop: int
    columns: Integers
    sign: Array | None = None


# (signed scores, first row, last row + 1, group) -> (losses per row, residuals)
Link = Callable[[Floats, int, int, Group], tuple[Floats, Floats]]
# (index of the group, first row, last row + 1) -> (losses per row, residuals)
Residuals = Callable[[int, int, int], tuple[Floats, Floats]]


class Passes:
    """The passes over one design matrix.

    Parameters
    ----------
    design : DesignMatrix
        The features.
    workers : Workers
        Threads.
    """

    def __init__(self, design: DesignMatrix, workers: Workers) -> None:
        self.design, self.workers = design, workers

    def pieces(self, groups: Sequence[Group]) -> list[tuple[int, int, int]]:
        """Cut groups into what one thread does at a time.

        Parameters
        ----------
        groups : sequence of Group
            Which rows meet which columns.

        Returns
        -------
        list of tuple
            Index of the group, first row, last row + 1.
        """
        rows = self.design.block_rows
        bytes_a_row = max(1, self.design.n_features * self.design.dtype.itemsize)
        step = max(rows, PIECE_BYTES // bytes_a_row // rows * rows)
        return [
            (index, start, min(start + step, group.stop))
            for index, group in enumerate(groups)
            for start in range(group.start, group.stop, step)
        ]

    def _blocks(self, start: int, stop: int) -> list[tuple[int, int]]:
        rows = self.design.block_rows
        return [(low, min(low + rows, stop)) for low in range(start, stop, rows)]

    def fused(
        self, groups: Sequence[Group], weights: Array, intercepts: Array, link: Link
    ) -> tuple[Array, Array, Array]:
        """Compute scores, losses, residuals and their products with the features.

        Parameters
        ----------
        groups : sequence of Group
            Which rows meet which columns.
        weights : ndarray of float64, shape (n_columns, n_features)
            Weights of the design's features.
        intercepts : ndarray of float64, shape (n_columns,)
            Intercepts.
        link : callable
            From signed scores to losses, shape ``(rows, k)`` or ``(rows, 1)``, and residuals.

        Returns
        -------
        losses : ndarray of float64, shape (n_columns,)
            Summed losses. Where `link` returns fewer losses than there are columns, as many
            leading entries are filled.
        totals : ndarray of float64, shape (n_columns,)
            Column sums of the residuals.
        products : ndarray of float64, shape (n_columns, n_features)
            ``residuals.T @ features``.
        """
        raw, offset = self.design.fold(weights, intercepts)
        factors = [_signed(raw, offset, group) for group in groups]

        def residuals(index: int, low: int, high: int) -> tuple[Floats, Floats]:
            w, b = factors[index]
            scores = thin_product(self.design.block(low, high), w)
            scores += b
            return link(scores, low, high, groups[index])

        return self.pull(groups, residuals, len(weights))

    def scores(self, groups: Sequence[Group], weights: Array, intercepts: Array) -> list[Floats]:
        """Compute every group's signed scores: the first half of a pass.

        Parameters
        ----------
        groups : sequence of Group
            Which rows meet which columns.
        weights : ndarray of float64, shape (n_columns, n_features)
            Weights of the design's features.
        intercepts : ndarray of float64, shape (n_columns,)
            Intercepts.

        Returns
        -------
        list of ndarray, shape (rows of the group, columns of the group)
            In the features' dtype.
        """
        raw, offset = self.design.fold(weights, intercepts)
        factors = [_signed(raw, offset, group) for group in groups]
        result = [
            np.empty((group.stop - group.start, len(group.columns)), raw.dtype) for group in groups
        ]

        def work(piece: tuple[int, int, int]) -> None:
            index, start, stop = piece
            w, b = factors[index]
            first = groups[index].start
            for low, high in self._blocks(start, stop):
                product = thin_product(self.design.block(low, high), w)
                np.add(product, b, out=result[index][low - first : high - first])

        self.workers.map(work, self.pieces(groups))
        return result

    def pull(
        self, groups: Sequence[Group], residuals: Residuals, n_columns: int
    ) -> tuple[Array, Array, Array]:
        """Sum losses, and multiply signed residuals by the features: the second half of a pass.

        Parameters
        ----------
        groups : sequence of Group
            Which rows meet which columns.
        residuals : callable
            From a group's index and a block of its rows to their losses, ``(rows, k)`` or
            ``(rows, 1)``, and the derivatives with respect to the signed scores, in the features'
            dtype.
        n_columns : int
            Columns of the pass.

        Returns
        -------
        losses : ndarray of float64, shape (n_columns,)
            Summed losses; leading entries are filled where there are fewer than columns.
        totals : ndarray of float64, shape (n_columns,)
            Column sums of the residuals.
        products : ndarray of float64, shape (n_columns, n_features)
            ``residuals.T @ features``.
        """

        def work(piece: tuple[int, int, int]) -> tuple[Group, Array, Array, Array]:
            index, start, stop = piece
            group = groups[index]
            loss: Array | float = 0.0
            total = np.zeros(len(group.columns))
            product = np.zeros((len(group.columns), self.design.n_features))
            for low, high in self._blocks(start, stop):
                losses, residual = residuals(index, low, high)
                loss = loss + losses.sum(axis=0, dtype=np.float64)
                total += residual.sum(axis=0, dtype=np.float64)
                product += residual.T @ self.design.block(low, high)
            return group, np.asarray(loss), total, product

        losses = np.zeros(n_columns)
        totals = np.zeros(n_columns)
        products = np.zeros((n_columns, self.design.n_features))
        for group, loss, total, product in self.workers.map(work, self.pieces(groups)):
            losses[group.columns[: len(loss)]] += loss
            _gather(group, total, product, totals, products)
        return losses, totals, self.design.unfold(products, totals)

    def back(
        self, groups: Sequence[Group], residuals: Sequence[Floats], n_columns: int
    ) -> tuple[Array, Array]:
        """Multiply signed residuals by the features: `pull` without the losses.

        Parameters
        ----------
        groups : sequence of Group
            Which rows meet which columns.
        residuals : sequence of ndarray, shape (rows of the group, columns of the group)
            Derivatives with respect to the signed scores, in the features' dtype.
        n_columns : int
            Columns of the pass.

        Returns
        -------
        totals : ndarray of float64, shape (n_columns,)
            Column sums of the residuals.
        products : ndarray of float64, shape (n_columns, n_features)
            ``residuals.T @ features``.
        """

        def each(index: int, low: int, high: int) -> tuple[Floats, Floats]:
            first = groups[index].start
            return np.zeros((1, 0)), residuals[index][low - first : high - first]

        _, totals, products = self.pull(groups, each, n_columns)
        return totals, products


def _signed(raw: Floats, offset: Floats, group: Group) -> tuple[Floats, Floats]:
    """Pick a group's columns of the folded weights, with their signs."""
    w, b = raw[:, group.columns], offset[group.columns]
    if group.sign is not None:
        sign = group.sign.astype(raw.dtype)
        w, b = w * sign, b * sign
    return np.ascontiguousarray(w), b


def _gather(group: Group, total: Array, product: Array, totals: Array, products: Array) -> None:
    """Add a piece's sums, freed of the group's signs, to those of all columns, in place."""
    if group.sign is not None:
        total *= group.sign
        product *= group.sign[:, None]
    totals[group.columns] += total
    products[group.columns] += product
