"""Approximate inverse Hessians, from a sample of the rows.

The Hessian of a column is ``I + C sum_i s_i p_i (1 - p_i) x_i x_i'`` (plus the intercept's row and
column). Its sum is dominated by the rows near the decision boundary, so it is estimated from rows
drawn with probability proportional to ``s_i p_i (1 - p_i)``: after Xu, Yang, Roosta-Khorasani, Re
and Mahoney, "Sub-sampled Newton methods with non-uniform sampling", NeurIPS 2016. Where the
problem has no more rows than the sample, the estimate is the Hessian itself and the method is
Newton's.

The intercept is eliminated exactly: about the curvature-weighted mean of the rows the Hessian is
block diagonal in the weights and the intercept. With fewer sampled rows than features, the
inverse is applied in the Woodbury form.

The multinomial's Hessian couples its columns; the blocks on its diagonal are used, between
projections that remove what is common to all classes, a direction that the loss does not see.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from classify.objectives import Problems
from classify.passes import Group

Array = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating[Any]]
Integers = npt.NDArray[np.intp]


@dataclass(frozen=True)
class _Inverse:
    """One column's inverse: of ``I + A'A`` about a mean, and of the intercept's curvature."""

    mean: Array
    intercept: float
    rows: Floats | None  # A, kept for the Woodbury form
    inverse: Floats  # of I + A'A, or of I + AA' in the Woodbury form

    def solve(self, gradient: Array) -> Array:
        """Apply the inverse to one column's gradient, intercept last."""
        v = (gradient[:-1] - self.mean * gradient[-1]).astype(self.inverse.dtype)
        if self.rows is None:
            v = self.inverse @ v
        else:
            v = v - self.rows.T @ (self.inverse @ (self.rows @ v))
        out = np.empty_like(gradient)
        out[:-1] = v
        out[-1] = gradient[-1] / self.intercept - self.mean @ out[:-1]
        return out


class SampledHessian:
    """One approximate inverse Hessian a column, from rows sampled for that column.

    For few columns: building one costs ``sample_rows * n_features^2`` operations, keeping one
    ``n_features^2`` numbers.

    Parameters
    ----------
    sample_rows : int
        Rows drawn per column.
    """

    def __init__(self, sample_rows: int) -> None:
        self.sample_rows = sample_rows
        self._inverses: dict[tuple[int, int], _Inverse] = {}
        self._made_for = np.empty(0)  # the C of each problem's inverse

    def attach(self, objective: Problems) -> None:
        """Serve another objective over the same rows; what was learnt is kept."""
        self.objective = objective
        if not len(self._made_for):
            self._made_for = np.ones(objective.n_problems)

    def covers(self, problems: Integers) -> bool:
        """Say whether these problems have inverses."""
        return all((int(problem), 0) in self._inverses for problem in problems)

    def update(self, problems: Integers, points: Array) -> None:
        """Draw the samples anew at these points."""
        objective = self.objective
        self._made_for[problems] = objective.C[problems]
        weights, intercepts = objective.split(points)
        groups = objective.groups(problems)
        scores = objective.passes.scores(groups, weights, intercepts)
        parts: list[list[tuple[Integers, Floats]]] = [[] for _ in weights]
        for group, z in zip(groups, scores, strict=True):
            bend = objective.curvature(z, group.start, group.stop, group, None)
            rows = np.arange(group.start, group.stop)
            for place, column in enumerate(group.columns):
                parts[column].append((rows, bend[:, place]))
        C = np.repeat(objective.C[problems], objective.columns)
        names = [(int(problem), c) for problem in problems for c in range(objective.columns)]

        def build(column: int) -> _Inverse:
            rows = np.concatenate([part[0] for part in parts[column]])
            bend = np.concatenate([part[1] for part in parts[column]]) * C[column]
            if objective.weight is not None:
                bend = bend * objective.weight[rows]
            return self._build(rows, bend)

        # At zero all rows weigh the same in every column, so that one inverse serves them all.
        if not points.any() and len(groups) == 1 and len(set(C)) == 1:
            built = [build(0)] * len(names)
        else:
            built = objective.workers.map(build, range(len(names)))
        self._inverses.update(zip(names, built, strict=True))

    def _build(self, rows: Integers, bend: Array) -> _Inverse:
        chosen, chance = systematic_sample(bend, self.sample_rows)
        rows, bend = rows[chosen], bend[chosen] / chance
        total = max(float(bend.sum()), np.finfo(float).tiny)
        block = self.objective.design.dense(rows)
        mean = (bend / total) @ block
        block -= mean.astype(block.dtype)
        block *= np.sqrt(bend)[:, None].astype(block.dtype)
        if len(block) < block.shape[1]:
            return _Inverse(mean, total, block, inverse_plus_identity(block @ block.T))
        return _Inverse(mean, total, None, inverse_plus_identity(block.T @ block))

    def apply(self, problems: Integers, gradients: Array) -> Array:
        """Apply each column's approximate inverse Hessian."""
        columns = self.objective.columns
        g = _without_common(gradients.reshape(len(problems), columns, -1))
        names = [(int(problem), c) for problem in problems for c in range(columns)]
        flat = g.reshape(len(names), -1)
        solved = self.objective.workers.map(
            lambda i: self._inverses[names[i]].solve(flat[i]), range(len(names))
        )
        d = _without_common(np.stack(solved).reshape(g.shape)).reshape(gradients.shape)
        # An inverse made for another C: most of the Hessian is proportional to it.
        return d * (self._made_for[problems] / self.objective.C[problems])[:, None]


