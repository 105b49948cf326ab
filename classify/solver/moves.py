"""Where unfinished problems are, with the scores of every row there.

Scores are linear in the parameters. Once a direction's scores are known, which costs half a pass
over the features, any point along it can be looked at without touching the features again: the
line search is exact, and an intercept can be moved beside it for nothing. The other half of the
pass then gives the gradient at the point that was chosen.

A step is ``alpha`` along the direction and ``beta`` for each column's intercept. The search finds
``alpha`` by its slope alone (`classify.solver.line_search`); its last look also gives the second
derivatives, and one Newton step in ``alpha`` and ``beta`` together ends it. For the softmax the
intercepts' own second derivatives, ``diag(sum p) - p'p``, are replaced by twice their diagonal
``sum p (1 - p)``, which bounds them (their rows sum to zero: Gershgorin).
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from classify.solver.design import column_sums
from classify.solver.line_search import ROUNDINGS, Look, Steps, fell, search
from classify.solver.losses import DirectionSums
from classify.solver.passes import Group, RowSpan, SignedScores, score_spans
from classify.solver.problems import Problems
from classify.solver.threads import each_piece, row_dots, some_rows
from classify.solver.tuning import CURVATURE, EXACT, FLAT, LARGEST_SHIFT, LARGEST_STRETCH

Array = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating[Any]]
Bools = npt.NDArray[np.bool_]
Integers = npt.NDArray[np.intp]


# The shortest first step of a search that is done again.
SHORTEST = 1e-12


class Moves(Protocol):
    """Points of unfinished problems, and what is known there."""

    points: Array
    value: Array
    gradient: Array

    def advance(self, directions: Array) -> Bools:
        """Go along descent directions; return which problems have moved."""

    def scores(self) -> SignedScores:
        """Return the signed scores of all rows where the problems are."""

    def keep(self, mask: Bools) -> None:
        """Drop the problems that are not in `mask`."""


class Iterates:
    """Points of a set of problems, their objectives and gradients.

    Shapes: `problems` (k,), `points` (k, n_parameters).
    """

    def __init__(
        self, objective: Problems, problems: Integers, points: Array, rounding: float
    ) -> None:
        self.objective, self.problems, self.points = objective, problems, points.copy()
        self.rounding = rounding
        self.groups, self.link = objective.groups(problems), objective.weighted_link(problems)
        weights, intercepts = objective.split(self.points)
        self.row_scores = objective.passes.scores(self.groups, weights, intercepts)
        self.value, self.gradient = self._pull()

    def keep(self, mask: Bools) -> None:
        """Drop the problems that are not in `mask`."""
        columns = np.repeat(mask, self.objective.columns)
        old = {group.start: i for i, group in enumerate(self.groups)}
        workers, rows = self.objective.workers, np.flatnonzero(mask)
        self.problems, self.value = self.problems[mask], self.value[mask]
        self.points = some_rows(workers, self.points, rows)
        self.gradient = some_rows(workers, self.gradient, rows)
        groups = self.objective.groups(self.problems) if len(self.problems) else []
        places = [(old[group.start], group) for group in groups]
        scores, kept = self.row_scores, [columns[group.columns] for group in self.groups]
        self.row_scores = workers.share(lambda place: scores[place[0]].T[kept[place[0]]].T, places)
        self.groups, self.link = groups, self.objective.weighted_link(self.problems)

    def scores(self) -> SignedScores:
        """Return the scores of all rows where the problems are; they stay in use here."""
        return SignedScores(self.groups, self.row_scores, fresh=False)

    def advance(self, directions: Array) -> Bools:
        """Go along descent directions, each problem as far as it is worth.

        Shapes: `directions` (k, n_parameters), returns (k,).
        """
        objective = self.objective
        workers = objective.workers
        slope = row_dots(workers, self.gradient, directions)
        weights, intercepts = objective.split(directions)
        along = objective.passes.scores(self.groups, weights, intercepts)
        ray = _Ray(self, directions, along)
        # Neither is written to below: what has not moved is copied back from them.
        before = self.points, self.value, self.gradient
        noise = ROUNDINGS * self.rounding * np.abs(self.value)
        steps = search(ray.look, slope, FLAT)
        alpha, beta = ray.newton(steps.step, steps.found)
        # A search that has not found a flat place ends short of the minimum, where a function that
        # still falls is lower than at its start: that step is taken too.
        alpha = np.where(steps.found | (steps.slope < 0), alpha, 0.0)
        moved = np.zeros(len(slope), dtype=bool)
        # The search looked at slopes; only the objective, which the gradient's half pass brings
        # along, says whether a step went down. Those that did not are searched again, once.
        for attempt in range(2):
            self.points = self._beside(self.points, directions, alpha, beta)
            self.value, self.gradient = self._pull(along, alpha, beta)
            after = row_dots(workers, self.gradient, directions)
            moved = moved | fell(before[1], self.value, slope, after, noise)
            if moved.all():
                break
            self._put_back(~moved, *before)
            if attempt:
                break
            # Newton's step, or a step that is flat but above its start, has led some astray.
            exact = ray.closely(~moved, slope, EXACT, before[1], noise)
            alpha = np.where(~moved & (exact.found | (exact.slope < 0)), exact.step, 0.0)
            beta = np.zeros_like(beta)
        return moved

    def _put_back(self, stay: Bools, points: Array, value: Array, gradient: Array) -> None:
        """Return some problems to where they were; their scores are computed anew.

        (To subtract a step from the scores again would leave the rounding of its size in them.)
        """
        objective = self.objective
        self.points[stay], self.value[stay] = points[stay], value[stay]
        self.gradient[stay] = gradient[stay]
        groups = objective.groups(self.problems[stay])
        fresh = objective.passes.scores(groups, *objective.split(points[stay]))
        columns = np.repeat(stay, objective.columns)
        places = {group.start: i for i, group in enumerate(self.groups)}
        for group, scores in zip(groups, fresh, strict=True):
            i = places[group.start]
            self.row_scores[i].T[columns[self.groups[i].columns]] = scores.T

    def _beside(self, points: Array, directions: Array, alpha: Array, beta: Array) -> Array:
        """Return other points: a step along, and beside it for the intercepts."""
        result = np.empty_like(points)

        def go(part: slice) -> None:
            np.multiply(directions[part], alpha[part, None], out=result[part])
            result[part] += points[part]

        each_piece(self.objective.workers, points, go)
        self.objective.split(result)[1][:] += beta
        return result

    def _pull(
        self,
        along: list[Floats] | None = None,
        alpha: Array | None = None,
        beta: Array | None = None,
    ) -> tuple[Array, Array]:
        """Compute objectives and gradients, half a pass, where a step along leads the scores."""
        objective, groups, problems = self.objective, self.groups, self.problems
        residuals = [np.empty(scores.shape, scores.dtype) for scores in self.row_scores]

        def work(span: RowSpan) -> tuple[Group, Array]:
            index, low, high = span
            group = groups[index]
            rows = slice(low - group.start, high - group.start)
            if along is not None and alpha is not None and beta is not None:
                self._step(along, alpha, beta, span)
            # The product back wants one row after the other; the link writes into its scores.
            scores = np.array(self.row_scores[index][rows], order="C")
            with np.errstate(invalid="ignore", over="ignore"):  # of a step that will not be taken
                loss, residual = self.link(scores, low, high, group)
                residuals[index][rows] = residual
                return group, column_sums(loss)

        weights, _ = objective.split(self.points)
        losses = np.zeros(len(weights))
        for group, loss in objective.workers.share(work, score_spans(groups)):
            losses[group.columns[: len(loss)]] += loss
        totals, products = objective.passes.back(groups, residuals, len(weights))
        return (
            objective.value(problems, weights, losses),
            objective.assemble(problems, weights, totals, products),
        )

    def _step(self, along: list[Floats], alpha: Array, beta: Array, span: RowSpan) -> None:
        """Add a step to the scores of some rows."""
        index, low, high = span
        group = self.groups[index]
        rows = slice(low - group.start, high - group.start)
        shift = beta[group.columns]
        if group.sign is not None:
            shift = shift * group.sign
        on = along[index][rows].T
        lengths = np.repeat(alpha, self.objective.columns)[group.columns]
        with np.errstate(invalid="ignore", over="ignore"):
            step = lengths[:, None].astype(on.dtype) * on
            step += shift[:, None].astype(on.dtype)
            self.row_scores[index][rows].T[...] += step


class _Ray:
    """The objectives along directions from where the problems are."""

    def __init__(self, iterates: Iterates, directions: Array, along: list[Floats]) -> None:
        self.iterates, self.along = iterates, along
        objective = iterates.objective
        at, _ = objective.split(iterates.points)
        on, _ = objective.split(directions)
        k = len(iterates.problems)
        self._tilt = row_dots(objective.workers, at, on).reshape(k, -1).sum(axis=1)
        self._square = row_dots(objective.workers, on, on).reshape(k, -1).sum(axis=1)
        # Of the last look at each problem: its step, slope and curvature; and of each column the
        # derivative in its intercept, the mixed second derivative, and the intercept's own.
        self._taken, self._slope, self._curvature = (np.full(k, np.nan) for _ in range(3))
        self._residual, self._mixed, self._intercept_curvature = np.zeros((3, len(at)))
        self._above = np.zeros(k, dtype=bool)

    def look(self, step: Array) -> Look:
        """Return slopes and curvatures at steps, and remember the intercepts' part.

        Only problems whose step is another than at the last look are looked at.
        """
        new = step != self._taken
        if new.any():
            self._look(step, new)
        return Look(self._slope, self._curvature, self._above)

    def closely(self, some: Bools, slope: Array, flat: float, value: Array, noise: Array) -> Steps:
        """Search again for some problems, with a look at their objectives too."""
        self._taken = np.where(some, np.nan, 0.0)

        def look(step: Array) -> Look:
            new = some & (step != self._taken)
            if new.any():
                self._look(step, new)
                rise = self._values(step, new) - value
                self._above = np.where(new, ~(rise <= noise), self._above)
            # The others have ended before they begin.
            at, curvature = np.where(some, self._slope, 0.0), np.where(some, self._curvature, 1.0)
            return Look(at, curvature, some & self._above)

        self._look(np.zeros_like(slope), some)
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            first = np.clip(-slope / self._curvature, SHORTEST, 1.0)
        return search(look, slope, flat, np.where(np.isfinite(first), first, 1.0))

    def _values(self, step: Array, some: Bools) -> Array:
        """Return some problems' objectives at steps."""
        iterates, objective = self.iterates, self.iterates.objective
        problems, columns = iterates.problems[some], np.repeat(some, objective.columns)
        link = objective.weighted_link(problems)
        alpha = np.repeat(step, objective.columns)
        losses = np.zeros(len(alpha))
        groups = objective.groups(problems)
        places = {group.start: i for i, group in enumerate(iterates.groups)}

        def work(span: RowSpan) -> tuple[Integers, Array]:
            index, low, high = span
            group, place = groups[index], places[groups[index].start]
            rows = slice(low - group.start, high - group.start)
            mine = columns[iterates.groups[place].columns]
            on = self.along[place][rows].T[mine]
            scores = iterates.row_scores[place][rows].T[mine]
            with np.errstate(invalid="ignore", over="ignore"):  # far too long a step
                scores = scores + alpha[columns][group.columns, None].astype(on.dtype) * on
                loss, _ = link(np.array(scores.T, order="C"), low, high, group)
                return group.columns, column_sums(loss)

        for which, loss in objective.workers.share(work, score_spans(groups)):
            losses[which[: len(loss)]] += loss
        weights, _ = objective.split(iterates.points[some])
        result = np.full(len(step), np.nan)
        result[some] = objective.value(problems, weights, losses)
        with np.errstate(invalid="ignore", over="ignore"):
            return result + step * (self._tilt + 0.5 * step * self._square)

    def _look(self, step: Array, new: Bools) -> None:
        """Find slopes and curvatures of some problems."""
        iterates, along = self.iterates, self.along
        objective, groups = iterates.objective, iterates.groups
        problems = iterates.problems[new]
        all_new = bool(new.all())
        columns = np.repeat(new, objective.columns)
        link = iterates.link if all_new else objective.weighted_link(problems)
        alpha = np.repeat(step, objective.columns)
        chosen = {group.kind: np.flatnonzero(columns[group.columns]) for group in groups}

        def work(span: RowSpan) -> tuple[Integers, DirectionSums] | None:
            index, low, high = span
            group = groups[index]
            rows = slice(low - group.start, high - group.start)
            on, at = along[index][rows].T, iterates.row_scores[index][rows].T
            which, sign = group.columns, group.sign
            if not all_new:
                some = chosen[group.kind]
                if not len(some):
                    return None
                on, at, which = on[some], at[some], which[some]
                sign = None if sign is None else sign[some]
            with np.errstate(invalid="ignore", over="ignore"):  # far too long a step
                scores = alpha[which, None].astype(on.dtype) * on
                scores += at
                sums = link.direction_sums(scores, low, high, group, on)
            if sign is not None:
                np.multiply(sums.residual, sign, out=sums.residual)
                np.multiply(sums.mixed, sign, out=sums.mixed)
            return which, sums

        total = DirectionSums(*np.zeros((5, len(alpha))))
        for found in objective.workers.share(work, score_spans(groups)):
            if found is not None:
                which, sums = found
                for summed, part in zip(total, sums, strict=True):
                    summed[which] += part
        C = objective.C[iterates.problems]
        slope = C * total.slope.reshape(len(C), -1).sum(axis=1)
        curvature = C * total.curvature.reshape(len(C), -1).sum(axis=1)
        self._slope = np.where(new, slope + self._tilt + step * self._square, self._slope)
        self._curvature = np.where(new, curvature + self._square, self._curvature)
        weight = np.repeat(C, objective.columns)
        self._residual = np.where(columns, total.residual * weight, self._residual)
        self._mixed = np.where(columns, total.mixed * weight, self._mixed)
        self._intercept_curvature = np.where(
            columns, total.diagonal * weight, self._intercept_curvature
        )
        self._taken = np.where(new, step, self._taken)

    def newton(self, step: Array, found: Bools) -> tuple[Array, Array]:
        """Improve the steps that were found, and the intercepts beside them, by Newton's step."""
        columns, intercept = self.iterates.objective.columns, self.iterates.objective.intercept
        tiny = np.finfo(float).tiny
        residual, mixed, intercept_curvature = (
            self._residual,
            self._mixed,
            self._intercept_curvature,
        )
        if not intercept:
            residual, mixed, intercept_curvature = np.zeros((3, len(residual)))
        # Twice the softmax's diagonal bounds its intercepts' second derivatives; see above.
        intercept_curvature = np.maximum(intercept_curvature * (2.0 if columns > 1 else 1.0), tiny)
        shape = (len(step), -1)
        curvature = self._curvature - (mixed**2 / intercept_curvature).reshape(shape).sum(axis=1)
        slope = self._slope - (mixed * residual / intercept_curvature).reshape(shape).sum(axis=1)
        # The intercepts are eliminated (Schur's complement), the step solved for, and then the
        # intercepts given the step. Where next to nothing of the curvature is left, the step stays.
        limit = LARGEST_STRETCH * step
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            change = np.where(curvature > 1e-3 * self._curvature, -slope / curvature, 0.0)
            change = np.where(found & np.isfinite(change), np.clip(change, -limit, limit), 0.0)
            shift = -(residual + mixed * np.repeat(change, columns)) / intercept_curvature
        shift = np.where(np.isfinite(shift), np.clip(shift, -LARGEST_SHIFT, LARGEST_SHIFT), 0.0)
        return step + change, np.where(np.repeat(found, columns), shift, 0.0)


