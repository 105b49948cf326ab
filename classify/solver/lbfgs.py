"""A batched, preconditioned limited-memory BFGS: many problems at once, each on its own.

The minimiser knows nothing about classes, features or rows. It is given a function that starts
problems from any points, which then go along a direction each, as far as is worth while
(`classify.solver.moves`), and a preconditioner. A problem that has converged leaves the work (its
columns are dropped).

- Direction: Nocedal and Wright, *Numerical Optimization* (2nd ed., 2006), algorithm 7.4, with the
  preconditioner as the initial inverse Hessian.
- Step: the objective's own line search. A pair of differences of points and gradients is kept only
  where its product is positive.
- Stopping: after one step at least, when ``||gradient||^2 / 2`` suggests that the duality gap is
  within ``tol`` of the objective, the problem waits; when all have stopped, one pass certifies them
  (`classify.solver.certificate`), and those whose bound is still too large go on.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from classify.solver.moves import Moves
from classify.solver.solution import Certificate, Solution, Status
from classify.solver.threads import Workers, each_piece, row_dots, some_rows
from classify.solver.tuning import FAILURES, IN_USE, PATIENCE, SLOWEST, SPAN

Array = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating[Any]]
Bools = npt.NDArray[np.bool_]
Integers = npt.NDArray[np.intp]


class History:
    """The unfinished problems' corrections."""

    def __init__(
        self, memory: int, n_problems: int, n_parameters: int, dtype: Any, workers: Workers
    ) -> None:
        self.workers, self._memory, self._dtype = workers, memory, np.dtype(dtype)
        self._stored = n_problems
        # Which of the stored rows the unfinished problems have; None for all.
        self._rows: npt.NDArray[np.intp] | None = None
        self._steps: list[Floats] = []  # differences of points, each (n_stored, n_parameters)
        self._gradient_steps: list[Floats] = []  # differences of gradients
        self._rho = np.zeros(
            (memory, n_problems)
        )  # 1 / (step . gradient step), 0 for an empty place
        self._newest = -1  # the place that was filled last

    def keep(self, mask: Bools) -> None:
        """Drop the problems that are not in `mask`."""
        rows = np.flatnonzero(mask) if self._rows is None else self._rows[mask]
        self._rho = self._rho[:, mask]
        self._rows = rows
        if len(rows) <= IN_USE * self._stored:
            for kept in (self._steps, self._gradient_steps):
                for place, table in enumerate(kept):
                    kept[place] = some_rows(self.workers, table, rows)
            self._stored, self._rows = len(rows), None

    def forget(self, mask: Bools) -> None:
        """Empty all places of the problems in `mask`."""
        self._rho[:, mask] = 0.0

    def add(self, points: Array, before: Array, gradients: Array, gradients_before: Array) -> None:
        """Fill a place; it stays empty for problems whose curvature rounding has hidden.

        Shapes: `points, before` (k, n_parameters), `gradients, gradients_before` (k, n_parameters).
        """
        self._newest = place = (self._newest + 1) % self._memory
        if place == len(self._steps):
            shape = self._stored, points.shape[1]
            self._steps.append(np.empty(shape, self._dtype))
            self._gradient_steps.append(np.empty(shape, self._dtype))

        def fill(part: slice) -> None:
            s, y = points[part] - before[part], gradients[part] - gradients_before[part]
            sy = np.einsum("ij,ij->i", s, y)
            size = np.sqrt(np.einsum("ij,ij->i", s, s) * np.einsum("ij,ij->i", y, y))
            # Convexity makes s.y positive; where it is not, or is rounding, the pair says nothing.
            use = (sy > 0) & (sy > 1e-14 * size)
            rows = part if self._rows is None else self._rows[part]
            self._steps[place][rows], self._gradient_steps[place][rows] = s, y
            self._rho[place, part] = np.where(use, 1 / np.where(use, sy, 1.0), 0.0)

        each_piece(self.workers, points, fill)

    def direction(self, gradients: Array, precondition: Callable[[Floats], Floats]) -> Array:
        """Compute approximate Newton steps.

        Shapes: `gradients` (k, n_parameters), returns (k, n_parameters).
        """
        places = [(self._newest - i) % self._memory for i in range(self._memory)]
        used = [place for place in places if self._rho[place].any()]
        alpha = np.zeros_like(self._rho)
        q: Floats = np.empty(gradients.shape, self._dtype)

        def down(part: slice) -> None:
            block = q[part]
            block[...] = gradients[part]
            for place in used:
                a = self._rho[place, part] * np.einsum(
                    "ij,ij->i", self._of(self._steps, place, part), block
                )
                block -= a.astype(block.dtype)[:, None] * self._of(
                    self._gradient_steps, place, part
                )
                alpha[place, part] = a

        def up(part: slice) -> None:
            block = q[part]
            for place in reversed(used):
                b = self._rho[place, part] * np.einsum(
                    "ij,ij->i", self._of(self._gradient_steps, place, part), block
                )
                left = (alpha[place, part] - b).astype(block.dtype)
                block += left[:, None] * self._of(self._steps, place, part)
            np.negative(block, out=result[part])

        each_piece(self.workers, q, down)
        q = precondition(q).astype(self._dtype, copy=False)
        result = np.empty(q.shape)
        each_piece(self.workers, q, up)
        return result

    def _of(self, kept: list[Floats], place: int, part: slice) -> Floats:
        """Return some problems' rows of a place."""
        return kept[place][part if self._rows is None else self._rows[part]]


