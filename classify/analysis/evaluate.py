"""Metrics of one classifier's answers on a test set.

Everything here is a pure function of labels, answers and probabilities. What compares two
classifiers with each other is in `classify.analysis.significance`.

References
----------
Wilson, E. B. (1927). Probable inference, the law of succession, and statistical inference.
    Journal of the American Statistical Association 22, 209-212.
Brier, G. W. (1950). Verification of forecasts expressed in terms of probability. Monthly Weather
    Review 78, 1-3.
Guo, C., Pleiss, G., Sun, Y., Weinberger, K. Q. (2017). On calibration of modern neural networks.
    ICML.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from classify.analysis.resampling import Units, accuracy_interval


class ConfidenceBins(NamedTuple):
    """Of each bin ``(i/bins, (i+1)/bins]`` of confidence: sums over its rows, each (bins,)."""

    n: npt.NDArray[np.float64]
    mass: npt.NDArray[np.float64]  # of the rows' weights, as the two below
    confidence: npt.NDArray[np.float64]
    right: npt.NDArray[np.float64]


ECE_BINS = 15
LEVEL = 0.95


def wilson_interval(successes: int, trials: int, level: float = LEVEL) -> tuple[float, float]:
    """Wilson's score interval of a proportion (without continuity correction)."""
    from scipy.stats import binomtest

    interval = binomtest(int(successes), int(trials)).proportion_ci(level, method="wilson")
    return float(interval.low), float(interval.high)


def brier_score(
    labels: npt.NDArray[np.int64],
    probabilities: npt.NDArray[np.floating],
    weights: npt.NDArray[np.float64] | None = None,
) -> float:
    """Brier's original multi-class score: mean over rows of the squared distance to the truth.

    Runs from 0 (certain and right) to 2 (certain and wrong). scikit-learn's
    ``brier_score_loss(..., scale_by_half=False)`` is the same quantity; its default for two
    classes is half of it.

    Shapes: labels, weights (n_samples,); probabilities (n_samples, n_classes).
    """
    truth = np.zeros(probabilities.shape)
    truth[np.arange(len(labels)), labels] = 1.0
    return float(np.average(np.sum((probabilities - truth) ** 2, axis=1), weights=weights))


def expected_calibration_error(
    labels: npt.NDArray[np.int64],
    probabilities: npt.NDArray[np.floating],
    bins: int = ECE_BINS,
    weights: npt.NDArray[np.float64] | None = None,
) -> float:
    """Top-label calibration error over equal-width confidence bins (Guo et al. 2017).

    It judges the probabilities by themselves: the confidence is the largest probability and the
    answer is its class, also where a strategy answers otherwise (one-vs-one votes).

    Shapes: labels, weights (n_samples,); probabilities (n_samples, n_classes).
    """
    found = confidence_bins(labels, probabilities, bins, weights)
    # Per bin, |sum(right) - sum(confidence)| is its gap times its number of rows.
    return float(np.abs(found.right - found.confidence).sum() / found.mass.sum())


def confidence_bins(
    labels: npt.NDArray[np.int64],
    probabilities: npt.NDArray[np.floating],
    bins: int = ECE_BINS,
    weights: npt.NDArray[np.float64] | None = None,
) -> ConfidenceBins:
    """Sort rows by the confidence of their most probable class into bins of equal width.

    Shapes: labels, weights (n_samples,); probabilities (n_samples, n_classes).
    """
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    which = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    ones = np.ones(len(labels))
    mass = ones if weights is None else weights
    summed = (ones, mass, mass * confidence, mass * right)
    return ConfidenceBins(*(np.bincount(which, w, bins).astype(np.float64) for w in summed))


def top_k_accuracy(
    labels: npt.NDArray[np.int64],
    probabilities: npt.NDArray[np.floating],
    k: int = 2,
    weights: npt.NDArray[np.float64] | None = None,
) -> float:
    """Share of rows whose true class is among the `k` most probable.

    Shapes: labels, weights (n_samples,); probabilities (n_samples, n_classes).
    """
    n_classes = probabilities.shape[1]
    if k >= n_classes:  # scikit-learn warns that the question is meaningless
        return 1.0
    from sklearn.metrics import top_k_accuracy_score

    classes = np.arange(n_classes)
    return float(
        top_k_accuracy_score(labels, probabilities, k=k, labels=classes, sample_weight=weights)
    )


