"""Approximate inverse Hessians, from a sample of the rows.

The Hessian of a column is ``I + C sum_i s_i p_i (1 - p_i) x_i x_i'`` (plus the intercept's row and
column). Its sum is dominated by the rows near the decision boundary, so it is estimated from rows
drawn with probability proportional to ``s_i p_i (1 - p_i)``: after Xu, Yang, Roosta-Khorasani, Re
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

    def solve(self, gradient: Array, stiffness: float) -> Array:
        """Apply the inverse to one column's gradient, intercept last."""
        v = (gradient[:-1] - self.mean * gradient[-1]).astype(self.factor.dtype)
        if self.basis is None:
            v = self.factor.squared(v)
        else:
            v = project_and_solve(self.basis, self.factor.squared, v)
        out = np.empty_like(gradient)
        out[:-1] = v
        out[-1] = gradient[-1] / stiffness - self.mean @ out[:-1]
        return out


class SampledHessian:
    """Approximate inverse Hessians from rows sampled by their curvature.

    Parameters
    ----------
    own_rows : int
        Rows drawn for each column's own inverse; 0 where that would cost too much: then columns of
        similar curvature share one, made from `shared_rows`.
    shared_rows : int
        Rows drawn for all columns together, which serve until the columns have their own.
    price : float
        What an update of the columns' own inverses costs, in passes.
    slow_price : float
        Where columns share an inverse: how many rounds a column must have ahead of it to get one
        of its own; 0 for never.
    """

    def __init__(
        self, own_rows: int, shared_rows: int, price: float, slow_price: float = 0.0
    ) -> None:
        self.own_rows, self.shared_rows, self.price = own_rows, shared_rows, price
        self.slow_price = slow_price
        self._slow: Integers = np.empty(0, dtype=np.intp)  # whose own inverse is made next
        self._inverses: dict[int, _Inverse] = {}
        self._shared: SharedHessian | None = None
        # Some rows in their leading directions, where they are known; for the first shared inverse.
        self.sketch: Sketch | None = None
        # Which shared inverse serves a column: the newest, or the one before for columns that
        # had converged when the newest was made, and go on at another C.
        self._serves: dict[int, SharedHessian] = {}
        self._stiffness = np.empty(0)
        self._age = 0.0  # rounds of all columns since the last update
        self._updates = 0  # for this objective

    def attach(self, objective: Problems) -> None:
        """Serve another objective over the same rows; what was learnt is kept."""
        self.objective = objective
        columns = objective.n_problems * objective.columns
        if not len(self._stiffness):
            self._stiffness = np.ones(columns)
            self._rounds = np.zeros(columns, dtype=np.intp)  # of each, since its own was made
            self._made_for = np.ones(objective.n_problems)
            self._shared_for = np.ones(objective.n_problems)  # what is left to those without
        self._updates = min(self._updates, 2)

    def due(self, problems: Integers, ahead: Array) -> bool:
        """Say whether the rounds since the last update have cost as much as the next one.

        Where columns share an inverse, those that are still far from the end get one of their own.
        """
        places = self._places(problems)
        columns = places.tolist()
        self._slow = np.empty(0, dtype=np.intp)
        if not all(column in self._serves or column in self._inverses for column in columns):
            return True
        renewed = columns
        if not self.own_rows:  # what is shared serves only those without one of their own
            renewed = [column for column in columns if column not in self._inverses]
        self._age += len(renewed) / len(self._stiffness)
        # The first inverses are made where the weights are zero; those of the second time are made
        # near enough to the optimum to serve for long.
        late = 0 < ahead.max(initial=0.0) < self.price  # too few rounds are left to win it back
        rounds = max(3.0, 0.6 * self.price * 3.0 ** (self._updates - 1))
        if self._age > min(rounds, LONGEST * max(self.price, 1.0)) and not late:
            return True
        self._slow = self._worth_own(places, np.repeat(ahead, self.objective.columns))
        return len(self._slow) > 0

    def _worth_own(self, places: Integers, ahead: Array) -> Integers:
        """Find the columns that an inverse of their own saves more rounds than it costs."""
        # (One column a problem: the softmax's blocks have inverses that stand together.)
        if self.own_rows or not self.slow_price or self.objective.columns > 1:
            return np.empty(0, dtype=np.intp)
        self._rounds[places] += 1
        slow = np.flatnonzero((self._rounds[places] >= SETTLED) & (ahead > self.slow_price))
        has = np.isin(places[slow], np.fromiter(self._inverses, np.intp, len(self._inverses)))
        again, new = slow[has], slow[~has]
        if len(new):
            new = new[np.argsort(-ahead[new], kind="stable")][: self._room(places, len(new))]
        slow = np.sort(np.concatenate([again, new]))
        self._rounds[places[slow]] = 0
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
        mass = np.zeros(len(columns))
        groups, scores, fresh = moves.scores()

        def curve(job: tuple[int, int]) -> None:
            index, low = job
            group, z = groups[index], scores[index]
            high = min(low + CURVATURE_ROWS, len(z))
            start, stop = group.start + low, group.start + high
            bend = objective.curvature(z[low:high])
            if objective.weight is not None:
                bend = bend * objective.weight[start:stop, None]
            curvatures[index][low:high] = bend * C[group.columns].astype(z.dtype)

        curvatures.extend(scores if fresh else [np.empty_like(z) for z in scores])
        jobs = [(i, low) for i, z in enumerate(scores) for low in range(0, len(z), CURVATURE_ROWS)]
        objective.workers.map(curve, jobs)
        weight = np.zeros(len(columns))
        for group, bend in zip(groups, curvatures, strict=True):
            mass[group.columns] += bend.sum(axis=0, dtype=np.float64)
            weight[group.columns] += objective.weight_sum(group)
        # Where the classes are apart hardly any curvature is left, and rounding in an intercept's
        # gradient over next to nothing would be all there is of a step.
        stiffness = np.maximum(mass, SOFTEST * C * weight)
        if len(self._slow):
            # The others' inverse stays, and so does what it was made for.
            slow = self._slow
            self._stiffness[columns[slow]] = stiffness[slow]
            self._made_for[problems[slow]] = objective.C[problems[slow]]
            self._divide(columns, groups, curvatures, slow, int(SLOW_ROWS * design.n_features))
            return
        self._stiffness[columns] = stiffness
        self._made_for[problems] = self._shared_for[problems] = objective.C[problems]
        flat = not objective.split(moves.points)[0].any()
        if flat or not self.own_rows:
            # The first serves for a few rounds only, far from the optimum: half as many will do.
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
            self._divide(columns, groups, curvatures, np.arange(len(columns)), self.own_rows)
        self._age = 0.0
        # What is made near the optimum serves for long: the second one, and the first of a start
        # away from zero.
        self._updates += 2 if not flat and (not self.own_rows or not self._updates) else 1

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
        for group, bend in zip(groups, curvatures, strict=True):
            rows = np.arange(group.start, group.stop)
            for place, column in enumerate(group.columns):
                parts[column].append((rows, bend[:, place]))

        def build(place: int) -> _Inverse:
            rows = np.concatenate([part[0] for part in parts[place]])
            bend = np.concatenate([part[1] for part in parts[place]]).astype(np.float64)
            chosen, chance = systematic_sample(bend, n_rows)
            rows, bend = rows[chosen], bend[chosen] / chance
            block = design.dense(rows)
            share = bend / max(float(bend.sum()), np.finfo(float).tiny)
            share *= self.objective.intercept  # without one, about zero
            mean = (share.astype(block.dtype) @ block).astype(np.float64)
            block -= mean.astype(block.dtype)
            block *= np.sqrt(bend)[:, None].astype(block.dtype)
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
        stiffness = self._stiffness[places]
        names = places.tolist()
        own = [i for i, name in enumerate(names) if name in self._inverses]
        servers = [None if name in self._inverses else self._serves[name] for name in names]
        kinds = dict.fromkeys(server for server in servers if server is not None)
        if not own and len(kinds) == 1:
            solved = next(iter(kinds)).apply(places, flat, stiffness)
        else:
            solved = np.empty_like(flat)
            for server in kinds:
                some = np.flatnonzero([other is server for other in servers])
                solved[some] = server.apply(places[some], flat[some], stiffness[some])

        def solve(i: int) -> None:
            solved[i] = self._inverses[names[i]].solve(flat[i], stiffness[i])

        workers.map(solve, own)
        d = _without_common(solved.reshape(g.shape)).reshape(gradients.shape)
        # An inverse made for another C: most of the Hessian is proportional to it.
        share = self._made_for[problems] / self.objective.C[problems]
        if (share != 1.0).any():
            d *= share[:, None]
        return d


def _without_common(table: Array) -> Array:
    """Subtract the mean over a multinomial's columns; leave single columns alone."""
    return table - table.mean(axis=1, keepdims=True) if table.shape[1] > 1 else table
