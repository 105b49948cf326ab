"""scikit-learn's trees, forests and histogram gradient boosting, grown and turned into arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from classify.heads.trees.arrays import Trees, one_tree

# Trees of a forest that are grown, turned into arrays and forgotten together: as objects of
# scikit-learn's, all of a forest would take ten times the memory.
_TOGETHER = 50
# Boosting ends when the held-out log-loss has not improved for so many iterations.
PATIENCE = 10
# Iterations where there are no held-out rows.
ITERATIONS = 100


@dataclass(frozen=True)
class Task:
    """A problem that trees are grown for: rows of components, in memory."""

    Z: npt.NDArray[np.float32]
    labels: npt.NDArray[np.intp]  # below n_classes, not all of which need have rows
    n_classes: int
    weights: npt.NDArray[np.float64] | None
    setting: Mapping[str, Any]
    seed: int
    n_jobs: int | None
    n_rows: int  # of all problems of a reduction
    binary: bool  # one of the problems of a reduction: what is wanted is class 1
    held: tuple[npt.NDArray[np.float32], npt.NDArray[np.intp], Any] | None = None
    # Told what share of a forest has been grown
    on_share: Callable[[float], None] = lambda _: None
    present: npt.NDArray[np.intp] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "present", np.unique(self.labels))

    @property
    def random_state(self) -> int:
        """Return the seed as scikit-learn takes one."""
        return self.seed % 2**32

    @property
    def smallest_leaf(self) -> int:
        """Return the setting's smallest leaf, or less where it would leave few rows undivided."""
        return max(1, min(self.setting["min_samples_leaf"], self.n_rows // (2 * self.n_classes)))


class Growth(NamedTuple):
    """The trees of each ensemble of a problem, and what these add to."""

    ensembles: list[list[Trees]]
    baseline: list[float]
    iterations: int | None = None  # that the held-out rows have chosen


def tree(task: Task) -> Growth:
    """Grow one tree: shares of its leaves' rows.

    Shares are smoothed with one more row of each class (Provost and Domingos, "Tree induction for
    probability-based ranking", Machine Learning 52, 2003), which leaves their order as it is. A
    reduction, which compares trees with each other, gets the plain share beside it.
    """
    from sklearn.tree import DecisionTreeClassifier

    estimator = DecisionTreeClassifier(
        min_samples_leaf=task.smallest_leaf, random_state=task.random_state
    )
    if len(task.present) < 2 and task.binary:
        share, n = _only_share(task), len(task.Z)
        return Growth([[_leaf([share, (n * share + 1) / (n + 2)])]], [0.0])
    estimator.fit(task.Z, task.labels, task.weights)
    leaf = estimator.tree_.children_left < 0
    sizes = estimator.tree_.n_node_samples[leaf][:, None]
    shares = _shares(task, estimator)
    smoothed = (sizes * shares + 1) / (sizes + task.n_classes)
    if task.binary:
        smoothed = np.column_stack([shares[:, 1], smoothed[:, 1]])
    return Growth([[_sklearn_tree(estimator, smoothed)]], [0.0])


def forest(task: Task) -> Growth:
    """Grow a random forest: shares of its leaves' rows."""
    from sklearn.ensemble import RandomForestClassifier

    n_trees = int(task.setting["n_estimators"])
    if len(task.present) < 2 and task.binary:
        return Growth([[_leaf([_only_share(task)])] * n_trees], [0.0])
    estimator = RandomForestClassifier(
        n_estimators=0,
        min_samples_leaf=task.smallest_leaf,
        random_state=task.random_state,
        n_jobs=task.n_jobs or -1,
        warm_start=True,
    )
    grown: list[Trees] = []
    while len(grown) < n_trees:
        # The same trees as all at once: a warm start draws the seeds of those that it has.
        estimator.n_estimators = min(len(grown) + _TOGETHER, n_trees)
        estimator.fit(task.Z, task.labels, task.weights)
        for one in estimator.estimators_[len(grown) :]:
            shares = _shares(task, one, estimator.classes_)
            grown.append(_sklearn_tree(one, shares[:, 1:2] if task.binary else shares))
        estimator.estimators_ = [None] * len(grown)
        task.on_share(len(grown) / n_trees)
    return Growth([grown], [0.0])


def boosting(task: Task) -> Growth:
    """Boost trees on histograms; raw scores, of each class or of class 1."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from threadpoolctl import threadpool_limits

    n_outputs = 1 if task.binary else task.n_classes
    if len(task.present) < 2:
        return _constant_boosting(task, n_outputs)
    given = task.setting.get("iterations")
    held = None if given is not None else _judges(task)
    estimator = HistGradientBoostingClassifier(
        learning_rate=task.setting["learning_rate"],
        max_iter=given or (ITERATIONS if held is None else task.setting["max_iter"]),
        min_samples_leaf=max(1, min(20, task.n_rows // 50)),
        early_stopping=held is not None,
        n_iter_no_change=PATIENCE,
        random_state=task.random_state,
    )
    # Where other work shares the processors, threads of OpenMP wait for each other for longer than
    # they work (twenty times as long with two threads on two busy cores).
    with threadpool_limits(task.n_jobs or 1, user_api="openmp"):
        estimator.fit(task.Z, task.labels, task.weights, **(held or {}))
    best = len(estimator._predictors)
    if held is not None:
        best = max(1, int(np.argmax(estimator.validation_score_)))  # its first is without trees
    columns: list[list[Trees]] = [[] for _ in range(estimator._predictors[0].__len__())]
    for iteration in estimator._predictors[:best]:
        for column, predictor in zip(columns, iteration, strict=True):
            column.append(_boosted_tree(predictor.nodes))
    baseline = np.asarray(estimator._baseline_prediction, dtype=np.float64).reshape(-1)
    found = best if held is not None else None
    if task.binary:
        return Growth(columns, [float(baseline[0])], found)
    if len(columns) == 1:  # of two classes, the second's score less the first's
        columns, baseline = [[_leaf([0.0])], columns[0]], np.append(0.0, baseline)
    # A class without rows is as probable as a row in all of them.
    absent = float(baseline.min()) - np.log(len(task.Z) + 1)
    ensembles, base = [[_leaf([0.0])] for _ in range(n_outputs)], [absent] * n_outputs
    for label, column, value in zip(task.present, columns, baseline, strict=True):
        ensembles[label], base[label] = column, float(value)
    return Growth(ensembles, base, found)


GROW = {"tree": tree, "forest": forest, "boosting": boosting}


def _only_share(task: Task) -> float:
    """Return the share of class 1 where all rows, if any, are of one class."""
    return float(task.present[0]) if len(task.present) else 0.5


def _constant_boosting(task: Task, n_outputs: int) -> Growth:
    odds = float(np.log(len(task.Z) + 1))
    if task.binary:
        return Growth([[_leaf([0.0])]], [odds * (2 * _only_share(task) - 1)])
    base = np.full(n_outputs, -odds)
    base[task.present] = 0.0
    return Growth([[_leaf([0.0])] for _ in base], base.tolist())


def _judges(task: Task) -> dict[str, Any] | None:
    """Return held-out rows of the classes that have training rows, as scikit-learn takes them."""
    if task.held is None:
        return None
    Z, labels, weights = task.held
    known = np.isin(labels, task.present)
    if not known.any():
        return None
    found = {"X_val": Z[known], "y_val": labels[known]}
    if task.weights is not None:
        found["sample_weight_val"] = np.ones(known.sum()) if weights is None else weights[known]
    return found


def _shares(task: Task, estimator: Any, classes: Any = None) -> npt.NDArray[np.float64]:
    """Return the shares of each class in a tree's leaves, (n_leaves, n_classes)."""
    leaf = estimator.tree_.children_left < 0
    found = np.zeros((int(leaf.sum()), task.n_classes))
    classes = estimator.classes_ if classes is None else classes
    found[:, classes.astype(int)] = estimator.tree_.value[leaf, 0]
    return found


def _sklearn_tree(estimator: Any, values: npt.NDArray[np.float64]) -> Trees:
    grown = estimator.tree_
    left, right = grown.children_left, grown.children_right
    return one_tree(grown.feature, grown.threshold, left, right, left < 0, values)


def _boosted_tree(nodes: Any) -> Trees:
    leaf = nodes["is_leaf"].astype(bool)
    return one_tree(
        nodes["feature_idx"], nodes["num_threshold"], nodes["left"].astype(np.intp),
        nodes["right"].astype(np.intp), leaf, nodes["value"][leaf][:, None],
    )  # fmt: skip


def _leaf(values: list[float]) -> Trees:
    none = np.zeros(1)
    return one_tree(
        none, none, none.astype(int), none.astype(int), np.ones(1, bool), np.array([values])
    )
