"""How many labels are enough: accuracy against labelled images per class.

A draw shuffles the training rows of each class once, and its set of ``n`` images per class is the
first ``n`` of each, so that the sets of one draw lie in each other as those of
`sklearn.model_selection.learning_curve` do. A class with fewer rows gives all it has.

Rows are drawn from the training split alone, also where heads are fitted to a validation split as
well. Where they come in groups, the groups are shuffled, and all rows of a group come before those
of the next, as labels do that are collected patient by patient; groups that the test split has too
are left out, unless a class would be left without rows.

C is the one that was chosen on all training images, unscaled: in ``C * sum(loss) + ||w||^2 / 2``
the penalty then weighs the more the fewer images there are, as a prior does, and a learner with so
few labels has none to spare for a choice of its own. The curves end at the fit on all images, which
exists already.

Each accuracy is that of one fit, and says whether that fit converged: what did not may have
accuracies that are not its problem's, so "enough" is not read off them.

The fits go through joblib. By default they share threads; what `joblib.parallel_config` sets is
used instead, such as Dask or Ray: a task is the path of the store and a few numbers, and opens the
store where it runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from classify.heads.classifier import HeadClassifier
from classify.heads.interface import FitContext, RowSet
from classify.heads.registry import head_kind
from classify.linear_head import Head
from classify.parallel import run_tasks
from classify.solver.out_of_core import is_source
from classify.solver.row_norms import Norm
from classify.solver.threads import thread_count, workers
from classify.wording import display_name
from data.format.sums import absolute_store

if TYPE_CHECKING:
    from data.format.records import Features

DRAWS = 5
LEVEL = 0.95
# Largest duality gap: a tenth of the draws' spread in accuracy comes of it, or less.
TOL = 1e-3
MAX_ITER = 200
# "Enough" is what comes as near as this to the accuracy with all labels.
NEAR = 0.01
# Fewer points than this before the last are no curve: classes of two rows have one.
FEWEST_POINTS = 2
# Fits of a draw hold its rows, a standardised copy in another order, and what they compute.
COPIES = 4

# Stores that this process has open, for the tasks that run in it: by path, key and classes kept.
_opened: dict[tuple[str, str, tuple[str, ...]], Features] = {}


@dataclass(frozen=True)
class DrawTask:
    """One strategy on one draw, from one image per class upwards."""

    path: str
    key: str  # that the store at this path must have
    strategy: str
    C: float | None
    counts: tuple[int, ...]  # images per class, ascending
    draw: int
    seed: int
    device: str
    in_memory: bool = True
    fit_intercept: bool = True
    normalize: Norm = None
    class_weight: Any = None
    setting: Any = None  # of a head that the solver does not fit
    classes: tuple[str, ...] = ()  # that are kept, where not all are


@dataclass(frozen=True)
class Drawn:
    """What the fits of a task found: for each count an accuracy, and whether the fit converged.

    `notes` are what they had to say of their device.
    """

    accuracies: list[float]
    converged: list[bool]
    notes: list[str]


def ladder(largest: int) -> list[int]:
    """List 1, 2, 5, 10, 20, 50 and so on below a number; nothing below 1."""
    rungs = []
    step = 1
    while step < largest:
        rungs += [step * factor for factor in (1, 2, 5) if step * factor < largest]
        step *= 10
    return rungs


def draw_rows(
    labels: npt.NDArray[np.int64],
    counts: Sequence[int],
    draw: int,
    seed: int,
    groups: npt.NDArray[np.int64] | None = None,
) -> list[npt.NDArray[np.intp]]:
    """Draw stratified sets of rows, ascending, each within the next, whatever `counts` holds.

    Shapes: labels, groups (n_rows,).
    """
    generator = np.random.default_rng([seed, draw])
    shuffled = [
        generator.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)
    ]
    if groups is not None:
        names, codes = np.unique(groups, return_inverse=True)
        turns = generator.permutation(len(names))[codes]
        shuffled = [rows[np.argsort(turns[rows], kind="stable")] for rows in shuffled]
    return [np.sort(np.concatenate([rows[:count] for rows in shuffled])) for count in counts]


def drawable(features: Features) -> tuple[npt.NDArray[np.intp], str]:
    """Find the training rows that draws may take, and what is to be said of them."""
    train, test = features.train, features.test
    some = np.ones(len(train), dtype=bool) if train.weights is None else train.weights > 0
    if train.groups is None or test.groups is None:
        return np.flatnonzero(some), ""
    apart = some & ~np.isin(train.groups, test.groups)
    if len(np.unique(train.labels[apart])) == len(np.unique(train.labels[some])):
        return np.flatnonzero(apart), ""
    return np.flatnonzero(some), (
        "The few-shot draws hold groups of the test split: without them a class has no rows."
    )


def t_interval(values: Sequence[float], level: float = LEVEL) -> tuple[float, float]:
    """Student's t interval of a mean, within [0, 1]."""
    from scipy.stats import t

    sample = np.asarray(values, dtype=np.float64)
    half = t.ppf(0.5 + level / 2, len(sample) - 1) * sample.std(ddof=1) / math.sqrt(len(sample))
    return max(0.0, float(sample.mean() - half)), min(1.0, float(sample.mean() + half))


