"""One approximate inverse Hessian for many columns, with each column's own leading part.

The scatter ``T`` of a sample of rows, weighed by the curvature of all columns together, stands for
every column: ``I + m T`` with ``m`` the sum of the column's own curvature. Columns of similar sums
share a factorisation. In the leading directions ``V`` of ``T`` that is replaced by what the sample
says of the column itself, weighed by the column's own curvature: the inverse is

    ``(I - VV') inv(I + m T) (I - VV') + V inv(I + M) V'``,    ``M = V' S V``,

with ``S`` the column's own scatter. The leading directions come from subspace iteration (Halko,
Martinsson and Tropp, "Finding structure with randomness", *SIAM Review* 53, 2011, algorithm 4.4),
which starts from what is known of them.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from classify.solver.arrays import Design
from classify.solver.passes import Group
from classify.solver.preconditioner.factors import inverse_factor_plus_identity, orthonormal, square
from classify.solver.preconditioner.sampling import (
    project_and_solve,
    span_and_gram,
    systematic_sample,
)
from classify.solver.threads import Workers
from classify.solver.tuning import (
    BUCKET,
    DENSE_NUMBERS,
    FEATURE_PARTS,
    LEADING,
    LEADING_ITERATIONS,
    LIGHT,
    LIGHT_NUMBERS,
    MOST,
    NARROW,
    PARTS,
    SAMPLE_ROWS,
    TOGETHER,
)

Array = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating[Any]]
Integers = npt.NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Sketch:
    """Some of the rows (k, ascending) in r directions."""

    axes: Floats  # (n_features, r), orthonormal, about the principal directions, leading first
    rows: Integers  # (k,)
    chance: Array  # (k,), one over how many rows each of them stands for
    turned: Floats  # (k, r), those rows in the directions
    spread: Array  # (r,), the variance in each direction
    rest: float  # the mean variance in all other directions

    def without_rows(self) -> Sketch:
        """Return what is known of the directions alone, in a fraction of the memory."""
        rows, chance, turned = (a[:0].copy() for a in (self.rows, self.chance, self.turned))
        return replace(self, rows=rows, chance=chance, turned=turned)

    def leading(self, r: int) -> tuple[Floats, Floats, float]:
        """Return the first few directions, the rows in them, and the mean variance beside them."""
        others = len(self.axes) - self.axes.shape[1]
        beside = self.rest * others + float(self.spread[r:].sum())
        count = others + len(self.spread[r:])
        return np.ascontiguousarray(self.axes[:, :r]), self.turned[:, :r], beside / count


class SharedHessian:
    """Approximate inverse Hessians of all columns, from one sample of `n_rows` rows.

    What is known of the leading directions (`sketch`) saves finding them; without intercepts,
    scatters are about zero.
    """

    def __init__(
        self,
        design: Design,
        workers: Workers,
        n_rows: int,
        sketch: Sketch | None = None,
        intercept: bool = True,
    ) -> None:
        self.intercept = intercept
        self.design, self.workers, self.n_rows = design, workers, n_rows
        self._sketch = sketch
        # Set by `build`. Of every column its place, rows' mean and bucket of curvature; of every
        # bucket its curvature, and its inverse or the factor of it.
        self.place: dict[int, int] = {}
        self.means = np.empty((0, 0))
        self.bucket: Integers = np.empty(0, dtype=np.intp)
        self.scale: dict[int, Any] = {}
        self.factor: dict[int, Floats] = {}
        # Leading directions, with every column's inverse in them, if there are any.
        self.axes: Floats | None = None
        self.dense: Floats = np.empty((0, 0, 0))
        # The mean variance outside of them, where that stands for a matrix.
        self.tail: float | None = None
        # The rows' span, where they are fewer than the features.
        self.basis: Floats | None = None

    def build(
        self, columns: Integers, groups: list[Group], curvatures: list[Floats], labels: Integers
    ) -> None:
        """Draw the rows and factorise.

        `curvatures` are times C and the sample weight, of every group ``(rows, columns)``.
        """
        design = self.design
        self.place = {int(column): i for i, column in enumerate(columns)}
        size = np.zeros(design.n_rows)
        curvature_sum = np.zeros(len(columns))
        for group, curvature in zip(groups, curvatures, strict=True):
            size[group.start : group.stop] = curvature.sum(axis=1, dtype=np.float64)
            curvature_sum[group.columns] += curvature.sum(axis=0, dtype=np.float64)
        curvature_sum = np.maximum(curvature_sum, np.finfo(np.float32).tiny)
        self.bucket = np.round(np.log(curvature_sum) / np.log(BUCKET)).astype(np.int64)
        self.scale = {
            name: design.dtype.type(np.exp(np.log(curvature_sum[self.bucket == name]).mean()))
            for name in np.unique(self.bucket).tolist()
        }
        # Classes that meet different columns are centred apart: what lies between two classes is
        # for each pair of them its own.
        apart = groups[0].sign is not None
        sketch = self._sketch
        light = (
            sketch is not None
            and len(sketch.rows) > 0
            and float(np.quantile(curvature_sum, MOST)) <= LIGHT
        )
        room = LIGHT_NUMBERS if light else DENSE_NUMBERS
        lead = min(LEADING, int((room / len(columns)) ** 0.5), design.n_features // 2)
        lead = lead if apart and lead >= 8 and design.n_features >= NARROW else 0
        # Three cases:
        # 1. Light columns of a sketch: the leading directions, and a number (`tail`) for what
        #    lies outside of them. No matrix of features by features is made.
        # 2. Fewer sampled rows than features (in `_draw`): the inverse in the rows' span
        #    (`basis`), without a leading part.
        # 3. Otherwise: inverses of features by features, one for each bucket of curvatures, with
        #    the leading directions, if there are any, projected out of them from both sides.
        if sketch is not None and light and lead:
            # Where a column's curvature is small, there is little of it outside the leading
            # directions, and the penalty's one is most of what is there.
            self.axes, turned, self.tail = sketch.leading(lead)
            centres = self._lead(groups, curvatures, sketch.rows, sketch.chance, turned)
            self.means = centres @ self.axes.T.astype(np.float64)
        else:
            kinds = labels if apart else np.zeros_like(labels)
            self._draw(size, kinds, lead, groups, curvatures)
        self._sketch = None

    def _draw(
        self,
        size: Array,
        kinds: Integers,
        lead: int,
        groups: list[Group],
        curvatures: list[Floats],
    ) -> None:
        """Draw rows by their curvature, and factorise what they add up to."""
        design, workers, n_columns = self.design, self.workers, len(self.place)
        chosen, chance = systematic_sample(size, self.n_rows)
        if not len(chosen):
            chosen, chance = np.arange(1), np.ones(1)
        weight = np.maximum(size[chosen], np.finfo(float).tiny) / chance
        weight /= weight.sum()
        kind, n_kinds = kinds[chosen], int(kinds.max()) + 1
        pieces = np.array_split(np.arange(len(chosen)), max(1, len(chosen) // SAMPLE_ROWS))

        def centre(i: Integers) -> Array:
            block = design.dense(chosen[i])
            share = np.zeros((n_kinds, len(i)), block.dtype)
            share[kind[i], np.arange(len(i))] = weight[i]
            return (share @ block).astype(np.float64)

        means = np.sum(workers.map(centre, pieces), axis=0)
        share = np.bincount(kind, weight, minlength=n_kinds)
        means *= self.intercept / np.maximum(share, np.finfo(float).tiny)[:, None]

        def rows(i: Integers) -> Floats:
            block = design.dense(chosen[i])
            block -= means.astype(block.dtype)[kind[i]]
            block *= np.sqrt(weight[i])[:, None].astype(block.dtype)
            return block

        gram = None
        if len(chosen) < design.n_features:
            self.basis, gram = span_and_gram(np.concatenate([rows(i) for i in pieces]))
            lead = 0
        self._factorise(rows, pieces, lead, gram)
        part = np.zeros((n_kinds, n_columns))
        for group, curvature in zip(groups, curvatures, strict=True):
            part[kinds[group.start], group.columns] += curvature.sum(axis=0, dtype=np.float64)
        part /= np.maximum(part.sum(axis=0), np.finfo(float).tiny)
        self.means = part.T @ means
        if self.axes is not None:
            axes = self.axes
            turned = np.concatenate(workers.map(lambda i: design.dense(chosen[i]) @ axes, pieces))
            self._lead(groups, curvatures, chosen, chance, turned)

    def _factorise(
        self,
        rows: Callable[[Integers], Floats],
        pieces: list[Integers],
        lead: int,
        gram: Floats | None,
    ) -> None:
        """Invert ``I + m T`` for every size of curvature ``m``, between projections."""
        workers, names = self.workers, list(self.scale)
        if gram is None:
            # As many sums as there are parts are held at once.
            parts = [pieces[i::PARTS] for i in range(min(PARTS, len(pieces)))]
            gram = _total(workers.map(lambda part: _total(square(rows(i)) for i in part), parts))
        if lead:
            self.axes = self._directions(gram, lead)

        def invert(name: int) -> Floats:
            factor = inverse_factor_plus_identity(gram * self.scale[name])
            if self.basis is not None:
                return factor
            inverse = square(factor)
            del factor  # before the projections take as much again
            return self._outside(inverse)

        self.factor = dict(zip(names, workers.map(invert, names), strict=True))

    def _outside(self, inverse: Floats) -> Floats:
        """Return ``(I - VV') inverse (I - VV')``, in the inverse's place."""
        if self.axes is not None:
            for _ in range(2):  # the second time from the other side
                inverse -= self.axes @ (self.axes.T @ inverse)
                inverse = inverse.T
        return inverse

    def _lead(
        self,
        groups: list[Group],
        curvatures: list[Floats],
        chosen: Integers,
        chance: Array,
        turned: Floats,
    ) -> Array:
        """Give each column its own inverse in the leading directions; return its rows' means."""
        n_columns, r = len(self.place), turned.shape[1]
        self.dense = np.zeros((n_columns, r, r), turned.dtype)
        per_column: list[list[tuple[Integers, Floats]]] = [[] for _ in range(n_columns)]
        for group, curvature in zip(groups, curvatures, strict=True):
            low, high = np.searchsorted(chosen, [group.start, group.stop])
            weight = curvature[chosen[low:high] - group.start] / chance[low:high, None]
            for place, column in enumerate(group.columns):
                per_column[column].append((np.arange(low, high), weight[:, place]))

        def build(columns: Integers) -> list[Array]:
            means = []
            grams = np.empty((len(columns), r, r), turned.dtype)
            for place, column in enumerate(columns):
                index = np.concatenate([rows for rows, _ in per_column[column]])
                weight = np.concatenate([weight for _, weight in per_column[column]])
                block = np.take(turned, index, axis=0, mode="clip")
                total = max(float(weight.sum()), float(np.finfo(np.float32).tiny))
                mean = weight.astype(block.dtype) @ block / block.dtype.type(total)
                mean *= self.intercept
                block -= mean
                block *= np.sqrt(weight)[:, None].astype(block.dtype)
                grams[place] = square(block)
                means.append(mean.astype(np.float64))
            factors = inverse_factor_plus_identity(grams)
            np.matmul(factors.swapaxes(1, 2), factors, out=self.dense[columns[0] : columns[-1] + 1])
            return means

        jobs = np.array_split(np.arange(n_columns), -(-n_columns // TOGETHER))
        return np.array([mean for means in self.workers.map(build, jobs) for mean in means])

    def _directions(self, gram: Floats, r: int) -> Floats:
        """Find the leading directions of a scatter matrix, about."""
        pieces = np.array_split(np.arange(len(gram)), 8)
        basis, iterations = None if self._sketch is None else self._sketch.axes, 1
        if basis is None or basis.shape[1] < r:
            iterations = LEADING_ITERATIONS
            basis = np.random.default_rng(0).standard_normal((len(gram), r)).astype(gram.dtype)
        for _ in range(iterations):
            multiply = functools.partial(_rows_times, gram, basis)
            product = np.concatenate(self.workers.map(multiply, pieces))
            basis = _leading(basis, product, r)
        return basis

    def apply(self, columns: Integers, gradients: Array, intercept_curvature: Array) -> Array:
        """Apply some columns' inverses to gradients, ``(k, n_features + 1)``, intercepts last."""
        places = np.array([self.place[int(column)] for column in columns])
        v = np.empty((len(places), gradients.shape[1] - 1), self.design.dtype)
        solved = v if self.tail is not None else np.empty_like(v)
        # Each column's own part, in the leading directions.
        turned = None if self.axes is None else np.empty((len(v), self.axes.shape[1]), v.dtype)
        out = np.empty_like(gradients)
        jobs = [slice(low, low + TOGETHER) for low in range(0, len(v), TOGETHER)]

        def before(part: slice) -> None:
            mine = places[part]
            v[part] = gradients[part, :-1] - self.means[mine] * gradients[part, -1:]
            if turned is None or self.axes is None:
                return
            inside = v[part] @ self.axes
            turned[part] = np.matmul(self.dense[mine], inside[:, :, None])[:, :, 0]
            if self.tail is not None:
                scale = np.array([self.scale[name] for name in self.bucket[mine].tolist()])
                v[part] -= inside @ self.axes.T
                v[part] /= 1 + scale[:, None] * v.dtype.type(self.tail)

        def after(part: slice) -> None:
            if turned is not None and self.axes is not None:
                solved[part] += turned[part] @ self.axes.T
            out[part, :-1] = solved[part]
            shift = np.einsum("ij,ij->i", self.means[places[part]], out[part, :-1])
            out[part, -1] = gradients[part, -1] / intercept_curvature[part] - shift

        self.workers.share(before, jobs)
        if self.tail is None:
            self._solve(v, self.bucket[places], solved)
        self.workers.share(after, jobs)
        return out

    def _solve(self, v: Floats, buckets: Integers, solved: Floats) -> None:
        """Apply the shared inverses; threads take a part of the columns or of the features."""
        jobs: list[tuple[int, Integers, slice]] = []
        for name in np.unique(buckets).tolist():
            mine = np.flatnonzero(buckets == name)
            if self.basis is None:
                edges = np.linspace(0, v.shape[1], FEATURE_PARTS + 1).astype(int).tolist()
                jobs += [(name, mine, slice(*edge)) for edge in itertools.pairwise(edges)]
            else:
                some = np.array_split(mine, max(1, len(mine) // 16))
                jobs += [(name, i, slice(None)) for i in some]

        def work(job: tuple[int, Integers, slice]) -> None:
            name, i, part = job
            factor = self.factor[name]
            if self.basis is None:
                solved[i, part] = v[i] @ factor[:, part]
            else:
                solved[i] = project_and_solve(
                    self.basis, lambda inside: (inside @ factor.T) @ factor, v[i]
                )

        self.workers.map(work, jobs)


def _leading(basis: Floats, product: Floats, r: int) -> Floats:
    """Go one step of subspace iteration; where there are more columns, keep the leading ones."""
    if basis.shape[1] > r:
        turn = np.linalg.eigh((basis.T @ product).astype(np.float64))[1][:, ::-1][:, :r]
        product = product @ turn.astype(product.dtype)
    return np.ascontiguousarray(orthonormal(product))


def _rows_times(matrix: Floats, factor: Floats, rows: Integers) -> Floats:
    return matrix[rows] @ factor


def _total(matrices: Iterable[Floats]) -> Floats:
    """Add matrices up in place of the first."""
    each = iter(matrices)
    total = next(each)
    for matrix in each:
        total += matrix
    return total
