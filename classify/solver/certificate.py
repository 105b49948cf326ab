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
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from classify.solver.losses import logistic, sigmoid
from classify.solver.passes import Group
from classify.solver.problems import BinaryProblems, Problems, SoftmaxProblems
from classify.solver.solution import Certificate

Array = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating[Any]]
Integers = npt.NDArray[np.intp]

NEWTON_STEPS = 30
# How nearly an intercept's residuals cancel, relative to their sum.
BALANCED = 1e-11
# Newton's step of an intercept; far from the optimum the quadratic model is worthless.
LARGEST_STEP = 2.0
# Rows, and float64 scores, in one block of them.
ROWS = 4096
BLOCK_NUMBERS = 500_000


class Side(Protocol):
    """The scores of some problems, and what the dual needs of them."""

    def best_shift(self) -> Array:
        """Solve for the change of the intercepts that balances the residuals."""

    def feasible(self, shift: Array) -> tuple[Array, Array, list[Any], Array]:
        """Return losses, divergences, feasible residuals per group, and the imbalance removed."""


def certify(objective: Problems, problems: Integers, points: Array) -> Certificate:
    """Optimise the intercepts and evaluate the duality gaps.

    Parameters
    ----------
    objective : Problems
        The objective.
    problems : ndarray of int, shape (k,)
        Which of its problems.
    points : ndarray of float64, shape (k, n_parameters)
        Their parameters.

    Returns
    -------
    Certificate
        Costs one pass over the rows.
    """
    weights, intercepts = objective.split(points)
    groups = objective.groups(problems)
    scores = objective.passes.scores(groups, weights, intercepts)
    if isinstance(objective, BinaryProblems):
        side: _Binary | _Softmax = _Binary(objective, problems, groups, scores)
    elif isinstance(objective, SoftmaxProblems):
        side = _Softmax(objective, problems, groups, scores)
    else:
        raise TypeError(f"no dual is known for {type(objective).__name__}")
    return conclude(objective, problems, points, groups, side)


def conclude(
    objective: Problems, problems: Integers, points: Array, groups: list[Group], side: Side
) -> Certificate:
    """Turn what the scores say into a certificate: the part that is the same for every dual.

    Parameters
    ----------
    objective, problems, points
        As `certify` takes them.
    groups : list of Group
        What the scores were computed with.
    side : Side
        The dual, at the scores.

    Returns
    -------
    Certificate
        Costs half a pass over the rows.
    """
    weights, _ = objective.split(points)
    shift = side.best_shift()
    losses, divergence, residuals, imbalance = side.feasible(shift)
    totals, products = objective.passes.back(groups, residuals, len(weights))
    C = objective.C[problems]
    slack = objective.assemble(problems, weights, np.zeros_like(totals), products)
    half = 0.5 * np.einsum("ij,ij->i", slack, slack)
    moved = points.copy()
    objective.split(moved)[1][:] += shift.reshape(-1)
    return Certificate(
        points=moved,
        objective=objective.value(problems, weights, losses),
        grad_norm=np.sqrt(2 * half + (C * imbalance) ** 2),
        gap_bound=C * np.maximum(divergence, 0.0) + half,
    )