def share_right(
    answers: npt.NDArray[np.int64], labels: npt.NDArray[np.int64], units: Units | None = None
) -> dict[str, Any]:
    """Give the accuracy with its interval: Wilson's, or the cluster bootstrap's of some units.

    Shapes: answers, labels (n_samples,).
    """
    right = answers == labels
    if units is None:
        n_right = int(np.count_nonzero(right))
        interval = wilson_interval(n_right, len(labels))
        return {"accuracy": n_right / len(labels), "accuracy_ci95": list(interval)}
    accuracy = float(np.average(right, weights=units.weights))
    return {"accuracy": accuracy, "accuracy_ci95": list(accuracy_interval(right, units, LEVEL))}


def evaluate(
    labels: npt.NDArray[np.int64],
    predictions: npt.NDArray[np.int64],
    probabilities: npt.NDArray[np.floating],
    class_names: Sequence[str],
    weights: npt.NDArray[np.float64] | None = None,
    units: Units | None = None,
) -> dict[str, Any]:
    """Every metric of one classifier on one test set, ready for JSON.

    Classes that do not occur in the test set have recall and F1 of zero in ``per_class`` with a
    support of zero; balanced accuracy averages the recall of the classes that do occur, and
    ``macro_f1`` the F1 of the classes that occur in the truth or the answers, as scikit-learn does.
    `weights` weigh every metric; supports and the confusion matrix count rows. `units` are what the
    interval resamples.

    Shapes: labels, predictions, weights (n_samples,); probabilities (n_samples, n_classes).
    """
    from sklearn.metrics import confusion_matrix, log_loss, precision_recall_fscore_support

    n_samples, n_classes = len(labels), len(class_names)
    indices = np.arange(n_classes)
    probabilities = np.asarray(probabilities, dtype=np.float64)
    # Sums that are off by the last bits of float32 make scikit-learn warn.
    probabilities = probabilities / probabilities.sum(axis=1, keepdims=True)
    precision, recall, f1, mass = precision_recall_fscore_support(
        labels, predictions, labels=indices, zero_division=0, sample_weight=weights
    )
    support = np.bincount(labels, minlength=n_classes)
    answered = np.bincount(predictions, weights, minlength=n_classes)
    return {
        "n": n_samples,
        **share_right(predictions, labels, units),
        "balanced_accuracy": float(recall[mass > 0].mean()),
        "macro_f1": float(f1[(mass > 0) | (answered > 0)].mean()),
        "log_loss": float(log_loss(labels, probabilities, labels=indices, sample_weight=weights)),
        "brier": brier_score(labels, probabilities, weights),
        "ece": expected_calibration_error(labels, probabilities, weights=weights),
        "top2_accuracy": top_k_accuracy(labels, probabilities, 2, weights),
        "per_class": {
            name: {
                "precision": float(precision[i]),
                "recall": float(recall[i]),
                "f1": float(f1[i]),
                "support": int(support[i]),
            }
            for i, name in enumerate(class_names)
        },
        "confusion_matrix": confusion_matrix(labels, predictions, labels=indices).tolist(),
    }


def majority(
    train_labels: npt.NDArray[np.int64],
    test_labels: npt.NDArray[np.int64],
    class_names: Sequence[str],
    train_weights: npt.NDArray[np.float64] | None = None,
    test_weights: npt.NDArray[np.float64] | None = None,
) -> dict[str, Any]:
    """Score what always answers the most frequent training class, the first of equals.

    Shapes: train_labels, test_labels, train_weights, test_weights (n_samples,).
    """
    counts = np.bincount(train_labels, train_weights, minlength=len(class_names))
    answer = int(counts.argmax())
    return {
        "class": class_names[answer],
        "train_share": float(counts[answer] / counts.sum()),
        "test_accuracy": float(np.average(test_labels == answer, weights=test_weights)),
    }


def never_answered(
    train_labels: npt.NDArray[np.int64],
    test_labels: npt.NDArray[np.int64],
    predictions: npt.NDArray[np.int64],
    class_names: Sequence[str],
) -> list[str]:
    """List the classes of training or test rows that no test row was answered with.

    Shapes: train_labels, test_labels, predictions (n_samples,).
    """
    there = np.union1d(train_labels, test_labels)
    return [class_names[i] for i in np.setdiff1d(there, predictions)]
