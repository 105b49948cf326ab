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
from typing import Any

import numpy as np
import numpy.typing as npt

ECE_BINS = 15
LEVEL = 0.95


def wilson_interval(successes: int, trials: int, level: float = LEVEL) -> tuple[float, float]:
    """Wilson's score interval of a proportion (without continuity correction)."""
    from scipy.stats import binomtest

    interval = binomtest(int(successes), int(trials)).proportion_ci(level, method="wilson")
    return float(interval.low), float(interval.high)


def brier_score(labels: npt.NDArray[np.int64], probabilities: npt.NDArray[np.floating]) -> float:
    """Brier's original multi-class score: mean over rows of the squared distance to the truth.

    Runs from 0 (certain and right) to 2 (certain and wrong). scikit-learn's
    ``brier_score_loss(..., scale_by_half=False)`` is the same quantity; its default for two
    classes is half of it.

    Shapes: labels (n_samples,); probabilities (n_samples, n_classes).
    """
    truth = np.zeros(probabilities.shape)
    truth[np.arange(len(labels)), labels] = 1.0
    return float(np.mean(np.sum((probabilities - truth) ** 2, axis=1)))


def expected_calibration_error(
    labels: npt.NDArray[np.int64], probabilities: npt.NDArray[np.floating], bins: int = ECE_BINS
) -> float:
    """Top-label calibration error over equal-width confidence bins (Guo et al. 2017).

    It judges the probabilities by themselves: the confidence is the largest probability and the
    answer is its class, also where a strategy answers otherwise (one-vs-one votes).

    Shapes: labels (n_samples,); probabilities (n_samples, n_classes).
    """
    _, confidence, right = confidence_bins(labels, probabilities, bins)
    # Per bin, |sum(right) - sum(confidence)| is its gap times its number of rows.
    return float(np.abs(right - confidence).sum() / len(labels))


def confidence_bins(
    labels: npt.NDArray[np.int64], probabilities: npt.NDArray[np.floating], bins: int = ECE_BINS
) -> npt.NDArray[np.float64]:
    """Sort rows by the confidence of their most probable class into bins of equal width.

    Of each bin ``(i/bins, (i+1)/bins]``: its rows, their summed confidences, and the right ones.

    Shapes: labels (n_samples,); probabilities (n_samples, n_classes); returns (3, bins).
    """
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    which = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    weights = (np.ones(len(labels)), confidence, right)
    return np.stack([np.bincount(which, weights=weight, minlength=bins) for weight in weights])


def top_k_accuracy(
    labels: npt.NDArray[np.int64], probabilities: npt.NDArray[np.floating], k: int = 2
) -> float:
    """Share of rows whose true class is among the `k` most probable.

    Shapes: labels (n_samples,); probabilities (n_samples, n_classes).
    """
    n_classes = probabilities.shape[1]
    if k >= n_classes:  # scikit-learn warns that the question is meaningless
        return 1.0
    from sklearn.metrics import top_k_accuracy_score

    return float(top_k_accuracy_score(labels, probabilities, k=k, labels=np.arange(n_classes)))


def evaluate(
    labels: npt.NDArray[np.int64],
    predictions: npt.NDArray[np.int64],
    probabilities: npt.NDArray[np.floating],
    class_names: Sequence[str],
) -> dict[str, Any]:
    """Every metric of one classifier on one test set, ready for JSON.

    Classes that do not occur in the test set have recall and F1 of zero in ``per_class`` with a
    support of zero; balanced accuracy averages the recall of the classes that do occur, and
    ``macro_f1`` the F1 of the classes that occur in the truth or the answers, as scikit-learn does.

    Shapes: labels, predictions (n_samples,); probabilities (n_samples, n_classes).
    """
    from sklearn.metrics import confusion_matrix, log_loss, precision_recall_fscore_support

    n_samples, n_classes = len(labels), len(class_names)
    indices = np.arange(n_classes)
    probabilities = np.asarray(probabilities, dtype=np.float64)
    # Sums that are off by the last bits of float32 make scikit-learn warn.
    probabilities = probabilities / probabilities.sum(axis=1, keepdims=True)
    precision, recall, f1, support = precision_recall_fscore_support(
        labels, predictions, labels=indices, zero_division=0
    )
    answered = np.bincount(predictions, minlength=n_classes)
    n_right = int(np.count_nonzero(labels == predictions))
    return {
        "n": n_samples,
        "accuracy": n_right / n_samples,
        "accuracy_ci95": list(wilson_interval(n_right, n_samples)),
        "balanced_accuracy": float(recall[support > 0].mean()),
        "macro_f1": float(f1[(support > 0) | (answered > 0)].mean()),
        "log_loss": float(log_loss(labels, probabilities, labels=indices)),
        "brier": brier_score(labels, probabilities),
        "ece": expected_calibration_error(labels, probabilities),
        "top2_accuracy": top_k_accuracy(labels, probabilities, 2),
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
) -> dict[str, Any]:
    """Score what always answers the most frequent training class, the first of equals.

    Shapes: train_labels, test_labels (n_samples,).
    """
    counts = np.bincount(train_labels, minlength=len(class_names))
    answer = int(counts.argmax())
    return {
        "class": class_names[answer],
        "train_share": float(counts[answer] / len(train_labels)),
        "test_accuracy": float(np.mean(test_labels == answer)),
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