# Objectives that are rounded by more than this, relatively, come from single precision.
SINGLE = 1e-12


def rounding_of(dtype: npt.DTypeLike) -> float:
    """Return the relative rounding error of objectives of features in a dtype, for `minimise`."""
    return float(np.finfo(np.dtype(dtype)).eps) / 10


# From problems, points and the relative rounding error of an objective to where they start.
Start = Callable[[Integers, Array, float], Moves]


class Preconditions(Protocol):
    """What the minimiser needs of a preconditioner."""

    def due(self, problems: Integers, ahead: Array) -> bool:
        """Say whether an update is worth its cost now, or needed.

        `ahead` says how many more iterations each problem is expected to take.
        """

    def apply(self, problems: Integers, gradients: Array) -> Array:
        """Return approximate inverse Hessians times gradients, ``(k, n_parameters)``."""

    def update(self, problems: Integers, moves: Moves) -> None:
        """Improve the approximation at new points."""


def minimise(
    start: Start,
    points: Array,
    preconditioner: Preconditions,
    certify: Callable[[Integers, Array], Certificate],
    *,
    tol: float,
    max_iter: int,
    memory: int = 10,
    rounding: float = 1e-15,
    problems: Integers | None = None,
    workers: Workers | None = None,
) -> Solution:
    """Minimise problems that `start` takes up at `points`, all of them by default.

    Shapes: `points` (k, n_parameters), `problems` (k,).
    """
    threads = Workers(1) if workers is None else workers
    run = _Run(start, preconditioner, certify, tol, max_iter, memory, rounding, threads)
    return run.solve(np.arange(len(points)) if problems is None else problems, points)


class _Run:
    def __init__(
        self,
        start: Start,
        preconditioner: Preconditions,
        certify: Callable[[Integers, Array], Certificate],
        tol: float,
        max_iter: int,
        memory: int,
        rounding: float,
        workers: Workers,
    ) -> None:
        self.start, self.preconditioner, self.certify = start, preconditioner, certify
        self.tol, self.max_iter, self.memory, self.rounding = tol, max_iter, memory, rounding
        self.workers = workers
        self.n_passes = self.column_products = 0
        self.trace: list[tuple[Integers, Array]] = []

    def solve(self, problems: Integers, start: Array) -> Solution:
        """Run, certify, and run on with what is not good enough yet."""
        k = len(problems)
        points = start.astype(np.float64).copy()
        status: list[Status] = [Status.MAX_ITER] * k
        value, norm, bound = (np.full(k, np.nan) for _ in range(3))
        n_iter = np.zeros(k, dtype=np.int64)
        todo, goal = np.arange(k), np.full(k, self.tol)
        while len(todo):
            ended = self._descend(problems, todo, points, n_iter, goal)
            certificate = self.certify(problems[todo], points[todo])
            self._count(len(todo))
            points[todo] = certificate.points
            value[todo], norm[todo] = certificate.objective, certificate.grad_norm
            bound[todo] = certificate.gap_bound
            good = bound[todo] <= self.tol * np.abs(value[todo])
            # Nothing is certified of what is not finite; infinity is not above infinity.
            good &= np.isfinite(value[todo]) & np.isfinite(points[todo]).all(axis=1)
            again = []
            for place, ok, end in zip(todo, good, ended, strict=True):
                status[place] = Status.CONVERGED if ok else end
                if not ok and end is Status.CONVERGED:
                    # Its gradient promised more than the bound holds: a stricter goal.
                    goal[place] /= 4
                    again.append(place)
            todo = np.array(again, dtype=np.intp)
            if goal.min() < self.tol * 1e-6:
                for place in todo:
                    status[place] = Status.PRECISION
                break
        return Solution(
            points, tuple(status), value, norm, bound, n_iter, self.n_passes, self.column_products,
            tuple(self.trace),
        )  # fmt: skip

    def _count(self, columns: int) -> None:
        self.n_passes += 1
        self.column_products += columns

    def _descend(
        self, problems: Integers, todo: Integers, points: Array, n_iter: Integers, goal: Array
    ) -> list[Status]:
        """Iterate on the problems ``todo`` until each has stopped; writes points and n_iter."""
        at = self.start(problems[todo], points[todo], self.rounding)
        self._count(len(todo))
        k, p = at.points.shape
        # Where the features are in single precision, so are the corrections, which may be many.
        dtype = np.float32 if self.rounding > SINGLE else np.float64
        history = History(self.memory, k, p, dtype, self.workers)
        watch = _Watch(todo.copy(), goal[todo], self.rounding, at.value.copy())
        ended: dict[int, Status] = {}
        while True:
            self.trace.append((watch.index, at.value.copy()))
            half = 0.5 * row_dots(self.workers, at.gradient, at.gradient)
            stop = watch.stopped(at.value, half, n_iter, self.max_iter)
            alive = np.array([status is None for status in stop])
            for row in np.flatnonzero(~alive):
                place = int(watch.index[row])
                ended[place] = stop[row]  # type: ignore[assignment]
                points[place] = at.points[row]
            if not alive.all():
                watch.keep(alive)
                history.keep(alive)
                at.keep(alive)
            if len(watch.index) == 0:
                return [ended[int(place)] for place in todo]
            live = problems[watch.index]
            if self.preconditioner.due(live, watch.ahead()):
                self.preconditioner.update(live, at)
            before = at.points, at.gradient
            direction = history.direction(
                at.gradient, functools.partial(self.preconditioner.apply, live)
            )
            # Without a history, or where rounding has spoilt it, the preconditioned gradient.
            lost = ~(row_dots(self.workers, at.gradient, direction) < 0) | watch.stuck
            if lost.any():
                history.forget(lost)
                direction[lost] = -self.preconditioner.apply(live[lost], at.gradient[lost])
            # Where that has gone nowhere either, the gradient itself.
            worse = ~(row_dots(self.workers, at.gradient, direction) < 0) | (watch.failures > 1)
            if worse.any():
                direction[worse] = -_unit(at.gradient[worse])
            moved = at.advance(direction)
            self._count(len(live))
            n_iter[watch.index] += moved
            watch.failures = np.where(moved, 0, watch.failures + 1)
            history.add(at.points, before[0], at.gradient, before[1])


