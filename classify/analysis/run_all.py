"""What a report shows beyond the metrics: computed once, after the fits, for results.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from classify.analysis.binary.judge import judge_fit
from classify.analysis.calibration import calibration, fit_temperature, within_bounds
from classify.analysis.decoding import compare_ways
from classify.analysis.own_c import judge, refit
from classify.analysis.pairwise import judge_classes, judge_pairs
from classify.analysis.views import class_order, two_views
from classify.codings import decisions
from classify.linear_head import pairs_of
from classify.parameters import row_weights
from classify.records import HeldAnswers
from classify.results.file import json_ready
from classify.scoring import HeldOut, answers
from classify.solver.problems import class_pairs
from classify.solver.row_norms import normalized
from classify.solver.strategies import strategy_of
from data.common.cli import progress

if TYPE_CHECKING:
    from classify.records import FitInputs, Fitted, TrainingRows


def analyse(inputs: FitInputs, fitted: Mapping[str, Fitted]) -> dict[str, Any]:
    """Work out what the parts of a report show; each of them may be absent."""
    train, test, options = inputs.train, inputs.features.test, inputs.options
    labels, ids, weights = test.labels, test.ids, test.weights
    # The heads' own coefficients, which are used here, take rows as they were fitted.
    X_train, X_test = (normalized(X, options.normalize) for X in (train.X, inputs.X_test))
    n_classes = len(inputs.features.class_names)
    found: dict[str, Any] = {
        "class_order": class_order(
            [np.array(fit.entry["test"]["confusion_matrix"]) for fit in fitted.values()]
        ),
        "decoding": None,
        "own_c": {},
        "views": two_views(X_train, train.labels, X_test, labels, options.seed),
    }
    with progress(len(fitted), "analyses", "strategy") as bar:
        for strategy, fit in fitted.items():
            known = np.asarray(fit.estimator.classes_)
            held_out = _held_out(fit, train, X_train)
            held = held_answers(strategy, fit, held_out)
            more = {"calibration": _calibration(fit, labels, held, weights)}
            if found_of_two := judge_fit(inputs, fit, held, more["calibration"]["temperature"]):
                more["binary"] = found_of_two
            if not fit.solved:
                fit.entry.update(json_ready(more))
                bar.update(1)
                continue
            head = fit.estimator.head_
            more["course"] = _course(strategy, fit)
            if strategy == "ovo" and len(known) > 2:
                more["pairs"] = judge_pairs(X_test, labels, ids, head, known, options.jobs)
                _mark_pairs(more["pairs"], known, fit)
                found["decoding"] = [
                    {**way, "converged": fit.entry["converged"]}
                    for way in compare_ways(
                        _pair_answers(fit, known),
                        labels,
                        known,
                        held_out,
                        n_classes,
                        options.jobs,
                        inputs.units,
                    )
                ]
            if strategy == "ovr":
                more["detection"] = judge_classes(labels, fit.scores, known, weights)
                _mark_classes(more["detection"], known, fit)
            fit.entry.update(json_ready(more))
            per_problem_c = _per_problem_c(fit)
            if per_problem_c is not None and len(known) > 2:
                train_labels = np.searchsorted(known, train.labels)
                apart, solution = refit(
                    strategy, X_train, train_labels, per_problem_c, head,
                    n_jobs=options.jobs, memory=inputs.room.solver, device=fit.estimator.device_,
                    fit_intercept=options.fit_intercept,
                    weight=row_weights(inputs.class_weight, train.labels, train.weights),
                )  # fmt: skip
                found["own_c"][strategy] = {
                    "C": np.quantile(per_problem_c, [0, 0.25, 0.5, 0.75, 1], method="nearest"),
                    **judge(strategy, X_test, labels, apart, known, options.jobs, inputs.units),
                    "converged": solution.converged,
                }
            bar.update(1)
    return found


def _pair_answers(fit: Fitted, known: Any) -> decisions.PairAnswers:
    """Collect what one-vs-one answered of the classes that there are heads for."""
    assert fit.margins is not None
    return decisions.PairAnswers(fit.scores[:, known], fit.probabilities[:, known], fit.margins)


def _ends(fit: Fitted) -> list[bool]:
    """Whether each problem of the final fit converged."""
    statuses = fit.estimator.certificate_["problems"]["status"]
    return [status == "CONVERGED" for status in statuses]


def _mark_pairs(pairs: dict[str, Any], known: Any, fit: Fitted) -> None:
    ends, k = _ends(fit), len(known)
    for pair in pairs["hardest"]:
        a, b = np.searchsorted(known, sorted((pair["a"], pair["b"]))).tolist()
        pair["converged"] = ends[pairs_of(a, k)[b - 1]]


def _mark_classes(detection: dict[str, Any], known: Any, fit: Fitted) -> None:
    ends = _ends(fit)  # two classes are one problem
    place = {int(c): i for i, c in enumerate(known)}
    for entry in detection["classes"]:
        entry["converged"] = ends[place[entry["class"]] if len(ends) > 1 else 0]


def _per_problem_c(fit: Fitted) -> Any:
    """Give the C of each problem, where there were several values to choose from."""
    if fit.selection is None or len(fit.selection.path) < 2:
        return None
    return fit.selection.per_problem_c


def _held_out(fit: Fitted, train: TrainingRows, X_train: Any) -> HeldOut | None:
    if fit.selection is None:
        return None
    rows = fit.selection.held
    labels = np.searchsorted(fit.estimator.classes_, train.labels[rows])
    # By their own weights alone: probabilities are to be believed on data as they are, and class
    # weights say what errors cost, not how many images a class has.
    weights = None if train.weights is None else train.weights[rows]
    return HeldOut(X_train, rows, labels, fit.selection.start, weights)


def held_answers(strategy: str, fit: Fitted, held_out: HeldOut | None) -> HeldAnswers | None:
    """Return what a head says of the rows that it was not fitted to; None where there are none."""
    if fit.held_answers is not None or held_out is None:
        return fit.held_answers
    assert fit.selection is not None
    n_known = len(fit.estimator.classes_)
    logits = answers(
        held_out.X,
        held_out.head,
        lambda scores: decisions.logarithms(decisions.probabilities(strategy, scores, n_known)),
        held_out.rows,
    )
    chosen = next(step for step in fit.selection.path if step["C"] == fit.selection.C)
    return HeldAnswers(
        held_out.rows, held_out.labels, logits, held_out.weights, chosen["converged"]
    )


def _calibration(
    fit: Fitted, labels: Any, held: HeldAnswers | None, weights: Any = None
) -> dict[str, Any]:
    if held is None:
        return calibration(labels, fit.probabilities, None, 0, weights)
    temperature = fit_temperature(held.labels, held.log_probabilities, held.weights)
    found = calibration(labels, fit.probabilities, temperature, len(held.rows), weights)
    if temperature is not None:
        found["converged"] = held.converged and within_bounds(temperature)
    return found


def _course(strategy: str, fit: Fitted) -> dict[str, Any]:
    """Name the classes of the hardest problem, and how far each round was above its minimum."""
    hardest = fit.estimator.certificate_["hardest"]
    known, problem = np.asarray(fit.estimator.classes_), hardest["problem"]
    classes: Any = []
    coded = strategy_of(strategy).coding
    if coded == "ovo" or len(known) == 2:
        classes = known[class_pairs(len(known))[problem]]
    elif coded == "ovr":
        classes = known[[problem]]
    scale = abs(hardest["objective"]) or 1.0
    return {"classes": classes, "relative_gaps": [gap / scale for gap in hardest["gaps"]]}
