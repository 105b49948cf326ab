"""From the scores of the linear heads to answers: decisions and probabilities.

Four codings turn ``n_classes`` classes into linear heads:

========================  ==========================================  =======================
coding                    heads                                       head ``k`` is positive for
========================  ==========================================  =======================
``multinomial``           ``n_classes`` (one softmax)                 class ``k``
``ovr`` (one-vs-rest)     ``n_classes`` binary problems               class ``k``
``ovo`` (one-vs-one)      ``n_classes (n_classes - 1) / 2`` pairs      the later class of the pair
``ecoc`` (code book)      one a column of the code book               classes with a 1 there
========================  ==========================================  =======================

Two classes need one head in each of them, positive for the second class. A strategy has one of
these codings, and a name (`classify.solver.strategies`). Everything here is a
pure function of the scores, so that a head read from a file answers exactly as the estimator
that was trained.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from classify.codings.code_books import (
    code_log_probabilities,
    code_values,
    log_sigmoid,
    with_confidences,
)
from classify.codings.coupling import MANY_CLASSES, couple, couple_many
from classify.linear_head import PairScores, Scores, reordered_pairs
from classify.solver.losses import BINARY_LOSSES
from classify.solver.strategies import Strategy, strategy_of

# In place of a probability of zero, whose logarithm is not finite.
_SMALLEST = float(np.finfo(np.float64).tiny)
# Scores of so many earlier classes are added up, in int8 and in the scores' own dtype.
_LATE = 32

Floats = npt.NDArray[np.floating[Any]]


def decision_values(strategy: str | Strategy, scores: Scores, n_classes: int) -> Floats:
    """Return what ``decision_function`` returns: (n_samples, n_classes), or (n_samples,) for two.

    One-vs-one: votes plus confidences squeezed into (-1/3, 1/3), as scikit-learn's
    ``OneVsOneClassifier`` does. Code book: what its decoding says of each class, see
    `classify.codings.code_books`. Otherwise the scores (n_samples, n_heads) themselves.
    """
    strategy = strategy_of(strategy)
    scores = _check_scores(strategy, scores, n_classes)
    if strategy.coding == "ovo":
        values = with_confidences(*votes_and_margins(scores, n_classes))
        return values[:, 1] if n_classes == 2 else values
    assert not isinstance(scores, PairScores)
    if strategy.coding == "ecoc" and n_classes > 2:
        return code_values(strategy.code_of(n_classes), scores, strategy.decoding)
    return scores[:, 0] if n_classes == 2 else scores


def decide(strategy: str | Strategy, scores: Scores, n_classes: int) -> npt.NDArray[np.intp]:
    """Return each row's predicted class index, of the first of equal `decision_values`.

    Of two classes, a score of exactly zero is class 0.
    """
    values = decision_values(strategy, scores, n_classes)
    if n_classes == 2:
        return (values > 0).astype(np.intp)
    return np.argmax(values, axis=1)


def probabilities(
    strategy: str | Strategy, scores: Scores, n_classes: int
) -> npt.NDArray[np.float64]:
    """Return the probabilities of the classes (n_samples, n_classes); rows sum to 1.

    Multinomial: the softmax. One-vs-rest: each head's sigmoid, normalised. One-vs-one: pairwise
    probabilities coupled by the second method of Wu, Lin and Weng (2004), see the module. Code
    book: the softmax of minus the sums of losses. Of other scores than logits, such as a support
    vector machine's margins, they are what these rules make of them.
    """
    strategy = strategy_of(strategy)
    scores = _check_scores(strategy, scores, n_classes)
    if strategy.coding == "ovo" and n_classes >= MANY_CLASSES:
        return couple_many(scores, n_classes)
    if isinstance(scores, PairScores):
        scores = scores.table()
    exact = scores.astype(np.float64)
    if n_classes == 2:
        return np.exp(np.concatenate([log_sigmoid(-exact), log_sigmoid(exact)], axis=1))
    if strategy.coding == "ovo" and strategy.coupled_as is not None:
        # The steps through the classes end early, and where they do depends on their order.
        order = strategy.coupled_as
        pairs, signs = reordered_pairs(np.argsort(order))
        return couple(np.exp(log_sigmoid(-signs * exact[:, pairs])), n_classes)[:, order]
    if strategy.coding == "ovo":
        return couple(np.exp(log_sigmoid(-exact)), n_classes)
    if strategy.coding == "ecoc":
        return np.exp(code_log_probabilities(strategy.code_of(n_classes), exact))
    # One-vs-rest's quotient is taken in logarithms, so that a row whose sigmoids all underflow has
    # probabilities too.
    return _softmax(log_sigmoid(exact) if strategy.coding == "ovr" else exact)


def log_probabilities(
    strategy: str | Strategy, scores: Scores, n_classes: int
) -> npt.NDArray[np.float64]:
    """Return the logarithms of `probabilities`, finite where these have underflowed."""
    strategy = strategy_of(strategy)
    scores = _check_scores(strategy, scores, n_classes)
    if strategy.coding == "ovo" and n_classes > 2:
        return logarithms(probabilities(strategy, scores, n_classes))
    assert not isinstance(scores, PairScores)
    exact = scores.astype(np.float64)
    if n_classes == 2:
        return np.concatenate([log_sigmoid(-exact), log_sigmoid(exact)], axis=1)
    if strategy.coding == "ecoc":
        return code_log_probabilities(strategy.code_of(n_classes), exact)
    return temper_logarithms(log_sigmoid(exact) if strategy.coding == "ovr" else exact, 1.0)


def temper(
    probabilities: npt.NDArray[np.floating[Any]], temperature: float | None
) -> npt.NDArray[np.float64]:
    """Divide the logarithms of probabilities (n_samples, n_classes) by a temperature; normalise.

    Of a softmax that is the softmax of the scores divided by the temperature: temperature scaling
    (Guo, Pleiss, Sun and Weinberger, "On calibration of modern neural networks", ICML 2017). The
    order of the classes stays as it is. Without a temperature, so do the probabilities.
    """
    if temperature is None:
        return np.asarray(probabilities, dtype=np.float64)
    return _softmax(logarithms(probabilities) / temperature)


def temper_logarithms(
    log_probabilities: npt.NDArray[np.float64], temperature: float | None
) -> npt.NDArray[np.float64]:
    """Return the logarithms of what `temper` makes of probabilities, given theirs."""
    if temperature is None:
        return log_probabilities
    logits = log_probabilities / temperature
    logits = logits - logits.max(axis=1, keepdims=True)
    return np.asarray(logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)))


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
    loss: npt.NDArray[np.float64]  # the sum of the strategy's losses

    @classmethod
    def zeros(cls, n_heads: int) -> ProblemSums:
        """Make the sums over no rows."""
        return cls(*np.zeros((3, n_heads)))

    def __add__(self, other: ProblemSums) -> ProblemSums:
        return ProblemSums(
            self.n_rows + other.n_rows, self.n_right + other.n_right, self.loss + other.loss
        )


def problem_sums(
    strategy: str | Strategy,
    scores: Floats,
    labels: npt.NDArray[np.intp],
    n_classes: int,
    weights: npt.NDArray[np.float64] | None = None,
) -> ProblemSums:
    """Judge each binary problem of a strategy on the rows of its own classes.

    Shapes: weights (n_rows,).
    """
    strategy = strategy_of(strategy)
    scores = _check_scores(strategy, scores, n_classes)
    sums = ProblemSums.zeros(scores.shape[1])
    for label in np.unique(labels):
        heads, positive = strategy.problems_of(int(label), n_classes)
        mine = labels == label
        of_mine = None if weights is None else weights[mine]
        block = scores[np.ix_(mine, heads)]
        _judge_rows(block, heads, positive, sums, of_mine, strategy.loss)
    return sums


def sums_of_class(
    scores: Floats,
    label: int,
    heads: npt.NDArray[np.intp],
    sums: ProblemSums,
    weights: npt.NDArray[np.float64] | None = None,
    loss: str = "logistic",
) -> None:
    """Add rows of a class to the sums of the pairs that it is in.

    Shapes: `scores` (n_rows, n_pairs); `weights` (n_rows,).
    """
    _judge_rows(scores, heads, np.arange(len(heads)) < label, sums, weights, loss)


def _judge_rows(
    scores: Floats,
    heads: npt.NDArray[np.intp],
    positive: npt.NDArray[np.bool_],
    sums: ProblemSums,
    weights: npt.NDArray[np.float64] | None,
    loss: str,
) -> None:
    rows = scores.astype(np.float64)
    right = (rows > 0) == positive
    losses, _ = BINARY_LOSSES[loss].value(np.where(positive, -rows, rows))
    if weights is None:
        sums.n_rows[heads] += len(rows)
        sums.n_right[heads] += right.sum(axis=0)
        sums.loss[heads] += losses.sum(axis=0)
    else:
        sums.n_rows[heads] += weights.sum()
        sums.n_right[heads] += weights @ right
        sums.loss[heads] += weights @ losses


def votes_and_margins(
    scores: Scores, n_classes: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Count each class's votes among the pairs, and add up its scores: both (n_samples, n_classes).

    A score of exactly zero votes for the first of its pair. A margin is the sum of the scores of a
    class's pairs, each with the sign that speaks for it.
    """
    n = len(scores)
    votes, margins = np.zeros((2, n, n_classes))
    # Sums of many scores are made in their own dtype, and of these in float64; of few at once.
    exact = scores.dtype if n_classes >= MANY_CLASSES else np.dtype(np.float64)
    won_of_late, late = np.zeros((n, n_classes), np.int8), np.zeros((n, n_classes), exact)
    # Counts and sums of a product are as fast as the memory; numpy's of bools are not.
    ones, counts = np.ones(n_classes, exact), np.ones(n_classes, np.float32)
    for first, part in _runs(scores, n_classes):
        later = part.shape[1]
        won = part > 0
        won_of_late[:, first + 1 :] += won.view(np.int8)
        votes[:, first] += later - won.astype(np.float32) @ counts[:later]
        part = part.astype(exact, copy=False)
        margins[:, first] -= part @ ones[:later]
        late[:, first + 1 :] += part
        if first % _LATE == _LATE - 1 or later == 1:
            votes += won_of_late
            margins += late
            won_of_late[:], late[:] = 0, 0
    return votes, margins


