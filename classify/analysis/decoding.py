"""How one-vs-one's pairwise scores become answers, and what each way is worth.

Four ways are compared on the same scores:

=========================  =====================================================================
``votes``                  each pair votes for one of its classes; ties go to the first class
``votes and confidence``   the same, ties broken by the summed margins: what ``predict`` does
``summed margins``         the scores of a class's pairs, added up with their signs
``coupling``               the pairwise probabilities coupled (Wu, Lin and Weng, 2004): what
                           ``predict_proba`` does
=========================  =====================================================================

The first three have no probabilities of their own. So that log-losses can be compared, each way
gets the softmax of its values at the temperature that the validation rows ask for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy.special import softmax
from sklearn.metrics import log_loss

from classify.analysis.calibration import fit_temperature
from classify.analysis.evaluate import share_right
from classify.codings.decisions import PairAnswers, logarithms, pair_answers
from classify.scoring import HeldOut, scored

if TYPE_CHECKING:
    from classify.analysis.resampling import Units

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.intp]

WAYS = ("votes", "votes and confidence", "summed margins", "coupling")


def values_of(answers: PairAnswers) -> list[Array]:
    """Value each class for each row in each of the `WAYS`, (n_samples, n_classes) each.

    The answer is the class with the highest value; the first, where several have it.
    """
    votes = np.rint(answers.values)  # confidences are less than half a vote
    return [votes, answers.values, answers.margins, logarithms(answers.probabilities)]


def compare_ways(
    answers: PairAnswers,
    labels: Integers,
    known: Integers,
    held_out: HeldOut | None,
    n_classes: int,
    n_jobs: int | None = 1,
    units: Units | None = None,
) -> list[dict[str, Any]]:
    """Judge what the test rows were answered in every way; `units` are of the test rows.

    Shapes: answers (n_test, n_known) each; labels (n_test,); known (n_known,).
    """
    found = []
    weights = None if units is None else units.weights
    of_test = values_of(answers)
    of_held_out = None
    if held_out is not None:
        of_held_out = values_of(_answers(held_out, len(known), n_jobs))
    for i, way in enumerate(WAYS):
        temperature = None
        if held_out is not None and of_held_out is not None:
            temperature = fit_temperature(held_out.labels, of_held_out[i], held_out.weights)
        values = of_test[i]
        chances = np.zeros((len(labels), n_classes))
        chances[:, known] = softmax(values / (temperature or 1.0), axis=1)
        found.append(
            {
                "way": way,
                **share_right(known[values.argmax(axis=1)], labels, units),
                "temperature": temperature,
                "log_loss": float(
                    log_loss(labels, chances, labels=np.arange(n_classes), sample_weight=weights)
                ),
            }
        )
    return found


def _answers(held_out: HeldOut, n_classes: int, n_jobs: int | None) -> PairAnswers:
    """Answer the held-out rows, from scores that are made once."""

    def work(_: slice, scores: Any) -> PairAnswers:
        return pair_answers(scores, n_classes)

    parts = [part for _, part in scored(held_out.X, held_out.head, work, held_out.rows, n_jobs)]
    return PairAnswers(*(np.concatenate(some) for some in zip(*parts, strict=True)))
