"""What it is worth to give every binary problem a C of its own, in place of one for all.

A shared C is weaker regularisation for a problem with more rows, and one-vs-one's have fewer than
one-vs-rest's; so a part of the difference between the two may be the C. Here each problem is
refitted, to all of its training rows, at the value that did best on the validation rows of its own
classes (`classify.selection.choose_per_problem_c`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from classify.analysis.evaluate import share_right
from classify.analysis.resampling import Units
from classify.codings.decisions import decide
from classify.linear_head import Head
from classify.scoring import answers
from classify.selection import PATH_MAX_ITER, PATH_TOL
from classify.solver.backend import open_fitter
from classify.solver.fit import plan
from classify.solver.out_of_core import is_source
from classify.solver.solution import Solution
from classify.solver.threads import workers
from data.common.memory import default_memory


def refit(
    strategy: str,
    X: Any,
    labels: npt.NDArray[np.intp],
    per_problem_c: npt.NDArray[np.float64],
    start: Head,
    *,
    n_jobs: int | None,
    memory: int | None,
    device: str,
    fit_intercept: bool = True,
    weight: npt.NDArray[np.float64] | None = None,
) -> tuple[Head, Solution]:
    """Fit every problem at its own C, to the tolerance of a path; rows without weight are left out.

    Shapes: X (n_train, n_features) or StoredRows; labels, weight (n_train,); per_problem_c
    (n_heads,).
    """
    rows = None
    if weight is not None and not weight.all():
        rows = np.flatnonzero(weight)
        labels, weight = labels[rows], weight[rows]
    n_classes, layout = int(labels.max()) + 1, None
    if is_source(X):
        memory = default_memory() if memory is None else memory
        layout = plan(X.shape, X.dtype, strategy, n_classes, memory, n_jobs)
        n_jobs = layout.threads
    with workers(n_jobs) as pool:
        fitter = open_fitter(
            device, strategy, X, labels, n_classes, pool, standardize=True, memory_plan=layout,
            fit_intercept=fit_intercept, sample_weight=weight, rows=rows,
        )  # fmt: skip
        return fitter.solve(per_problem_c, tol=PATH_TOL, max_iter=PATH_MAX_ITER, start=start)


def judge(
    strategy: str,
    X_test: Any,
    labels: npt.NDArray[np.intp],
    head: Head,
    known: npt.NDArray[Any],
    n_jobs: int | None = 1,
    units: Units | None = None,
) -> dict[str, Any]:
    """Answer the test rows with some heads.

    Shapes: X_test (n_test, n_features) or StoredRows; labels (n_test,); known (n_known,).
    """
    found = answers(
        X_test, head, lambda scores: decide(strategy, scores, len(known)), n_jobs=n_jobs
    )
    return share_right(known[found], labels, units)
