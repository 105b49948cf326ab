"""One-vs-one of classes that have few rows: Newton's method in the rows' own coordinates.

The weights that minimise a pair's objective are a sum of its rows, ``w = sum_i beta_i x_i``, so a
pair of ``m`` rows has ``m`` coefficients, however many features there are, and all that is needed
of the features are the products of rows: the scores are ``f = G beta + b`` with ``G = X X'``.

Newton's step solves ``beta + D (G beta + b) = D f + q`` with ``sum(beta) = 0`` for the intercept,
where ``q = -C s r`` are the negative residuals and ``D`` the curvatures, ``C s p (1 - p)`` for the
logistic loss. With
``B = I + sqrt(D) G sqrt(D)``, whose eigenvalues are 1 or more, ``beta = q + sqrt(D) B^-1 sqrt(D)
(f - G q - b)``: no inverse of ``G`` or ``D`` is needed, which may both be singular (Rasmussen and
Williams, *Gaussian Processes for Machine Learning*, 2006, section 3.4, has this form). A step is
shortened until the objective has fallen. After every step the duality gap of
`classify.solver.certificate` is evaluated in the same coordinates, and a pair is done when that is
within the tolerance.

Many pairs of classes with equal numbers of rows are solved at once, their numbers along the last
axis, in pieces that stay in a core's cache.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from classify.linear_head import Head, PairHead
from classify.solver.arrays import HostArrays
from classify.solver.certificate import DIVERGENCES
from classify.solver.design import DesignMatrix
from classify.solver.losses import LOGISTIC, BinaryLoss
from classify.solver.problems import class_pairs
from classify.solver.solution import Solution, Status
from classify.solver.threads import Workers
from classify.solver.tuning import (
    FAILURES,
    FEW_ROWS,
    GRAM_NUMBERS,
    HALVINGS,
    PAIR_NUMBERS,
    PATIENCE,
)

Array = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Integers = npt.NDArray[np.intp]

TINY = float(np.finfo(float).tiny)
ENDS = (Status.CONVERGED, Status.PRECISION, Status.MAX_ITER)
# The share of a step's promise that the objective must have fallen by.
ARMIJO = 1e-4


def are_few(sizes: Integers, n_features: int) -> bool:
    """Say whether every pair of classes of so many rows is fitted in its rows' coordinates."""
    two = int(np.sort(sizes)[-2:].sum())
    return (
        int(sizes.min()) > 0
        and two <= min(FEW_ROWS, n_features)
        and int(sizes.sum()) ** 2 <= GRAM_NUMBERS
    )


def few_rows_bytes(n_rows: int, n_features: int, n_classes: int) -> int:
    """Count what such a fit, its path of C and its answers take besides the features, in bytes."""
    pairs = n_classes * (n_classes - 1) // 2
    # Rows in float64 and products of rows; coefficients of the last heads, of their sum and the
    # best, and laid out for scores; what is known of each pair, with its objects.
    return 24 * n_rows * n_features + 8 * n_rows**2 + 80 * n_rows * n_classes + 600 * pairs


class _State(NamedTuple):
    """Pairs of equal sizes, at work: row by pair, or one number a pair."""

    beta: Array
    f: Array  # scores
    b: Array
    value: Array


class _Duals(NamedTuple):
    """What a certificate says: (n_pairs,) each, and q, the coefficients at the dual's point."""

    gap: Array
    norm: Array
    q: Array
    curvature: Array  # times C and the rows' weights