def _runs(scores: Scores, n_classes: int) -> Iterator[tuple[int, Floats]]:
    """Yield each class and the scores of its pairs with the later ones, which are neighbours.

    A matrix of signs for all pairs at once would have n_classes^3 / 2 numbers.
    """
    if isinstance(scores, PairScores):
        yield from scores.runs()
        return
    start = 0
    for first in range(n_classes - 1):
        later = n_classes - 1 - first
        yield first, scores[:, start : start + later]
        start += later


class PairAnswers(NamedTuple):
    """What one-vs-one makes of scores: `decision_values`, `probabilities`, summed margins.

    Each is (n_samples, n_classes).
    """

    values: npt.NDArray[np.float64]
    probabilities: npt.NDArray[np.float64]
    margins: npt.NDArray[np.float64]


def pair_answers(scores: Scores, n_classes: int) -> PairAnswers:
    """Answer with one-vs-one's heads for three classes or more, in every way at once."""
    votes, margins = votes_and_margins(
        _check_scores(strategy_of("ovo"), scores, n_classes), n_classes
    )
    chances = probabilities("ovo", scores, n_classes)
    return PairAnswers(with_confidences(votes, margins), chances, margins)


def _check_scores(strategy: Strategy, scores: Any, n_classes: int) -> Any:
    expected = strategy.n_heads(n_classes)
    if not isinstance(scores, PairScores):
        scores = np.asarray(scores)
    if scores.ndim == 1:
        scores = scores[:, None]
    if scores.ndim != 2 or scores.shape[1] != expected:
        raise ValueError(
            f"{strategy.name} with {n_classes} classes has {expected} heads, "
            f"so scores must be (n_samples, {expected}); got {scores.shape}"
        )
    return scores
