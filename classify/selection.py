"""The choice of C: a path of fits from strong to weak regularisation, judged on held-out rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from classify.codings.decisions import ProblemSums
from classify.estimator_base import as_features
from classify.held_out_rows import HeldOutRows
from classify.linear_head import Head
from classify.parameters import class_factors, row_weights
from classify.solver.backend import as_labels, choose_device, open_fitter
from classify.solver.fit import plan
from classify.solver.out_of_core import is_source
from classify.solver.problems import n_heads
from classify.solver.row_norms import Norm, normalized
from classify.solver.threads import workers
from classify.solver.tuning import JUDGED_NUMBERS
from classify.warm_starts import RecentHeads
from data.common.group_split import hold_out_groups
from data.common.memory import default_memory

# Share of each class's rows that C is chosen on.
VALIDATION_FRACTION = 0.1
# SimCLR's, BYOL's and DINO's grid for linear evaluation.
C_GRID: npt.NDArray[np.float64] = np.logspace(-6, 5, 45)
# After so many values in a row that make the validation log-loss worse, the path may end.
PATIENCE = 8
# Of margins the loss does not rise where classes are apart, but tends to that of the hard margin,
# whose fits are the slowest: a value of C that does not lower the lowest by this share of it counts
# as one that makes it worse, and so many of them in a row, a decade of the usual grid, are enough.
LEAST_GAIN = 0.01
MARGIN_PATIENCE = 4
# Validation rows cannot tell apart what is nearer than this to the optimum.
PATH_TOL = 3e-4
PATH_MAX_ITER = 200


@dataclass(frozen=True)
class Selection:
    """What a path of C found."""

    C: float  # the chosen value
    # Of each value visited, in order: C, accuracy and log_loss on the held-out rows, n_iter, and
    # converged.
    path: list[dict[str, Any]]
    not_visited: list[float]  # left out because the loss had kept rising
    n_train: int
    n_validation: int
    start: Head = field(repr=False)  # the heads at the chosen value, where a refit may start
    device: str
    held: npt.NDArray[np.intp] = field(repr=False)  # the rows that were held out
    # (n_heads,): chosen for each binary problem by the same rule on the held-out rows of its own
    # classes; None for the multinomial, which is one problem, and where these rows are too few.
    per_problem_c: npt.NDArray[np.float64] | None = field(repr=False)


def choose_per_problem_c(
    values: npt.NDArray[np.float64], sums: Sequence[ProblemSums], shared: float
) -> npt.NDArray[np.float64]:
    """Choose a C (n_heads,) for each binary problem: as for all, but on its own rows.

    `values` ascend, with the `sums` of the held-out rows at each; `shared` is for problems of whose
    classes no row was held out.
    """
    n_rows = sums[0].n_rows
    right, loss = np.stack([at.n_right for at in sums]), np.stack([at.loss for at in sums])
    # The highest accuracy, then the lowest log-loss, then the smallest C.
    loss = np.where(right == right.max(axis=0), loss, np.inf)
    return np.where(n_rows > 0, values[loss.argmin(axis=0)], shared)


def select_C(
    strategy: str,
    X: npt.NDArray[Any],
    y: npt.NDArray[Any],
    *,
    grid: Sequence[float] | npt.NDArray[np.float64] = C_GRID,
    seed: int = 0,
    full_path: bool = False,
    standardize: bool = True,
    fit_intercept: bool = True,
    normalize: Norm = None,
    n_jobs: int | None = None,
    memory: int | None = None,
    device: str = "cpu",
    on_step: Callable[[dict[str, Any]], None] | None = None,
    sample_weight: Any = None,
    class_weight: Any = None,
    groups: npt.NDArray[np.int64] | None = None,
    held: npt.NDArray[np.intp] | None = None,
) -> Selection:
    """Choose C by accuracy on a stratified tenth of the rows, or on those that are given.

    The path runs upwards from the strongest regularisation, each fit starting from where the last
    few point to. It ends early once the validation log-loss has risen for `PATIENCE` values in a
    row, unless `full_path`. The chosen value has the highest accuracy, then the lowest log-loss,
    then the smallest C. For support vector machines and code books the mean loss of their problems,
    each on the rows of its own classes, stands in place of the log-loss; of support vector machines
    `MARGIN_PATIENCE` values that do not lower it by a hundredth end the path.

    `X` (n_rows, n_features) may be a `data.format.stored_rows.StoredRows`, of which blocks of rows
    are read; `Selection.start` takes normalised rows. Settings are those of
    `classify.MultinomialLogistic`; `seed` decides which rows are held out, and `on_step` is called
    with each entry of the path when it is done. A ``ValueError`` says that the grid is empty or not
    positive, that no row can be held out, or that the memory is too little.

    `held` (n_held,) are the rows of a validation split that exists; without it, no group of
    `groups` (n_rows,) is on both sides. `sample_weight` (n_rows,) and `class_weight` weigh fits as
    in `classify.MultinomialLogistic`, and the held-out rows' accuracy and log-loss; balanced
    classes are so on the rows that are not held out. Rows without weight are on neither side.
    """
    values = np.unique(np.asarray(grid, dtype=np.float64))
    if len(values) == 0 or not np.all(np.isfinite(values)) or values[0] <= 0:
        raise ValueError(f"the grid of C must be positive finite numbers, got {list(grid)}")
    device = "cpu" if is_source(X) else choose_device(device, X)
    if not is_source(X):
        X = as_features(X)
    X = normalized(X, normalize)
    sides = two_sides(np.asarray(as_labels(y)), sample_weight, class_weight, groups, held, seed)
    classes, labels, train = sides.classes, sides.labels, sides.train
    held = _judged_rows(sides.held, len(labels), n_heads(strategy, len(classes)), seed)
    layout = None
    if is_source(X):
        memory = default_memory() if memory is None else memory
        layout = plan(X.shape, X.dtype, strategy, len(classes), memory, n_jobs)
        n_jobs = layout.threads
    with workers(n_jobs) as pool:
        fitter = open_fitter(
            device, strategy, X, labels[train], len(classes), pool,
            standardize=standardize, rows=train, memory_plan=layout, fit_intercept=fit_intercept,
            sample_weight=sides.train_weight,
        )  # fmt: skip
        held_out = HeldOutRows(
            strategy, X, labels, held, len(classes), pool, sides.weights_of(held)
        )
        patience = MARGIN_PATIENCE if held_out.margins else PATIENCE
        found = _follow_path(
            fitter, held_out, values, len(values) if full_path else patience, on_step
        )
    return Selection(
        C=found.C,
        path=found.path,
        not_visited=[float(C) for C in values[len(found.path) :]],
        n_train=len(train),
        n_validation=len(held),
        start=found.head,
        device=fitter.device,
        held=held,
        per_problem_c=choose_per_problem_c(values, found.sums, found.C) if found.sums else None,
    )


class Sides(NamedTuple):
    """Which rows a path is fitted to, and which it is judged on."""

    classes: npt.NDArray[Any]
    labels: npt.NDArray[np.intp]  # (n_rows,): indices into classes; of rows on a side
    train: npt.NDArray[np.intp]
    held: npt.NDArray[np.intp]
    train_weight: npt.NDArray[np.float64] | None  # of the rows in train
    weight: npt.NDArray[np.float64] | None  # (n_rows,): with class weights of the rows in train

    def weights_of(self, rows: npt.NDArray[np.intp]) -> npt.NDArray[np.float64] | None:
        """Return the weights of some rows."""
        return None if self.weight is None else self.weight[rows]


def two_sides(
    y: npt.NDArray[Any],
    sample_weight: Any,
    class_weight: Any,
    groups: npt.NDArray[np.int64] | None,
    held: npt.NDArray[np.intp] | None,
    seed: int,
) -> Sides:
    """Divide the rows that have weight; see `select_C`."""
    weight = row_weights(class_weight, y, sample_weight)
    rows = np.arange(len(y)) if weight is None else np.flatnonzero(weight)
    classes = np.unique(y[rows])
    if len(classes) < 2:
        raise ValueError(f"choosing C needs at least 2 classes, got {len(classes)}")
    labels = np.searchsorted(classes, y)
    if held is None:
        parts = validation_split(
            labels[rows], seed, groups=None if groups is None else groups[rows]
        )
    else:
        parts = np.flatnonzero(~np.isin(rows, held)), np.flatnonzero(np.isin(rows, held))
    train, held = rows[parts[0]], rows[parts[1]]
    if not len(held):
        raise ValueError("no validation row has any weight")
    if len(np.unique(labels[train])) < len(classes):
        missing = np.setdiff1d(classes, y[train]).tolist()
        raise ValueError(f"only validation rows have the class {missing[0]!r}")
    if weight is None:
        return Sides(classes, labels, train, held, None, None)
    mine = None if sample_weight is None else np.asarray(as_labels(sample_weight), np.float64)
    of_train = None if mine is None else mine[train]
    weight = np.ones(len(y)) if mine is None else mine
    if class_weight is not None:
        found, factors = class_factors(class_weight, y[train], of_train)
        weight = weight * factors[np.minimum(np.searchsorted(found, y), len(found) - 1)]
    return Sides(classes, labels, train, held, weight[train], weight)


class _Path(NamedTuple):
    """The entries of a path, the chosen value of C with its heads, and the sums at each value."""

    path: list[dict[str, Any]]
    C: float
    head: Head
    sums: list[ProblemSums]


def _follow_path(
    fitter: Any,
    held_out: HeldOutRows,
    values: npt.NDArray[np.float64],
    patience: int,
    on_step: Callable[[dict[str, Any]], None] | None,
) -> _Path:
    """Fit and judge ascending values of C until the log-loss has risen `patience` times running."""
    path: list[dict[str, Any]] = []
    best: tuple[tuple[float, float, float], Head] | None = None
    recent = RecentHeads()
    rising = 0
    sums, losses = [], list[float]()
    for C in values.tolist():
        head, solution = fitter.solve(
            C, tol=PATH_TOL, max_iter=PATH_MAX_ITER, start=recent.predict(C)
        )
        recent.add(C, head)
        judged = held_out.judge(head)
        if judged.sums is not None and held_out.per_problem:
            sums.append(judged.sums)
        chance = np.maximum(judged.of_truth, np.finfo(float).eps)
        entry = {
            "C": C,
            "accuracy": held_out.mean(judged.right),
            "log_loss": -held_out.mean(np.log(chance)),
            "n_iter": int(solution.n_iter.max()),
            "converged": solution.converged,
        }
        losses.append(entry["log_loss"])
        if held_out.by_problems:
            losses[-1] = held_out.mean_loss(judged)
        worse = len(losses) > 1 and losses[-1] > losses[-2]
        if held_out.margins:
            worse = losses[-1] > (1 - LEAST_GAIN) * min(losses[:-1], default=np.inf)
        rising = rising + 1 if worse else 0
        path.append(entry)
        merit = (-entry["accuracy"], losses[-1], entry["C"])
        if best is None or merit < best[0]:
            best = merit, head
        if on_step is not None:
            on_step(entry)
        if rising >= patience:
            break
    assert best is not None
    return _Path(path, best[0][2], best[1], sums)


def _judged_rows(
    held: npt.NDArray[np.intp], n_rows: int, columns: int, seed: int
) -> npt.NDArray[np.intp]:
    """Draw a tenth of all rows from those held out, where more would be very many scores.

    Of classes of two or three rows one is held out, half or a third of all rows; with a thousand of
    them, one-vs-one has 500,000 scores a row.
    """
    most = max(int(np.ceil(VALIDATION_FRACTION * n_rows)), JUDGED_NUMBERS // columns)
    if len(held) <= most:
        return held
    return np.sort(np.random.default_rng([seed, len(held)]).choice(held, most, replace=False))


def validation_split(
    y: npt.NDArray[Any],
    seed: int = 0,
    fraction: float = VALIDATION_FRACTION,
    groups: npt.NDArray[np.int64] | None = None,
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Split rows into training and validation rows, class by class; both row indices ascend.

    Every class gives ``fraction`` of its rows to validation, rounded to the nearest, but keeps at
    least one for training and, where it has two or more, gives at least one. With `groups`
    (n_rows,) that is done by whole groups, as nearly as they allow; a group that has a class in
    whole stays for training. A ``ValueError`` says that no row or group can be held out.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction must be between 0 and 1, got {fraction}")
    _, codes = np.unique(np.asarray(y), return_inverse=True)
    if groups is not None:
        names, random = np.unique(groups), np.random.default_rng(seed)
        held = hold_out_groups(
            codes, groups, fraction, lambda _: random.permutation(len(names)).tolist()
        )
        if not held.any():
            n_groups = len(names)
            why = f"each of the {n_groups} groups has a class in whole, so none"
            if n_groups == 1:
                why = "all rows are of one group, so none"
            raise ValueError(f"{why} can be held out to choose C on; give C as a number")
        return np.flatnonzero(~held), np.flatnonzero(held)
    generator = np.random.default_rng(seed)
    held = np.zeros(len(codes), dtype=bool)
    for label in range(int(codes.max(initial=-1)) + 1):
        rows = np.flatnonzero(codes == label)
        if len(rows) < 2:
            continue
        n_held = min(len(rows) - 1, max(1, int(np.floor(fraction * len(rows) + 0.5))))
        held[generator.permutation(rows)[:n_held]] = True
    if not held.any():
        raise ValueError(
            f"none of the {len(np.unique(codes))} classes has two rows, so no row can be held out "
            "to choose C on; give C as a number"
        )
    return np.flatnonzero(~held), np.flatnonzero(held)
