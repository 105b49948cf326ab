"""Linear heads for raw features: what a fit returns, starts from, and is scored with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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

    def with_class(self, label: int, n_classes: int) -> LinearHead:
        """Return the heads of the pairs of one class, of one-vs-one's."""
        mine = pairs_of(label, n_classes)
        return LinearHead(self.coef[mine], self.intercept[mine])

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

    def in_order(self, order: npt.NDArray[np.intp]) -> PairHead:
        """Return the heads of the classes in another order: see `reordered_pairs`."""
        pairs, signs = reordered_pairs(order)
        sizes = np.diff(self.starts)[order]
        parts = [np.arange(self.starts[old], self.starts[old + 1]) for old in order]
        rows = np.concatenate(parts)
        starts = np.append(0, np.cumsum(sizes)).astype(self.starts.dtype)
        # A coefficient belongs to a row's own class and another.
        places = np.arange(len(order))
        own = np.repeat(places, sizes)[:, None]
        kept = (own < places) == (order[own] < order)
        duals = np.where(kept, 1, -1) * self.duals[np.ix_(rows, order)]
        return PairHead(self.span[rows], self.shift, starts, duals, signs * self.offset[pairs])

    def by_class(self, dtype: npt.DTypeLike) -> Callable[[Floats], PairScores]:
        """Return what makes the scores of a block of rows of a dtype, first class by first class.

        They are products with the rows, and then sums for each pair.
        """
        weights = _PairWeights(self, dtype)
        shift, span = self.shift.astype(dtype), self.span.astype(dtype).T
        return lambda block: PairScores((block - shift) @ span, weights)

    def scorer(self, dtype: npt.DTypeLike) -> Scorer:
        """Return `scores` for features of a dtype."""
        scores = self.by_class(dtype)
        return lambda block: scores(block).table()

    def scores(self, X: Floats) -> Floats:
        """Return the scores of rows of raw features, ``(n_rows, n_heads)``."""
        return self.scorer(X.dtype)(X)


class Span:
    """Coordinates of standardised rows in a basis of what they span, (n_features, n_span)."""

    def __init__(self, basis: Array, scale: Array | None, shift: Array | None) -> None:
        self.shift = shift
        # Of raw features less the shift.
        self.basis = basis if scale is None else basis / scale[:, None]

    def coordinates(self, block: Floats, basis: Floats) -> Floats:
        """Return the coordinates of rows of raw features, with the basis in their dtype."""
        if self.shift is not None:
            block = block - self.shift.astype(block.dtype)
        return block @ basis


class SpanHead:
    """Linear heads as coordinates in the span of the rows that they were fitted to.

    A path of C takes up one where it left the last, and judges it by rows in the same coordinates:
    the weights for raw features, `coef`, are only written out where they are asked for. `weights`
    (n_heads, n_span) and `offset` (n_heads,), the scores of a row that is the span's shift.
    """

    def __init__(self, weights: Array, offset: Array, span: Span) -> None:
        self.weights, self.offset, self.span = weights, offset, span

    @property
    def n_heads(self) -> int:
        """Return how many heads there are."""
        return len(self.offset)

    @property
    def size(self) -> int:
        """Return how many numbers are kept for the weights."""
        return int(self.weights.size)

    def finite(self) -> bool:
        """Tell whether all numbers are finite."""
        return bool(np.isfinite(self.weights).all() and np.isfinite(self.offset).all())

    @cached_property
    def plain(self) -> LinearHead:
        """Write out the heads for raw features."""
        coef = self.weights @ self.span.basis.T
        shift = self.span.shift
        return LinearHead(coef, self.offset if shift is None else self.offset - coef @ shift)

    @property
    def coef(self) -> Array:
        """Return the weights for raw features (n_heads, n_features)."""
        return self.plain.coef

    @property
    def intercept(self) -> Array:
        """Return the intercepts for raw features (n_heads,)."""
        return self.plain.intercept

    def one(self, i: int) -> LinearHead:
        """Return one of the heads."""
        return self.plain.one(i)

    def scorer(self, dtype: npt.DTypeLike) -> Scorer:
        """Return `scores` for features of a dtype: the heads are converted once."""
        basis, weights = self.span.basis.astype(dtype), self.weights.astype(dtype).T
        offset = self.offset.astype(dtype)
        return lambda block: self.span.coordinates(block, basis) @ weights + offset

    def scores(self, X: Floats) -> Floats:
        """Return the scores of rows of raw features, ``(n_rows, n_heads)``."""
        return self.scorer(X.dtype)(X)


class _PairWeights:
    """The numbers of a `PairHead` in a dtype, laid out for scores."""

    def __init__(self, head: PairHead, dtype: npt.DTypeLike) -> None:
        k, starts = head.n_classes, head.starts
        self.n_classes, self.n_pairs, self.dtype = k, head.n_heads, np.dtype(dtype)
        duals, offset = head.duals.astype(dtype), head.offset.astype(dtype)
        self.starts, self.duals, self.offset = starts, duals, offset
        sizes = np.diff(starts)
        # Each class's own rows, and a row of ones for the offsets; where they stand together.
        self.edges = starts + np.arange(k + 1)
        self.places = np.delete(np.arange(self.edges[-1]), self.edges[1:] - 1)
        ends = np.cumsum(np.arange(k - 1, 0, -1))
        self.own = [
            np.vstack(
                [duals[starts[a] : starts[a + 1], a + 1 :], offset[ends[a] - (k - 1 - a) : ends[a]]]
            )
            for a in range(k - 1)
        ]
        # The t-th rows of the classes that have one: of all, 0 where there is none, or of few.
        self.slots: list[tuple[npt.NDArray[np.intp] | None, npt.NDArray[np.intp], Floats]] = []
        for t in range(int(sizes.max())):
            there = np.flatnonzero(sizes > t)
            if 2 * len(there) < k:
                rows, classes = starts[there] + t, there
                weights = duals[rows].T
            else:
                rows, classes = np.minimum(starts[:-1] + t, len(duals) - 1), None
                weights = np.where((sizes > t)[:, None], duals[rows], 0).T
            self.slots.append((classes, rows, np.ascontiguousarray(weights)))


