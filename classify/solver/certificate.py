"""A rigorous bound on how far an objective is above its minimum.

Derivation (Fenchel duality: Boyd and Vandenberghe, *Convex Optimization*, 2004, section 5.7.1; for
logistic regression Jaakkola and Haussler, 1999, and Yu, Huang and Lin, *Machine Learning* 85, 2011,
"Dual coordinate descent methods for logistic regression and maximum entropy models").

Write the objective ``P(w, b) = C sum_i s_i loss(z_i) + ||w||^2 / 2`` with scores
``z_i = W x_i + b`` (one number for a binary problem, a vector for the softmax), labels ``t_i`` (an
indicator), and let ``q_i`` be any probabilities. The loss's conjugate is minus the entropy, so for
``r_i = q_i - t_i``

    ``loss(z_i) >= H(q_i) + r_i . z_i``    (equality where ``q_i`` is the model's ``p_i``; the
                                            difference is the divergence ``KL(q_i || p_i)``).

Minimising the right-hand side over ``w`` and ``b`` gives the dual

    ``D(q) = C sum_i s_i H(q_i) - ||v||^2 / 2``,  ``v = -C sum_i s_i r_i x_i``,

provided that ``sum_i s_i r_i = 0``: the intercept is not penalised, so without that constraint the
minimum over ``b`` is minus infinity. Every feasible ``q`` bounds the minimum from below, and

    ``P(w, b) - D(q) = C sum_i s_i KL(q_i || p_i) + ||w - v||^2 / 2``,

a sum of two terms that cannot be negative and do not cancel. With ``q = p`` the second is half the
squared gradient, the familiar bound for a 1-strongly convex function; but ``p`` is feasible only
where the intercept is optimal. So, first, the intercept is made optimal at the given weights
by Newton's method on the scores alone, which costs no product with the features; then what is left
of the constraint (rounding, mostly) is removed by moving probability mass, and the bound is
evaluated at that feasible ``q``, both terms included: rigorous up to the rounding of the sums.
Problems without intercepts have no constraint, and ``q = p``.

The squared hinge loss ``max(0, 1 + u)^2`` of ``u``, minus the margin, has the same dual with
another entropy (Hsieh, Chang, Lin, Keerthi and Sundararajan, "A dual coordinate descent method for
large-scale linear SVM", *ICML* 2008): its conjugate is ``q^2 / 4 - q`` of ``q >= 0``, so that
``H(q) = q - q^2 / 4``, the model's own ``p`` is ``2 max(0, 1 + u)``, and in place of the divergence
stands ``loss(u) - H(q) - q u``. That is ``(p - q)^2 / 4`` where a row has lost its margin, and
for the others, whose ``p`` is zero, ``q`` is left at zero.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from classify.solver.arrays import Arrays, LabelEntries, PositiveEntries, ScoreBlock
from classify.solver.passes import Group
from classify.solver.problems import BinaryProblems, Problems, SoftmaxProblems
from classify.solver.solution import Certificate
from classify.solver.tuning import CHORD, CHORD_CLASSES

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.intp]

NEWTON_STEPS = 30
# How nearly an intercept's residuals cancel, relative to their sum.
BALANCED = 1e-11
# And where a tolerance is in view: this share of it, and this at the most.
BALANCED_SHARE, LEAST_BALANCED = 1e-4, 1e-7
# A loose tolerance: a path's.
LOOSE = 1e-4
# Newton's step of an intercept; far from the optimum the quadratic model is worthless.
LARGEST_STEP = 2.0
TINY = float(np.finfo(float).tiny)


class _Feasible(NamedTuple):
    """A feasible point of the dual, at the shifted intercepts."""

    losses: Array  # of each problem
    divergence: Array  # the sum of KL(q || p), of each problem
    residuals: list[Any]  # q less the labels, of each group, times the sample weights
    imbalance: Array  # of p, before mass was moved: the intercepts' gradient


def certify(
    objective: Problems, problems: Integers, points: Array, tol: float = 0.0
) -> Certificate:
    """Optimise the intercepts at some problems' points, and evaluate the duality gaps.

    Takes one pass over the rows; `points` is float64, ``(k, n_parameters)``. With a relative gap of
    `tol` in view intercepts need not be balanced better than a small share of it: what is left adds
    its square to the gap. Those of many classes, whose Hessian costs as much as several passes,
    stay where they are if the gap is within a loose tolerance as it is.
    """
    many = isinstance(objective, SoftmaxProblems) and objective.columns >= CHORD_CLASSES
    if many and tol >= LOOSE:
        found = _certify(objective, problems, points, None)
        if np.all(found.gap_bound <= tol * np.abs(found.objective)):
            return found
    balanced = max(BALANCED, min(BALANCED_SHARE * tol, LEAST_BALANCED))
    return _certify(objective, problems, points, balanced)


def _certify(
    objective: Problems, problems: Integers, points: Array, balanced: float | None
) -> Certificate:
    """Evaluate the duality gaps, with intercepts that are balanced so nearly, or left alone."""
    weights, intercepts = objective.split(points)
    groups = objective.groups(problems)
    # In the features' precision: an error of a score changes the bound by C times that error times
    # the residual, as it changes the objective. All sums over rows are float64.
    scores: list[Any] = objective.passes.scores(groups, weights, intercepts)
    if isinstance(objective, BinaryProblems):
        dual: _BinaryDual | _SoftmaxDual = _BinaryDual(objective, problems, groups, scores)
    elif isinstance(objective, SoftmaxProblems):
        dual = _SoftmaxDual(objective, problems, groups, scores)
    else:
        raise TypeError(f"no dual is known for {type(objective).__name__}")
    shift = dual.no_shift() if balanced is None else dual.best_shift(balanced)
    found = dual.feasible(shift)
    totals, products = objective.passes.back(groups, found.residuals, len(weights))
    C = objective.C[problems]
    # w - v. The residuals of a feasible q sum to zero, so the intercepts' entries, which
    # rounding alone would fill, are set to zero.
    slack = objective.assemble(problems, weights, np.zeros_like(totals), products)
    half = 0.5 * np.einsum("ij,ij->i", slack, slack)
    moved = points.copy()
    objective.split(moved)[1][:] += shift.reshape(-1)
    return Certificate(
        points=moved,
        objective=objective.value(problems, weights, found.losses),
        grad_norm=np.sqrt(2 * half + (C * found.imbalance) ** 2),
        # A divergence is not negative; a sum of rounded ones may be, by next to nothing.
        gap_bound=C * np.maximum(found.divergence, 0.0) + half,
    )


class _Dual:
    """The scores of some problems, in float64 block by block, and sums over the blocks."""

    def __init__(
        self, objective: Problems, problems: Integers, groups: list[Group], scores: list[Any]
    ) -> None:
        self.arrays: Arrays = objective.arrays
        self.intercept, self.n_problems = objective.intercept, len(problems)
        self.scores = scores
        self.blocks = [
            ScoreBlock(index, slice(low, high), slice(low - group.start, high - group.start))
            for index, group in enumerate(groups)
            for step in [self.arrays.block_rows(len(group.columns))]
            for low in range(group.start, group.stop, step)
            for high in [min(low + step, group.stop)]
        ]


class _BinaryDual(_Dual):
    """The dual of binary problems; ``u`` is minus the margins, ``p`` the loss's derivative."""

    def __init__(
        self, objective: BinaryProblems, problems: Integers, groups: list[Group], scores: list[Any]
    ) -> None:
        super().__init__(objective, problems, groups, scores)
        self.groups = self.arrays.groups(groups)
        self.positive = self.arrays.send(objective.sides.positive[problems])
        self.divergence = DIVERGENCES[objective.loss.name]
        self._known: tuple[Array, Array] | None = None

    def _total(
        self, n_sums: int, visit: Callable[[ScoreBlock, Any, PositiveEntries, Any], Any]
    ) -> Array:
        """Add up ``visit(block, u, positive entries, weights)`` of all blocks, per problem."""

        def work(block: ScoreBlock) -> Any:
            u = self.arrays.double(self.scores[block.group][block.within])
            group = self.groups[block.group]
            entries = self.arrays.positive_entries(group, block.rows, self.positive)
            entries.flip(u)
            return visit(block, u, entries, self.arrays.weight(block.rows, 2))

        total = self.arrays.zeros(n_sums, self.n_problems)
        for block, part in self.arrays.map(work, self.blocks):
            total[:, self.groups[block.group].columns] += part
        return self.arrays.host(total)

    def _sums(self, shift: Array) -> Array:
        """Sum, per problem, the residuals of negatives and of positives, and the curvature."""
        if self._known is not None and np.array_equal(self._known[0], shift):
            return self._known[1]
        move = self.arrays.send(shift)

        def visit(block: ScoreBlock, u: Any, entries: PositiveEntries, s: Any) -> Any:
            entries.add(u, move)
            p, curvature = self.arrays.slopes(u)
            return self.arrays.xp.stack([*entries.sums(s * p), (s * curvature).sum(axis=0)])

        self._known = shift.copy(), self._total(3, visit)
        return self._known[1]

    def no_shift(self) -> Array:
        """Leave the intercepts where they are."""
        return np.zeros(self.n_problems)

    def best_shift(self, balanced: float) -> Array:
        """Solve for the change of each intercept that balances the residuals, as nearly as that."""
        shift = self.no_shift()
        if not self.intercept:
            return shift
        low, high = np.full_like(shift, -np.inf), np.full_like(shift, np.inf)
        for _ in range(NEWTON_STEPS):
            negative, positive, curvature = self._sums(shift)
            off = positive - negative
            if np.all(np.abs(off) <= balanced * np.maximum(positive, negative)):
                break
            # A loss with a kink may lead Newton's steps round in a circle: they stay within what
            # is known of the optimum, and halve that where they would leave it.
            low, high = np.where(off > 0, shift, low), np.where(off < 0, shift, high)
            step = off / np.maximum(curvature, TINY)
            next_shift = shift + np.clip(step, -LARGEST_STEP, LARGEST_STEP)
            outside = ((next_shift <= low) | (next_shift >= high)) & np.isfinite(high - low)
            shift = np.where(outside & (off != 0), 0.5 * (low + high), next_shift)
        return shift

    def feasible(self, shift: Array) -> _Feasible:
        """Scale the heavier side's residuals down until both sides weigh the same.

        Whatever Newton's method has left over, the constraint then holds: the bound does not
        depend on its convergence, only the bound's size does.
        """
        arrays, xp = self.arrays, self.arrays.xp
        negative, positive, _ = self._sums(shift)
        if not self.intercept:  # then there is nothing to balance
            negative = positive = np.zeros_like(positive)
        heavier = np.maximum(np.maximum(positive, negative), TINY)
        cut_positive = arrays.send(np.maximum(positive - negative, 0.0) / heavier)
        cut_negative = arrays.send(np.maximum(negative - positive, 0.0) / heavier)
        move = arrays.send(shift)
        residuals = self.scores  # each block is read before it is written

        def visit(block: ScoreBlock, u: Any, entries: PositiveEntries, s: Any) -> Any:
            entries.add(u, move)
            cut = entries.choose(cut_positive, cut_negative, len(u))
            loss, p = arrays.loss(u)
            apart = self.divergence(arrays, u, p, cut)
            sums = xp.stack([(s * loss).sum(axis=0), (s * apart).sum(axis=0)])
            q = (1 - cut) * p
            q *= s
            entries.flip(q)
            residuals[block.group][block.within] = q
            return sums

        losses, divergence = self._total(2, visit)
        return _Feasible(losses, divergence, residuals, np.abs(positive - negative))


