"""Approximate inverse Hessians, from a sample of the rows.

The Hessian of a column is ``I + C sum_i s_i h_i x_i x_i'`` (plus the intercept's row and column),
with ``h_i`` the curvature of the row's loss: ``p_i (1 - p_i)`` of the logistic one, 2 or 0 of the
squared hinge. Its sum is dominated by the rows near the decision boundary, so it is estimated from
rows drawn with probability proportional to ``s_i h_i``: after Xu, Yang, Roosta-Khorasani, Re
and Mahoney, "Sub-sampled Newton methods with non-uniform sampling", NeurIPS 2016. Where the
problem has no more rows than the sample, the estimate is the Hessian itself and the method is
Newton's.

The intercept is eliminated exactly: about the curvature-weighted mean of the rows the Hessian is
block diagonal in the weights and the intercept. With fewer sampled rows than features, the
inverse is made in the rows' span.

The multinomial's Hessian couples its columns; the blocks on its diagonal are used, between
projections that remove what is common to all classes, a direction that the loss does not see.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from classify.solver.passes import Group
from classify.solver.preconditioner.factors import inverse_factor_plus_identity, square
from classify.solver.preconditioner.sampling import (
    project_and_solve,
    span_and_gram,
    systematic_sample,
)
from classify.solver.preconditioner.shared import SharedHessian, Sketch
from classify.solver.problems import Problems
from classify.solver.tuning import (
    CURVATURE_ROWS,
    LONGEST,
    PANELS,
    SETTLED,
    SLOW_NUMBERS,
    SLOW_ROWS,
    SLOW_TOGETHER,
    SOFTEST,
)

Array = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating[Any]]
Integers = npt.NDArray[np.intp]


# Rows in the sample that all columns share, and in each column's own, as multiples of the width.
SHARED_ROWS = 6
OWN_ROWS = 2


class _Triangle:
    """A lower triangular matrix, without most of its zeros: a `SHARE` of the numbers is left."""

    SHARE = (PANELS + 1) / (2 * PANELS)

    def __init__(self, factor: Floats) -> None:
        edges = np.linspace(0, len(factor), PANELS + 1).astype(int).tolist()
        shapes = [(high - low, high) for low, high in itertools.pairwise(edges) if low < high]
        # In one piece: many small ones would leave holes in the heap when they are freed.
        whole = np.empty(sum(rows * high for rows, high in shapes), factor.dtype)
        self._panels: list[tuple[int, Floats]] = []
        start = 0
        for rows, high in shapes:
            panel = whole[start : start + rows * high].reshape(rows, high)
            panel[...] = factor[high - rows : high, :high]
            self._panels.append((high, panel))
            start += panel.size
        self.dtype, self.size = factor.dtype, whole.size

    def squared(self, v: Floats) -> Floats:
        """Return ``F' F v``."""
        out = np.zeros_like(v)
        for high, panel in self._panels:
            out[:high] += panel.T @ (panel @ v[:high])
        return out


@dataclass(frozen=True)
class _Inverse:
    """One column's inverse: of ``I + A'A`` about a mean, and of the intercept's curvature."""

    mean: Array
    basis: Floats | None  # of the span of A, where that has fewer rows than features
    factor: _Triangle  # F with F'F the inverse of I + A'A, in that basis

    def solve(self, gradient: Array, intercept_curvature: float) -> Array:
        """Apply the inverse to one column's gradient, intercept last."""
        v = (gradient[:-1] - self.mean * gradient[-1]).astype(self.factor.dtype)
        if self.basis is None:
            v = self.factor.squared(v)
        else:
            v = project_and_solve(self.basis, self.factor.squared, v)
        out = np.empty_like(gradient)
        out[:-1] = v
        out[-1] = gradient[-1] / intercept_curvature - self.mean @ out[:-1]
        return out