class _Binary:
    """The scores of binary problems; ``shift`` is what is added to the intercepts."""

    def __init__(
        self,
        objective: BinaryProblems,
        problems: Integers,
        groups: list[Group],
        scores: list[Floats],
    ) -> None:
        self.objective, self.problems, self.groups = objective, problems, groups
        self.scores = scores
        self._known: tuple[Array, tuple[Array, Array, Array]] | None = None

    def _each(
        self, visit: Callable[[int, slice, Array, _Own, Any], Array]
    ) -> list[tuple[Group, Array]]:
        """Call ``visit(group, its rows, u, own, weight)`` for blocks of rows, in threads."""

        def work(piece: tuple[int, int]) -> tuple[Group, Array]:
            index, low = piece
            group = self.groups[index]
            some = slice(low, low + block_rows(len(group.columns)))
            u = self.scores[index][some].astype(np.float64)
            rows = slice(group.start + low, group.start + low + len(u))
            own = _Own(group, self.objective.labels[rows], self.objective.positive[self.problems])
            own.flip(u)
            weight = self.objective.weight
            return group, visit(index, some, u, own, 1.0 if weight is None else weight[rows, None])

        pieces = [
            (index, low)
            for index, group in enumerate(self.groups)
            for low in range(0, group.stop - group.start, block_rows(len(group.columns)))
        ]
        return self.objective.workers.map(work, pieces)

    def _sums(self, shift: Array) -> tuple[Array, Array, Array]:
        """Sum, per problem, the residual mass of negatives and positives, and the curvature."""
        if self._known is not None and np.array_equal(self._known[0], shift):
            return self._known[1]

        def visit(index: int, some: slice, u: Array, own: _Own, s: Any) -> Array:
            own.add(u, shift)
            p = sigmoid(np.negative(u, out=u))
            sp = s * p
            bent = (sp - sp * p).sum(axis=0)
            return np.stack([*own.sums(sp), bent])

        total = np.zeros((3, len(shift)))
        for group, part in self._each(visit):
            total[:, group.columns] += part
        self._known = shift.copy(), (total[0], total[1], total[2])
        return self._known[1]

    def best_shift(self) -> Array:
        """Solve for the change of each intercept that balances the residuals."""
        shift = np.zeros(len(self.problems))
        if not self.objective.intercept:
            return shift
        for _ in range(NEWTON_STEPS):
            negative, positive, curvature = self._sums(shift)
            off = positive - negative
            scale = np.maximum(positive, negative)
            if np.all(np.abs(off) <= BALANCED * scale):
                break
            step = off / np.maximum(curvature, np.finfo(float).tiny)
            shift += np.clip(step, -LARGEST_STEP, LARGEST_STEP)
        return shift

    def feasible(self, shift: Array) -> tuple[Array, Array, list[Floats], Array]:
        """Scale the heavier side's residuals down until both sides weigh the same."""
        negative, positive, _ = self._sums(shift)
        if not self.objective.intercept:  # then there is nothing to balance
            negative = positive = np.zeros_like(positive)
        heavier = np.maximum(np.maximum(positive, negative), np.finfo(float).tiny)
        cut_positive = np.maximum(positive - negative, 0.0) / heavier
        cut_negative = np.maximum(negative - positive, 0.0) / heavier
        residuals = self.scores  # each block is read before it is written

        def visit(index: int, some: slice, u: Array, own: _Own, s: Any) -> Array:
            own.add(u, shift)
            cut = own.choose(cut_positive, cut_negative, len(u))
            # (1 - q) / (1 - p) is 1 + cut p / (1 - p), and p / (1 - p) is exp(u).
            kl = np.log1p(cut * np.exp(np.minimum(u, 700.0)))
            loss, p = logistic(u)
            q = (1 - cut) * p
            kl *= 1 - q
            kl += q * np.log1p(-np.minimum(cut, 1 - 1e-16))
            sums = np.stack([(s * loss).sum(axis=0), (s * kl).sum(axis=0)])
            q *= s
            own.flip(q)
            residuals[index][some] = q
            return sums

        total = np.zeros((2, len(self.problems)))
        for group, part in self._each(visit):
            total[:, group.columns] += part
        return total[0], total[1], residuals, np.abs(positive - negative)


class _Own:
    """Which of a block's entries are those of rows in their own class's columns.

    One-vs-one's groups say it for whole columns, and their scores are signed already. One-vs-rest's
    rows have at most one such entry each, whose score has to be negated here.
    """

    def __init__(self, group: Group, labels: Integers, positive: Integers) -> None:
        self.columns, self.sign = group.columns, group.sign
        self._entries: tuple[Integers, ...] | None = None
        if group.sign is None:
            self._entries = np.nonzero(labels[:, None] == positive)

    def flip(self, table: Array) -> None:
        """Negate the entries, in place, where the group's signs have not."""
        if self._entries is not None:
            table[self._entries] = -table[self._entries]

    def add(self, u: Array, shift: Array) -> None:
        """Add a change of the intercepts to scores, in place."""
        move = shift[self.columns]
        if self.sign is not None:
            u += self.sign * move
            return
        u += move
        assert self._entries is not None
        u[self._entries] -= 2 * move[self._entries[1]]

    def sums(self, table: Array) -> tuple[Array, Array]:
        """Sum the columns of the entries that are not their own's, and of those that are."""
        whole = table.sum(axis=0)
        if self.sign is not None:
            return np.where(self.sign < 0, 0.0, whole), np.where(self.sign < 0, whole, 0.0)
        assert self._entries is not None
        mine = np.zeros_like(table)
        mine[self._entries] = table[self._entries]
        return (table - mine).sum(axis=0), mine.sum(axis=0)

    def choose(self, own: Array, other: Array, n_rows: int) -> Array:
        """Give every entry of so many rows its column's one of two values."""
        own, other = own[self.columns], other[self.columns]
        if self.sign is not None:
            return np.where(self.sign < 0, own, other)
        assert self._entries is not None
        table = np.tile(other, (n_rows, 1))
        table[self._entries] = own[self._entries[1]]
        return table