def logistic_divergence(arrays: Any, u: Any, p: Any, cut: Any) -> Any:
    """Return ``KL(q || p)`` of ``q = (1 - cut) p``, where ``p`` is the sigmoid of ``u``."""
    # It is q log(1 - cut) + (1 - q) log((1 - q) / (1 - p)). Logarithms of quotients near one would
    # round to nothing what is summed here: (1 - q) / (1 - p) is 1 + cut p / (1 - p), and p / (1 -
    # p) is exp(u).
    q = (1 - cut) * p
    kl = arrays.xp.log1p(cut * arrays.xp.exp(arrays.at_most(u, 700.0)))
    kl *= 1 - q
    kl += q * arrays.xp.log1p(-arrays.at_most(cut, 1 - 1e-16))
    return kl


def squared_hinge_divergence(arrays: Any, u: Any, p: Any, cut: Any) -> Any:
    """Return ``(p - q)^2 / 4`` of ``q = (1 - cut) p``, where ``p`` is ``2 max(0, 1 + u)``."""
    apart = cut * p
    apart *= 0.5
    return apart * apart


DIVERGENCES = {"logistic": logistic_divergence, "squared_hinge": squared_hinge_divergence}


class _SoftmaxDual(_Dual):
    """The dual of multinomial problems; scores are rows x problems x classes."""

    def __init__(
        self, objective: SoftmaxProblems, problems: Integers, groups: list[Group], scores: list[Any]
    ) -> None:
        super().__init__(objective, problems, groups, scores)
        self.table = scores[0].reshape(len(scores[0]), len(problems), -1)
        self.n_classes = k = self.table.shape[2]
        # The weight of each block's rows of each class: what the probabilities must sum to.
        labels, weight = objective.labels, objective.weight
        self.mass = {
            block.rows.start: self.arrays.send(
                np.bincount(
                    labels[block.rows], None if weight is None else weight[block.rows], minlength=k
                ).astype(np.float64)
            )
            for block in self.blocks
        }

    def _total(self, shape: tuple[int, ...], shift: Array, visit: Callable[..., Any]) -> Array:
        """Add up ``visit(block, shifted scores, label entries)`` of all blocks."""
        move = self.arrays.send(shift)

        def work(block: ScoreBlock) -> Any:
            z = self.arrays.double(self.table[block.within]) + move
            return visit(block, z, self.arrays.label_entries(block.rows, self.n_problems))

        total = self.arrays.zeros(*shape)
        for _, part in self.arrays.map(work, self.blocks):
            total += part
        return self.arrays.host(total)

    def no_shift(self) -> Array:
        """Leave the intercepts where they are."""
        return np.zeros((self.n_problems, self.n_classes))

    def best_shift(self, balanced: float) -> Array:
        """Solve for the change of the intercepts that balances every class's residuals."""
        k = self.n_classes
        shift = self.no_shift()
        if not self.intercept:
            return shift

        def visit(block: ScoreBlock, z: Any, entries: LabelEntries) -> Any:
            p, _ = self.arrays.softmax(z)
            sp = self.arrays.weight(block.rows, 3) * p
            mass = sp.sum(axis=0)
            sums = self.arrays.xp.stack([mass - self.mass[block.rows.start], mass], 1)
            if inverse is not None:
                return sums
            return self.arrays.xp.concatenate([sums, self.arrays.outer(sp, p)], 1)

        # The Hessian costs n_classes times what the sums do: of many classes it is made once, and
        # again where its steps do not do.
        inverse: Array | None = None
        last = np.inf
        for _ in range(NEWTON_STEPS):
            known = inverse is not None
            total = self._total((self.n_problems, 2 if known else k + 2, k), shift, visit)
            off, mass, outer = total[:, 0], total[:, 1], total[:, 2:]
            left = np.abs(off) / mass.sum(axis=1, keepdims=True)
            if np.all(left <= balanced):
                break
            if known and not left.max() <= CHORD * last:
                inverse = None
                continue
            last = float(left.max())
            if not known:
                # The curvature does not see a common shift of all classes; fill that in.
                hessian = -outer + mass.mean(axis=1)[:, None, None] / k
                index = np.arange(k)
                hessian[:, index, index] += mass * (1 + 1e-14)
                if k < CHORD_CLASSES:
                    step = np.linalg.solve(hessian, off[:, :, None])[:, :, 0]
                else:
                    inverse = np.linalg.inv(hessian)
            if inverse is not None:
                step = (inverse @ off[:, :, None])[:, :, 0]
            step -= step.mean(axis=1, keepdims=True)
            shift -= np.clip(step, -LARGEST_STEP, LARGEST_STEP)
        return shift

    def feasible(self, shift: Array) -> _Feasible:
        """Move mass from the classes that have too much to those that have too little."""
        arrays, xp = self.arrays, self.arrays.xp

        def weigh(block: ScoreBlock, z: Any, entries: LabelEntries) -> Any:
            sr = arrays.weight(block.rows, 3) * self._residuals(z, entries)[0]
            return xp.stack([sr.sum(axis=0), arrays.at_least(sr, 0.0).sum(axis=0)])

        off, foreign = self._total((2, self.n_problems, self.n_classes), shift, weigh)
        off *= self.intercept
        # A class can only lose what rows of other classes give it (`foreign`), which is at least
        # what it has too much. All that is freed goes to the classes that lack some.
        cut = np.minimum(np.maximum(off, 0.0) / np.maximum(foreign, TINY), 1.0)
        lack = np.maximum(-off, 0.0)
        share = lack / np.maximum(lack.sum(axis=1, keepdims=True), TINY)
        cut, share = arrays.send(cut), arrays.send(share)

        def visit(block: ScoreBlock, z: Any, entries: LabelEntries) -> Any:
            r, log_p = self._residuals(z, entries)
            p = arrays.at_least(r, 0.0)  # what the row gives to classes that are not its own
            freed = cut * p
            q = p - freed + freed.sum(axis=2, keepdims=True) * share
            log_own = entries.of(log_p)
            entries.put(q, entries.of(q) + xp.exp(log_own))
            log_q = xp.log(arrays.at_least(q, TINY))
            kl = xp.where(q > 0, q * (log_q - log_p), 0.0).sum(axis=2)
            entries.put(q, 0.0)
            entries.put(q, -q.sum(axis=2))
            self.table[block.within] = arrays.weight(block.rows, 3) * q
            s = arrays.weight(block.rows, 2)
            return xp.stack([(-s * log_own).sum(axis=0), (s * kl).sum(axis=0)])

        losses, divergence = self._total((2, self.n_problems), shift, visit)
        flat = self.table.reshape(len(self.table), -1)
        return _Feasible(losses, divergence, [flat], np.linalg.norm(off, axis=1))

    def _residuals(self, z: Any, entries: LabelEntries) -> tuple[Any, Any]:
        """Return softmax less indicator, without cancellation in the label's entry, and log p."""
        xp = self.arrays.xp
        p, log_p = self.arrays.softmax(z)
        entries.put(p, 0.0)
        own = -p.sum(axis=-1)
        entries.put(p, own)
        # The same for log p: log(1 - others) keeps the small losses of well-classified rows.
        sure = own > -0.5
        exact = xp.log1p(xp.where(sure, own, 0.0))
        entries.put(log_p, xp.where(sure, exact, entries.of(log_p)))
        return p, log_p
