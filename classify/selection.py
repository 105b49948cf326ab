"""The choice of C: a path of fits from strong to weak regularisation, judged on held-out rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from classify.coding import decide, probabilities, problem_sums
from classify.estimators import as_features
from classify.scoring import scorer
from classify.solver.backend import as_labels, choose_device, open_fitter
from classify.solver.fit import Head, plan
from classify.solver.out_of_core import answer_steps, is_source
from classify.solver.row_norms import normalized
from classify.solver.threads import Workers, workers
from classify.validation import validation_split
from classify.warm_starts import Course
from data.common.memory import default_memory

# SimCLR's, BYOL's and DINO's grid for linear evaluation.
C_GRID: npt.NDArray[np.float64] = np.logspace(-6, 5, 45)
# After so many values in a row that make the validation log-loss worse, the path may end.
PATIENCE = 8
# Validation rows cannot tell apart what is nearer than this to the optimum.
PATH_TOL = 3e-4
PATH_MAX_ITER = 200


@dataclass(frozen=True)
class Selection:
    """What a path of C found.

    Attributes
    ----------
    C : float
        The chosen value.
    path : list of dict
        For each value visited, in order: ``C``, ``accuracy`` and ``log_loss`` on the held-out
        rows, ``n_iter``, and ``converged``.
    not_visited : list of float
        Values of the grid that were left out because the log-loss had kept rising.
    n_train, n_validation : int
        Rows fitted to and rows judged on.
    start : Head
        The heads fitted at the chosen value: where a refit on all rows may start.
    device : str
        Where the path was fitted.
    held : ndarray of int, shape (n_validation,)
        The rows that were held out.
    own : ndarray of float64, shape (n_heads,), or None
        A value of C for each binary problem, chosen by the same rule on the held-out rows of its
        own classes; None for the multinomial, which is one problem.
    """

    C: float
    path: list[dict[str, Any]]
    not_visited: list[float]
    n_train: int
    n_validation: int
    start: Head = field(repr=False)
    device: str
    held: npt.NDArray[np.intp] = field(repr=False)
    own: npt.NDArray[np.float64] | None = field(repr=False)


class _HeldOut:
    """The rows that a path is judged on: in memory, or read block by block."""

    def __init__(
        self,
        strategy: str,
        X: Any,
        labels: npt.NDArray[np.intp],
        rows: npt.NDArray[np.intp],
        n_classes: int,
        pool: Workers,
    ) -> None:
        self.strategy, self.n_classes, self.pool = strategy, n_classes, pool
        self.labels, self.rows = labels[rows], rows
        self.X = X if is_source(X) else X[rows]

    def judge(self, head: Head) -> _Judged:
        """Say of each row whether the answer is right, and how probable the truth was held.

        The third array judges the binary problems by themselves: see `problem_sums`.
        """
        scores = scorer(head, self.X.dtype)

        def work(step: tuple[int, int]) -> _Judged:
            rows = slice(*step)
            block = self.X.gather(self.rows[rows]) if is_source(self.X) else self.X[rows]
            return self._judge(scores(block), self.labels[rows])

        right, chance = [], []
        sums: Any = 0.0
        steps = answer_steps(self.X, len(self.rows), len(head.coef))
        for mine, of_truth, apart in self.pool.stream(work, steps):
            right.append(mine)
            chance.append(of_truth)
            sums = sums + apart
        return np.concatenate(right), np.concatenate(chance), sums

    def _judge(self, scores: npt.NDArray[Any], labels: npt.NDArray[np.intp]) -> _Judged:
        right = decide(self.strategy, scores, self.n_classes) == labels
        chance = probabilities(self.strategy, scores, self.n_classes)
        sums = np.zeros((3, 0))
        if self.strategy != "multinomial":
            sums = problem_sums(self.strategy, scores, labels, self.n_classes)
        return right, chance[np.arange(len(labels)), labels], sums


_Judged = tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64], npt.NDArray[np.float64]]


def own_values(
    values: npt.NDArray[np.float64], sums: Sequence[npt.NDArray[np.float64]], shared: float
) -> npt.NDArray[np.float64]:
    """Choose a value of C for each binary problem: as for all, but on its own rows.

    Parameters
    ----------
    values : ndarray of float64, shape (n_values,)
        Ascending.
    sums : sequence of ndarray of float64, shape (3, n_heads)
        What `classify.coding.problem_sums` says of the held-out rows at each value.
    shared : float
        For problems of whose classes no row was held out.

    Returns
    -------
    ndarray of float64, shape (n_heads,)
        The highest accuracy, then the lowest log-loss, then the smallest C.
    """
    n, right, loss = np.stack(sums).transpose(1, 0, 2)
    loss = np.where(right == right.max(axis=0), loss, np.inf)
    return np.where(n[0] > 0, values[loss.argmin(axis=0)], shared)


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
    normalize: str | None = None,
    n_jobs: int | None = None,
    memory: int | None = None,
    device: str = "cpu",
    on_step: Callable[[dict[str, Any]], None] | None = None,
) -> Selection:
    """Choose C by accuracy on a stratified tenth of the rows.

    The path runs upwards from the strongest regularisation, each fit starting from where the last
    few point to. It ends early once the validation log-loss has risen for `PATIENCE` values in a
    row.

    Parameters
    ----------
    strategy : {'multinomial', 'ovr', 'ovo'}
        Which heads.
    X : array-like of shape (n_rows, n_features)
        Training features; of a `data.format.stored_rows.StoredRows`, blocks of rows are read.
    y : array-like of shape (n_rows,)
        Labels.
    grid : sequence of float
        Values of C, all positive; visited in ascending order.
    seed : int
        Decides which rows are held out.
    full_path : bool
        Visit every value, however the log-loss goes.
    standardize : bool
        Standardise the features with the statistics of the rows that are fitted.
    fit_intercept, normalize
        As in `classify.MultinomialLogistic`; `Selection.start` takes normalised rows.
    n_jobs : int or None
        Threads; see `classify.solver.threads.thread_count`.
    memory : int or None
        Bytes that may be taken where the features stay on the disk; half of what is free by
        default.
    device : {'cpu', 'auto', 'cuda', 'cuda:N'}
        Where to fit; see `classify.MultinomialLogistic`.
    on_step : callable, optional
        Called with each entry of the path when it is done.

    Returns
    -------
    Selection
        The chosen value: the highest accuracy, then the lowest log-loss, then the smallest C.

    Raises
    ------
    ValueError
        If the grid is empty or not positive, if no row can be held out, or if the memory is too
        little.
    """
    values = np.unique(np.asarray(grid, dtype=np.float64))
    if len(values) == 0 or not np.all(np.isfinite(values)) or values[0] <= 0:
        raise ValueError(f"the grid of C must be positive finite numbers, got {list(grid)}")
    device = "cpu" if is_source(X) else choose_device(device, X)
    if not is_source(X):
        X = as_features(X)
    X = normalized(X, normalize)
    classes, labels = np.unique(np.asarray(as_labels(y)), return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"choosing C needs at least 2 classes, got {len(classes)}")
    train, held = validation_split(labels, seed)
    layout = None
    if is_source(X):
        memory = default_memory() if memory is None else memory
        layout = plan(X.shape, X.dtype, strategy, len(classes), memory, n_jobs)
        n_jobs = layout.threads
    path: list[dict[str, Any]] = []
    best: tuple[tuple[float, float, float], Head] | None = None
    course = Course()
    rising = 0
    sums = []
    with workers(n_jobs) as pool:
        fitter = open_fitter(
            device, strategy, X, labels[train], len(classes), pool,
            standardize=standardize, rows=train, layout=layout, fit_intercept=fit_intercept,
        )  # fmt: skip
        held_out = _HeldOut(strategy, X, labels, held, len(classes), pool)
        for C in values:
            head, solution = fitter.solve(
                float(C), tol=PATH_TOL, max_iter=PATH_MAX_ITER, start=course.ahead(float(C))
            )
            course.add(float(C), head)
            right, chance, apart = held_out.judge(head)
            sums.append(apart)
            entry = {
                "C": float(C),
                "accuracy": float(right.mean()),
                "log_loss": float(-np.log(np.maximum(chance, np.finfo(float).eps)).mean()),
                "n_iter": int(solution.n_iter.max()),
                "converged": solution.converged,
            }
            rising = rising + 1 if path and entry["log_loss"] > path[-1]["log_loss"] else 0
            path.append(entry)
            merit = (-entry["accuracy"], entry["log_loss"], entry["C"])
            if best is None or merit < best[0]:
                best = merit, head
            if on_step is not None:
                on_step(entry)
            if rising >= PATIENCE and not full_path:
                break
    assert best is not None
    return Selection(
        C=best[0][2],
        path=path,
        not_visited=[float(C) for C in values[len(path) :]],
        n_train=len(train),
        n_validation=len(held),
        start=best[1],
        device=fitter.device,
        held=held,
        own=None if strategy == "multinomial" else own_values(values, sums, best[0][2]),
    )
