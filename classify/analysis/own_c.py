"""What it is worth to give every binary problem a C of its own, in place of one for all.

A shared C is weaker regularisation for a problem with more rows, and one-vs-one's have fewer than
one-vs-rest's; so a part of the difference between the two may be the C. Here each problem is
refitted, to all of its training rows, at the value that did best on the validation rows of its own
classes (`classify.selection.own_values`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from classify.analysis.decoding import share_right
from classify.coding import decide
from classify.scoring import scored
from classify.selection import PATH_MAX_ITER, PATH_TOL
from classify.solver.backend import open_fitter
from classify.solver.fit import Head, plan
from classify.solver.out_of_core import is_source
from classify.solver.solution import Solution
from classify.solver.threads import workers
from data.common.memory import default_memory


def refit(
    strategy: str,
    X: Any,
    labels: npt.NDArray[np.intp],
    own: npt.NDArray[np.float64],
    start: Head,
    *,
    n_jobs: int | None,
    memory: int | None,
    device: str,
    fit_intercept: bool = True,
) -> tuple[Head, Solution]:
    """Fit every problem at its own C, to the tolerance of a path.

    Parameters
    ----------
    strategy : {'ovr', 'ovo'}
        How classes become problems.
    X : ndarray, shape (n_train, n_features), or StoredRows
        Training features.
    labels : ndarray of int, shape (n_train,)
        Class indices, every one of them present.
    own : ndarray of float64, shape (n_heads,)
        A value of C for each problem.
    start : Head
        Heads to start from.
    n_jobs, memory, device, fit_intercept
        As `classify.selection.select_C` takes them.

    Returns
    -------
    head : Head
        For raw features.
    solution : Solution
        How its problems ended.
    """
    n_classes, layout = int(labels.max()) + 1, None
    if is_source(X):
        memory = default_memory() if memory is None else memory
        layout = plan(X.shape, X.dtype, strategy, n_classes, memory, n_jobs)
        n_jobs = layout.threads
    with workers(n_jobs) as pool:
        fitter = open_fitter(
            device, strategy, X, labels, n_classes, pool, standardize=True, layout=layout,
            fit_intercept=fit_intercept,
        )  # fmt: skip
        return fitter.solve(own, tol=PATH_TOL, max_iter=PATH_MAX_ITER, start=start)


def judge(
    strategy: str, X_test: Any, labels: npt.NDArray[np.intp], head: Head, known: npt.NDArray[Any]
) -> dict[str, Any]:
    """Answer the test rows with some heads.

    Parameters
    ----------
    strategy : {'ovr', 'ovo'}
        How classes became heads.
    X_test : ndarray, shape (n_test, n_features), or StoredRows
        Test features.
    labels : ndarray of int, shape (n_test,)
        Their classes.
    head : Head
        The heads.
    known : ndarray of int, shape (n_known,)
        The classes that there are heads for.

    Returns
    -------
    dict
        ``accuracy`` and its Wilson interval, ``accuracy_ci95``.
    """
    answers = [decide(strategy, scores, len(known)) for _, scores in scored(X_test, head)]
    return share_right(known[np.concatenate(answers)], labels)
