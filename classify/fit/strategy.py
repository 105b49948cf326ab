"""One strategy: choose its C, fit it to all training rows, and ask it about the test rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from classify.fit.answers import Answers, judged, of_all_classes
from classify.records import FitInputs, Fitted
from classify.results.file import json_ready
from classify.wording import display_name
from data.common.errors import UserError

if TYPE_CHECKING:
    from classify.selection import Selection

ESTIMATORS = {
    "multinomial": "MultinomialLogistic",
    "ovr": "OneVsRestLogistic",
    "ovo": "OneVsOneLogistic",
    "svm-ovr": "OneVsRestSVM",
    "svm-ovo": "OneVsOneSVM",
    "ecoc": "ErrorCorrectingLogistic",
}


def fit_strategy(
    strategy: str,
    inputs: FitInputs,
    grid: npt.NDArray[np.float64],
    on_fit: Callable[[dict[str, Any]], None],
) -> Fitted:
    """Choose C from an ascending grid, fit, and evaluate; `on_fit` is called after each value.

    A C that was given is the grid's only value. A `UserError` says that no row can be held out.
    """
    from classify import estimators

    features, train, options = inputs.features, inputs.train, inputs.options
    clock = time.perf_counter()
    selection = _select(strategy, inputs, grid, on_fit)
    if options.c is None:
        assert selection is not None
        c, path = selection.C, selection.path
    else:
        c, path = options.c, []
    selected = time.perf_counter()
    settings = {} if options.max_iter is None else {"max_iter": options.max_iter}
    estimator = getattr(estimators, ESTIMATORS[strategy])(
        c,
        standardize=True,
        fit_intercept=options.fit_intercept,
        normalize=options.normalize,
        n_jobs=options.jobs,
        memory=inputs.room.solver,
        device=selection.device if selection else options.device,
        class_weight=inputs.class_weight,
        **settings,
    )
    # That a fit did not converge is in its certificate, and said in our own words.
    start = selection.start if selection else None
    estimators.fit_without_warning(estimator, train.X, train.labels, start, train.weights)
    trained = time.perf_counter()
    certificate = estimator.certificate_
    answers, margins = _answers(estimator, inputs.X_test, len(features.class_names))
    predicted = time.perf_counter()
    entry = {
        "C": c,
        "setting": {"C": c, "code_seed": 0} if strategy == "ecoc" else {"C": c},
        "n_problems": certificate["n_problems"],
        "fit_seconds": trained - selected,
        "predict_seconds": predicted - trained,
        "n_iter": certificate["n_iter"],
        "converged": bool(certificate["converged"]),
        "certificate": {
            key: certificate[key]
            for key in ("grad_norm", "objective", "gap_bound", "relative_gap", "status")
        },
        "validation": path,
        "validation_not_visited": selection.not_visited if selection else [],
        **judged(inputs, answers),
    }
    done = time.perf_counter()
    return Fitted(
        estimator=estimator,
        entry=json_ready(entry),
        **answers._asdict(),
        margins=margins,
        seconds={
            "select": selected - clock,
            "fit": trained - selected,
            "evaluate": done - trained,
        },
        selection=selection,
        warnings=(
            *_end_warnings(strategy, c, path, grid),
            *path_warnings(strategy, c, path),
            *_fit_warnings(strategy, certificate),
        ),
    )


def _select(
    strategy: str,
    inputs: FitInputs,
    grid: npt.NDArray[np.float64],
    on_fit: Callable[[dict[str, Any]], None],
) -> Selection | None:
    """Follow the path of C; None where C was given and no row can be held out."""
    from classify.selection import select_C

    train, options = inputs.train, inputs.options
    try:
        # With a C that was given, this fits it to nine tenths, which the other tenth calibrates.
        return select_C(
            strategy,
            train.X,
            train.labels,
            grid=grid,
            seed=options.seed,
            full_path=options.full_path,
            standardize=True,
            fit_intercept=options.fit_intercept,
            normalize=options.normalize,
            n_jobs=options.jobs,
            memory=inputs.room.solver,
            device=options.device,
            on_step=on_fit,
            sample_weight=train.weights,
            class_weight=inputs.class_weight,
            groups=train.groups,
            held=train.held,
        )
    except ValueError as error:
        # The grid was checked; what is left is that no class can spare a row, or no group.
        if options.c is None:
            raise UserError(f"--c auto on {inputs.features.path}: {error} (--c 1)") from error
        return None


def _end_warnings(
    strategy: str, c: float, path: Sequence[Mapping[str, Any]], grid: npt.NDArray[np.float64]
) -> list[str]:
    """Warn of a chosen C at an end of the grid."""
    if not path or len(grid) < 2 or c not in (grid[0], grid[-1]):
        return []
    end = "smallest" if c == grid[0] else "largest"
    return [
        f"C for {display_name(strategy)} is the {end} of those tried ({c:.3g}); "
        "--c-grid with values beyond it may do better."
    ]


def _fit_warnings(strategy: str, certificate: Mapping[str, Any]) -> list[str]:
    """Warn of a final fit that did not converge."""
    if certificate["converged"]:
        return []
    advice = " Raise --max-iter." if certificate["status"] == "MAX_ITER" else ""
    return [
        f"The {display_name(strategy)} fit did not converge in {certificate['n_iter']} "
        "iterations, so its numbers may still move: its objective may be above the minimum by "
        f"{certificate['relative_gap']:.1e} of itself.{advice}"
    ]


def path_warnings(strategy: str, c: float, path: Sequence[Mapping[str, Any]]) -> list[str]:
    """Warn of values that C was chosen from and whose fits did not converge."""
    late = [step["C"] for step in path if not step["converged"]]
    if not late:
        return []
    which = ", the chosen one among them" if c in late else ", but not of the chosen one"
    return [
        f"C for {display_name(strategy)} was chosen from fits of which {len(late)} of {len(path)} "
        f"did not converge (C from {min(late):.3g} to {max(late):.3g}){which}."
    ]


def _answers(
    estimator: Any, X: npt.NDArray[np.floating], n_classes: int
) -> tuple[Answers, npt.NDArray[np.float64] | None]:
    """Return what an estimator answers, of all classes; and its margins."""
    from classify.estimators import answers_of

    values, chances, margins = answers_of(estimator, X)
    if values.ndim == 1:  # of two classes
        values = np.stack([-values, values], axis=1)
    known = np.asarray(estimator.classes_, dtype=np.int64)
    return of_all_classes(known, values, chances, n_classes), margins
