"""The two losses as functions of scores, in forms that neither overflow nor cancel.

Each returns the loss, and the residual: the loss's derivative with respect to the scores.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]


def logistic(u: Floats) -> tuple[Floats, Floats]:
    """Evaluate the logistic loss ``log(1 + exp(u))``.

    ``u`` is minus the margin: the score itself for a row of the negative class, minus the score
    for a row of the positive class. Written this way the residual of a well-classified row keeps
    its relative precision (``sigmoid(z) - 1`` would cancel).

    Parameters
    ----------
    u : ndarray of float
        Minus the margins.

    Returns
    -------
    loss : ndarray of float
        ``log(1 + exp(u))``, same shape.
    residual : ndarray of float
        ``1 / (1 + exp(-u))``, same shape.
    """
    e = np.abs(u)
    np.negative(e, out=e)
    np.exp(e, out=e)
    loss = np.log1p(e)
    loss += np.maximum(u, 0)
    residual = np.where(u >= 0, np.ones((), u.dtype), e)
    e += 1
    residual /= e
    return loss, residual


def logistic_curvature(u: Floats) -> tuple[Floats, Floats]:
    """Evaluate the first two derivatives of the logistic loss ``log(1 + exp(u))``.

    Parameters
    ----------
    u : ndarray of float
        Minus the margins; overwritten.

    Returns
    -------
    residual : ndarray of float
        ``p = 1 / (1 + exp(-u))``, same shape.
    second : ndarray of float
        ``p (1 - p)``, same shape.
    """
    wrong = u >= 0
    np.abs(u, out=u)
    np.negative(u, out=u)
    e = np.exp(u, out=u)
    q = 1 / (1 + e)
    e *= q
    residual = np.where(wrong, q, e)
    q *= e
    return residual, q


def softmax(z: Floats, labels: npt.NDArray[np.intp]) -> tuple[Floats, Floats]:
    """Evaluate the multinomial loss ``log(sum_k exp(z_k)) - z_label``.

    Parameters
    ----------
    z : ndarray of float, shape (n_rows, n_classes)
        Scores; overwritten.
    labels : ndarray of int, shape (n_rows,)
        The class of each row.

    Returns
    -------
    loss : ndarray of float, shape (n_rows,)
        The loss of each row.
    residual : ndarray of float, shape (n_rows, n_classes)
        Softmax minus the indicator of the label.
    """
    rows = np.arange(len(z))
    # Relative to the label's score, so that the small loss of a well-classified row is a
    # log1p of small numbers and not a difference of large ones.
    z -= z[rows, labels][:, None]
    top = z.max(axis=1)
    z -= top[:, None]
    np.exp(z, out=z)
    own = z[rows, labels]
    z[rows, labels] = 0
    others = z.sum(axis=1)
    total = own + others
    loss = top + np.where(top > 0, np.log(total), np.log1p(others))
    z /= total[:, None]
    z[rows, labels] = -others / total
    return loss, z
