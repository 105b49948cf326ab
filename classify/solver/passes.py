"""Passes over the rows: scores, a loss, and the product back, block by block.

What a block of rows meets is a `Group` of columns. For one-vs-rest and the softmax there is one
group: all rows meet all columns. For one-vs-one the rows are sorted by class, and the rows of a
class meet only the pairs that the class takes part in: ``n_classes - 1`` columns instead of
``n_classes (n_classes - 1) / 2``.

Groups are cut into pieces by the shape of the data alone; threads take pieces, and their float64
sums are added in the order of the rows. The answer's bits do not depend on the number of threads.
Where the rows are not in memory (`classify.solver.out_of_core`), a thread takes a chunk of them,
and all the pieces of groups that lie in it.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from classify.solver.design import Blocks, DesignMatrix, column_sums, thin_back, thin_product
from classify.solver.threads import Workers
from classify.solver.tuning import (
    COLUMN_PARTS,
    FEW_SPANS,
    FEWEST_COLUMNS,
    PIECE_BYTES,
    PIECE_NUMBERS,
    SHARE_NUMBERS,
)

Array = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating[Any]]
Integers = npt.NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Group:
    """Consecutive rows and the columns they meet."""

    start: int
    stop: int
    # (k,): Columns of the pass.
    columns: Integers
    # (k,): What these rows' scores are multiplied by: -1 where all of them are positive in the
    # column, +1 where all are negative. ``None`` leaves the scores as they are.
    sign: Array | None = None
    # Groups of a kind have the same columns and signs: with one-vs-one the runs of one class.
    kind: int = 0


class RowSpan(NamedTuple):
    """Consecutive rows of one group: what one thread does at a time."""

    group: int  # its place in the list of groups
    start: int
    stop: int


Result = TypeVar("Result")
# (signed scores, first row, last row + 1, group) -> (losses per row, residuals)
Link = Callable[[Floats, int, int, Group], tuple[Floats, Floats]]
# (index of the group, first row, last row + 1, those rows) -> (losses per row, residuals)
Residuals = Callable[[int, int, int, Floats], tuple[Floats, Floats]]


class SignedScores(NamedTuple):
    """The signed scores of all rows in some problems' columns, group by group."""

    groups: list[Group]
    # (rows of the group, columns of the group): one column after the other in memory.
    values: list[Floats]
    # Whether the caller may overwrite them.
    fresh: bool


