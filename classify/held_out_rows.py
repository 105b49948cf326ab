"""The held-out rows that a path of C is judged on."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from classify.codings.decisions import ProblemSums, decide, probabilities, problem_sums
from classify.linear_head import Head, PairHead, PairScores, Scores
from classify.scoring import one_by_one, score_steps, scorer, sums_of_pairs
from classify.solver.out_of_core import is_source
from classify.solver.problems import n_heads
from classify.solver.strategies import strategy_of
from classify.solver.threads import Workers
from classify.solver.tuning import COUPLED_NUMBERS

# Held-out rows for each class, below which no problem gets a C of its own: one row or none of a
# class would choose it.
FEWEST_JUDGES = 2


class Judged(NamedTuple):
    """What heads make of the held-out rows."""

    right: npt.NDArray[np.bool_]  # (n_rows,): whether the answer is right
    # (n_coupled,): how probable the truth was held, of the rows whose probabilities were made.
    of_truth: npt.NDArray[np.float64]
    sums: ProblemSums | None  # where each problem is judged


class HeldOutRows:
    """The rows that a path is judged on: in memory, or read block by block."""

    def __init__(
        self,
        strategy: str,
        X: Any,
        labels: npt.NDArray[np.intp],
        rows: npt.NDArray[np.intp],
        n_classes: int,
        pool: Workers,
        weights: npt.NDArray[np.float64] | None = None,
    ) -> None:
        self.strategy, self.n_classes, self.pool = strategy, n_classes, pool
        self.weights = weights  # (n_held,)
        # One value of C for each problem is chosen too, where there is enough to choose it on.
        coding, self.loss = strategy_of(strategy).coding, strategy_of(strategy).loss
        self.per_problem = coding != "multinomial" and len(rows) >= FEWEST_JUDGES * n_classes
        # The scale of margins is not that of logits, so that their log-loss falls with it; and the
        # sums of a code book are too sure of themselves, so that theirs rises far too soon. Both
        # are judged by the loss that is minimised.
        self.margins = self.loss != "logistic"
        self.by_problems = self.margins or coding == "ecoc"
        # One-vs-one's answers are votes; what its probabilities cost more buys ties' log-loss.
        scores = len(rows) * n_heads(strategy, n_classes) if coding == "ovo" else 0
        self.every = max(1, -(-scores // COUPLED_NUMBERS))
        self.labels, self.rows = labels[rows], rows
        self.X = X if is_source(X) else X[rows]

    def judge(self, head: Head) -> Judged:
        """Judge heads by the rows, in blocks."""
        scores = scorer(head, self.X.dtype)
        # Where a head scores rows class by class, each pair is judged on its own rows alone.
        apart = isinstance(head, PairHead)

        def work(step: tuple[int, int]) -> Judged:
            rows = slice(*step)
            block = self.X.gather(self.rows[rows]) if is_source(self.X) else self.X[rows]
            weights = None if self.weights is None else self.weights[rows]
            some = slice(-step[0] % self.every, None, self.every)
            with_sums = (self.per_problem or self.by_problems) and not apart
            return self._judge(scores(block), self.labels[rows], weights, some, with_sums)

        right, of_truth = [], []
        sums: ProblemSums | None = None
        # Sums of many pairs are large: one at a time.
        steps = score_steps(self.X, len(self.rows), head)
        for part in map(work, steps) if one_by_one(head) else self.pool.stream(work, steps):
            right.append(part.right)
            of_truth.append(part.of_truth)
            sums = part.sums if sums is None or part.sums is None else sums + part.sums
        if (self.per_problem or self.by_problems) and apart:
            sums = sums_of_pairs(
                self.X, head, self.labels, self.n_classes, self.pool, weights=self.weights,
                loss=self.loss,
            )  # fmt: skip
        return Judged(np.concatenate(right), np.concatenate(of_truth), sums)

    def mean_loss(self, judged: Judged) -> float:
        """Return the mean loss of the problems' own rows, where heads are judged by that."""
        assert judged.sums is not None
        return float(judged.sums.loss.sum() / judged.sums.n_rows.sum())

    def mean(self, values: npt.NDArray[Any]) -> float:
        """Average a number of each row, or of each of the rows that were coupled, by weights."""
        if self.weights is None:
            return float(values.mean())
        weights = self.weights if len(values) == len(self.rows) else self.weights[:: self.every]
        return float(np.average(values, weights=weights))

    def _judge(
        self,
        scores: Scores,
        labels: npt.NDArray[np.intp],
        weights: npt.NDArray[np.float64] | None,
        some: slice,
        with_sums: bool,
    ) -> Judged:
        """Judge a block of rows, and `some` of them by their probabilities."""
        k = self.n_classes
        right = decide(self.strategy, scores, k) == labels
        chance = probabilities(self.strategy, scores[some], k)
        own = labels[some]
        sums = None
        if with_sums and not isinstance(scores, PairScores):
            sums = problem_sums(self.strategy, scores, labels, k, weights)
        return Judged(right, chance[np.arange(len(own)), own], sums)