class _Softmax:
    """The scores of multinomial problems, rows x problems x classes."""

    def __init__(
        self,
        objective: SoftmaxProblems,
        problems: Integers,
        groups: list[Group],
        scores: list[Floats],
    ) -> None:
        self.objective, self.n_problems = objective, len(problems)
        self.scores = scores[0].reshape(len(scores[0]), len(problems), -1)

    def _each(self, visit: Callable[..., Any]) -> list[Any]:
        """Call ``visit(first row, log p, labels, weight)`` for blocks of rows, in threads."""
        step = block_rows(self.scores[0].size)

        def work(low: int) -> Any:
            z = self.scores[low : low + step].astype(np.float64)
            labels = self.objective.labels[low : low + len(z)]
            weight = self.objective.weight
            s = np.ones(len(z)) if weight is None else weight[low : low + len(z)]
            return visit(low, z, labels, s[:, None])

        return self.objective.workers.map(work, list(range(0, len(self.scores), step)))

    def best_shift(self) -> Array:
        """Solve for the change of the intercepts that balances every class's residuals."""
        n_classes = self.scores.shape[2]
        shift = np.zeros((self.n_problems, n_classes))
        if not self.objective.intercept:
            return shift
        for _ in range(NEWTON_STEPS):

            def visit(low: int, z: Array, labels: Integers, s: Array) -> tuple[Array, Array, Array]:
                p, _ = _probabilities(z + shift)  # noqa: B023 - used before it changes
                sp = s[:, :, None] * p
                off = sp.sum(axis=0) - np.bincount(labels, s[:, 0], minlength=n_classes)
                outer = np.einsum("npk,npl->pkl", sp, p, optimize=True)
                return off, sp.sum(axis=0), outer

            parts = self._each(visit)
            off = sum(part[0] for part in parts)
            mass = sum(part[1] for part in parts)
            outer = sum(part[2] for part in parts)
            if np.all(np.abs(off) <= BALANCED * mass.sum(axis=1, keepdims=True)):
                break
            # The curvature does not see a common shift of all classes; fill that direction in.
            hessian = -outer + mass.mean(axis=1)[:, None, None] / n_classes
            index = np.arange(n_classes)
            hessian[:, index, index] += mass * (1 + 1e-14)
            step = np.linalg.solve(hessian, off[:, :, None])[:, :, 0]
            step -= step.mean(axis=1, keepdims=True)
            shift -= np.clip(step, -LARGEST_STEP, LARGEST_STEP)
        return shift

    def feasible(self, shift: Array) -> tuple[Array, Array, list[Floats], Array]:
        """Move mass from the classes that have too much to those that have too little."""

        def weigh(low: int, z: Array, labels: Integers, s: Array) -> tuple[Array, Array]:
            r, _ = _residuals(z + shift, labels)
            sr = s[:, :, None] * r
            return sr.sum(axis=0), np.maximum(sr, 0.0).sum(axis=0)

        parts = self._each(weigh)
        off = sum(part[0] for part in parts) * self.objective.intercept
        foreign = sum(part[1] for part in parts)  # mass that rows of other classes give a class
        excess = np.maximum(off, 0.0)
        cut = np.minimum(excess / np.maximum(foreign, np.finfo(float).tiny), 1.0)
        lack = np.maximum(-off, 0.0)
        share = lack / np.maximum(lack.sum(axis=1, keepdims=True), np.finfo(float).tiny)
        flat = self.scores.reshape(len(self.scores), -1)
        residuals = flat  # each block is read before it is written

        def visit(low: int, z: Array, labels: Integers, s: Array) -> Array:
            r, log_p = _residuals(z + shift, labels)
            rows = np.arange(len(z))
            p = np.maximum(r, 0.0)  # what the row gives to classes that are not its own
            freed = cut * p
            q = p - freed + freed.sum(axis=2, keepdims=True) * share
            own = np.exp(log_p[rows, :, labels])
            q[rows, :, labels] += own
            log_q = np.log(np.maximum(q, np.finfo(float).tiny))
            kl = np.where(q > 0, q * (log_q - log_p), 0.0).sum(axis=2)
            q[rows, :, labels] = 0.0
            q[rows, :, labels] = -q.sum(axis=2)
            residuals[low : low + len(z)] = (s[:, :, None] * q).reshape(len(z), -1)
            return np.stack([(-s * log_p[rows, :, labels]).sum(axis=0), (s * kl).sum(axis=0)])

        losses, divergence = np.sum(self._each(visit), axis=0)
        return losses, divergence, [residuals], np.linalg.norm(off, axis=1)


def block_rows(columns: int) -> int:
    """Say how many rows of scores make a block.

    Parameters
    ----------
    columns : int
        Scores of a row.

    Returns
    -------
    int
        Fewer for many columns: a block has some ten temporary arrays of its size.
    """
    return min(ROWS, max(64, BLOCK_NUMBERS // max(1, columns)))


def _probabilities(z: Array) -> tuple[Array, Array]:
    z = z - z.max(axis=-1, keepdims=True)
    p = np.exp(z)
    total = p.sum(axis=-1, keepdims=True)
    return p / total, z - np.log(total)


def _residuals(z: Array, labels: Integers) -> tuple[Array, Array]:
    """Return softmax minus indicator, without cancellation in the label's own entry."""
    p, log_p = _probabilities(z)
    rows = np.arange(len(z))
    p[rows, :, labels] = 0.0
    p[rows, :, labels] = -p.sum(axis=-1)
    # The same for the logarithm: log(1 - others) keeps the small losses of well-classified rows.
    own = p[rows, :, labels]
    sure = own > -0.5
    log_p[rows, :, labels] = np.where(
        sure, np.log1p(np.where(sure, own, 0.0)), log_p[rows, :, labels]
    )
    return p, log_p