class FewRows:
    """All pairs of classes of few rows, for any C: a design whose rows are sorted by class."""

    def __init__(
        self,
        design: DesignMatrix,
        labels: Integers,
        weight: Array | None,
        n_classes: int,
        workers: Workers,
        intercept: bool,
        loss: BinaryLoss = LOGISTIC,
    ) -> None:
        self.loss = loss
        X = design.X if design.order is None else design.X[design.order]
        self.n_classes, self.workers, self.intercept = n_classes, workers, intercept
        d = design.n_features
        shift = np.zeros(d) if design.shift is None else design.shift
        scale = np.ones(d) if design.scale is None else design.scale
        rows = (X.astype(np.float64) - shift) / scale
        self.weight = np.ones(len(rows)) if weight is None else weight
        self.arrays = HostArrays(labels, weight, workers, loss)
        self.starts = np.searchsorted(labels, np.arange(n_classes + 1))
        steps = [slice(low, low + 256) for low in range(0, len(rows), 256)]
        self.gram = np.concatenate(workers.map(lambda step: rows[step] @ rows.T, steps))
        self.span, self.shift = (rows / scale).astype(design.dtype), shift
        self.pairs = class_pairs(n_classes)
        self._pieces = self._cut()

    def _cut(self) -> list[Integers]:
        """Put pairs of equal numbers of rows together, in pieces that fit a core's cache."""
        sizes = np.diff(self.starts)[self.pairs]
        kinds, kind = np.unique(sizes, axis=0, return_inverse=True)
        pieces = []
        for i, (first, second) in enumerate(kinds.tolist()):
            mine = np.flatnonzero(kind.reshape(-1) == i)
            step = max(8, PAIR_NUMBERS // (first + second) ** 2)
            pieces += [mine[low : low + step] for low in range(0, len(mine), step)]
        return pieces

    def solve(
        self, C: float | Array, *, tol: float, max_iter: int, start: Head | None = None
    ) -> tuple[PairHead, Solution]:
        """Fit all pairs; see `classify.solver.fit.Fitter.solve`."""
        n_pairs = len(self.pairs)
        costs = np.broadcast_to(np.asarray(C, dtype=np.float64), (n_pairs,))
        duals = np.zeros((self.starts[-1], self.n_classes))
        offset = np.zeros(n_pairs)
        if self._continues(start):
            assert isinstance(start, PairHead)
            duals[:], offset[:] = start.duals, start.offset
        else:
            offset[:] = self._base_rates()
        run = _Run(self, costs, tol, max_iter, duals, offset)
        traces = self.workers.map(run.solve, self._pieces)
        head = PairHead(self.span, self.shift, self.starts, duals, offset)
        solution = Solution(
            np.empty((n_pairs, 0)), run.ends(), run.value, run.norm, run.gap, run.n_iter,
            int(run.n_iter.max()) + 1, int(run.n_iter.sum()) + n_pairs,
            tuple(itertools.chain.from_iterable(traces)),
        )  # fmt: skip
        return head, solution

    def _continues(self, start: Head | None) -> bool:
        """Tell whether a head is one for these rows, which alone have its coefficients."""
        return (
            isinstance(start, PairHead)
            and np.array_equal(start.starts, self.starts)
            and (start.span is self.span or np.array_equal(start.span, self.span))
        )

    def _base_rates(self) -> Array:
        if not self.intercept:
            return np.zeros(len(self.pairs))
        mass = np.add.reduceat(self.weight, self.starts[:-1])
        return self.loss.intercept(mass[self.pairs[:, 1]], mass[self.pairs[:, 0]])


class _Run:
    """One solve: what is known of every pair, filled piece by piece."""

    def __init__(
        self, few: FewRows, C: Array, tol: float, max_iter: int, duals: Array, offset: Array
    ) -> None:
        n_pairs = len(C)
        self.few, self.C, self.tol, self.max_iter = few, C, tol, max_iter
        self.duals, self.offset = duals, offset
        self.status = np.full(n_pairs, 2, dtype=np.int8)  # a place in `ENDS`
        self.value, self.norm, self.gap = (np.full(n_pairs, np.nan) for _ in range(3))
        self.n_iter = np.zeros(n_pairs, dtype=np.int64)

    def ends(self) -> tuple[Status, ...]:
        """Say how each pair ended."""
        if not self.status.any():
            return (ENDS[0],) * len(self.status)
        return tuple(ENDS[code] for code in self.status.tolist())

    # What is not finite is looked for by value, here as in `Fitter.solve`.
    @np.errstate(over="ignore", invalid="ignore", divide="ignore")
    def solve(self, piece: Integers) -> list[tuple[Integers, Array]]:
        """Solve some pairs of equal sizes; return their trace."""
        pairs = _Pairs.of(self.few, piece, self.C[piece])
        place = pairs.first, pairs.second
        state = pairs.at(self.duals[place], self.offset[piece])
        best, since = np.full(len(piece), np.inf), np.zeros(len(piece), dtype=np.intp)
        failures = np.zeros(len(piece), dtype=np.intp)
        trace = []
        while True:
            trace.append((piece, state.value))
            dual = pairs.dual(state)
            better = dual.gap < 0.9 * best
            best = np.where(better, dual.gap, best)
            since = np.where(better, 0, since + 1)
            near = dual.gap <= self.tol * np.abs(state.value)
            near &= np.isfinite(state.value) & np.isfinite(state.beta).all(axis=0)
            # Every pair takes a step, unless its gradient is numerically zero: as in `lbfgs`.
            zero = dual.norm**2 / 2 <= np.finfo(float).eps ** 2 * np.abs(state.value)
            near &= (self.n_iter[piece] > 0) | (failures > 0) | zero
            tired = (failures >= FAILURES) | (since >= PATIENCE)
            stop = near | tired | (self.n_iter[piece] >= self.max_iter)
            if stop.any():
                done = piece[stop]
                self.value[done], self.gap[done] = state.value[stop], dual.gap[stop]
                self.norm[done], self.offset[done] = dual.norm[stop], state.b[stop]
                rows, other = pairs.first[:, stop], pairs.second[:, stop]
                self.duals[rows, other] = state.beta[:, stop]
                self.status[done] = np.where(near[stop], 0, np.where(tired[stop], 1, 2))
                if stop.all():
                    return trace
                go = ~stop
                piece, pairs, failures = piece[go], pairs.some(go), failures[go]
                best, since = best[go], since[go]
                state = _State(*(part[..., go] for part in state))
                dual = _Duals(*(part[..., go] for part in dual))
            state, moved = pairs.advance(state, dual)
            self.n_iter[piece] += moved
            failures = np.where(moved, 0, failures + 1)


class _Pairs:
    """Pairs of classes of equal sizes: (m, n_pairs) numbers of their rows.

    `first` holds the rows' numbers, `second` the other class of each, `sign` -1 for rows of the
    first class and 1 for those of the second.
    """

    def __init__(self, first: Integers, second: Integers, parts: dict[str, Any]) -> None:
        self.first, self.second = first, second
        self.gram: Array = parts["gram"]
        self.weight: Array = parts["weight"]  # C times the rows' weights
        self.sign: Array = parts["sign"]
        self.intercept: bool = parts["intercept"]
        self.loss: BinaryLoss = parts["loss"]
        self.arrays: HostArrays = parts["arrays"]

    @classmethod
    def of(cls, few: FewRows, piece: Integers, C: Array) -> _Pairs:
        """Collect what is needed of the rows."""
        a, b = few.pairs[piece].T
        sizes = [int(few.starts[k + 1] - few.starts[k]) for k in (a[0], b[0])]
        rows = np.concatenate(
            [few.starts[k] + np.arange(n)[:, None] for k, n in zip((a, b), sizes, strict=True)]
        )
        other = np.repeat(np.stack([b, a]), sizes, axis=0)
        return cls(
            rows,
            other,
            {
                "gram": few.gram[rows[:, None], rows[None]],
                "weight": few.weight[rows] * C,
                "sign": np.repeat([-1.0, 1.0], sizes)[:, None],
                "intercept": few.intercept,
                "loss": few.loss,
                "arrays": few.arrays,
            },
        )

    def some(self, mask: Bools) -> _Pairs:
        """Keep some pairs."""
        parts = {
            "gram": self.gram[:, :, mask],
            "weight": self.weight[:, mask],
            "sign": self.sign,
            "intercept": self.intercept,
            "loss": self.loss,
            "arrays": self.arrays,
        }
        return _Pairs(self.first[:, mask], self.second[:, mask], parts)

    def times(self, v: Array) -> Array:
        """Multiply by the products of rows."""
        return np.einsum("ijp,jp->ip", self.gram, v)

    def at(self, beta: Array, b: Array) -> _State:
        """Evaluate the objective."""
        f = self.times(beta) + b
        return _State(beta, f, b, self._value(beta, f, b))

    def _value(self, beta: Array, f: Array, b: Array) -> Array:
        loss, _ = self.loss.value(-self.sign * f)
        return np.asarray((self.weight * loss).sum(axis=0) + 0.5 * (beta * (f - b)).sum(axis=0))

    def dual(self, state: _State) -> _Duals:
        """Bound how far the objective is above its minimum, at a feasible point of the dual."""
        u = -self.sign * state.f
        p, curvature = self.loss.curvature(u.copy())
        mass = self.weight * p
        cut = np.zeros_like(mass)
        imbalance = 0.0
        if self.intercept:
            # The heavier side's residuals are scaled down until both sides weigh the same.
            positive = np.where(self.sign > 0, mass, 0.0).sum(axis=0)
            negative = np.where(self.sign > 0, 0.0, mass).sum(axis=0)
            heavier = np.maximum(np.maximum(positive, negative), TINY)
            imbalance = positive - negative
            cut = np.where(self.sign > 0, imbalance, -imbalance)
            cut = np.maximum(cut, 0.0) / heavier
        apart = DIVERGENCES[self.loss.name](self.arrays, u, p, cut)
        slack = state.beta - self.sign * self.weight * (1 - cut) * p
        half = 0.5 * np.maximum((slack * self.times(slack)).sum(axis=0), 0.0)
        gap = np.maximum((self.weight * apart).sum(axis=0), 0.0) + half
        norm = np.sqrt(2 * half + imbalance**2)
        return _Duals(gap, norm, self.sign * mass, self.weight * curvature)

    def advance(self, state: _State, dual: _Duals) -> tuple[_State, Bools]:
        """Take Newton's step, or as much of it as lowers the objective."""
        beta, b = self._newton(state, dual)
        f = self.times(beta) + b
        # The directional derivative: of the losses in the scores, and of the penalty.
        slope = (-dual.q * (f - state.f)).sum(axis=0)
        slope += ((state.f - state.b) * (beta - state.beta)).sum(axis=0)
        noise = 1e-14 * np.abs(state.value)
        t = np.ones(len(b))
        good = slope < 0
        for _ in range(HALVINGS):
            value = self._value(
                state.beta + t * (beta - state.beta),
                state.f + t * (f - state.f),
                state.b + t * (b - state.b),
            )
            bad = good & ~(value <= state.value + ARMIJO * t * slope + noise)
            if not bad.any():
                break
            t = np.where(bad, 0.4 * t, t)
        moved = good & ~bad
        t = np.where(moved, t, 0.0)
        beta, f, b = (
            np.where(moved, old + t * (new - old), old)
            for old, new in ((state.beta, beta), (state.f, f), (state.b, b))
        )
        return _State(beta, f, b, np.where(moved, value, state.value)), moved

    def _newton(self, state: _State, dual: _Duals) -> tuple[Array, Array]:
        """Return where Newton's step leads: coefficients and intercepts."""
        root = np.sqrt(dual.curvature)
        m = len(root)
        table = np.empty((m, m + 2, len(state.b)))
        np.multiply(self.gram, root[:, None], out=table[:, :m])
        table[:, :m] *= root[None]
        table[np.arange(m), np.arange(m)] += 1.0
        table[:, m] = root * (state.f - self.times(dual.q))
        table[:, m + 1] = root
        solved = root[:, None] * _eliminate(table)
        beta, b = dual.q + solved[:, 0], np.zeros_like(state.b)
        if self.intercept:
            b = beta.sum(axis=0) / np.maximum(solved[:, 1].sum(axis=0), TINY)
            beta = beta - b * solved[:, 1]
            # Rounding of residuals over hardly any curvature is all there is of such a step.
            bad = ~np.isfinite(b)
            b, beta = np.where(bad, state.b, b), np.where(bad, state.beta, beta)
        return beta, b


def _eliminate(table: Array) -> Array:
    """Solve positive definite systems, (m, m + k, n), in the table's place; returns (m, k, n)."""
    m = len(table)
    for j in range(m):
        table[j, j + 1 :] /= table[j, j]
        below = table[j + 1 :, j, None]
        table[j + 1 :, j + 1 :] -= below * table[j, None, j + 1 :]
    result = table[:, m:]
    for j in range(m - 1, 0, -1):
        result[:j] -= table[:j, j, None] * result[j, None]
    return result