class Evaluates(Protocol):
    """What is needed of an objective."""

    def evaluate(self, problems: Integers, points: Array) -> tuple[Array, Array]:
        """Return values ``(k,)`` and gradients ``(k, n_parameters)``."""

    def scores(self, problems: Integers, points: Array) -> SignedScores:
        """Return the signed scores of all rows."""


class Trials:
    """Points of a set of problems, their objectives and gradients.

    Shapes: `problems` (k,), `points` (k, n_parameters).
    """

    def __init__(
        self, objective: Evaluates, problems: Integers, points: Array, rounding: float
    ) -> None:
        self.objective, self.problems, self.points = objective, problems, points.copy()
        self.rounding = rounding
        self.value, self.gradient = objective.evaluate(problems, self.points)

    def keep(self, mask: Bools) -> None:
        """Drop the problems that are not in `mask`."""
        self.problems, self.points = self.problems[mask], self.points[mask]
        self.value, self.gradient = self.value[mask], self.gradient[mask]

    def scores(self) -> SignedScores:
        """Compute the scores of all rows where the problems are: half a pass."""
        return self.objective.scores(self.problems, self.points)

    def advance(self, directions: Array) -> Bools:
        """Go along descent directions; return which problems have moved."""
        slope = np.einsum("ij,ij->i", self.gradient, directions)
        value, gradient = self.value.copy(), self.gradient.copy()
        noise = ROUNDINGS * self.rounding * np.abs(self.value)
        taken = np.full(len(slope), np.nan)
        last, past = np.zeros_like(slope), slope.copy()
        at, curvature = slope.copy(), np.full_like(slope, np.nan)
        above = np.zeros(len(slope), dtype=bool)

        def look(step: Array) -> Look:
            new = np.flatnonzero(step != taken)  # the others have ended at their last step
            if len(new):
                f, g = self.objective.evaluate(
                    self.problems[new], self.points[new] + step[new, None] * directions[new]
                )
                value[new], gradient[new], taken[new] = f, g, step[new]
                at[new] = np.einsum("ij,ij->i", g, directions[new])
                above[new] = ~(f <= self.value[new] + noise[new])
                with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
                    curvature[new] = (at[new] - past[new]) / (step[new] - last[new])
                finite = new[np.isfinite(at[new])]
                last[finite], past[finite] = step[finite], at[finite]
                # A slope that has not changed says nothing about where it vanishes.
                curvature[new] = np.where(curvature[new] > 0, curvature[new], np.finfo(float).tiny)
            return Look(at, curvature, above)

        search(look, slope, CURVATURE)
        moved = fell(self.value, value, slope, at, noise)
        self.points = np.where(
            moved[:, None], self.points + taken[:, None] * directions, self.points
        )
        self.gradient = np.where(moved[:, None], gradient, self.gradient)
        self.value = np.where(moved, value, self.value)
        return moved


def start(objective: Problems, problems: Integers, points: Array, rounding: float) -> Moves:
    """Start some problems from some points, with their scores kept where features are in memory."""
    kind = Iterates if len(objective.design.edges) == 2 else Trials
    return kind(objective, problems, points, rounding)