def few_shot(
    features: Features,
    fitted: Mapping[str, Any],
    *,
    seed: int = 0,
    jobs: int | None = None,
    memory: int | None = None,
    class_weight: Any = None,
    device: str = "cpu",
    whole: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Measure accuracy against labelled images per class, as results.json keeps it.

    `whole` are the accuracies with all images, where they are known. `memory` is what fits may take
    (bytes) where the features stay on the disk: larger sets are then left out, and no two fits run
    at once.
    """
    rows, note = drawable(features)
    labels = np.asarray(features.train.labels)[rows]
    sizes = np.unique(labels, return_counts=True)[1]
    counts = ladder(int(sizes.max()))
    if len(counts) < FEWEST_POINTS:
        counts = []
    n_train = {count: int(np.minimum(sizes, count).sum()) for count in counts}
    if memory is not None:
        row_bytes = 4 * features.train.features.shape[1] * COPIES
        counts = [count for count in counts if n_train[count] * row_bytes <= memory]
    common: dict[str, Any] = {
        "path": str(absolute_store(features.path)),
        "key": features.key,
        "seed": seed,
        "counts": tuple(counts),
        "in_memory": memory is None,
        "class_weight": class_weight,
        "classes": features.kept_classes,
    }
    tasks = [
        DrawTask(
            **common, draw=draw, strategy=name, normalize=estimator.normalize,
            **_how(estimator, device),
        )
        for draw in range(DRAWS)
        for name, estimator in fitted.items()
    ]  # fmt: skip
    alone = memory is not None or any(task.device != "cpu" for task in tasks)
    draws: dict[str, list[Drawn]] = {name: [] for name in fitted}
    notes = [note] if note else []
    with _remembered(features):
        for task, found in zip(tasks, _run(tasks, 1 if alone else jobs), strict=True):
            draws[task.strategy].append(found)
            notes += found.notes
    n_fitted = features.n_train + features.n_validation
    curves = {
        name: [
            *_curve(counts, n_train, draws[name]),
            _all(features, estimator, n_fitted, (whole or {}).get(name)),
        ]
        for name, estimator in fitted.items()
    }
    return {
        "draws": DRAWS,
        "level": LEVEL,
        "near": NEAR,
        "curves": curves,
        "enough": {name: _enough(curve) for name, curve in curves.items()},
        "left_out": [count for count in n_train if count not in counts],
        "notes": list(dict.fromkeys(notes)),
    }


def _how(estimator: Any, device: str) -> dict[str, Any]:
    """Say how draws are fitted, as the fit on all images was."""
    if isinstance(estimator, HeadClassifier):
        return {"C": None, "device": device, "setting": estimator.trained.setting}
    return {
        "C": float(estimator.C),
        "device": estimator.device,
        "fit_intercept": estimator.fit_intercept,
    }


def _curve(
    counts: Sequence[int], n_train: Mapping[int, int], draws: Sequence[Drawn]
) -> list[dict[str, Any]]:
    points = []
    for i, count in enumerate(counts):
        values = [drawn.accuracies[i] for drawn in draws]
        points.append(
            {
                "per_class": count,
                "n_train": n_train[count],
                "accuracies": values,
                "converged": [drawn.converged[i] for drawn in draws],
                "mean": float(np.mean(values)),
                "ci95": list(t_interval(values)),
            }
        )
    return points


def _all(
    features: Features, estimator: Any, n_train: int, accuracy: float | None
) -> dict[str, Any]:
    if accuracy is None:
        accuracy = _share_right(estimator.predict(_test_rows(features)), features)
    other = isinstance(estimator, HeadClassifier)
    converged = estimator.trained.converged if other else estimator.certificate_["converged"]
    return {
        "per_class": None,
        "n_train": n_train,
        "accuracies": [accuracy],
        "converged": [bool(converged)],
        "mean": accuracy,
        "ci95": None,
    }


def _enough(curve: Sequence[Mapping[str, Any]]) -> int | None:
    """Find the least count from which on no mean is further below all labels' than `NEAR`.

    Where a fit did not converge nothing is known, so the search ends there.
    """
    enough = None
    if not all_converged(curve[-1]):
        return None
    for point in reversed(curve[:-1]):
        if point["mean"] < curve[-1]["mean"] - NEAR or not all_converged(point):
            break
        enough = point["per_class"]
    return enough


def all_converged(point: Mapping[str, Any]) -> bool:
    """Tell whether every fit of a point converged; of older results that is not known."""
    return all(point.get("converged", ()))


def unconverged_warnings(found: Mapping[str, Any]) -> list[str]:
    """Say how many fits of the curves did not converge, and where."""
    told = []
    for name, curve in found["curves"].items():
        drawn = curve[:-1]
        late = [point for point in drawn if not all_converged(point)]
        if late:
            n_late = sum(point["converged"].count(False) for point in late)
            total = sum(len(point["converged"]) for point in drawn)
            counts = ", ".join(f"{point['per_class']:,}" for point in late)
            told.append(
                f"{n_late} of {total} few-shot fits of {display_name(name)} did not converge (with "
                f"{counts} images per class), so these points of its curve may still move."
            )
    return told


def _run(tasks: Sequence[DrawTask], jobs: int | None) -> list[Drawn]:
    import joblib

    # Somebody's parallel_config goes before our own threads.
    configured = joblib.effective_n_jobs(None) > 1
    n_jobs = None if configured else thread_count(jobs)
    with workers(1):  # holds BLAS to one thread for all fits of this process
        return run_tasks(
            run_task, tasks, desc="few-shot", unit="curve", n_jobs=n_jobs, prefer="threads"
        )


def run_task(task: DrawTask) -> Drawn:
    """Fit a strategy to the sets of a draw, each fit starting from the one before."""
    from classify.estimator_base import as_features
    from classify.parameters import row_weights
    from classify.solver.backend import open_fitter, redirect_notes
    from classify.solver.row_norms import normalized

    features = _open(task)
    train, (pool_rows, _) = features.train, drawable(features)
    known, labels = np.unique(train.labels[pool_rows], return_inverse=True)
    groups = None if train.groups is None else train.groups[pool_rows]
    X: Any = train.features
    drawn, start = Drawn([], [], []), None
    for chosen in draw_rows(labels, task.counts, task.draw, task.seed, groups):
        rows = pool_rows[chosen]
        weights = None if train.weights is None else train.weights[rows]
        weights = row_weights(task.class_weight, train.labels[rows], weights)
        # Not through the estimators: scikit-learn's checks change the filters of warnings, which
        # are the whole process's, and other draws may be fitted in other threads.
        part = normalized(as_features(X.gather(rows) if is_source(X) else X[rows]), task.normalize)
        if task.C is None:
            head = _fit_other(task, part, labels[chosen], len(known), weights)
            found = HeadClassifier(head, known, task.normalize).predict(_test_rows(features))
            drawn.accuracies.append(_share_right(found, features))
            drawn.converged.append(head.converged)
            continue
        with redirect_notes(drawn.notes.append), workers(1) as pool:
            fitter = open_fitter(
                task.device, task.strategy, part, labels[chosen], len(known), pool,
                standardize=True, fit_intercept=task.fit_intercept, sample_weight=weights,
            )  # fmt: skip
            start, solution = fitter.solve(task.C, tol=TOL, max_iter=MAX_ITER, start=start)
        found = _answered(task.strategy, start, known, features, task.normalize)
        drawn.accuracies.append(_share_right(found, features))
        drawn.converged.append(solution.converged)
    return drawn


def _fit_other(
    task: DrawTask, X: Any, labels: npt.NDArray[np.intp], n_classes: int, weights: Any
) -> Any:
    """Fit a head that the solver does not fit, with the setting chosen on all images."""
    rows = np.arange(len(labels))
    if weights is not None:
        rows = np.flatnonzero(weights)
        labels, weights = labels[rows], weights[rows]
    context = FitContext(seed=task.seed, n_jobs=1, device=task.device)
    row_set = RowSet(X, rows, labels, n_classes, weights)
    return head_kind(task.strategy).fit(row_set, task.setting, context)


def _test_rows(features: Features) -> Any:
    from classify.estimator_base import as_features

    X: Any = features.test.features
    return X if is_source(X) else as_features(X)


def _share_right(found: npt.NDArray[np.int64], features: Features) -> float:
    return float(np.average(found == features.test.labels, weights=features.test.weights))


def _answered(
    strategy: str,
    head: Head,
    known: npt.NDArray[np.int64],
    features: Features,
    normalize: Norm,
) -> npt.NDArray[np.int64]:
    """Answer the test rows with heads of the solver, as their estimator does."""
    from classify.codings.decisions import decide
    from classify.scoring import answers
    from classify.solver.row_norms import normalized

    X = normalized(_test_rows(features), normalize)
    return known[answers(X, head, lambda scores: decide(strategy, scores, len(known)))]


def _open(task: DrawTask) -> Features:
    from data.chosen_classes import open_classes
    from data.common.errors import UserError

    name = (task.path, task.key, task.classes)
    known = _opened.get(name)
    if known is None:
        known = open_classes(Path(task.path), task.classes, in_memory=task.in_memory)
        if known.key != task.key:
            raise UserError(
                f"{task.path} is another store here (key {known.key[:8]}, expected "
                f"{task.key[:8]}); give every worker the same features folder"
            )
        _opened.clear()  # a worker serves one store after another, and has room for one
        _opened[name] = known
    return known


@contextmanager
def _remembered(features: Features) -> Iterator[None]:
    name = (str(absolute_store(features.path)), features.key, features.kept_classes)
    _opened[name] = features
    try:
        yield
    finally:
        _opened.pop(name, None)
