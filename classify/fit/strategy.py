"""One strategy: choose its C, fit it to all training rows, and ask it about the test rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from classify.records import FitOptions, Fitted, Room
from classify.results import json_ready
from classify.wording import display_name
from data.common.errors import UserError

if TYPE_CHECKING:
    from data.format.records import Features

ESTIMATORS = {
    "multinomial": "MultinomialLogistic",
    "ovr": "OneVsRestLogistic",
    "ovo": "OneVsOneLogistic",
}


def fit_strategy(
    strategy: str,
    X: npt.NDArray[np.floating],
    y: npt.NDArray[np.int64],
    X_test: npt.NDArray[np.floating],
    features: Features,
    options: FitOptions,
    room: Room,
    grid: npt.NDArray[np.float64],
    on_step: Callable[[dict[str, Any]], None],
) -> Fitted:
    """Choose C, fit, and evaluate.

    Parameters
    ----------
    strategy : str
        ``multinomial``, ``ovr`` or ``ovo``.
    X : ndarray, shape (n_train, n_features), or StoredRows
        Training features.
    y : ndarray of int64, shape (n_train,)
        Their labels.
    X_test : ndarray, shape (n_test, n_features), or StoredRows
        Test features.
    features : Features
        The open store.
    options : FitOptions
        What to do.
    room : Room
        The memory there is.
    grid : ndarray of float64
        Values of C, ascending; the given one alone where C was given.
    on_step : callable
        Called after each value.

    Returns
    -------
    Fitted
        The strategy with its answers and its entry for results.json.

    Raises
    ------
    UserError
        If no row can be held out to choose C on.
    """
    from classify import estimators
    from classify.analysis.evaluate import evaluate, never_answered
    from classify.selection import select_C

    warnings: list[str] = []
    clock = time.perf_counter()
    try:
        # With a C that was given, this fits it to nine tenths, which the other tenth calibrates.
        selection = select_C(
            strategy,
            X,
            y,
            grid=grid,
            seed=options.seed,
            full_path=options.full_path,
            standardize=True,
            fit_intercept=options.fit_intercept,
            normalize=options.normalize,
            n_jobs=options.jobs,
            memory=room.solver,
            device=options.device,
            on_step=on_step,
        )
    except ValueError as error:
        # The grid was checked; what is left is that no class can spare a row.
        if options.c is None:
            raise UserError(f"--c auto on {features.path}: {error} (--c 1)") from error
        selection = None
    if options.c is None:
        assert selection is not None
        c, path = selection.C, selection.path
    else:
        c, path = options.c, []
    if path and len(grid) > 1 and c in (grid[0], grid[-1]):
        end = "smallest" if c == grid[0] else "largest"
        warnings.append(
            f"C for {display_name(strategy)} is the {end} of those tried ({c:.3g}); "
            "--c-grid with values beyond it may do better."
        )
    selected = time.perf_counter()
    settings = {} if options.max_iter is None else {"max_iter": options.max_iter}
    estimator = getattr(estimators, ESTIMATORS[strategy])(
        c,
        standardize=True,
        fit_intercept=options.fit_intercept,
        normalize=options.normalize,
        n_jobs=options.jobs,
        memory=room.solver,
        device=selection.device if selection else options.device,
        **settings,
    )
    # That a fit did not converge is in its certificate, and said in our own words.
    estimators.fit_without_warning(estimator, X, y, selection.start if selection else None)
    trained = time.perf_counter()
    certificate = estimator.certificate_
    warnings += path_warnings(strategy, c, path)
    if not certificate["converged"]:
        advice = " Raise --max-iter." if certificate["status"] == "MAX_ITER" else ""
        warnings.append(
            f"The {display_name(strategy)} fit did not converge in {certificate['n_iter']} "
            "iterations, so its numbers may still move: its objective may be above the minimum by "
            f"{certificate['relative_gap']:.1e} of itself.{advice}"
        )
    predictions, probabilities, scores = _answers(estimator, X_test, len(features.class_names))
    test = evaluate(features.test.labels, predictions, probabilities, features.class_names)
    entry = {
        "C": c,
        "n_problems": certificate["n_problems"],
        "fit_seconds": trained - selected,
        "n_iter": certificate["n_iter"],
        "converged": bool(certificate["converged"]),
        "certificate": {
            key: certificate[key]
            for key in ("grad_norm", "objective", "gap_bound", "relative_gap", "status")
        },
        "validation": path,
        "validation_not_visited": selection.not_visited if selection else [],
        "test": test,
        "never_answered": never_answered(
            features.train.labels, features.test.labels, predictions, features.class_names
        ),
    }
    done = time.perf_counter()
    seconds = {"select": selected - clock, "fit": trained - selected, "evaluate": done - trained}
    return Fitted(
        estimator,
        json_ready(entry),
        predictions,
        probabilities,
        scores,
        seconds,
        selection,
        warnings,
    )


def path_warnings(strategy: str, c: float, path: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say which of the values that C was chosen from were judged by a fit that did not converge."""
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
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Answers, probabilities and scores over all classes, those without training rows included."""
    known = np.asarray(estimator.classes_, dtype=np.int64)
    probabilities = np.zeros((len(X), n_classes))
    probabilities[:, known] = estimator.predict_proba(X)
    scores = np.full((len(X), n_classes), -np.inf)
    values = np.asarray(estimator.decision_function(X), dtype=np.float64)
    scores[:, known] = values if values.ndim == 2 else np.stack([-values, values], axis=1)
    return np.asarray(estimator.predict(X), dtype=np.int64), probabilities, scores
