"""From the scores of a code book's problems to its classes.

The row of a class in the code book (`classify.solver.codes`) says on which side of each problem it
is. A class is the answer whose row the scores agree with best, by either of

- ``loss``: the smallest sum of the problems' logistic losses, a problem that the class is not in
  counting as if it were undecided. Of one-vs-rest's code book that is the largest score.
- ``votes``: the most problems that agree (Hamming's distance; half a vote where a class is not in
  a problem), and between equals the sum of the scores. Of one-vs-one's that is one-vs-one's answer.

(Allwein, Schapire and Singer, "Reducing multiclass to binary", *JMLR* 1, 2000.)
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from classify.solver.codes import Code

Array = npt.NDArray[np.float64]


def code_values(code: Code, scores: npt.NDArray[np.floating[Any]], decoding: str) -> Array:
    """Return each class's decision value (n_samples, n_classes)."""
    exact = scores.astype(np.float64)
    if decoding == "loss":
        return _log_likelihoods(code, exact)
    positive, negative = _sides(code)
    won = (exact > 0).astype(np.float64)
    votes = won @ positive + (1 - won) @ negative + 0.5 * (code == 0).sum(axis=1)
    return with_confidences(votes, exact @ (positive - negative))


def code_log_probabilities(code: Code, scores: Array) -> Array:
    """Return the logarithm of the softmax of minus the sums of losses, (n_samples, n_classes)."""
    logits = _log_likelihoods(code, scores)
    logits -= logits.max(axis=1, keepdims=True)
    return np.asarray(logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)))


def _log_likelihoods(code: Code, scores: Array) -> Array:
    positive, negative = _sides(code)
    sums = log_sigmoid(scores) @ positive + log_sigmoid(-scores) @ negative
    return np.asarray(sums - np.log(2) * (code == 0).sum(axis=1))


def _sides(code: Code) -> tuple[Array, Array]:
    """Return where classes are positive and where negative, (n_problems, n_classes) each."""
    wide = code.T.astype(np.float64)
    return np.maximum(wide, 0), np.maximum(-wide, 0)


def log_sigmoid(scores: Array) -> Array:
    """Return the logarithm of ``1 / (1 + exp(-scores))``, which does not overflow."""
    return np.minimum(scores, 0.0) - np.log1p(np.exp(-np.abs(scores)))


def with_confidences(votes: Array, margins: Array) -> Array:
    """Add margins to votes, squeezed so that they decide between equal votes only."""
    return votes + margins / (3 * (np.abs(margins) + 1))
