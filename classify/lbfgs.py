"""A batched, preconditioned limited-memory BFGS: many problems at once, each on its own.

The minimiser knows nothing about classes, features or rows. It is given an objective that can
evaluate any subset of its problems at any points in one pass, and a preconditioner. Every pass
evaluates every unfinished problem, each at the trial point of its own line search: a problem whose
step is rejected tries another in the next pass while the others move on, and a problem that has
converged leaves the pass (its columns are dropped).

- Direction: Nocedal and Wright, *Numerical Optimization* (2nd ed., 2006), algorithm 7.4, with the
  preconditioner as the initial inverse Hessian, scaled as in their equation 7.20.
- Line search: a step is accepted by the Wolfe conditions or, where rounding hides the decrease, by
  the approximate Wolfe conditions of Hager and Zhang, "A new conjugate gradient method with
  guaranteed descent and an efficient line search", *SIAM J. Optim.* 16 (2005) 170-192, section 4.
  A plain decrease test in float32 rejects good steps near the optimum.
- Stopping: when ``||gradient||^2 / 2`` suggests that the duality gap is within ``tol`` of the
  objective, the problem waits; when all have stopped, one pass certifies them (`classify.duality`),
  and those whose bound is still too large go on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from classify.solution import Certificate, Solution, Status

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.intp]

DECREASE = 0.1  # Hager and Zhang's delta
CURVATURE = 0.9  # their sigma
LARGEST_TRIALS = 15
# How many iterations without progress before rounding is blamed.
PATIENCE = 30
# The rounds at which the preconditioner is renewed: soon where it was made at the start, whose
# curvature says little about the optimum; later where it comes from a neighbouring problem; then
# ever more rarely.
RENEWALS = (5, 14, *range(60, 1000, 60))
INHERITED_RENEWALS = (9, 24, *range(60, 1000, 60))


class Evaluates(Protocol):
    """What the minimiser needs of an objective."""

    n_problems: int
    n_parameters: int

    def evaluate(self, problems: Integers, points: Array) -> tuple[Array, Array]:
        """Return values ``(k,)`` and gradients ``(k, n_parameters)``."""


class Preconditions(Protocol):
    """What the minimiser needs of a preconditioner."""

    def covers(self, problems: Integers) -> bool:
        """Say whether `apply` can serve these problems without an update."""

    def apply(self, problems: Integers, gradients: Array) -> Array:
        """Return approximate inverse Hessians times gradients, ``(k, n_parameters)``."""

    def update(self, problems: Integers, points: Array) -> None:
        """Improve the approximation at new points."""


@dataclass
class _State:
    """The unfinished problems, one row of every array each."""

    index: Integers
    x: Array
    f: Array
    g: Array
    direction: Array
    slope: Array
    step: Array
    low: Array  # the largest step known to be too short
    low_slope: Array
    high: Array  # the smallest step known to be too long; infinite before one is
    high_slope: Array
    trials: Integers
    n_iter: Integers
    goal: Array  # half the squared gradient that sends a problem to certification
    best: Array  # the smallest half squared gradient so far
    since: Integers  # iterations since it last fell by a tenth
    past_f: Array  # objective when it last did
    newest: int  # the place of the history that was filled last
    steps: Array  # (memory, k, p): x differences
    bends: Array  # (memory, k, p): gradient differences
    rho: Array  # (memory, k): 1 / (step . bend), 0 for an empty place
    gamma: Array  # (k,)

    def keep(self, mask: npt.NDArray[np.bool_]) -> None:
        """Drop the problems that are not in `mask`."""
        for name, value in vars(self).items():
            if name == "newest":
                continue
            whole = value[:, mask] if name in ("steps", "bends", "rho") else value[mask]
            setattr(self, name, whole)


def minimise(
    objective: Evaluates,
    start: Array,
    preconditioner: Preconditions,
    certify: Callable[[Integers, Array], Certificate],
    *,
    tol: float,
    max_iter: int,
    memory: int = 10,
    rounding: float = 1e-15,
    problems: Integers | None = None,
) -> Solution:
    """Minimise every problem of an objective.

    Parameters
    ----------
    objective : Problems
        Evaluates values and gradients of a subset of its problems.
    start : ndarray of float64, shape (k, n_parameters)
        Where to start.
    preconditioner : Preconditions
        Approximate inverse Hessians.
    certify : callable
        From problems and points to points with bounds.
    tol : float
        Largest duality gap relative to the objective.
    max_iter : int
        Largest number of iterations of any problem.
    memory : int
        Corrections kept.
    rounding : float
        Relative rounding error of an objective's value.
    problems : ndarray of int, shape (k,), optional
        Which problems; all by default.

    Returns
    -------
    Solution
        Points, and how each problem ended.
    """
    run = _Run(objective, preconditioner, certify, tol, max_iter, memory, rounding)
    return run.solve(np.arange(objective.n_problems) if problems is None else problems, start)


class _Run:
    def __init__(
        self,
        objective: Evaluates,
        preconditioner: Preconditions,
        certify: Callable[[Integers, Array], Certificate],
        tol: float,
        max_iter: int,
        memory: int,
        rounding: float,
    ) -> None:
        self.objective, self.preconditioner, self.certify = objective, preconditioner, certify
        self.tol, self.max_iter, self.memory, self.rounding = tol, max_iter, memory, rounding
        self.n_passes = self.column_products = 0

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
            again = []
            for place, ok, end in zip(todo, good, ended, strict=True):
                status[place] = Status.CONVERGED if ok else end
                if not ok and end is Status.CONVERGED:
                    goal[place] /= 4
                    again.append(place)
            todo = np.array(again, dtype=np.intp)
            if goal.min() < self.tol * 1e-6:
                for place in todo:
                    status[place] = Status.PRECISION
                break
        return Solution(
            points, tuple(status), value, norm, bound, n_iter, self.n_passes, self.column_products
        )

    def _count(self, columns: int) -> None:
        self.n_passes += 1
        self.column_products += columns

    def _evaluate(self, problems: Integers, points: Array) -> tuple[Array, Array]:
        self._count(len(problems))
        return self.objective.evaluate(problems, points)

    def _descend(
        self, problems: Integers, todo: Integers, points: Array, n_iter: Integers, goal: Array
    ) -> list[Status]:
        """Iterate on the problems ``todo`` until each has stopped; writes points and n_iter."""
        x = points[todo]
        f, g = self._evaluate(problems[todo], x)
        k, p = x.shape
        state = _State(
            index=todo.copy(),
            x=x,
            f=f,
            g=g,
            direction=np.zeros_like(x),
            slope=np.zeros(k),
            step=np.ones(k),
            low=np.zeros(k),
            low_slope=np.zeros(k),
            high=np.full(k, np.inf),
            high_slope=np.zeros(k),
            trials=np.zeros(k, dtype=np.intp),
            n_iter=n_iter[todo],
            goal=goal[todo],
            best=np.full(k, np.inf),
            since=np.zeros(k, dtype=np.intp),
            past_f=f.copy(),
            newest=-1,
            steps=np.zeros((self.memory, k, p)),
            bends=np.zeros((self.memory, k, p)),
            rho=np.zeros((self.memory, k)),
            gamma=np.ones(k),
        )
        ended: dict[int, Status] = {}
        moved = np.ones(k, dtype=bool)
        n_rounds = 0
        renewals = INHERITED_RENEWALS
        while True:
            stop = self._stopped(state, moved)
            for row in np.flatnonzero([s is not None for s in stop]):
                place = int(state.index[row])
                ended[place] = stop[row]  # type: ignore[assignment]
                points[place], n_iter[place] = state.x[row], state.n_iter[row]
            alive = np.array([s is None for s in stop])
            if not alive.all():
                moved = moved[alive]
                state.keep(alive)
            if len(state.index) == 0:
                return [ended[int(place)] for place in todo]
            live = problems[state.index]
            if n_rounds in renewals or not self.preconditioner.covers(live):
                self.preconditioner.update(live, state.x)
                if n_rounds == 0:
                    renewals = RENEWALS
            self._aim(problems, state, moved)
            trial = state.x + state.step[:, None] * state.direction
            f, g = self._evaluate(problems[state.index], trial)
            moved = self._judge(problems, state, trial, f, g)
            n_rounds += 1

    def _stopped(self, state: _State, moved: npt.NDArray[np.bool_]) -> list[Status | None]:
        """Say for each problem why it stops here, if it does; only after an accepted step."""
        half = 0.5 * np.einsum("ij,ij->i", state.g, state.g)
        better = moved & (half < 0.9 * state.best)
        # Progress is a smaller gradient, or an objective that still falls visibly.
        falling = moved & (state.past_f - state.f > 10 * self.rounding * np.abs(state.f))
        state.best = np.where(better, half, state.best)
        state.past_f = np.where(better | falling, state.f, state.past_f)
        state.since = np.where(better | falling, 0, state.since + moved)
        result: list[Status | None] = [None] * len(half)
        for row in range(len(half)):
            if state.trials[row] >= LARGEST_TRIALS and state.rho[:, row].any():
                state.rho[:, row] = 0.0  # once more, without the history
                moved[row] = True
            elif state.trials[row] >= LARGEST_TRIALS or state.since[row] >= PATIENCE:
                result[row] = Status.PRECISION
            elif not moved[row]:
                continue
            elif half[row] <= state.goal[row] * abs(state.f[row]):
                result[row] = Status.CONVERGED
            elif state.n_iter[row] >= self.max_iter:
                result[row] = Status.MAX_ITER
        return result

    def _aim(self, problems: Integers, state: _State, moved: npt.NDArray[np.bool_]) -> None:
        """Set a new direction and a first step for the problems that have moved."""
        if not moved.any():
            return
        q = state.g.copy()
        alpha = np.zeros_like(state.rho)
        newest_first = [(state.newest - i) % self.memory for i in range(self.memory)]
        used = [i for i in newest_first if state.rho[i].any()]
        for i in used:
            alpha[i] = state.rho[i] * np.einsum("ij,ij->i", state.steps[i], q)
            q -= alpha[i][:, None] * state.bends[i]
        q = self.preconditioner.apply(problems[state.index], q) * state.gamma[:, None]
        for i in reversed(used):
            beta = state.rho[i] * np.einsum("ij,ij->i", state.bends[i], q)
            q += (alpha[i] - beta)[:, None] * state.steps[i]
        slope = -np.einsum("ij,ij->i", state.g, q)
        lost = moved & ~(slope < 0)
        if lost.any():  # rounding has spoilt the history: start it again
            state.rho[:, lost] = 0.0
            fresh = self.preconditioner.apply(problems[state.index[lost]], state.g[lost])
            q[lost] = fresh * state.gamma[lost, None]
            slope[lost] = -np.einsum("ij,ij->i", state.g[lost], q[lost])
        state.direction = np.where(moved[:, None], -q, state.direction)
        state.slope = np.where(moved, slope, state.slope)
        state.step = np.where(moved, 1.0, state.step)
        state.low = np.where(moved, 0.0, state.low)
        state.low_slope = np.where(moved, slope, state.low_slope)
        state.high = np.where(moved, np.inf, state.high)
        state.trials[moved] = 0

    def _judge(
        self,
        problems: Integers,
        state: _State,
        trial: Array,
        f: Array,
        g: Array,
    ) -> npt.NDArray[np.bool_]:
        """Accept or reject every problem's trial; returns who has moved."""
        slope = np.einsum("ij,ij->i", g, state.direction)
        finite = np.isfinite(f) & np.isfinite(slope)
        noise = 10 * self.rounding * np.abs(state.f)
        flat_enough = slope >= CURVATURE * state.slope
        # A convex function whose slope is still negative has only fallen on the way.
        decreased = (slope <= 0) | (f <= state.f + DECREASE * state.step * state.slope)
        nearly = (f <= state.f + noise) & (slope <= (2 * DECREASE - 1) * state.slope)
        ok = finite & flat_enough & (decreased | nearly)

        s = trial - state.x
        y = g - state.g
        sy = np.einsum("ij,ij->i", s, y)
        yy = np.einsum("ij,ij->i", y, y)
        use = ok & (sy > 1e-14 * np.sqrt(np.einsum("ij,ij->i", s, s) * yy)) & (sy > 0)
        # A place of the history belongs to a pass; it stays empty for problems that did not move.
        state.newest = place = (state.newest + 1) % self.memory
        state.steps[place], state.bends[place] = s, y
        state.rho[place] = np.where(use, 1 / np.where(use, sy, 1.0), 0.0)
        if use.any():
            my = self.preconditioner.apply(problems[state.index], y)
            ymy = np.einsum("ij,ij->i", y, my)
            state.gamma = np.where(use & (ymy > 0), sy / np.where(ymy > 0, ymy, 1), state.gamma)

        state.x = np.where(ok[:, None], trial, state.x)
        state.g = np.where(ok[:, None], g, state.g)
        state.f = np.where(ok, f, state.f)
        state.n_iter = state.n_iter + ok
        self._shorten_or_stretch(state, ~ok, slope, finite, flat_enough)
        return ok

    def _shorten_or_stretch(
        self,
        state: _State,
        rejected: npt.NDArray[np.bool_],
        slope: Array,
        finite: npt.NDArray[np.bool_],
        flat_enough: npt.NDArray[np.bool_],
    ) -> None:
        """Choose the next step of each rejected problem inside its bracket."""
        if not rejected.any():
            return
        short = rejected & finite & ~flat_enough
        long = rejected & ~short
        state.low = np.where(short, state.step, state.low)
        state.low_slope = np.where(short, slope, state.low_slope)
        state.high = np.where(long, state.step, state.high)
        state.high_slope = np.where(long, np.where(finite, slope, np.inf), state.high_slope)
        open_ended = ~np.isfinite(state.high)
        width = np.where(open_ended, state.step, state.high - state.low)
        # Secant on the slopes, kept away from the bracket's ends; the slope of a convex function
        # only rises, so the root is inside.
        rise = np.where(open_ended, slope - state.slope, state.high_slope - state.low_slope)
        with np.errstate(invalid="ignore", divide="ignore"):
            inside = state.low - state.low_slope * width / rise
            stretch = state.step * slope / (state.slope - slope)
        usable = np.isfinite(inside) & (state.high_slope > 0)
        inside = np.where(usable, inside, state.low + 0.5 * width)
        inside = np.clip(inside, state.low + 0.1 * width, state.low + 0.9 * width)
        stretch = np.where(np.isfinite(stretch) & (stretch > 0), stretch, 9 * state.step)
        longer = state.step + np.clip(stretch, state.step, 9 * state.step)
        state.step = np.where(rejected, np.where(open_ended, longer, inside), state.step)
        state.trials = state.trials + rejected
