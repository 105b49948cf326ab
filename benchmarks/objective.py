"""The objective of a whole strategy in float64, by blocks of rows: the judge of every solution."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from classify.solver.problems import class_pairs

Array = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating]
Integers = npt.NDArray[np.integer]

# Numbers of float64 in one block: of its features, or of its scores.
BLOCK_NUMBERS = 8_000_000


def objective(
    strategy: str, coef: Array, intercept: Array, C: float, X: Floats, y: Integers
) -> float:
    """Return the sum of the objectives of a strategy's problems.

    Parameters
    ----------
    strategy : {'multinomial', 'ovr', 'ovo'}
        How classes became heads.
    coef : ndarray of float64, shape (n_heads, n_features)
        Weights, heads in scikit-learn's order.
    intercept : ndarray of float64, shape (n_heads,)
        Intercepts; they are not penalised.
    C : float
        Weight of the losses.
    X : ndarray of float32 or float64, shape (n_rows, n_features)
        Features; one block of rows at a time is turned into float64.
    y : ndarray of int, shape (n_rows,)
        Class indices from 0, every class present.

    Returns
    -------
    float
        ``C * sum(loss) + 0.5 * ||coef||^2``.
    """
    coef, intercept = np.asarray(coef, np.float64), np.asarray(intercept, np.float64)
    n_classes = int(y.max()) + 1
    loss = 0.0
    if strategy == "ovo" and n_classes > 2:
        pairs = class_pairs(n_classes)
        for label in range(n_classes):  # the rows of a class meet only its own pairs
            heads = np.flatnonzero((pairs == label).any(axis=1))
            sign = np.where(pairs[heads, 1] == label, 1.0, -1.0)
            rows = np.flatnonzero(y == label)
            for part in _blocks(len(rows), X.shape[1], len(heads)):
                scores = X[rows[part]].astype(np.float64) @ coef[heads].T + intercept[heads]
                loss += float(np.logaddexp(0.0, -sign * scores).sum())
    else:
        positive = np.arange(n_classes) if n_classes > 2 else np.array([1])
        for part in _blocks(len(X), X.shape[1], len(coef)):
            scores = X[part].astype(np.float64) @ coef.T + intercept
            if strategy == "multinomial" and n_classes > 2:
                loss += _softmax_loss(scores, y[part])
            else:
                sign = np.where(y[part, None] == positive, 1.0, -1.0)
                loss += float(np.logaddexp(0.0, -sign * scores).sum())
    return C * loss + 0.5 * float(np.vdot(coef, coef))


def _softmax_loss(scores: Array, y: Integers) -> float:
    top = scores.max(axis=1)
    log_sum = np.log(np.exp(scores - top[:, None]).sum(axis=1)) + top
    return float((log_sum - scores[np.arange(len(scores)), y]).sum())


def _blocks(n_rows: int, n_features: int, n_heads: int) -> list[slice]:
    step = max(1, BLOCK_NUMBERS // max(n_features, n_heads))
    return [slice(start, start + step) for start in range(0, n_rows, step)]