# Columns whose curvature is computed at once: tens of megabytes of it.
COLUMNS_AT_A_TIME = 256


class SharedBasis:
    """Approximate inverse Hessians of many columns in the eigenvectors of one scatter matrix.

    For many columns. One sample of rows is rotated into the principal axes of the features, once
    for all columns and all values of C. There a column's Hessian, estimated from the sample with
    the column's own curvature, is taken to be dense in the leading axes and diagonal in the rest.

    Parameters
    ----------
    sample_rows : int
        Rows drawn in all.
    leading : int
        Size of the dense block.
    """

    def __init__(self, sample_rows: int, leading: int) -> None:
        self.sample_rows, self.leading = sample_rows, leading
        self._covered: npt.NDArray[np.bool_] | None = None
        self._built = False

    def attach(self, objective: Problems) -> None:
        """Serve another objective over the same rows; what was learnt is kept."""
        self.objective = objective
        if not self._built:
            self._rotate()
            self._built = True

    def covers(self, problems: Integers) -> bool:
        """Say whether these problems' Hessians have been estimated."""
        return self._covered is not None and bool(self._covered[problems].all())

    def _rotate(self) -> None:
        design, workers = self.objective.design, self.objective.workers
        n = min(self.sample_rows, design.n_rows)
        self._rows = np.unique(np.linspace(0, design.n_rows - 1, n).astype(np.intp))
        block = design.dense(self._rows)
        self._mean = block.mean(axis=0, dtype=np.float64)
        block -= self._mean.astype(block.dtype)
        pieces = [slice(low, low + 1024) for low in range(0, len(block), 1024)]
        if len(block) < block.shape[1]:
            _, left = np.linalg.eigh(block @ block.T)
            axes, _ = np.linalg.qr(block.T @ left[:, ::-1])
        else:
            scatter = sum(workers.map(lambda piece: block[piece].T @ block[piece], pieces))
            axes = np.linalg.eigh(scatter)[1][:, ::-1]
        self._axes = np.ascontiguousarray(axes)
        self._leading = min(self.leading, self._axes.shape[1])
        self._sample = np.concatenate(workers.map(lambda piece: block[piece] @ axes, pieces))

    def update(self, problems: Integers, points: Array) -> None:
        """Estimate the Hessians anew at these points."""
        objective, sample, r = self.objective, self._sample, self._leading
        dtype = sample.dtype
        if self._covered is None:
            shape = (objective.n_problems * objective.columns,)
            self._curvature = np.ones(shape)
            self._centre = np.zeros((*shape, sample.shape[1]), dtype)
            self._diagonal = np.ones((*shape, sample.shape[1]), dtype)
            self._dense = np.zeros((*shape, r, r), dtype)
            self._covered = np.zeros(objective.n_problems, dtype=bool)
            self._made_for = np.ones(objective.n_problems)
        self._covered[problems] = True
        self._made_for[problems] = objective.C[problems]

        def build(column: tuple[int, Floats]) -> None:
            place, bend = column
            used = np.flatnonzero(bend > 1e-5 * bend.max(initial=0))
            b, rows = bend[used], sample[used]
            total = max(float(b.sum(dtype=np.float64)), np.finfo(float).tiny)
            centre = (b @ rows) / dtype.type(total)
            rows -= centre
            self._curvature[place], self._centre[place] = total, centre
            self._diagonal[place] = 1 + b @ (rows * rows)
            lead = rows[:, :r] * np.sqrt(b)[:, None]
            self._dense[place] = inverse_plus_identity(lead.T @ lead)

        # The curvature of many columns on the sample is large: some problems at a time.
        step = max(1, COLUMNS_AT_A_TIME // objective.columns)
        for low in range(0, len(problems), step):
            some = problems[low : low + step]
            bend = self._bend(some, points[low : low + step])
            objective.workers.map(build, zip(self._places(some), bend, strict=True))

    def _bend(self, problems: Integers, points: Array) -> Floats:
        """Weigh every row of the sample by its curvature in every column, columns first."""
        objective, sample = self.objective, self._sample
        dtype = sample.dtype
        weights, intercepts = objective.split(points)
        scores = sample @ (weights @ self._axes).astype(dtype).T
        scores += (intercepts + weights @ self._mean).astype(dtype)
        group = Group(0, len(sample), np.arange(len(weights)))
        bend = objective.curvature(scores, 0, len(sample), group, None)
        bend *= np.repeat(objective.C[problems], objective.columns).astype(dtype)
        bend *= objective.members(problems, self._rows)
        if objective.weight is not None:
            bend *= objective.weight[self._rows, None].astype(dtype)
        bend *= dtype.type(objective.design.n_rows / len(self._rows))
        return np.ascontiguousarray(bend.T)

    def _places(self, problems: Integers) -> Integers:
        columns = self.objective.columns
        return (problems[:, None] * columns + np.arange(columns)).ravel()

    def apply(self, problems: Integers, gradients: Array) -> Array:
        """Apply each column's approximate inverse Hessian."""
        columns, r = self.objective.columns, self._leading
        g = _without_common(gradients.reshape(len(problems), columns, -1))
        flat = g.reshape(len(problems) * columns, -1)
        places = self._places(problems)
        whole = len(places) == len(self._curvature)  # then a view: the blocks are large
        dense = self._dense if whole else self._dense[places]
        centre, slope = self._centre[places], flat[:, -1:]
        raw = (flat[:, :-1] - slope * self._mean).astype(self._sample.dtype)
        inside = raw @ self._axes
        step = inside - slope.astype(centre.dtype) * centre
        step[:, r:] /= self._diagonal[places][:, r:]
        step[:, :r] = np.matmul(dense, step[:, :r, None])[:, :, 0]
        out = np.empty_like(flat)
        # Outside the sample's span (fewer rows than features) the Hessian is the identity.
        if self._axes.shape[1] < self._axes.shape[0]:
            out[:, :-1] = raw - inside @ self._axes.T
        else:
            out[:, :-1] = 0.0
        out[:, :-1] += step @ self._axes.T
        shift = np.einsum("ij,ij->i", step, centre) + out[:, :-1] @ self._mean
        out[:, -1] = flat[:, -1] / self._curvature[places] - shift
        d = _without_common(out.reshape(g.shape)).reshape(gradients.shape)
        return d * (self._made_for[problems] / self.objective.C[problems])[:, None]


def _without_common(table: Array) -> Array:
    """Subtract the mean over a multinomial's columns; leave single columns alone."""
    return table - table.mean(axis=1, keepdims=True) if table.shape[1] > 1 else table


def systematic_sample(size: Array, n: int) -> tuple[Integers, Array]:
    """Draw about `n` rows with probability proportional to size, without chance.

    Systematic sampling (Madow, *Ann. Math. Stat.* 20, 1949): equal steps along the cumulated
    probabilities. Rows that would be drawn more than once are all taken.

    Parameters
    ----------
    size : ndarray of float64, shape (n_rows,)
        Not negative.
    n : int
        Rows to draw.

    Returns
    -------
    rows : ndarray of int
        Drawn rows, ascending.
    chance : ndarray of float64
        The probability with which each was drawn.
    """
    if n >= len(size):
        return np.arange(len(size)), np.ones(len(size))
    certain = np.zeros(len(size), dtype=bool)
    chance = np.zeros(len(size))
    for _ in range(20):
        rest = n - int(certain.sum())
        mass = float(size[~certain].sum())
        if rest <= 0 or mass <= 0:
            break
        chance = np.where(certain, 1.0, size * (rest / mass))
        over = (chance >= 1) & ~certain
        if not over.any():
            break
        certain |= over
    chance = np.minimum(np.where(certain, 1.0, chance), 1.0)
    edges = np.floor(np.cumsum(chance) + 0.5)
    drawn = np.diff(edges, prepend=0.0) > 0
    rows = np.flatnonzero(drawn | certain)
    return rows, chance[rows]


def inverse_plus_identity(gram: Floats) -> Floats:
    """Invert ``I + gram``, with a growing diagonal where rounding makes it indefinite.

    Parameters
    ----------
    gram : ndarray, shape (n, n)
        Symmetric, positive semidefinite up to rounding; overwritten.

    Returns
    -------
    ndarray, shape (n, n)
        Symmetric and positive semidefinite by construction, ``inv(L)' inv(L)``.
    """
    index = np.arange(len(gram))
    diagonal = gram[index, index].copy()
    jitter = 1.0
    while True:
        gram[index, index] = diagonal + gram.dtype.type(jitter)
        try:
            factor = _inverse_factor(gram)
        except np.linalg.LinAlgError:
            jitter = max(jitter * 100, float(diagonal.max(initial=1.0)) * 1e-7)
            continue
        return factor.T @ factor


def _inverse_factor(matrix: Floats) -> Floats:
    """Invert the Cholesky factor of a matrix, by halves.

    Matrix products do the work: on one thread they are several times as fast as LAPACK's
    factorisation, and numpy's let other threads run where scipy's wrappers of LAPACK do not.
    """
    n = len(matrix)
    if n <= 128:
        return np.tril(np.linalg.inv(np.linalg.cholesky(matrix)))
    half = n // 2
    factor = np.zeros_like(matrix)
    first = _inverse_factor(matrix[:half, :half])
    below = matrix[half:, :half] @ first.T
    second = _inverse_factor(matrix[half:, half:] - below @ below.T)
    factor[:half, :half], factor[half:, half:] = first, second
    factor[half:, :half] = -(second @ below) @ first
    return factor