class Passes:
    """The passes over one design matrix."""

    def __init__(self, design: DesignMatrix, workers: Workers) -> None:
        self.design, self.workers = design, workers

    def row_spans(self, groups: Sequence[Group]) -> list[RowSpan]:
        """Cut groups into what one thread does at a time."""
        rows = self.design.block_rows
        bytes_a_row = max(1, self.design.n_features * self.design.dtype.itemsize)
        step = max(rows, PIECE_BYTES // bytes_a_row // rows * rows)
        return [
            RowSpan(index, start, min(start + step, group.stop))
            for index, group in enumerate(groups)
            for start in range(group.start, group.stop, step)
        ]

    def _by_chunk(self, groups: Sequence[Group]) -> list[list[RowSpan]]:
        """Cut groups where the design's chunks end, and put the pieces of a chunk together."""
        edges = self.design.edges
        found: list[list[RowSpan]] = [[] for _ in edges[1:]]
        for index, group in enumerate(groups):
            chunk = int(np.searchsorted(edges, group.start, side="right")) - 1
            start = group.start
            while start < group.stop:
                stop = min(group.stop, int(edges[chunk + 1]))
                if start < stop:
                    found[chunk].append(RowSpan(index, start, stop))
                start, chunk = stop, chunk + 1
        return [spans for spans in found if spans]

    def _each(
        self, groups: Sequence[Group], visit: Callable[[RowSpan, Blocks], Result]
    ) -> Iterable[Result]:
        """Call `visit` with every piece of the groups, in threads; results in a fixed order."""
        design = self.design
        if len(design.edges) == 2:  # all rows are at hand
            rows = design.load(0, design.n_rows)
            return self.workers.map(lambda span: visit(span, rows), self.row_spans(groups))

        def work(spans: list[RowSpan]) -> list[Result]:
            rows = design.load(spans[0].start, spans[-1].stop)
            return [visit(span, rows) for span in spans]

        # The sums of all chunks together may be larger than memory: take them as they come.
        parts = self.workers.stream(work, self._by_chunk(groups))
        return (result for part in parts for result in part)

    def _blocks(self, start: int, stop: int) -> list[tuple[int, int]]:
        rows = self.design.block_rows
        return [(low, min(low + rows, stop)) for low in range(start, stop, rows)]

    def _folded(
        self, groups: Sequence[Group], weights: Array, intercepts: Array
    ) -> list[tuple[Floats, Floats]]:
        """Fold every group's weights; runs of a class share their columns, and so their weights."""
        # With one-vs-one in chunks a class has a run in each: its weights are folded once.
        distinct = {group.kind: group for group in groups}

        def fold(group: Group) -> tuple[Floats, Floats]:
            w, b = self.design.fold(weights[group.columns], intercepts[group.columns])
            if group.sign is not None:
                sign = group.sign.astype(w.dtype)
                w *= sign
                b *= sign
            return w, b

        made = dict(zip(distinct, self.workers.map(fold, distinct.values()), strict=True))
        return [made[group.kind] for group in groups]

    def fused(
        self, groups: Sequence[Group], weights: Array, intercepts: Array, link: Link
    ) -> tuple[Array, Array, Array]:
        """Compute scores, losses, residuals and their products with the features.

        Shapes: `weights` (n_columns, n_features), `intercepts` (n_columns,), `losses` (n_columns,),
        `totals` (n_columns,), `products` (n_columns, n_features).
        """
        factors = self._folded(groups, weights, intercepts)

        def residuals(index: int, low: int, high: int, block: Floats) -> tuple[Floats, Floats]:
            w, b = factors[index]
            scores = thin_product(block, w)
            scores += b
            return link(scores, low, high, groups[index])

        return self.pull(groups, residuals, len(weights))

    def scores(self, groups: Sequence[Group], weights: Array, intercepts: Array) -> list[Floats]:
        """Compute every group's signed scores: the first half of a pass.

        Shapes: `weights` (n_columns, n_features), `intercepts` (n_columns,), returns (rows of the
        group, columns of the group).
        """
        factors = self._folded(groups, weights, intercepts)
        result = [
            np.empty((len(group.columns), group.stop - group.start), self.design.dtype).T
            for group in groups
        ]

        parts = self._column_slices(groups)
        if len(parts) > 1:
            (w, b), (table,) = factors[0], result
            rows = self.design.load(0, self.design.n_rows)

            def some_columns(part: slice) -> None:
                for low, high in self._blocks(groups[0].start, groups[0].stop):
                    product = rows.block(low, high) @ w[:, part]
                    at = slice(low - groups[0].start, high - groups[0].start)
                    np.add(product, b[part], out=table[at, part])

            self.workers.map(some_columns, parts)
            return result

        def visit(span: RowSpan, rows: Blocks) -> None:
            index, start, stop = span
            w, b = factors[index]
            first = groups[index].start
            for low, high in self._blocks(start, stop):
                product = thin_product(rows.block(low, high), w)
                np.add(product, b, out=result[index][low - first : high - first])

        for _ in self._each(groups, visit):
            pass
        return result

    def _column_slices(self, groups: Sequence[Group]) -> list[slice]:
        """Cut the columns of few rows into what threads take; not those of rows in many pieces."""
        few = len(groups) == 1 and len(self.design.edges) == 2
        if not (few and len(self.row_spans(groups)) < FEW_SPANS):
            return [slice(None)]
        n = len(groups[0].columns)
        edges = np.linspace(0, n, 1 + max(1, min(COLUMN_PARTS, n // FEWEST_COLUMNS)))
        return [slice(*edge) for edge in itertools.pairwise(edges.astype(int).tolist())]

    def pull(
        self, groups: Sequence[Group], residuals: Residuals, n_columns: int
    ) -> tuple[Array, Array, Array]:
        """Sum losses, and multiply signed residuals by the features: the second half of a pass.

        Shapes: `losses` (n_columns,), `totals` (n_columns,), `products` (n_columns, n_features).
        """

        def visit(span: RowSpan, rows: Blocks) -> tuple[Group, Array, Array, Array]:
            index, start, stop = span
            group = groups[index]
            loss: Array | float = 0.0
            total = np.zeros(len(group.columns))
            product = np.zeros((len(group.columns), self.design.n_features))
            for low, high in self._blocks(start, stop):
                block = rows.block(low, high)
                losses, residual = residuals(index, low, high, block)
                loss = loss + column_sums(losses)
                total += column_sums(residual)
                product += thin_back(block, residual)
            return group, np.asarray(loss), total, product

        losses, totals = np.zeros(n_columns), np.zeros(n_columns)
        products = np.zeros((n_columns, self.design.n_features))
        found = self._each(groups, visit)
        # Where all pieces are there at once, threads share the features.
        at_once = isinstance(found, list)
        parts = self._feature_slices(products) if at_once else [slice(None)]
        # Products are added in the order of the rows within every slice of features, so that the
        # bits do not depend on how many threads share the slices.
        for some in [found] if at_once else ([piece] for piece in found):
            for group, loss, total, _ in some:
                losses[group.columns[: len(loss)]] += loss
                totals[group.columns] += total if group.sign is None else total * group.sign
            self.workers.map(functools.partial(_gather, some, products), parts)
        self.workers.map(lambda part: self.design.unfold(products, totals, part), parts)
        return losses, totals, products

    def _feature_slices(self, table: Array) -> list[slice]:
        """Cut the columns of a table into what threads take, if it is large."""
        edges = np.linspace(0, table.shape[1], 1 + min(16, 1 + table.size // SHARE_NUMBERS))
        return [slice(*edge) for edge in itertools.pairwise(edges.astype(int).tolist())]

    def back(
        self, groups: Sequence[Group], residuals: Sequence[Floats], n_columns: int
    ) -> tuple[Array, Array]:
        """Multiply signed residuals by the features: `pull` without the losses.

        Shapes: `residuals` (rows of the group, columns of the group), `totals` (n_columns,),
        `products` (n_columns, n_features).
        """
        parts = self._column_slices(groups)
        if len(parts) > 1:
            return self._back_by_columns(groups[0], residuals[0], n_columns, parts)

        def each(index: int, low: int, high: int, _: Floats) -> tuple[Floats, Floats]:
            first = groups[index].start
            return np.zeros((1, 0)), residuals[index][low - first : high - first]

        _, totals, products = self.pull(groups, each, n_columns)
        return totals, products

    def _back_by_columns(
        self, group: Group, residuals: Floats, n_columns: int, parts: list[slice]
    ) -> tuple[Array, Array]:
        """Multiply residuals by the features, where threads share the columns."""
        totals, products = np.zeros(n_columns), np.zeros((n_columns, self.design.n_features))
        rows = self.design.load(0, self.design.n_rows)

        def work(part: slice) -> None:
            mine = group.columns[part]
            sign = None if group.sign is None else group.sign[part]
            for low, high in self._blocks(group.start, group.stop):
                some = residuals[low - group.start : high - group.start, part]
                total, product = column_sums(some), some.T @ rows.block(low, high)
                totals[mine] += total if sign is None else total * sign
                products[mine] += product if sign is None else product * sign[:, None]

        self.workers.map(work, parts)
        slices = self._feature_slices(products)
        self.workers.map(lambda part: self.design.unfold(products, totals, part), slices)
        return totals, products


def score_spans(groups: Sequence[Group]) -> list[RowSpan]:
    """Cut groups into what one thread does at a time where no features are touched."""
    return [
        RowSpan(index, start, min(start + step, group.stop))
        for index, group in enumerate(groups)
        for step in [max(64, PIECE_NUMBERS // max(1, len(group.columns)))]
        for start in range(group.start, group.stop, step)
    ]


def _gather(
    pieces: Iterable[tuple[Group, Array, Array, Array]], products: Array, features: slice
) -> None:
    """Add pieces' products, freed of the groups' signs, to those of all columns, in place."""
    for group, _, _, product in pieces:
        mine = product[:, features]
        if group.sign is not None:
            mine *= group.sign[:, None]
        products[group.columns, features] += mine
