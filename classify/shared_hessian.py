"""One approximate inverse Hessian for many columns, with each column's own leading part.

The scatter ``T`` of a sample of rows, weighed by the curvature of all columns together, stands for
every column: ``I + m T`` with ``m`` the column's own mass of curvature. Columns of similar mass
share a factorisation. In the leading directions ``V`` of ``T`` that is replaced by what the sample
says of the column itself, weighed by the column's own curvature: the inverse is

    ``(I - VV') inv(I + m T) (I - VV') + V inv(I + M) V'``,    ``M = V' S V``,

with ``S`` the column's own scatter. The leading directions come from subspace iteration (Halko,
Martinsson and Tropp, "Finding structure with randomness", *SIAM Review* 53, 2011, algorithm 4.4),
which starts from those of the update before.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from classify.design_matrix import DesignMatrix
from classify.passes import Group
from classify.sampling import inverse_factor_plus_identity, square, systematic_sample
from classify.threads import Workers

Array = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating[Any]]
Integers = npt.NDArray[np.intp]

# Columns whose curvatures are within this factor of each other share a factorisation.
BUCKET = 9.0
# Directions in which a column has its own part, and numbers in all those parts.
LEADING = 128
DENSE_NUMBERS = 16_000_000
ITERATIONS = 3
ROWS = 1024
PARTS = 4


class SharedHessian:
    """Approximate inverse Hessians of all columns from one sample of rows.

    Parameters
    ----------
    design : DesignMatrix
        The features.
    workers : Workers
        Threads.
    n_rows : int
        Rows to draw.
    before : SharedHessian, optional
        An earlier one, whose leading directions are the start for this one's.
    """

    def __init__(
        self,
        design: DesignMatrix,
        workers: Workers,
        n_rows: int,
        before: SharedHessian | None = None,
    ) -> None:
        self.design, self.workers, self.n_rows = design, workers, n_rows
        self.before = before

    def build(
        self, columns: Integers, groups: list[Group], curvatures: list[Floats], labels: Integers
    ) -> None:
        """Draw the rows and factorise.

        Parameters
        ----------
        columns : ndarray of int, shape (k,)
            Names of the columns.
        groups : list of Group
            Which rows meet which of them.
        curvatures : list of ndarray, shape (rows of the group, columns of the group)
            Second derivatives of every row's loss, times C and the sample weight.
        labels : ndarray of int, shape (n_rows,)
            Class of every row.
        """
        design, workers = self.design, self.workers
        self.place = {int(column): i for i, column in enumerate(columns)}
        size = np.zeros(design.n_rows)
        mass = np.zeros(len(columns))
        for group, bend in zip(groups, curvatures, strict=True):
            size[group.start : group.stop] = bend.sum(axis=1, dtype=np.float64)
            mass[group.columns] += bend.sum(axis=0, dtype=np.float64)
        mass = np.maximum(mass, np.finfo(np.float32).tiny)
        chosen, chance = systematic_sample(size, self.n_rows)
        if not len(chosen):
            chosen, chance = np.arange(1), np.ones(1)
        weight = np.maximum(size[chosen], np.finfo(float).tiny) / chance
        weight /= weight.sum()
        # Classes that meet different columns are centred apart: what lies between two classes is
        # for each pair of them its own.
        apart = groups[0].sign is not None
        kinds = labels if apart else np.zeros_like(labels)
        kind, n_kinds = kinds[chosen], int(kinds.max()) + 1
        pieces = np.array_split(np.arange(len(chosen)), max(1, len(chosen) // ROWS))

        def centre(i: Integers) -> Array:
            block = design.dense(chosen[i])
            share = np.zeros((n_kinds, len(i)), block.dtype)
            share[kind[i], np.arange(len(i))] = weight[i]
            return (share @ block).astype(np.float64)

        means = np.sum(workers.map(centre, pieces), axis=0)
        share = np.bincount(kind, weight, minlength=n_kinds)
        means /= np.maximum(share, np.finfo(float).tiny)[:, None]

        def rows(i: Integers) -> Floats:
            block = design.dense(chosen[i])
            block -= means.astype(block.dtype)[kind[i]]
            block *= np.sqrt(weight[i])[:, None].astype(block.dtype)
            return block

        few = len(chosen) < design.n_features
        self.rows = np.concatenate([rows(i) for i in pieces]) if few else None
        if self.rows is not None:
            gram = self.rows @ self.rows.T
        else:
            # As many sums as there are parts are held at once.
            parts = [pieces[i::PARTS] for i in range(min(PARTS, len(pieces)))]
            gram = _total(workers.map(lambda part: _total(square(rows(i)) for i in part), parts))
        self.bucket = np.round(np.log(mass) / np.log(BUCKET)).astype(np.int64)
        names = np.unique(self.bucket).tolist()
        self.scale = {
            name: gram.dtype.type(np.exp(np.log(mass[self.bucket == name]).mean()))
            for name in names
        }
        factors = workers.map(
            lambda name: inverse_factor_plus_identity(gram * self.scale[name]), names
        )
        self.factor = dict(zip(names, factors, strict=True))
        part = np.zeros((n_kinds, len(columns)))
        for group, bend in zip(groups, curvatures, strict=True):
            part[kinds[group.start], group.columns] += bend.sum(axis=0, dtype=np.float64)
        part /= np.maximum(part.sum(axis=0), np.finfo(float).tiny)
        self.means = part.T @ means
        self.axes: Floats | None = None
        if apart and not few:
            self._lead(gram, groups, curvatures, chosen, chance, pieces)
        self.before = None

    def _lead(
        self,
        gram: Floats,
        groups: list[Group],
        curvatures: list[Floats],
        chosen: Integers,
        chance: Array,
        pieces: list[Integers],
    ) -> None:
        """Give each column its own inverse in the leading directions."""
        design, workers, n_columns = self.design, self.workers, len(self.place)
        r = int(min(LEADING, (DENSE_NUMBERS / n_columns) ** 0.5, gram.shape[0] // 2))
        if r < 8:
            return
        self.axes = axes = self._directions(gram, r)
        rotated = np.concatenate(workers.map(lambda i: design.dense(chosen[i]) @ axes, pieces))
        centres = (self.means @ axes.astype(np.float64)).astype(rotated.dtype)
        self.dense = np.zeros((n_columns, r, r), rotated.dtype)
        own: list[list[tuple[Integers, Floats]]] = [[] for _ in range(n_columns)]
        for group, bend in zip(groups, curvatures, strict=True):
            low, high = np.searchsorted(chosen, [group.start, group.stop])
            weight = bend[chosen[low:high] - group.start] / chance[low:high, None]
            for place, column in enumerate(group.columns):
                own[column].append((np.arange(low, high), weight[:, place]))

        def build(column: int) -> None:
            index = np.concatenate([rows for rows, _ in own[column]])
            weight = np.concatenate([weight for _, weight in own[column]])
            block = rotated[index] - centres[column]
            block *= np.sqrt(weight)[:, None].astype(block.dtype)
            self.dense[column] = square(inverse_factor_plus_identity(square(block)))

        workers.map(build, range(n_columns))

    def _directions(self, gram: Floats, r: int) -> Floats:
        """Find the leading directions of a scatter matrix, about."""
        pieces = np.array_split(np.arange(len(gram)), 8)
        basis = None if self.before is None else self.before.axes
        iterations = 1 if basis is not None else ITERATIONS
        if basis is None or basis.shape[1] != r:
            basis = np.random.default_rng(0).standard_normal((len(gram), r)).astype(gram.dtype)
        for _ in range(iterations):
            multiply = functools.partial(_rows_times, gram, basis)
            product = np.concatenate(self.workers.map(multiply, pieces))
            basis = np.linalg.qr(product)[0]
        return np.ascontiguousarray(basis)

    def apply(self, columns: Integers, gradients: Array, stiffness: Array) -> Array:
        """Apply the inverses.

        Parameters
        ----------
        columns : ndarray of int, shape (k,)
            Names of the columns.
        gradients : ndarray of float64, shape (k, n_features + 1)
            What they are applied to, intercepts last.
        stiffness : ndarray of float64, shape (k,)
            Curvature of each intercept.

        Returns
        -------
        ndarray of float64, shape (k, n_features + 1)
            The products.
        """
        places = np.array([self.place[int(column)] for column in columns])
        means, dtype = self.means[places], next(iter(self.factor.values())).dtype
        v = (gradients[:, :-1] - means * gradients[:, -1:]).astype(dtype)
        if self.axes is not None:
            inside = v @ self.axes
            v -= inside @ self.axes.T
        solved = np.empty_like(v)
        buckets = self.bucket[places]
        jobs = [
            i
            for name in np.unique(buckets)
            for i in np.array_split(np.flatnonzero(buckets == name), self._parts(buckets == name))
        ]

        def solve(i: Integers) -> None:
            name = int(buckets[i[0]])
            factor, some = self.factor[name], v[i]
            if self.rows is None:
                solved[i] = (some @ factor.T) @ factor
            else:
                inner = ((some @ self.rows.T) @ factor.T) @ factor
                solved[i] = some - self.scale[name] * (inner @ self.rows)

        self.workers.map(solve, jobs)
        if self.axes is not None:
            solved -= (solved @ self.axes) @ self.axes.T
            turned = np.matmul(self.dense[places], inside[:, :, None])[:, :, 0]
            solved += turned @ self.axes.T
        out = np.empty_like(gradients)
        out[:, :-1] = solved
        out[:, -1] = gradients[:, -1] / stiffness - np.einsum("ij,ij->i", means, out[:, :-1])
        return out

    def _parts(self, mask: npt.NDArray[np.bool_]) -> int:
        return max(1, int(mask.sum()) // 16)


def _rows_times(matrix: Floats, factor: Floats, rows: Integers) -> Floats:
    return matrix[rows] @ factor


def _total(matrices: Iterable[Floats]) -> Floats:
    """Add matrices up in place of the first."""
    each = iter(matrices)
    total = next(each)
    for matrix in each:
        total += matrix
    return total
