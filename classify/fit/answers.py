"""What a head answers to the test rows, of all classes of the store, and how good that is."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from classify.analysis.evaluate import evaluate, never_answered
from classify.records import FitInputs

Floats = npt.NDArray[np.float64]
Floating = npt.NDArray[np.floating[Any]]


class Answers(NamedTuple):
    """Answers to the test rows; classes without training rows have no part in them."""

    predictions: npt.NDArray[np.int64]  # (n_test,)
    probabilities: Floats  # (n_test, n_classes)
    scores: Floats  # (n_test, n_classes); minus infinity of classes without training rows


def of_all_classes(
    known: npt.NDArray[np.int64], values: Floating, chances: Floating, n_classes: int
) -> Answers:
    """Spread what a head says of the classes that it knows over all of them.

    The answer is the class of the largest value. Shapes: known (n_known,), values and chances
    (n_test, n_known).
    """
    probabilities = np.zeros((len(values), n_classes))
    probabilities[:, known] = chances
    scores = np.full((len(values), n_classes), -np.inf)
    scores[:, known] = values
    return Answers(known[values.argmax(axis=1)], probabilities, scores)


def judged(inputs: FitInputs, answers: Answers) -> dict[str, Any]:
    """Judge the answers, as the entry of a head in results.json has it."""
    features = inputs.features
    test, names = features.test, features.class_names
    return {
        "test": evaluate(
            test.labels, answers.predictions, answers.probabilities, names, test.weights,
            inputs.units,
        ),
        "never_answered": never_answered(
            inputs.train.labels, test.labels, answers.predictions, names
        ),
    }  # fmt: skip
