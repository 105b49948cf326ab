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
from classify.coding import decision_values, logarithms, probabilities, votes_and_margins
from classify.scoring import HeldOut, scored

if TYPE_CHECKING:
    from classify.analysis.resampling import Units
    from classify.linear_head import Head

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.intp]

WAYS = ("votes", "votes and confidence", "summed margins", "coupling")


def class_values(way: str, scores: npt.NDArray[Any], n_classes: int) -> Array:
    """Value each class for each row, in one of the ways.

    Shapes: scores (n_samples, n_pairs); returns (n_samples, n_classes).
    """
    # The answer is the class with the highest value; the first, where several have it.
    if way == "coupling":
        return logarithms(probabilities("ovo", scores, n_classes))
    if way == "votes and confidence":
        return decision_values("ovo", scores, n_classes).astype(np.float64)
    votes, margins = votes_and_margins(scores, n_classes)
    return votes if way == "votes" else margins


def compare_ways(
    X_test: Any,
    labels: Integers,
    head: Head,
    known: Integers,
    held_out: HeldOut | None,
    n_classes: int,
    n_jobs: int | None = 1,
    units: Units | None = None,
) -> list[dict[str, Any]]:
    """Decode the test rows in every way; `units` are of the test rows.

    Shapes: X_test (n_test, n_features) or StoredRows; labels (n_test,); known (n_known,).
    """
    found, k = [], len(known)
    weights = None if units is None else units.weights
    of_held_out = None
    if held_out is not None:
        of_held_out = _values(held_out.X, held_out.head, held_out.rows, k, n_jobs)
    of_test = _values(X_test, head, np.arange(len(labels)), k, n_jobs)
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


def _values(X: Any, head: Head, rows: Integers, n_classes: int, n_jobs: int | None) -> list[Array]:
    """Value each class for each row, in every way, from scores that are made once."""

    def work(_: slice, scores: npt.NDArray[Any]) -> list[Array]:
        return [class_values(way, scores, n_classes) for way in WAYS]

    values = np.empty((len(WAYS), len(rows), n_classes))
    for block, found in scored(X, head, work, rows, n_jobs):
        values[:, block] = found
    return list(values)