class PairScores:
    """The scores of a block of rows by all pairs of classes, (n_block, n_pairs), as they are used.

    Of a thousand classes a row has 499,500 scores: more than a core's cache holds for a few rows.
    Where votes are counted, the scores of one class against the later ones are made, used and
    overwritten.
    """

    def __init__(self, products: Floats, weights: _PairWeights) -> None:
        self._products, self._weights = products, weights
        self.shape, self.dtype = (len(products), weights.n_pairs), weights.dtype
        self.ndim = 2

    def __len__(self) -> int:
        return len(self._products)

    def __getitem__(self, rows: slice) -> PairScores:
        return PairScores(self._products[rows], self._weights)

    def runs(self) -> Iterator[tuple[int, Floats]]:
        """Yield each class and its scores against the later ones, until the next is asked for."""
        w, n = self._weights, len(self)
        k = w.n_classes
        own = np.ones((n, w.edges[-1]), self.dtype)
        own[:, w.places] = self._products
        by_slot = [np.ascontiguousarray(self._products[:, rows]) for _, rows, _ in w.slots]
        space, other = np.empty((2, n * k), self.dtype)
        for a in range(k - 1):
            part = space[: n * (k - 1 - a)].reshape(n, k - 1 - a)
            np.matmul(own[:, w.edges[a] : w.edges[a + 1]], w.own[a], out=part)
            for products, (classes, _, weights) in zip(by_slot, w.slots, strict=True):
                low = a + 1 if classes is None else int(np.searchsorted(classes, a + 1))
                row = weights[a, low:]
                more = other[: n * len(row)].reshape(n, len(row))
                np.multiply(products[:, low:], row, out=more)
                if classes is None:
                    part += more
                else:
                    part[:, classes[low:] - a - 1] += more
            yield a, part

    def with_class(self, label: int) -> Floats:
        """Return the scores by the pairs of one class, in their order, (n_block, k - 1)."""
        w = self._weights
        mine = slice(w.starts[label], w.starts[label + 1])
        of_others = np.add.reduceat(self._products * w.duals[:, label], w.starts[:-1], axis=1)
        sums = self._products[:, mine] @ w.duals[mine] + of_others
        found = np.delete(sums, label, axis=1)
        found += w.offset[pairs_of(label, w.n_classes)]
        return found

    def table(self, space: Floats | None = None) -> Floats:
        """Write all of them out, in a space of at least so many rows."""
        out = np.empty(self.shape, self.dtype) if space is None else space[: len(self)]
        low = 0
        for _, part in self.runs():
            out[:, low : low + part.shape[1]] = part
            low += part.shape[1]
        return out


def pairs_of(label: int, n_classes: int) -> npt.NDArray[np.intp]:
    """Return the pairs that a class is in: with the earlier classes, then with the later ones."""
    earlier = np.arange(label)
    later = np.arange(n_classes - 1 - label) + label * (2 * n_classes - label - 1) // 2
    return np.concatenate([earlier * (2 * n_classes - earlier - 3) // 2 + label - 1, later])


def reordered_pairs(
    order: npt.NDArray[np.intp],
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]]:
    """Return where the pairs of classes in a new order are among the old, and their signs.

    `order` (n_classes,) holds the old index of each class. A pair whose classes have changed places
    has its score negated. Both (n_pairs,).
    """
    first, second = np.triu_indices(len(order), k=1)
    a, b = order[first], order[second]
    low, high = np.minimum(a, b), np.maximum(a, b)
    return low * (2 * len(order) - low - 3) // 2 + high - 1, np.where(a < b, 1.0, -1.0)


Head = LinearHead | SpanHead | PairHead
Scores = Floats | PairScores


def blended(heads: list[Head], weights: list[float]) -> Head:
    """Add up heads of one fit, each times its weight."""
    last = heads[-1]
    if isinstance(last, PairHead):
        pairs = [head for head in heads if isinstance(head, PairHead)]
        duals = _sum([head.duals for head in pairs], weights)
        offset = _sum([head.offset for head in pairs], weights)
        return PairHead(last.span, last.shift, last.starts, duals, offset)
    inside = [head for head in heads if isinstance(head, SpanHead)]
    if isinstance(last, SpanHead) and all(head.span is last.span for head in inside):
        weights_in = _sum([head.weights for head in inside], weights)
        return SpanHead(weights_in, _sum([head.offset for head in inside], weights), last.span)
    coef = _sum([head.coef for head in heads], weights)
    return LinearHead(coef, _sum([head.intercept for head in heads], weights))


def _sum(tables: list[Array], weights: list[float]) -> Array:
    total = np.zeros_like(tables[0])
    with np.errstate(over="ignore", invalid="ignore"):
        for table, weight in zip(tables, weights, strict=True):
            total += weight * table
    return total
