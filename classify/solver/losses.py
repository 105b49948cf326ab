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
    """
    loss = np.abs(u)
    np.negative(loss, out=loss)
    np.exp(loss, out=loss)
    np.log1p(loss, out=loss)
    loss += np.maximum(u, 0)
    return loss, sigmoid(np.negative(u))


def sigmoid(minus: Floats) -> Floats:
    """Return ``1 / (1 + exp(minus))`` in its argument's place: no branch, no cancellation."""
    with np.errstate(over="ignore"):  # an infinite exponential is a residual of zero
        np.exp(minus, out=minus)
    minus += 1
    return np.reciprocal(minus, out=minus)


def logistic_curvature(u: Floats) -> tuple[Floats, Floats]:
    """Evaluate the first two derivatives of the logistic loss ``log(1 + exp(u))``."""
    p = sigmoid(np.negative(u, out=u))
    second = 1 - p
    second *= p
    return p, second


def softmax(z: Floats, labels: npt.NDArray[np.intp]) -> tuple[Floats, Floats]:
    """Evaluate the multinomial loss ``log(sum_k exp(z_k)) - z_label``.

    Shapes: `z` (n_rows, n_classes), `labels` (n_rows,), `loss` (n_rows,), `residual` (n_rows,
    n_classes).
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

    Shapes: `t` (n_classes, n_problems, n_rows), `top` (n_problems, n_rows), `own, others, total`
    (n_problems, n_rows).
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
