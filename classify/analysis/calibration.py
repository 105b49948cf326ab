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
import sklearn
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV

from classify.analysis.evaluate import confidence_bins, expected_calibration_error
from classify.coding import temper

# Where scikit-learn looks for the logarithm of a temperature.
BOUND = 10.0
# A difference of scores that its inverse temperature is read off at, without overflow.
PROBE = 0.01


class _Scores(ClassifierMixin, BaseEstimator):
    """An estimator whose scores are given to it, because `CalibratedClassifierCV` wants one."""

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> _Scores:
        self.classes_ = np.unique(y)
        return self

    def decision_function(self, X: Any) -> Any:
        return X if X.shape[1] > 1 else X[:, 0]

    def predict(self, X: Any) -> Any:
        raise NotImplementedError


def fit_temperature(labels: npt.NDArray[np.intp], logits: npt.NDArray[np.float64]) -> float | None:
    """Find the temperature with the lowest log-loss: scikit-learn's temperature scaling.

    Parameters
    ----------
    labels : ndarray of int, shape (n_samples,)
        Class indices of rows that no head was fitted to.
    logits : ndarray of float64, shape (n_samples, n_classes)
        What the head says of them: the logarithms of probabilities, or anything whose softmax are
        probabilities.

    Returns
    -------
    float or None
        For `classify.coding.temper`. None where there is no lowest log-loss: where the truth is
        the most probable class of every row, the colder the better; where it is the least probable
        of every row, the hotter.
    """
    own = logits[np.arange(len(labels)), labels]
    if (own >= logits.max(axis=1)).all() or (own <= logits.min(axis=1)).all():
        return None
    fit = _by_scikit_learn if _is_in_scikit_learn() else by_root
    return fit(labels, logits)


def within_bounds(temperature: float) -> bool:
    """Tell whether a temperature is a minimum, and not the end of where one was looked for."""
    return bool(abs(np.log(temperature)) < 0.99 * BOUND)


def _is_in_scikit_learn() -> bool:
    """Tell whether the installed scikit-learn has temperature scaling: it came with 1.8."""
    return tuple(map(int, sklearn.__version__.split(".")[:2])) >= (1, 8)


def _by_scikit_learn(labels: npt.NDArray[np.intp], logits: npt.NDArray[np.float64]) -> float:
    n_classes = logits.shape[1]
    probe = PROBE * np.eye(1, n_classes, 1)
    if n_classes == 2:  # it wants one score z, and makes (-z, z) of it
        logits, probe = np.diff(logits) / 2, np.diff(probe) / 2
    # Every class must occur, so each gets a row that weighs nothing.
    X = np.concatenate([logits, np.zeros((n_classes, logits.shape[1]))])
    y = np.concatenate([labels, np.arange(n_classes)])
    weight = np.concatenate([np.ones(len(labels)), np.zeros(n_classes)])
    rows = np.arange(len(y))
    model = CalibratedClassifierCV(
        _Scores(), method="temperature", cv=[(rows, rows)], ensemble=False
    )
    model.fit(X, y, sample_weight=weight)
    first, second = model.predict_proba(probe)[0, :2]
    return float(PROBE / np.log(second / first))


def by_root(labels: npt.NDArray[np.intp], logits: npt.NDArray[np.float64]) -> float:
    """Find the same temperature without scikit-learn's help, which older versions do not give.

    Parameters
    ----------
    labels : ndarray of int, shape (n_samples,)
        Class indices.
    logits : ndarray of float64, shape (n_samples, n_classes)
        As `fit_temperature` takes them.

    Returns
    -------
    float
        Where the slope of the log-loss, which is convex in the inverse temperature, is zero.
    """
    from scipy.optimize import brentq
    from scipy.special import softmax

    own = logits[np.arange(len(labels)), labels]

    def slope(log_beta: float) -> float:
        chances = softmax(np.exp(log_beta) * logits, axis=1)
        return float(np.mean(np.sum(chances * logits, axis=1) - own))

    if slope(-BOUND) * slope(BOUND) > 0:
        return float(np.exp(BOUND if slope(-BOUND) > 0 else -BOUND))
    return float(np.exp(-brentq(slope, -BOUND, BOUND)))


def judge_calibration(
    labels: npt.NDArray[np.int64], probabilities: npt.NDArray[np.floating]
) -> dict[str, Any]:
    """Say how far probabilities can be believed.

    Parameters
    ----------
    labels : ndarray of int64, shape (n_samples,)
        True class indices.
    probabilities : ndarray, shape (n_samples, n_classes)
        Rows sum to one.

    Returns
    -------
    dict
        ``log_loss`` (nats), ``ece``, and ``bins``: of each confidence bin with rows in it, ``n``,
        the mean ``confidence`` and the ``accuracy``.
    """
    from sklearn.metrics import log_loss

    classes = np.arange(probabilities.shape[1])
    n, confidence, right = confidence_bins(labels, probabilities)
    filled = n > 0
    bins = zip(n[filled], confidence[filled] / n[filled], right[filled] / n[filled], strict=True)
    return {
        "log_loss": float(log_loss(labels, probabilities, labels=classes)),
        "ece": expected_calibration_error(labels, probabilities),
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
) -> dict[str, Any]:
    """Compare probabilities with what they become at a temperature.

    Parameters
    ----------
    labels : ndarray of int64, shape (n_samples,)
        True class indices of the test rows.
    probabilities : ndarray, shape (n_samples, n_classes)
        Rows sum to one.
    temperature : float or None
        What `fit_temperature` found.
    n_validation : int
        How many rows it looked at; zero where none could be held out.

    Returns
    -------
    dict
        ``temperature``, ``n_validation``, and ``before`` and ``after`` as `judge_calibration` says
        them; ``after`` is None where there is no temperature.
    """
    return {
        "temperature": temperature,
        "n_validation": n_validation,
        "before": judge_calibration(labels, probabilities),
        "after": None
        if temperature is None
        else judge_calibration(labels, temper(probabilities, temperature)),
    }
