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
    loss = np.abs(u)
    np.negative(loss, out=loss)
    np.exp(loss, out=loss)
    np.log1p(loss, out=loss)
    loss += np.maximum(u, 0)
    return loss, sigmoid(np.negative(u))


def sigmoid(minus: Floats) -> Floats:
    """Return ``1 / (1 + exp(minus))`` in its argument's place: no branch, no cancellation.

    Parameters
    ----------
    minus : ndarray of float
        Minus the scores; overwritten.

    Returns
    -------
    ndarray of float
        Probabilities, same shape.
    """
    with np.errstate(over="ignore"):  # an infinite exponential is a residual of zero
        np.exp(minus, out=minus)
    minus += 1
    return np.reciprocal(minus, out=minus)


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
        ``p (1 - p)``, same shape; to rounding of `p` where that is next to one.
    """
    p = sigmoid(np.negative(u, out=u))
    second = 1 - p
    second *= p
    return p, second


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
    # One class after the other: along rows of a few classes numpy's reductions crawl.
    t = np.ascontiguousarray(z.T)
    own = labels, np.arange(len(z))
    # Relative to the label's score, so that the small loss of a well-classified row is a
    # log1p of small numbers and not a difference of large ones.
    t -= t[own]
    top = t.max(axis=0)
    others, total = softmax_shares(t[:, None], top[None], own)[1:]
    loss = top + np.where(top > 0, np.log(total[0]), np.log1p(others[0]))
    t[own] = -others[0] / total[0]
    z[...] = t.T
    return loss, z


def softmax_shares(t: Floats, top: Floats, own: Any) -> tuple[Floats, Floats, Floats]:
    """Turn scores into the softmax, with the label's share apart.

    Parameters
    ----------
    t : ndarray of float, shape (n_classes, n_problems, n_rows)
        Scores; overwritten with the softmax, but for zeros in the label's places.
    top : ndarray of float, shape (n_problems, n_rows)
        Largest scores.
    own : tuple of ndarray of int
        Of each row, its label and its number.

    Returns
    -------
    own, others, total : ndarray of float, shape (n_problems, n_rows)
        Exponentials of the scores less the largest: the label's, the others' sum, and both.
    """
    t -= top
    np.exp(t, out=t)
    label, row = own
    mine = np.ascontiguousarray(t[label, :, row].T)
    t[label, :, row] = 0
    others = t.sum(axis=0)
    total = mine + others
    t /= total
    return mine, others, total
