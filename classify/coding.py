"""From the scores of the linear heads to answers: decisions and probabilities.

Three strategies turn ``n_classes`` classes into linear heads:

========================  ==========================================  =======================
strategy                  heads                                       head ``k`` is positive for
========================  ==========================================  =======================
``multinomial``           ``n_classes`` (one softmax)                 class ``k``
``ovr`` (one-vs-rest)     ``n_classes`` binary problems               class ``k``
``ovo`` (one-vs-one)      ``n_classes (n_classes - 1) / 2`` pairs      the later class of the pair
========================  ==========================================  =======================

Two classes need one head in each of them, positive for the second class. Everything here is a
pure function of the scores, so that a head read from a file answers exactly as the estimator
that was trained.

Pairwise probabilities are coupled by Wu, Lin and Weng, "Probability estimates for multi-class
classification by pairwise coupling", Journal of Machine Learning Research 5 (2004) 975-1005,
section 4 ("the second approach"). Given ``r_ij``, an estimate of the probability of class ``i``
among classes ``i`` and ``j``, the class probabilities ``p`` minimise

    ``sum_i sum_{j != i} (r_ji p_i - r_ij p_j)^2``   subject to   ``sum_i p_i = 1``.

With ``Q_ii = sum_{j != i} r_ji^2`` and ``Q_ij = -r_ji r_ij`` that is ``min p'Qp / 2``, solved by
the paper's algorithm 2, the iteration that LIBSVM runs (``multiclass_probability`` in
``svm.cpp``), with LIBSVM's clipping and stopping rule so that the answers are the same. Every
step is made for a whole chunk of rows at once, and rows that have met the stopping rule leave.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from classify.solver.problems import n_heads
from classify.solver.threads import workers

STRATEGIES = ("multinomial", "ovr", "ovo")
# In place of a probability of zero, whose logarithm is not finite.
_SMALLEST = float(np.finfo(np.float64).tiny)
# LIBSVM's: a pairwise probability of exactly 0 or 1 would make the linear system singular.
_CLIP = 1e-7
# The matrices of one chunk of rows: n_classes^2 numbers a row, small enough to stay in a
# processor's cache for 10 classes and within tens of megabytes for 100.
_COUPLED_NUMBERS = 4_000_000
# From so many classes on, probabilities are coupled row by row (`couple_many`), until no product of
# Q is further from their mean than this, in units of one over the number of classes.
MANY_CLASSES = 64
_COUPLED = 1e-5

Floats = npt.NDArray[np.floating[Any]]


def decision_values(strategy: str, scores: Floats, n_classes: int) -> Floats:
    """Return what ``decision_function`` returns: (n_samples, n_classes), or (n_samples,) for two.

    One-vs-one: votes plus confidences squeezed into (-1/3, 1/3), as scikit-learn's
    ``OneVsOneClassifier`` does. Otherwise the scores (n_samples, n_heads) themselves.
    """
    scores = _check_scores(strategy, scores, n_classes)
    if strategy == "ovo":
        values = _votes_and_confidences(scores, n_classes)
        return values[:, 1] if n_classes == 2 else values
    return scores[:, 0] if n_classes == 2 else scores


def decide(strategy: str, scores: Floats, n_classes: int) -> npt.NDArray[np.intp]:
    """Return each row's predicted class index, of the first of equal `decision_values`.

    Of two classes, a score of exactly zero is class 0.
    """
    values = decision_values(strategy, scores, n_classes)
    if n_classes == 2:
        return (values > 0).astype(np.intp)
    return np.argmax(values, axis=1)


def probabilities(strategy: str, scores: Floats, n_classes: int) -> npt.NDArray[np.float64]:
    """Return the probabilities of the classes (n_samples, n_classes); rows sum to 1.

    Multinomial: the softmax. One-vs-rest: each head's sigmoid, normalised. One-vs-one: pairwise
    probabilities coupled by the second method of Wu, Lin and Weng (2004), see the module.
    """
    scores = _check_scores(strategy, scores, n_classes)
    if strategy == "ovo" and n_classes >= MANY_CLASSES:
        return couple_many(scores, n_classes)
    exact = scores.astype(np.float64)
    if n_classes == 2:
        return np.exp(np.concatenate([_log_sigmoid(-exact), _log_sigmoid(exact)], axis=1))
    if strategy == "ovo":
        return couple(np.exp(_log_sigmoid(-exact)), n_classes)
    # One-vs-rest's quotient is taken in logarithms, so that a row whose sigmoids all underflow has
    # probabilities too.
    return _softmax(_log_sigmoid(exact) if strategy == "ovr" else exact)


def log_probabilities(strategy: str, scores: Floats, n_classes: int) -> npt.NDArray[np.float64]:
    """Return the logarithms of `probabilities`, finite where these have underflowed."""
    scores = _check_scores(strategy, scores, n_classes)
    if strategy == "ovo" and n_classes > 2:
        return logarithms(probabilities(strategy, scores, n_classes))
    exact = scores.astype(np.float64)
    if n_classes == 2:
        return np.concatenate([_log_sigmoid(-exact), _log_sigmoid(exact)], axis=1)
    logits = _log_sigmoid(exact) if strategy == "ovr" else exact
    logits = logits - logits.max(axis=1, keepdims=True)
    return np.asarray(logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)))


def temper(
    probabilities: npt.NDArray[np.floating[Any]], temperature: float
) -> npt.NDArray[np.float64]:
    """Divide the logarithms of probabilities (n_samples, n_classes) by a temperature; normalise.

    Of a softmax that is the softmax of the scores divided by the temperature: temperature scaling
    (Guo, Pleiss, Sun and Weinberger, "On calibration of modern neural networks", ICML 2017). The
    order of the classes stays as it is.
    """
    return _softmax(logarithms(probabilities) / temperature)


def logarithms(probabilities: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
    """Return logarithms that are finite where a probability is zero."""
    return np.log(np.maximum(np.asarray(probabilities, dtype=np.float64), _SMALLEST))


def _softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    mass = np.exp(logits - logits.max(axis=1, keepdims=True))
    return mass / mass.sum(axis=1, keepdims=True)


@dataclass(frozen=True)
class ProblemSums:
    """How binary problems do on rows of their own classes, (n_heads,) each; adds over blocks."""

    n_rows: npt.NDArray[np.float64]  # or their weight
    n_right: npt.NDArray[np.float64]  # on the right side of zero
    loss: npt.NDArray[np.float64]  # the sum of the logistic losses

    @classmethod
    def zeros(cls, n_heads: int) -> ProblemSums:
        """Make the sums over no rows."""
        return cls(*np.zeros((3, n_heads)))

    def __add__(self, other: ProblemSums) -> ProblemSums:
        return ProblemSums(
            self.n_rows + other.n_rows, self.n_right + other.n_right, self.loss + other.loss
        )


def problem_sums(
    strategy: str,
    scores: Floats,
    labels: npt.NDArray[np.intp],
    n_classes: int,
    weights: npt.NDArray[np.float64] | None = None,
) -> ProblemSums:
    """Judge each binary problem of one-vs-rest or one-vs-one on the rows of its own classes.

    Shapes: weights (n_rows,).
    """
    scores = _check_scores(strategy, scores, n_classes)
    sums = ProblemSums.zeros(scores.shape[1])
    for label in np.unique(labels):
        heads, positive = _part_in(strategy, int(label), n_classes)
        mine = labels == label
        rows = scores[np.ix_(mine, heads)].astype(np.float64)
        right, losses = (rows > 0) == positive, _log_sigmoid(np.where(positive, rows, -rows))
        if weights is None:
            sums.n_rows[heads] += len(rows)
            sums.n_right[heads] += right.sum(axis=0)
            sums.loss[heads] -= losses.sum(axis=0)
        else:
            sums.n_rows[heads] += weights[mine].sum()
            sums.n_right[heads] += weights[mine] @ right
            sums.loss[heads] -= weights[mine] @ losses
    return sums


def _part_in(
    strategy: str, label: int, n_classes: int
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
    """Return the heads whose problem has rows of a class, and whether it is the positive one."""
    if n_classes == 2:
        return np.array([0]), np.array([label == 1])
    if strategy == "ovr":
        heads = np.arange(n_classes)
        return heads, heads == label
    # Where the pairs of the earlier classes with this one stand, and those with the later ones.
    earlier = np.arange(label)
    later = np.arange(n_classes - 1 - label) + label * (2 * n_classes - label - 1) // 2
    heads = np.concatenate([earlier * (2 * n_classes - earlier - 3) // 2 + label - 1, later])
    return heads, np.arange(n_classes - 1) < label


def _log_sigmoid(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.minimum(scores, 0.0) - np.log1p(np.exp(-np.abs(scores)))


def votes_and_margins(
    scores: Floats, n_classes: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Count each class's votes among the pairs, and add up its scores: both (n_samples, n_classes).

    A score of exactly zero votes for the first of its pair. A margin is the sum of the scores of a
    class's pairs, each with the sign that speaks for it.
    """
    # Counts and sums of a product are as fast as the memory; numpy's of bools are not.
    votes = np.zeros((len(scores), n_classes), np.float32)
    margins = np.zeros((len(scores), n_classes))
    ones = np.ones(n_classes, np.float32)
    # The pairs of a class with the later ones are neighbours. A matrix of signs for all pairs at
    # once would have n_classes^3 / 2 numbers.
    start = 0
    for first in range(n_classes - 1):
        later = n_classes - 1 - first
        part = scores[:, start : start + later]
        won = (part > 0).astype(np.float32)
        votes[:, first] += later - won @ ones[:later]
        votes[:, first + 1 :] += won
        margins[:, first] -= part.sum(axis=1, dtype=np.float64)
        margins[:, first + 1 :] += part
        start += later
    return votes.astype(np.float64), margins


