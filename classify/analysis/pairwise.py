"""One-vs-one pair by pair, and one-vs-rest class by class, on the test rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from classify.linear_head import Head
from classify.scoring import answers, sums_of_pairs
from classify.solver.problems import class_pairs
from classify.solver.threads import workers

HARDEST = 10
EXAMPLES = 6
CURVES = 20
# Shares of false alarms at which the curves are read off; most of what differs is below 1 %.
FALSE_ALARMS = np.concatenate([[0.0], np.logspace(-4, 0, 41)])


def judge_pairs(
    X_test: Any,
    labels: npt.NDArray[np.intp],
    ids: Sequence[str],
    head: Head,
    known: npt.NDArray[np.intp],
    n_jobs: int | None = 1,
) -> dict[str, Any]:
    """Judge every pair's head on the test rows of its two classes, the hardest with examples.

    Shapes: X_test (n_test, n_features) or StoredRows; labels (n_test,); known (n_known,).
    """
    k, pairs = len(known), class_pairs(len(known))
    rows = np.flatnonzero(np.isin(labels, known))
    own = np.searchsorted(known, labels[rows])
    with workers(n_jobs) as pool:
        sums = sums_of_pairs(X_test, head, own, k, pool, rows)
    n, right = sums.n_rows, sums.n_right
    accuracy = np.divide(right, n, out=np.full(len(pairs), np.nan), where=n > 0)
    ends = np.cumsum(np.arange(k - 1, 0, -1))
    order = [i for i in np.lexsort((-n, accuracy))[:HARDEST] if right[i] < n[i]]
    return {
        "classes": known.tolist(),
        "accuracy": [part.tolist() for part in np.split(accuracy, ends[:-1])],
        "hardest": [_pair(X_test, rows, own, ids, head, known, int(i), *pairs[i]) for i in order],
    }


def _pair(
    X_test: Any,
    rows: npt.NDArray[np.intp],
    own: npt.NDArray[np.intp],
    ids: Sequence[str],
    head: Head,
    known: npt.NDArray[np.intp],
    i: int,
    a: int,
    b: int,
) -> dict[str, Any]:
    mine = (own == a) | (own == b)
    rows, second = rows[mine], own[mine] == b
    one = head.one(i)
    scores = answers(X_test, one, lambda part: part[:, 0], rows)
    wrong = np.flatnonzero((scores > 0) != second)
    worst = wrong[np.argsort(-np.abs(scores[wrong]), kind="stable")][:EXAMPLES]
    return {
        "a": int(known[a]),
        "b": int(known[b]),
        "accuracy": (len(rows) - len(wrong)) / len(rows),
        "n": len(rows),
        "errors": len(wrong),
        "a_as_b": int(np.count_nonzero(~second[wrong])),
        "b_as_a": int(np.count_nonzero(second[wrong])),
        "examples": [
            {
                "row": int(rows[at]),
                "id": ids[rows[at]],
                "truth": int(known[b] if second[at] else known[a]),
                "answer": int(known[a] if second[at] else known[b]),
                "margin": float(abs(scores[at])),
            }
            for at in worst
        ],
    }


def judge_classes(
    labels: npt.NDArray[np.intp],
    scores: npt.NDArray[np.floating],
    known: npt.NDArray[np.intp],
    weights: npt.NDArray[np.float64] | None = None,
) -> dict[str, Any]:
    """Judge every one-vs-rest head as a detector of its class.

    Shapes: labels, weights (n_test,); scores (n_test, n_classes); known (n_known,).
    """
    if weights is not None and not weights.all():
        some = weights > 0
        labels, scores, weights = labels[some], scores[some], weights[some]
    found = []
    for k in known:
        truth = labels == k
        if not truth.any() or truth.all():
            continue
        hits, false, average_precision = _detection(truth, scores[:, k], weights)
        entry = {
            "class": int(k),
            "auc": float((np.diff(false) * (hits[1:] + hits[:-1])).sum() / 2),
            "average_precision": average_precision,
        }
        # The highest share of hits that comes with so few false alarms.
        found.append((entry, hits[np.searchsorted(false, FALSE_ALARMS, side="right") - 1].tolist()))
    found.sort(key=lambda item: (item[0]["average_precision"], item[0]["class"]))
    return {
        "classes": [entry for entry, _ in found],
        "false_alarms": FALSE_ALARMS.tolist(),
        "curves": [curve for _, curve in found[:CURVES]],
    }


def _detection(
    truth: npt.NDArray[np.bool_],
    scores: npt.NDArray[np.floating],
    weights: npt.NDArray[np.float64] | None = None,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], float]:
    """Return the shares of hits and of false alarms at falling thresholds, and average precision.

    As scikit-learn's `roc_curve` and `average_precision_score`, whose checks of their arguments
    take ten times as long where there are a thousand classes.
    """
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # of equal scores
    weight = np.ones(len(scores)) if weights is None else weights[order]
    caught = np.cumsum(truth[order] * weight)[ends]
    seen = np.cumsum(weight)[ends]
    hits = np.concatenate([[0.0], caught / caught[-1]])
    false = np.concatenate([[0.0], (seen - caught) / (seen[-1] - caught[-1])])
    return hits, false, float(np.diff(hits) @ (caught / seen))
