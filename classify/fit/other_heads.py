"""One head that the solver does not fit: choose its setting, fit it to all rows, and judge it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from classify.fit.answers import judged, of_all_classes
from classify.heads.classifier import HeadClassifier
from classify.heads.interface import (
    FitContext,
    HeadAnswers,
    HeadKind,
    RowSet,
    Setting,
    TrainedHead,
)
from classify.heads.registry import head_kind
from classify.parameters import row_weights
from classify.records import FitInputs, Fitted, HeldAnswers
from classify.results.file import json_ready
from classify.selection import Sides, two_sides
from classify.solver.row_norms import normalized
from classify.wording import display_name, setting_words, upper_first
from data.common.errors import UserError

Floats = npt.NDArray[np.float64]


class _Judged(NamedTuple):
    """A head of a path, how it did on the held-out rows, and what it said of them."""

    head: TrainedHead
    entry: dict[str, Any]  # of results.json
    log_probabilities: Floats  # (n_held, n_known)


def fit_other_head(
    name: str,
    inputs: FitInputs,
    on_total: Callable[[int], None],
    on_steps: Callable[[int], None],
) -> Fitted:
    """Choose a head's setting on held-out rows, fit it to all training rows, and evaluate it.

    `on_total` is told how many steps there will be, and `on_steps` how many more are done. A
    `UserError` says that no row can be held out, or that the head needs more memory than there is.
    """
    train, options = inputs.train, inputs.options
    clock = time.perf_counter()
    kind = head_kind(name)
    X, sides = normalized(train.X, options.normalize), _sides(name, inputs)
    rows, held, every = _row_sets(X, inputs, sides)
    grid = kind.grid(rows)
    on_total(kind.n_steps(grid))
    context = FitContext(options.seed, options.jobs, options.device, on_steps)
    best, path = _choose(kind, rows, held, grid, context)
    selected = time.perf_counter()
    trained = kind.fit(every, best.head.setting, context)
    done = time.perf_counter()
    classifier = HeadClassifier(trained, sides.classes, options.normalize)
    values, logs = classifier.answers(inputs.X_test)
    n_classes = len(inputs.features.class_names)
    answers = of_all_classes(classifier.classes_, values, np.exp(logs), n_classes)
    predicted = time.perf_counter()
    entry = {
        "C": None,
        "setting": dict(best.head.setting),
        "n_problems": 1,
        "fit_seconds": done - selected,
        "predict_seconds": predicted - done,
        "n_iter": None,
        "converged": trained.converged,
        "certificate": None,
        "validation": path if len(path) > 1 else [],
        "validation_not_visited": [],
        "notes": dict(best.head.notes) | dict(trained.notes),
        **judged(inputs, answers),
    }
    return Fitted(
        estimator=classifier,
        entry=json_ready(entry),
        **answers._asdict(),
        seconds={
            "select": selected - clock,
            "fit": done - selected,
            "evaluate": time.perf_counter() - done,
        },
        selection=None,
        held_answers=HeldAnswers(
            rows=sides.held,
            labels=sides.labels[sides.held],
            log_probabilities=best.log_probabilities,
            weights=None if train.weights is None else train.weights[sides.held],
            converged=best.head.converged,
        ),
        warnings=tuple(_warnings(name, kind, best, path, trained)),
    )


def _sides(name: str, inputs: FitInputs) -> Sides:
    """Divide the training rows into those of the path and those that are held out."""
    train, options = inputs.train, inputs.options
    try:
        return two_sides(
            train.labels, train.weights, inputs.class_weight, train.groups, train.held, options.seed
        )
    except ValueError as error:
        why = str(error).split(" to choose C on")[0]
        raise UserError(
            f"--head {name} on {inputs.features.path}: its setting and its probabilities are "
            f"chosen on rows that are held out, and {why}; use more images a class, or leave "
            "this head out"
        ) from error


def _row_sets(X: Any, inputs: FitInputs, sides: Sides) -> tuple[RowSet, RowSet, RowSet]:
    """Give the rows of the path, those held out, and all that have any weight."""
    train, memory, k = inputs.train, inputs.room.solver, len(sides.classes)
    labels = sides.labels.astype(np.intp)
    weight = row_weights(inputs.class_weight, train.labels, train.weights)
    some = np.arange(len(labels)) if weight is None else np.flatnonzero(weight)
    of_held = sides.weights_of(sides.held)
    return (
        RowSet(X, sides.train, labels[sides.train], k, sides.train_weight, memory),
        RowSet(X, sides.held, labels[sides.held], k, of_held, memory),
        RowSet(X, some, labels[some], k, None if weight is None else weight[some], memory),
    )


def _choose(
    kind: HeadKind, rows: RowSet, held: RowSet, grid: Sequence[Setting], context: FitContext
) -> tuple[_Judged, list[dict[str, Any]]]:
    """Fit and judge a path: the highest accuracy, then the lowest log-loss, then the first."""
    together = type(kind).answers is not HeadKind.answers
    heads: Iterator[TrainedHead] = iter(kind.path(rows, held, grid, context))
    best, merit = None, (np.inf, np.inf)
    path = []
    for one in _judge_all(kind, list(heads), held) if together else _judge_each(heads, held):
        path.append(one.entry)
        found = (-one.entry["accuracy"], one.entry["log_loss"])
        if best is None or found < merit:
            best, merit = one, found
    assert best is not None
    return best, path


def _judge_each(heads: Iterator[TrainedHead], held: RowSet) -> Iterator[_Judged]:
    for head in heads:
        yield _of_held(head, [head.answers(block) for _, block in held.blocks()], held)


def _judge_all(kind: HeadKind, heads: list[TrainedHead], held: RowSet) -> Iterator[_Judged]:
    """Judge heads that answer a block together, such as neighbours by their number."""
    blocks = [kind.answers(heads, block) for _, block in held.blocks()]
    for head, answers in zip(heads, zip(*blocks, strict=True), strict=True):
        yield _of_held(head, list(answers), held)


def _of_held(head: TrainedHead, answers: Sequence[HeadAnswers], held: RowSet) -> _Judged:
    logs = np.concatenate([part.log_probabilities for part in answers])
    best = np.concatenate([part.values.argmax(axis=1) for part in answers])
    floor = np.log(np.finfo(float).eps)
    of_truth = np.maximum(logs[np.arange(len(held)), held.labels], floor)
    entry = {
        "C": None,
        "setting": dict(head.setting),
        "accuracy": float(np.average(best == held.labels, weights=held.weights)),
        "log_loss": float(-np.average(of_truth, weights=held.weights)),
        "converged": head.converged,
    }
    return _Judged(head, entry, logs)


def _warnings(
    name: str, kind: HeadKind, best: _Judged, path: Sequence[dict[str, Any]], trained: TrainedHead
) -> Iterator[str]:
    """Warn of fits that did not converge, and of a choice at an end of what was tried."""
    called = display_name(name)
    if not trained.converged:
        yield f"The {called} fit did not converge, so its numbers may still move."
    late = sum(not step["converged"] for step in path)
    if late:
        yield (
            f"The setting of {called} was chosen from fits of which {late} of {len(path)} did not "
            "converge."
        )
    for key in kind.open_ended:
        tried = sorted({step["setting"][key] for step in path if key in step["setting"]})
        value = best.head.setting.get(key)
        if len(tried) > 2 and value in (tried[0], tried[-1]):
            end = "smallest" if value == tried[0] else "largest"
            yield (
                f"{upper_first(setting_words({key: value}))} for {called} is the {end} value of "
                "those tried; one beyond it may do better."
            )
