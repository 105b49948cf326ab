"""From classes to problems to linear heads: one strategy fitted to one set of rows.

This is where the pieces meet: rows are standardised and, for one-vs-one, sorted by class; problems
are set up; the minimiser is started from zero or from a given head; and the result is folded
back into heads for the raw features.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from classify.linear_head import Head, LinearHead, Span, SpanHead
from classify.solver.certificate import certify
from classify.solver.design import (
    DesignMatrix,
    into_span,
    mean_and_scale,
    refuse_not_finite,
)
from classify.solver.few_rows import FewRows, are_few
from classify.solver.lbfgs import minimise, rounding_of
from classify.solver.losses import BINARY_LOSSES
from classify.solver.memory import MemoryPlan, plan_memory
from classify.solver.moves import Moves
from classify.solver.moves import start as start_moves
from classify.solver.out_of_core import ChunkedDesign, chunk_order
from classify.solver.preconditioner.principal_start import start_from_directions, worthwhile
from classify.solver.preconditioner.sampled import SampledHessian
from classify.solver.problems import (
    BinaryProblems,
    Problems,
    Sides,
    SoftmaxProblems,
    class_pairs,
    without_mean,
)
from classify.solver.solution import Solution, Status
from classify.solver.strategies import Strategy, strategy_of
from classify.solver.threads import Workers, thread_count
from classify.solver.tuning import (
    DOUBLE_NUMBERS,
    FACTOR_NUMBERS,
    LARGEST_PRICE,
    OWN_ROWS,
    SHARED_PRICE,
    SHARED_ROWS,
    SLOW_PRICE,
    SMALL_WORK,
    SPAN_ROWS,
    SPAN_SHARE,
    START_CLOSE_TOL,
    START_TOL,
)

Array = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating[Any]]
Integers = npt.NDArray[np.intp]


def _per_column_rows(columns: int, meetings: int, n: int, d: int) -> tuple[int, float]:
    """Say how many rows an inverse for each column may have, and what renewing it costs in passes.

    None, where that costs more than some passes; `meetings` is how many scores a pass computes.
    """
    per_column = OWN_ROWS * d
    side = min(per_column, d, n)
    # Multiply-adds; those of thin products take half as long again.
    work = columns * side**2 * (min(per_column, n) / 2 + 0.8 * side)
    price = work / (6 * meetings * d)
    if work <= SMALL_WORK:
        price = min(price, 1.0)
    if price > LARGEST_PRICE or columns * side * d > FACTOR_NUMBERS:
        return 0, SHARED_PRICE
    return per_column, price


def plan(
    shape: tuple[int, int],
    dtype: np.dtype[Any],
    strategy: str | Strategy,
    n_classes: int,
    memory: int,
    n_jobs: int | None,
) -> MemoryPlan:
    """Lay out a fit of a source of rows."""
    strategy = strategy_of(strategy)
    meetings = shape[0] * strategy.scores_a_row(n_classes)
    per_column, _ = _per_column_rows(strategy.n_heads(n_classes), meetings, *shape)
    return plan_memory(
        shape,
        dtype.itemsize,
        strategy,
        n_classes,
        memory,
        threads=thread_count(n_jobs),
        sampled=per_column > 0,
    )


class Fitter:
    """One strategy on one set of rows, for any value of C.

    Shapes: `X` (n_rows, n_features), `labels` (n_rows,), `sample_weight` (n_rows,).
    """

    device = "cpu"
    # What another engine puts in place of numpy's: see `classify.solver.torch_backend.fit`.
    _binary: type[BinaryProblems] = BinaryProblems
    _softmax: type[SoftmaxProblems] = SoftmaxProblems
    _start: Callable[..., Moves] = staticmethod(start_moves)

    def __init__(
        self,
        strategy: str | Strategy,
        X: Floats,
        labels: Integers,
        n_classes: int,
        workers: Workers,
        *,
        sample_weight: Array | None = None,
        standardize: bool = False,
        rows: Integers | None = None,
        memory_plan: MemoryPlan | None = None,
        fit_intercept: bool = True,
    ) -> None:
        self.fit_intercept = fit_intercept
        self.strategy = strategy = strategy_of(strategy)
        self.n_classes, self.workers = n_classes, workers
        self.loss = BINARY_LOSSES[strategy.loss]
        if strategy.by_class(n_classes):
            order = self._by_class(labels, rows, memory_plan)
            labels = labels[order]
            sample_weight = None if sample_weight is None else sample_weight[order]
            rows = order if rows is None else rows[order]
        design = self._open(X) if memory_plan is None else ChunkedDesign(X, memory_plan.chunk_rows)
        if rows is not None:
            design = design.take(rows, workers)
        self.shift = self.scale = None
        if standardize:
            mean, self.scale = self._moments(design, sample_weight)
            design = design.standardized(mean if fit_intercept else 0 * mean, self.scale)
            self.shift = mean if fit_intercept else None
        elif memory_plan is not None:
            refuse_not_finite(design, workers)
        self.basis: Array | None = None
        self.span: Span | None = None
        self._few: FewRows | None = None
        if (
            memory_plan is None
            and strategy.coding == "ovo"
            and n_classes > 2
            and self._few_rows(labels, design.n_features)
        ):
            self._few = FewRows(
                design, labels, sample_weight, n_classes, workers, fit_intercept, self.loss
            )
        elif memory_plan is None and self._turns(design):
            design, self.basis = into_span(design)
            self.span = Span(self.basis, self.scale, self.shift)
        self.design, self.labels, self.sample_weight = design, labels, sample_weight

        self._memory_plan = memory_plan
        self._preconditioner: SampledHessian | None = None
        self._double: Fitter | None = None

    def _open(self, X: Floats) -> DesignMatrix:
        return DesignMatrix(X)

    def _few_rows(self, labels: Integers, n_features: int) -> bool:
        """Say whether one-vs-one's pairs are fitted in the coordinates of their few rows."""
        return are_few(np.bincount(labels, minlength=self.n_classes), n_features)

    def _turns(self, design: DesignMatrix) -> bool:
        """Say whether the rows are few enough to be fitted in their own span."""
        columns = 1 if self.n_classes == 2 else self.n_classes  # one-vs-one: about
        n = design.n_rows
        return n <= SPAN_SHARE * design.n_features and n <= SPAN_ROWS * columns

    def _moments(self, design: DesignMatrix, sample_weight: Array | None) -> tuple[Array, Array]:
        return mean_and_scale(design, self.workers, sample_weight)

    @staticmethod
    def _by_class(
        labels: Integers, rows: Integers | None, memory_plan: MemoryPlan | None
    ) -> Integers:
        """Sort rows by class: those of a chunk, where they come in chunks."""
        if memory_plan is None:
            return np.argsort(labels, kind="stable")
        rows = np.arange(len(labels)) if rows is None else rows
        return chunk_order(rows, labels, memory_plan.chunk_rows)

    def _choose(self, objective: Problems) -> SampledHessian:
        """Give each column an inverse of its own where that costs no more than some passes."""
        n, d, memory_plan = self.design.n_rows, self.design.n_features, self._memory_plan
        per_column, price = _per_column_rows(
            objective.n_problems * objective.columns, objective.meetings, n, d
        )
        shared = SHARED_ROWS * d
        slow = SLOW_PRICE
        if memory_plan is not None:
            per_column, shared = (
                per_column if memory_plan.sampled else 0,
                min(shared, memory_plan.shared_rows),
            )
            slow = 0.0  # no room is set aside for more inverses
        return SampledHessian(
            per_column, shared, price if per_column else SHARED_PRICE, 0.0 if per_column else slow
        )

    def _coarse(self, objective: Problems) -> bool:
        """Start in a few directions where inverses are expensive: those made there serve longer."""
        made = self._preconditioner
        return isinstance(made, SampledHessian) and made.price > 1 and worthwhile(objective)

    def problems(self, C: float | Array) -> Problems:
        """Set up the strategy's problems for a value of C, or for one of each problem."""
        common = (self.design, self.labels, self.sample_weight)
        last = (self.workers, self.fit_intercept)
        k, strategy = self.n_classes, self.strategy
        if k > 2 and strategy.coding == "multinomial":
            return self._softmax(*common, np.array([C]), k, *last)
        if k == 2:
            sides = Sides(np.array([1]))
        elif strategy.coding == "ovr":
            sides = Sides(np.arange(k))
        elif strategy.coding == "ecoc":
            sides = Sides.of_code(strategy.code_of(k))
        else:
            pairs = class_pairs(k)
            sides = Sides(pairs[:, 1], pairs[:, 0])
        return self._binary(*common, np.full(len(sides.positive), C), sides, *last, self.loss)

    # BLAS may raise flags for lanes of its registers that no result takes; what is not finite is
    # looked for by value.
    @np.errstate(over="ignore", invalid="ignore", divide="ignore")
    def solve(
        self, C: float | Array, *, tol: float, max_iter: int, start: Head | None = None
    ) -> tuple[Head, Solution]:
        """Fit the heads for one value of C.

        Shapes: `C` (n_heads,).
        """
        if self._few is not None:
            return self._few.solve(C, tol=tol, max_iter=max_iter, start=start)
        objective = self.problems(C)
        points = np.zeros((objective.n_problems, objective.n_parameters))
        if start is not None:
            weights, intercepts = objective.split(points)
            self._take_up(start, weights, intercepts)
            # The preconditioner leaves alone what is common to all classes.
            points = objective.centred(points)
        elif self.fit_intercept:
            objective.split(points)[1][:] = objective.base_rates()
        if self._preconditioner is None:
            self._preconditioner = self._choose(objective)
        if start is None and self._coarse(objective):
            per_column = self._preconditioner.rows_per_column > 0
            near = START_CLOSE_TOL if per_column else START_TOL
            points, self._preconditioner.sketch = start_from_directions(objective, points, near)
            if per_column:  # these are made from the features themselves
                self._preconditioner.sketch = None
        everything = np.arange(objective.n_problems)
        solution = self._minimise(objective, everything, points, tol, max_iter)
        solution = self._go_on_in_double(C, solution, tol, max_iter)
        return self.head(objective, solution.points), solution

    def _take_up(self, start: Head, weights: Array, intercepts: Array) -> None:
        """Write where heads are, in the coordinates of the design."""
        if isinstance(start, SpanHead) and start.span is self.span:
            weights[:], intercepts[:] = start.weights, start.offset
            return
        scaled = start.coef if self.scale is None else start.coef * self.scale
        weights[:] = scaled if self.basis is None else scaled @ self.basis
        moved = 0.0 if self.shift is None else start.coef @ self.shift
        intercepts[:] = (start.intercept + moved) if self.fit_intercept else 0.0

    def _minimise(
        self, objective: Problems, problems: Integers, points: Array, tol: float, max_iter: int
    ) -> Solution:
        """Minimise some problems, starting from points that are theirs."""
        if self._preconditioner is None:
            self._preconditioner = self._choose(objective)
        self._preconditioner.attach(objective)
        return minimise(
            functools.partial(self._start, objective),
            points,
            self._preconditioner,
            lambda problems, at: certify(objective, problems, at, tol),
            tol=tol,
            max_iter=max_iter,
            rounding=rounding_of(self.design.dtype),
            problems=problems,
            workers=self.workers,
        )

    def _go_on_in_double(
        self, C: float | Array, solution: Solution, tol: float, max_iter: int
    ) -> Solution:
        """Where single precision was too little, go on with a copy in double, if it is small."""
        late = np.flatnonzero([status is Status.PRECISION for status in solution.status])
        left = max_iter - int(solution.n_iter[late].max(initial=0))
        small = self.design.n_rows * self.design.n_features <= DOUBLE_NUMBERS
        single = self.design.dtype == np.float32 and self._memory_plan is None
        if not (len(late) and left > 0 and small and single):
            return solution
        if self._double is None:
            self._double = copy.copy(self)
            self._double.design = self.design.in_double()
            self._double._preconditioner = None
        double = self._double
        more = double._minimise(double.problems(C), late, solution.points[late], tol, left)
        return solution.improved(late, more)

    def head(self, objective: Problems, points: Array) -> LinearHead | SpanHead:
        """Fold the standardisation into heads for raw features."""
        if self.span is not None:
            weights, intercepts = objective.split(objective.centred(points))
            return SpanHead(weights.copy(), intercepts.copy(), self.span)
        weights, intercepts = objective.split(points)
        if self.scale is not None:
            weights = weights / self.scale
        if self.shift is not None:
            intercepts = intercepts - weights @ self.shift
        table = np.column_stack([weights, intercepts])
        if objective.columns > 1:
            table = without_mean(table[None])[0]
        return LinearHead(table[:, :-1].copy(), table[:, -1].copy())