class SampledHessian:
    """Approximate inverse Hessians from rows sampled by their curvature.

    `rows_per_column` are drawn for each column's own inverse, 0 where those are too expensive: then
    columns share inverses made from `shared_rows`. An update costs `price` passes; a column that
    has `slow_price` iterations ahead of it (0 for never) gets one of its own beside the shared.
    """

    def __init__(
        self, rows_per_column: int, shared_rows: int, price: float, slow_price: float = 0.0
    ) -> None:
        self.rows_per_column, self.shared_rows, self.price = rows_per_column, shared_rows, price
        self.slow_price = slow_price
        self._slow: Integers = np.empty(0, dtype=np.intp)  # whose own inverse is made next
        self._inverses: dict[int, _Inverse] = {}
        self._shared: SharedHessian | None = None
        # Some rows in their leading directions, where they are known; for the first shared inverse.
        self.sketch: Sketch | None = None
        # Which shared inverse serves a column: the newest, or the one before for columns that
        # had converged when the newest was made, and go on at another C.
        self._serves: dict[int, SharedHessian] = {}
        self._intercept_curvature = np.empty(0)
        # Iterations of each column since its own inverse was made; the C that inverses were made
        # for, and what it is for those that go back to the shared one.
        self._iterations: Integers = np.empty(0, dtype=np.intp)
        self._made_for, self._shared_for = np.empty(0), np.empty(0)
        self._age = 0.0  # iterations of all columns since the last update
        self._updates = 0  # for this objective

    def attach(self, objective: Problems) -> None:
        """Serve another objective over the same rows; what was learnt is kept."""
        self.objective = objective
        columns = objective.n_problems * objective.columns
        if not len(self._intercept_curvature):
            self._intercept_curvature = np.ones(columns)
            self._iterations = np.zeros(columns, dtype=np.intp)
            self._made_for = np.ones(objective.n_problems)
            self._shared_for = np.ones(objective.n_problems)
        self._updates = min(self._updates, 2)

    def due(self, problems: Integers, ahead: Array) -> bool:
        """Say whether the iterations since the last update have cost as much as the next one.

        Where columns share an inverse, those that are still far from the end get one of their own.
        """
        # The renewal rule. An inverse ages by one for each iteration of all columns that it
        # serves. It is renewed when the iterations since have cost about as much as a new one: 0.6
        # prices after the first update, three times that after each further one, since inverses
        # made nearer the optimum stay good for longer; at least three iterations. `LONGEST` ends
        # that growth, for separable classes, whose curvature goes on falling. Near the end
        # (`ahead`, which is 0 where it is not known) an update would not be won back.
        places = self._places(problems)
        columns = places.tolist()
        self._slow = np.empty(0, dtype=np.intp)
        if not all(column in self._serves or column in self._inverses for column in columns):
            return True
        renewed = columns
        if not self.rows_per_column:  # what is shared serves only those without one of their own
            renewed = [column for column in columns if column not in self._inverses]
        self._age += len(renewed) / len(self._intercept_curvature)
        late = 0 < ahead.max(initial=0.0) < self.price  # too few iterations are left to win it back
        iterations = max(3.0, 0.6 * self.price * 3.0 ** (self._updates - 1))
        if self._age > min(iterations, LONGEST * max(self.price, 1.0)) and not late:
            return True
        self._slow = self._worth_per_column(places, np.repeat(ahead, self.objective.columns))
        return len(self._slow) > 0

    def _worth_per_column(self, places: Integers, ahead: Array) -> Integers:
        """Find the columns that an inverse of their own saves more iterations than it costs."""
        # (One column a problem: the softmax's blocks have inverses that stand together.)
        if self.rows_per_column or not self.slow_price or self.objective.columns > 1:
            return np.empty(0, dtype=np.intp)
        self._iterations[places] += 1
        # Slow is judged after some iterations with the same inverse, and not again until as many
        # have gone by with its own; the slowest come first where there is not room for all.
        slow = np.flatnonzero((self._iterations[places] >= SETTLED) & (ahead > self.slow_price))
        has = np.isin(places[slow], np.fromiter(self._inverses, np.intp, len(self._inverses)))
        again, new = slow[has], slow[~has]
        if len(new):
            new = new[np.argsort(-ahead[new], kind="stable")][: self._room(places, len(new))]
        slow = np.sort(np.concatenate([again, new]))
        self._iterations[places[slow]] = 0
        return slow

    def _room(self, places: Integers, wanted: int) -> int:
        """Say how many more columns may have inverses of their own, and make that room."""
        d = self.objective.design.n_features
        most = int(SLOW_NUMBERS / (_Triangle.SHARE * d * d))
        live = set(places.tolist())
        done = [name for name in self._inverses if name not in live]
        room = min(wanted, most - (len(self._inverses) - len(done)))
        if room < min(wanted, SLOW_TOGETHER):
            return 0
        # Those of problems that have converged; what the columns share serves them.
        for name in done[: max(0, len(self._inverses) + room - most)]:
            del self._inverses[name]
            self._made_for[name] = self._shared_for[name]
        return room

    def update(self, problems: Integers, moves: Any) -> None:
        """Draw the samples anew at these points."""
        objective, design = self.objective, self.objective.design
        columns = self._places(problems)
        C = np.repeat(objective.C[problems], objective.columns)
        curvatures: list[Floats] = []
        curvature_sum = np.zeros(len(columns))
        groups, scores, fresh = moves.scores()
        link = objective.weighted_link(problems)

        def curve(job: tuple[int, int]) -> None:
            index, low = job
            group, z = groups[index], scores[index]
            high = min(low + CURVATURE_ROWS, len(z))
            start, stop = group.start + low, group.start + high
            curvature = link.curvature(z[low:high], start, stop, group)
            if objective.weight is not None:
                curvature = curvature * objective.weight[start:stop, None]
            curvatures[index][low:high] = curvature * C[group.columns].astype(z.dtype)

        curvatures.extend(scores if fresh else [np.empty_like(z) for z in scores])
        jobs = [(i, low) for i, z in enumerate(scores) for low in range(0, len(z), CURVATURE_ROWS)]
        objective.workers.map(curve, jobs)
        row_weight = np.zeros(len(columns))
        for group, curvature in zip(groups, curvatures, strict=True):
            curvature_sum[group.columns] += curvature.sum(axis=0, dtype=np.float64)
            row_weight[group.columns] += objective.weight_sum(group)
        # Where the classes are apart hardly any curvature is left, and rounding in an intercept's
        # gradient over next to nothing would be all there is of a step.
        intercept_curvature = np.maximum(curvature_sum, SOFTEST * C * row_weight)
        if len(self._slow):
            # The others' inverse stays, and so does what it was made for.
            slow = self._slow
            self._intercept_curvature[columns[slow]] = intercept_curvature[slow]
            self._made_for[problems[slow]] = objective.C[problems[slow]]
            self._divide(columns, groups, curvatures, slow, int(SLOW_ROWS * design.n_features))
            return
        self._intercept_curvature[columns] = intercept_curvature
        self._made_for[problems] = self._shared_for[problems] = objective.C[problems]
        flat = not objective.split(moves.points)[0].any()
        if flat or not self.rows_per_column:
            # The first serves for a few iterations only, far from the optimum: half will do.
            before = self._shared
            rows = self.shared_rows // (2 if flat else 1)
            self._shared = SharedHessian(
                design, objective.workers, rows, self.sketch, objective.intercept
            )
            self._shared.build(columns, groups, curvatures, objective.labels)
            if self.sketch is not None and self._shared.tail is None:
                self.sketch = self.sketch.without_rows()
            self._assign(columns, before)
        else:
            self._divide(columns, groups, curvatures, np.arange(len(columns)), self.rows_per_column)
        self._age = 0.0
        # What is made near the optimum serves for long: the second one, and the first of a start
        # away from zero.
        self._updates += 2 if not flat and (not self.rows_per_column or not self._updates) else 1

    def _assign(self, columns: Integers, before: SharedHessian | None) -> None:
        """Let the newest serve its columns, and none but the one before the others."""
        assert self._shared is not None
        # Fits from the disk have room for one only.
        old = before if len(self.objective.design.edges) == 2 else None
        self._serves = {c: kept for c, kept in self._serves.items() if kept is old}
        self._serves.update(dict.fromkeys(columns.tolist(), self._shared))

    def _places(self, problems: Integers) -> Integers:
        columns = self.objective.columns
        return (problems[:, None] * columns + np.arange(columns)).ravel()

    def _divide(
        self,
        columns: Integers,
        groups: list[Group],
        curvatures: list[Floats],
        places: Integers,
        n_rows: int,
    ) -> None:
        """Make the own inverses of the columns in some places."""
        design, workers = self.objective.design, self.objective.workers
        parts: list[list[tuple[Integers, Floats]]] = [[] for _ in columns]
        for group, curvature in zip(groups, curvatures, strict=True):
            rows = np.arange(group.start, group.stop)
            for place, column in enumerate(group.columns):
                parts[column].append((rows, curvature[:, place]))

        def build(place: int) -> _Inverse:
            rows = np.concatenate([part[0] for part in parts[place]])
            curvature = np.concatenate([part[1] for part in parts[place]]).astype(np.float64)
            chosen, chance = systematic_sample(curvature, n_rows)
            rows, curvature = rows[chosen], curvature[chosen] / chance
            block = design.dense(rows)
            share = curvature / max(float(curvature.sum()), np.finfo(float).tiny)
            share *= self.objective.intercept  # without one, about zero
            mean = (share.astype(block.dtype) @ block).astype(np.float64)
            block -= mean.astype(block.dtype)
            block *= np.sqrt(curvature)[:, None].astype(block.dtype)
            basis = None
            if len(block) < block.shape[1]:
                basis, gram = span_and_gram(block)
            else:
                gram = square(block)
            del block  # before the factor takes as much again
            return _Inverse(mean, basis, _Triangle(inverse_factor_plus_identity(gram)))

        built = workers.map(build, places.tolist())
        self._inverses.update(zip(columns[places].tolist(), built, strict=True))

    def apply(self, problems: Integers, gradients: Array) -> Array:
        """Apply each column's approximate inverse Hessian."""
        workers = self.objective.workers
        g = _without_common(gradients.reshape(len(problems), self.objective.columns, -1))
        places = self._places(problems)
        flat = g.reshape(len(places), -1)
        intercept_curvature = self._intercept_curvature[places]
        names = places.tolist()
        per_column = [i for i, name in enumerate(names) if name in self._inverses]
        servers = [None if name in self._inverses else self._serves[name] for name in names]
        kinds = dict.fromkeys(server for server in servers if server is not None)
        if not per_column and len(kinds) == 1:
            solved = next(iter(kinds)).apply(places, flat, intercept_curvature)
        else:
            solved = np.empty_like(flat)
            for server in kinds:
                some = np.flatnonzero([other is server for other in servers])
                solved[some] = server.apply(places[some], flat[some], intercept_curvature[some])

        def solve(i: int) -> None:
            solved[i] = self._inverses[names[i]].solve(flat[i], intercept_curvature[i])

        workers.map(solve, per_column)
        d = _without_common(solved.reshape(g.shape)).reshape(gradients.shape)
        # An inverse made for another C: most of the Hessian is proportional to it.
        share = self._made_for[problems] / self.objective.C[problems]
        if (share != 1.0).any():
            d *= share[:, None]
        return d


def _without_common(table: Array) -> Array:
    """Subtract the mean over a multinomial's columns; leave single columns alone."""
    return table - table.mean(axis=1, keepdims=True) if table.shape[1] > 1 else table