class _Watch:
    """Decides when each problem stops."""

    def __init__(self, index: Integers, goal: Array, rounding: float, value: Array) -> None:
        k = len(index)
        self.index, self.goal, self.rounding = index, goal, rounding
        self.failures = np.zeros(k, dtype=np.intp)  # iterations in a row that went nowhere
        self._best = np.full(k, np.inf)  # the smallest half squared gradient
        self._since = np.zeros(k, dtype=np.intp)  # iterations since it last fell by a tenth
        self._past = value  # objective when it last did
        self.recent_gaps: list[Array] = []  # logarithms of what is left, over the goal, of late

    @property
    def stuck(self) -> Bools:
        """Which problems did not move in the last iteration."""
        return self.failures > 0

    def keep(self, mask: Bools) -> None:
        """Drop the problems that are not in `mask`."""
        self.index, self.goal, self.failures = (
            self.index[mask],
            self.goal[mask],
            self.failures[mask],
        )
        self._best, self._since, self._past = self._best[mask], self._since[mask], self._past[mask]
        self.recent_gaps = [left[mask] for left in self.recent_gaps]

    def ahead(self) -> Array:
        """Guess how many more iterations each problem takes, from its last few; 0 where unknown."""
        if len(self.recent_gaps) <= SPAN:
            return np.zeros(len(self.index))
        left = self.recent_gaps[-1]
        return left / np.maximum((self.recent_gaps[0] - left) / SPAN, SLOWEST)

    def stopped(
        self, value: Array, half: Array, n_iter: Integers, max_iter: int
    ) -> list[Status | None]:
        """Say for each problem why it stops here, if it does; `half` its squared gradient."""
        # Progress is a smaller gradient, or an objective that still falls visibly.
        better = half < 0.9 * self._best
        with np.errstate(invalid="ignore"):  # infinity less infinity is no progress
            falling = self._past - value > 10 * self.rounding * np.abs(value)
        self._best = np.where(better, half, self._best)
        self._past = np.where(better | falling, value, self._past)
        self._since = np.where(better | falling, 0, self._since + 1)
        goal = self.goal * np.abs(value)
        # Weights of zero may be within the tolerance of tiny ones, and yet answer nothing: every
        # problem takes a step, unless its gradient is numerically zero.
        zero = half <= np.finfo(float).eps ** 2 * np.abs(value)
        begun = (n_iter[self.index] > 0) | (self.failures > 0) | zero
        near = (half <= goal) & begun
        with np.errstate(divide="ignore", invalid="ignore"):
            left = np.nan_to_num(np.log(half) - np.log(goal), nan=0.0, posinf=0.0, neginf=0.0)
        self.recent_gaps = [*self.recent_gaps[-SPAN:], left]
        tired = (self.failures >= FAILURES) | (self._since >= PATIENCE)
        late = n_iter[self.index] >= max_iter
        result: list[Status | None] = []
        for row in range(len(half)):
            if near[row]:
                result.append(Status.CONVERGED)
            elif tired[row]:
                result.append(Status.PRECISION)
            else:
                result.append(Status.MAX_ITER if late[row] else None)
        return result


def _unit(gradients: Array) -> Array:
    """Scale rows to a length of one; squares of what is huge or tiny would not be finite."""
    largest = np.abs(gradients).max(axis=1, keepdims=True)
    scaled = gradients / np.where(largest > 0, largest, 1.0)
    return np.asarray(scaled / np.maximum(np.linalg.norm(scaled, axis=1, keepdims=True), 1.0))
