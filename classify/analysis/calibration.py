"""Temperature scaling, and how far probabilities can be believed before and after it.

References
----------
Guo, C., Pleiss, G., Sun, Y., Weinberger, K. Q. (2017). On calibration of modern neural networks.
    ICML.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from classify.analysis.evaluate import confidence_bins, expected_calibration_error
from classify.codings.decisions import temper

# Temperatures are looked for between exp(-10) and exp(10), as scikit-learn 1.8 does.
BOUND = 10.0


def fit_temperature(
    labels: npt.NDArray[np.intp],
    logits: npt.NDArray[np.float64],
    weights: npt.NDArray[np.float64] | None = None,
) -> float | None:
    """Find the temperature with the lowest log-loss on rows that no head was fitted to.

    labels: (n_samples,), class indices; logits: (n_samples, n_classes), logarithms of probabilities
    or anything whose softmax are probabilities; weights: (n_samples,), above 0. None where there is
    no lowest log-loss.
    """
    from scipy.optimize import brentq
    from scipy.special import softmax

    truth = logits[np.arange(len(labels)), labels]
    # Where the truth is the most probable class of every row, the colder the better; where it is
    # the least probable of every row, the hotter.
    if (truth >= logits.max(axis=1)).all() or (truth <= logits.min(axis=1)).all():
        return None

    def slope(log_beta: float) -> float:
        chances = softmax(np.exp(log_beta) * logits, axis=1)
        return float(np.average(np.sum(chances * logits, axis=1) - truth, weights=weights))

    # The log-loss is convex in the inverse temperature beta, so its slope crosses zero once.
    coldest, hottest = slope(BOUND), slope(-BOUND)
    if coldest * hottest > 0:
        return float(np.exp(BOUND if hottest > 0 else -BOUND))
    return float(np.exp(-brentq(slope, -BOUND, BOUND)))


def within_bounds(temperature: float) -> bool:
    """Tell whether a temperature is a minimum, and not the end of where one was looked for."""
    return bool(abs(np.log(temperature)) < 0.99 * BOUND)


def judge_calibration(
    labels: npt.NDArray[np.int64],
    probabilities: npt.NDArray[np.floating],
    weights: npt.NDArray[np.float64] | None = None,
) -> dict[str, Any]:
    """Say how far probabilities can be believed.

    Shapes: labels, weights (n_samples,); probabilities (n_samples, n_classes).
    """
    from sklearn.metrics import log_loss

    classes = np.arange(probabilities.shape[1])
    found = confidence_bins(labels, probabilities, weights=weights)
    filled = found.mass > 0
    mass = found.mass[filled]
    means = found.confidence[filled] / mass, found.right[filled] / mass
    bins = zip(found.n[filled], *means, strict=True)
    return {
        "log_loss": float(log_loss(labels, probabilities, labels=classes, sample_weight=weights)),
        "ece": expected_calibration_error(labels, probabilities, weights=weights),
        "bins": [
            {"n": int(rows), "confidence": float(mean), "accuracy": float(share)}
            for rows, mean, share in bins
        ],
    }


def calibration(
    labels: npt.NDArray[np.int64],
    probabilities: npt.NDArray[np.floating],
    temperature: float | None,
    n_validation: int,
    weights: npt.NDArray[np.float64] | None = None,
) -> dict[str, Any]:
    """Compare probabilities with what they become at a temperature.

    Shapes: labels, weights (n_samples,); probabilities (n_samples, n_classes).
    """
    return {
        "temperature": temperature,
        "n_validation": n_validation,
        "before": judge_calibration(labels, probabilities, weights),
        "after": None
        if temperature is None
        else judge_calibration(labels, temper(probabilities, temperature), weights),
    }