def _votes_and_confidences(scores: Floats, n_classes: int) -> npt.NDArray[np.float64]:
    """Add to the votes, which decide, the summed confidences, below a third of a vote."""
    votes, confidence = votes_and_margins(scores, n_classes)
    return votes + confidence / (3 * (np.abs(confidence) + 1))


def _check_scores(strategy: str, scores: Floats, n_classes: int) -> Floats:
    expected = n_heads(strategy, n_classes)
    scores = np.asarray(scores)
    if scores.ndim == 1:
        scores = scores[:, None]
    if scores.ndim != 2 or scores.shape[1] != expected:
        raise ValueError(
            f"{strategy} with {n_classes} classes has {expected} heads, "
            f"so scores must be (n_samples, {expected}); got {scores.shape}"
        )
    return scores


def couple(first: npt.NDArray[np.float64], n_classes: int) -> npt.NDArray[np.float64]:
    """Couple probabilities (n_samples, n_pairs) of pairs' first classes into those of classes."""
    n_samples = first.shape[0]
    result = np.empty((n_samples, n_classes))
    step = max(1, min(2048, _COUPLED_NUMBERS // n_classes**2))
    for start in range(0, n_samples, step):
        rows = slice(start, start + step)
        result[rows] = _couple_chunk(np.clip(first[rows], _CLIP, 1.0 - _CLIP), n_classes).T
    return result


def _couple_chunk(first: npt.NDArray[np.float64], k: int) -> npt.NDArray[np.float64]:
    """Run the iteration for a chunk; arrays have their rows last, so that steps are contiguous."""
    rows = first.shape[0]
    i, j = np.triu_indices(k, k=1)
    # q[a, b] is Q_ab; the diagonal is filled in below.
    q = np.zeros((k, k, rows))
    cross = -(first * (1.0 - first)).T
    q[i, j] = cross
    q[j, i] = cross
    squares = np.zeros((k, k, rows))  # squares[a, b] = r_ba^2
    squares[i, j] = ((1.0 - first) ** 2).T
    squares[j, i] = (first**2).T
    q[np.arange(k), np.arange(k)] = squares.sum(axis=1)
    del squares

    p = np.full((k, rows), 1.0 / k)
    result = np.empty((k, rows))
    where = np.arange(rows)
    eps = 0.005 / k
    for _ in range(max(100, k)):
        qp = np.einsum("abr,br->ar", q, p)
        pqp = np.einsum("ar,ar->r", p, qp)
        busy = np.abs(qp - pqp).max(axis=0) >= eps
        if not busy.all():
            result[:, where[~busy]] = p[:, ~busy]
            if not busy.any():
                return result
            where, p, qp, pqp = where[busy], p[:, busy], qp[:, busy], pqp[busy]
            q = q[:, :, busy]
        for t in range(k):
            diff = (pqp - qp[t]) / q[t, t]
            p[t] += diff
            pqp = (pqp + diff * (diff * q[t, t] + 2.0 * qp[t])) / (1.0 + diff) ** 2
            qp += diff * q[t]
            qp /= 1.0 + diff
            p /= 1.0 + diff
    result[:, where] = p
    return result


def couple_many(scores: Floats, n_classes: int) -> npt.NDArray[np.float64]:
    """Couple the scores (n_samples, n_pairs) of many classes' pairs, in the scores' dtype.

    The same minimum as `couple` seeks, by conjugate gradients that keep the sum of the
    probabilities, preconditioned by the diagonal of Q: a few products with Q, in place of
    steps through the classes one by one.
    """
    # Loaded before its threads are limited: those of products this small wait more than they work.
    import scipy.linalg

    result = np.empty((len(scores), n_classes))
    (times,) = scipy.linalg.get_blas_funcs(("tpmv",), dtype=scores.dtype)
    with workers(1):
        for row, found in zip(scores, result, strict=True):
            found[:] = _couple_scores(row, times, n_classes)
    return result


def _couple_scores(row: Floats, times: Callable[..., Floats], k: int) -> npt.NDArray[np.float64]:
    """Couple the scores of a row (n_pairs,).

    In the order of the pairs, a number for each is a packed triangle: that of the later classes by
    the earlier ones, without a first row and a last column, which are empty.
    """
    limit = float(np.log((1 - _CLIP) / _CLIP))
    second = np.exp(np.clip(row, -limit, limit))
    first = 1 / (1 + second)
    second *= first
    cross = first * second
    ones = np.ones(k - 1, row.dtype)

    def of_earlier(table: Floats, v: Floats) -> Floats:
        return times(k - 1, table, v, lower=1, trans=1)

    def of_later(table: Floats, v: Floats) -> Floats:
        return times(k - 1, table, v, lower=1)

    diagonal = np.zeros(k)
    diagonal[:-1] += of_earlier(second * second, ones)
    diagonal[1:] += of_later(first * first, ones)

    def product(p: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        v = p.astype(row.dtype)
        found = diagonal * p
        found[:-1] -= of_earlier(cross, v[1:])
        found[1:] -= of_later(cross, v[:-1])
        return found

    return _couple_row(product, diagonal)


def _couple_row(
    product: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]],
    diagonal: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    """Minimise ``p'Qp / 2`` over probabilities, given products with Q and its diagonal."""
    inverse = 1 / diagonal
    total = inverse.sum()
    p = inverse / total
    gradient = product(p)
    direction, past = np.zeros_like(p), 1.0
    for _ in range(max(100, len(p))):
        # LIBSVM's rule compares the gradient with its mean; this is stricter than it is.
        if np.abs(gradient - p @ gradient).max() < _COUPLED / len(p):
            break
        z = inverse * (gradient - (inverse @ gradient) / total)
        new = float(z @ gradient)
        direction = -z + (new / past) * direction
        past = new
        along = product(direction)
        curvature = float(direction @ along)
        if not (new > 0 and curvature > 0):  # rounding is all that is left
            break
        p = p + (new / curvature) * direction
        gradient = gradient + (new / curvature) * along
    p = np.maximum(p, 0.0)
    return np.asarray(p / p.sum())
