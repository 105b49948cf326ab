"""``tree``, ``forest``, ``boosting``, plain, by one-vs-rest (``-ovr``) and one-vs-one (``-ovo``).

The reductions decide as scikit-learn's ``OneVsRestClassifier`` and ``OneVsOneClassifier`` around
the same estimator do. Probabilities of one-vs-rest are those of its problems, normalised; those of
one-vs-one are coupled (`classify.codings.coupling`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from classify.codings import decisions
from classify.heads.interface import (
    FitContext,
    Floats,
    HeadAnswers,
    HeadKind,
    RowSet,
    Setting,
    TrainedHead,
)
from classify.heads.trees.arrays import Grown, Trees
from classify.heads.trees.components import Components, principal_components, reduced
from classify.heads.trees.growing import GROW, Growth, Task
from classify.solver.problems import class_pairs
from classify.solver.threads import thread_count, workers

Array = npt.NDArray[np.float64]

COMPONENTS = 64
# Features as they are, beside their components, are tried where there are so few numbers.
CHEAP_NUMBERS = 2_000_000
# Progress is told in so many steps a fit.
STEPS = 10
# Trees of a forest: of a plain one, and of each problem of a reduction.
N_TREES = (300, 100)
# Iterations of boosting, at most, likewise.
MAX_ITER = (300, 100)
LEAVES = {"tree": (5, 20, 50, 100), "forest": (1, 5)}
RATES = (0.1, 0.3)
_TIE = 1e-6


@dataclass(frozen=True)
class Rows:
    """Rows of components in memory."""

    Z: npt.NDArray[np.float32]
    labels: npt.NDArray[np.intp]
    weights: npt.NDArray[np.float64] | None

    def some(self, rows: npt.NDArray[np.intp]) -> Rows:
        """Return some of these rows."""
        weights = None if self.weights is None else self.weights[rows]
        return Rows(self.Z[rows], self.labels[rows], weights)


class TrainedTrees(TrainedHead):
    """Trees on components of features."""

    def __init__(
        self,
        name: str,
        trees: Trees,
        baseline: Array,
        components: Components | None,
        shape: tuple[int, int],
        setting: Mapping[str, Any],
    ) -> None:
        self.name, self.trees, self.baseline, self.components = name, trees, baseline, components
        self.n_classes, self.n_features = shape
        self.setting = dict(setting)
        self.base, _, self.reduction = name.partition("-")
        self.notes = {"n_trees": len(trees.roots), "n_leaves": len(trees.values)}

    def answers(self, block: Floats) -> HeadAnswers:
        """Answer rows of raw features."""
        Z = block.astype(np.float32) if self.components is None else self.components.project(block)
        sums = self.trees.sums(Z)
        if self.reduction:
            return self._reduced_answers(sums)
        if self.base == "boosting":
            scores = sums[:, :, 0].T + self.baseline
            scores = scores if self.n_classes > 2 else scores[:, 1:] - scores[:, :1]
            logs = decisions.log_probabilities("multinomial", scores, self.n_classes)
            values = scores if self.n_classes > 2 else np.hstack([-scores, scores])
            return HeadAnswers(values, logs)
        n_trees = self.trees.sizes[0]
        if self.base == "tree":
            return HeadAnswers(sums[0], _logs(sums[0]))
        # As if one more tree knew nothing: shares of zero have no logarithm.
        return HeadAnswers(sums[0] / n_trees, _logs((sums[0] + 1 / self.n_classes) / (n_trees + 1)))

    def _reduced_answers(self, sums: Array) -> HeadAnswers:
        """Decide by the problems' own confidences, as scikit-learn does."""
        if self.base == "boosting":
            confidences = scores = sums[:, :, 0].T + self.baseline
            centre = 0.0
        else:
            n_trees = self.trees.sizes
            confidences = sums[:, :, 0].T / n_trees
            smoothed = (
                sums[:, :, 1].T if self.base == "tree" else (sums[:, :, 0].T + 0.5) / (n_trees + 1)
            )
            scores, centre = np.log(smoothed) - np.log1p(-smoothed), 0.5
        k = self.n_classes
        logs = decisions.log_probabilities(self.reduction, scores, k)
        if k == 2:
            return HeadAnswers(np.hstack([centre - confidences, confidences - centre]), logs)
        if self.reduction == "ovr":
            return HeadAnswers(confidences, logs)
        certain = confidences - centre
        # A tie is the first class's, and rounding decides nothing.
        votes, _ = decisions.votes_and_margins(np.where(np.abs(certain) < _TIE, 0.0, certain), k)
        # scikit-learn adds up shares as they are, from 0 to 1, which favours later classes of
        # equally many votes.
        _, margins = decisions.votes_and_margins(confidences, k)
        return HeadAnswers(decisions.with_confidences(votes, margins), logs)

    def state(self) -> dict[str, Any]:
        """Return arrays, numbers and texts."""
        return {
            "name": self.name,
            "trees": self.trees.state(),
            "baseline": self.baseline,
            "components": None if self.components is None else self.components.state(),
            "n_classes": self.n_classes,
            "n_features": self.n_features,
            "setting": self.setting,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> TrainedTrees:
        """Make the head again."""
        d, k, name = int(state["n_features"]), int(state["n_classes"]), str(state["name"])
        components = state["components"]
        if components is not None:
            components = Components.from_state(components, d)
        width = d if components is None else len(components.directions)
        trees = Trees.from_state(state["trees"], width)
        base, _, reduction = name.partition("-")
        if base not in GROW or reduction not in ("", "ovr", "ovo") or k < 2:
            raise ValueError(f"its trees are called {name!r}, with {k} classes")
        outputs = {"tree": 2, "forest": 1}.get(base, 1) if reduction else k
        expected = (_n_problems(reduction, k), outputs)
        if base == "boosting":
            expected = (k if not reduction else expected[0], 1)
        found = (len(trees.sizes), trees.values.shape[1])
        baseline = np.asarray(state["baseline"], dtype=np.float64)
        if found != expected or baseline.shape != found[:1] or not np.isfinite(baseline).all():
            raise ValueError(f"{name} of {k} classes has {found} ensembles and outputs")
        if base != "boosting" and not ((trees.values >= 0) & (trees.values <= 1)).all():
            raise ValueError("shares in its leaves are not between 0 and 1")
        return cls(name, trees, baseline, components, (k, d), state["setting"])


class _Steps:
    """Turn shares of a fit that are done into whole steps."""

    def __init__(self, on_steps: Callable[[int], None]) -> None:
        self._on_steps, self._done = on_steps, 0

    def reach(self, share: float) -> None:
        """Tell the steps up to a share that have not been told of."""
        done = int(STEPS * share + 1e-9)
        if done > self._done:
            self._on_steps(done - self._done)
            self._done = done


class TreesKind(HeadKind):
    """Trees, a forest or boosting, plain or by a reduction, as the name says."""

    trained = TrainedTrees
    open_ended = ("min_samples_leaf",)

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.base, _, self.reduction = name.partition("-")

    def grid(self, rows: RowSet) -> list[dict[str, Any]]:
        """List smallest leaves or learning rates, on components and, where cheap, on features."""
        d = rows.n_features
        sizes: list[int | None] = [COMPONENTS if d > COMPONENTS else None]
        if d > COMPONENTS and self.base != "boosting" and len(rows) * d <= CHEAP_NUMBERS:
            sizes.append(None)
        many = bool(self.reduction) and rows.n_classes > 2  # of two classes all are the same
        if self.base == "boosting":
            most = MAX_ITER[many]
            return [
                {"components": m, "learning_rate": rate, "max_iter": most}
                for m in sizes
                for rate in RATES
            ]
        found: list[dict[str, Any]] = []
        for m in sizes:
            for leaf in LEAVES[self.base]:
                if leaf > max(LEAVES[self.base][0], len(rows) // (2 * rows.n_classes)):
                    continue  # which would be the same as a smaller one, see `Task`
                trees = {"n_estimators": N_TREES[many]}
                found.append(
                    {"components": m, "min_samples_leaf": leaf}
                    | (trees if self.base == "forest" else {})
                )
        return found

    def n_steps(self, grid: Sequence[Setting]) -> int:
        """Count the steps of progress of `path` and one `fit` after it."""
        return STEPS * (len(grid) + 1)

    def fit(self, rows: RowSet, setting: Setting, context: FitContext) -> TrainedTrees:
        """Reduce the rows, and grow trees on them."""
        return next(self._grow(rows, None, [setting], context))

    def path(
        self, rows: RowSet, held: RowSet, grid: Sequence[Setting], context: FitContext
    ) -> Iterator[TrainedHead]:
        """Grow trees for each setting on the same components."""
        yield from self._grow(rows, held, grid, context)

    def fit_bytes(self, n_rows: int, n_features: int, n_classes: int) -> int:
        """Count the covariance, the components of the rows, and trees of as many leaves as rows."""
        wide = n_features > COMPONENTS
        width = COMPONENTS if wide else n_features
        matrix = 4 * min(n_features, n_rows) * n_features * 8 if wide else 0
        rows = 2 * n_rows * width * 4
        if self.base == "boosting":
            return matrix + 4 * rows + 16 * n_rows * n_classes
        return matrix + rows + self._tree_bytes(n_rows, n_classes)

    def saved_bytes(self, n_rows: int, n_features: int, n_classes: int) -> int:
        """Count the bytes of the trees, before they are compressed, and of the components."""
        return self._tree_bytes(n_rows, n_classes) + 4 * COMPONENTS * n_features

    def _tree_bytes(self, n_rows: int, n_classes: int) -> int:
        """Count the bytes of trees with a fifth as many leaves as rows, or with 31."""
        many = bool(self.reduction) and n_classes > 2
        outputs = 2 if self.reduction else n_classes
        part = 2 / n_classes if self.reduction == "ovo" else 1
        leaves = n_rows * part / 5
        trees = 1 if self.base == "tree" else N_TREES[many]
        if self.base == "boosting":
            outputs, leaves = 1, min(31, leaves)
            trees = MAX_ITER[many] * (1 if self.reduction else n_classes)
        problems = _n_problems(self.reduction, n_classes)
        return int(problems * trees * leaves * (16 + 4 * outputs))

    def _grow(
        self, rows: RowSet, held: RowSet | None, grid: Sequence[Setting], context: FitContext
    ) -> Iterator[TrainedTrees]:
        done: dict[Any, tuple[Components | None, Rows, Rows | None]] = {}
        for setting in grid:
            size = setting["components"]
            if size not in done:
                done.clear()  # one at a time in memory
                found = principal_components(rows, size, context.n_jobs) if size else None
                done[size] = (
                    found,
                    Rows(reduced(rows, found, self.name), rows.labels, rows.weights),
                    None
                    if held is None or self.base != "boosting"
                    else Rows(reduced(held, found, self.name), held.labels, held.weights),
                )
            components, mine, judges = done[size]
            shape = rows.n_classes, rows.n_features
            yield self._grow_one(mine, judges, components, shape, setting, context)

    def _grow_one(
        self,
        rows: Rows,
        held: Rows | None,
        components: Components | None,
        shape: tuple[int, int],
        setting: Setting,
        context: FitContext,
    ) -> TrainedTrees:
        grown, baseline, iterations = Grown(), [], []
        n_tasks, steps = _n_problems(self.reduction, shape[0]), _Steps(context.on_steps)
        tasks = self._tasks(rows, held, shape[0], setting, context)
        if n_tasks == 1:
            tasks = (replace(task, on_share=steps.reach) for task in tasks)
        for i, growth in enumerate(self._growths(tasks, n_tasks, context)):
            for ensemble in growth.ensembles:
                grown.add(ensemble)
            baseline += growth.baseline
            iterations += [] if growth.iterations is None else [growth.iterations]
            steps.reach((i + 1) / n_tasks)
        if iterations:
            # All problems of a reduction are refitted with the same number.
            setting = {**setting, "iterations": round(sum(iterations) / len(iterations))}
        base = np.array(baseline)
        return TrainedTrees(self.name, grown.all(), base, components, shape, setting)

    def _growths(
        self, tasks: Iterator[Task], n_tasks: int, context: FitContext
    ) -> Iterator[Growth]:
        grow = GROW[self.base]
        threads = thread_count(context.n_jobs)
        if n_tasks == 1 or self.base == "forest" or threads == 1:  # a forest has its own threads
            yield from map(grow, tasks)
            return
        with workers(threads) as pool:
            yield from pool.stream(grow, (replace(task, n_jobs=1) for task in tasks))

    def _tasks(
        self, rows: Rows, held: Rows | None, k: int, setting: Setting, context: FitContext
    ) -> Iterator[Task]:
        """Yield the problems, in the order of `classify.codings.decisions`."""

        def task(mine: Rows, judges: Rows | None, n_classes: int) -> Task:
            return Task(
                mine.Z, mine.labels, n_classes, mine.weights, setting, context.seed,
                context.n_jobs, len(rows.Z), bool(self.reduction),
                None if judges is None else (judges.Z, judges.labels, judges.weights),
            )  # fmt: skip

        def binary(some: Rows | None, second: int, first: int | None) -> Rows | None:
            if some is None:
                return None
            if first is not None:
                some = some.some(np.flatnonzero(np.isin(some.labels, (first, second))))
            return replace(some, labels=(some.labels == second).astype(np.intp))

        if not self.reduction:
            yield task(rows, held, k)
            return
        one = k == 2
        problems: list[tuple[int, int | None]] = [(j, None) for j in ((1,) if one else range(k))]
        if self.reduction == "ovo" and not one:
            problems = [(int(j), int(i)) for i, j in class_pairs(k)]
        for second, first in problems:
            mine = binary(rows, second, first)
            assert mine is not None
            yield task(mine, binary(held, second, first), 2)


def _n_problems(reduction: str, n_classes: int) -> int:
    if not reduction:
        return 1
    if n_classes == 2:
        return 1
    return n_classes if reduction == "ovr" else n_classes * (n_classes - 1) // 2


def _logs(shares: Array) -> Array:
    """Logarithms of shares above 0, whose sums are 1 but for rounding."""
    return np.log(shares) - np.log(shares.sum(axis=1, keepdims=True))
