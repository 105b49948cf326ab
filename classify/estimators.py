"""scikit-learn estimators over the batched solver.

They minimise scikit-learn's objective and give scikit-learn's answers:

=========================  ====================================================
`MultinomialLogistic`      ``LogisticRegression()``
`OneVsRestLogistic`        ``OneVsRestClassifier(LogisticRegression())``
`OneVsOneLogistic`         ``OneVsOneClassifier(LogisticRegression())``
`OneVsRestSVM`             ``OneVsRestClassifier(LinearSVC(dual=False))``
`OneVsOneSVM`              ``OneVsOneClassifier(LinearSVC(dual=False))``
`ErrorCorrectingLogistic`  ``OutputCodeClassifier(LogisticRegression())``
=========================  ====================================================

with one difference in ties: where several classes have exactly the same decision value, ``predict``
returns the first of them, as ``argmax`` does (scikit-learn's one-vs-rest returns the last). What
else differs is said where the estimator is described.
"""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.utils.validation import check_is_fitted

from classify.codings.decisions import (
    decision_values,
    log_probabilities,
    pair_answers,
    probabilities,
)
from classify.estimator_base import LinearHeads, with_shared_sections
from classify.linear_head import Head
from classify.solver.codes import Code, check_code, code_book
from classify.solver.problems import class_pairs
from classify.solver.row_norms import Norm
from classify.solver.solution import Solution
from classify.solver.strategies import Strategy

Floats = npt.NDArray[np.floating[Any]]


def fit_without_warning(
    estimator: LinearHeads, X: Any, y: Any, start: Head | None = None, sample_weight: Any = None
) -> Solution:
    """Fit an estimator, and return how its problems ended instead of a warning.

    Python's own switch for warnings is the whole process's, so that threads cannot use it.
    """
    return estimator._solve(X, y, sample_weight, start)


def answers_of(
    estimator: LinearHeads, X: Any
) -> tuple[Floats, Floats, npt.NDArray[np.float64] | None]:
    """Return what `decision_function` and `predict_proba` do, from scores that are made once.

    Of one-vs-one also the summed margins of the classes.
    """
    k = len(estimator.classes_)
    pairs = estimator._fitted_strategy().coding == "ovo" and k > 2

    def all_at_once(strategy: Strategy, scores: Floats, n_classes: int) -> npt.NDArray[np.float64]:
        if pairs:
            return np.hstack(pair_answers(scores, n_classes))
        values = decision_values(strategy, scores, n_classes).reshape(len(scores), -1)
        return np.hstack([values, probabilities(strategy, scores, n_classes)])

    found = estimator._answer(X, all_at_once)
    if pairs:
        return found[:, :k], found[:, k : 2 * k], found[:, 2 * k :]
    values, chances = found[:, :-k], found[:, -k:]
    return (values[:, 0] if k == 2 else values), chances, None


class _LogisticHeads(LinearHeads):
    """What those have whose scores are logits of probabilities."""

    def predict_proba(self, X: Any) -> npt.NDArray[np.float64]:
        """Return the probability of each class.

        Parameters
        ----------
        X : array-like or torch.Tensor of shape (n_samples, n_features)
            Features.

        Returns
        -------
        ndarray of float64, shape (n_samples, n_classes)
            See `classify.codings.decisions.probabilities`.
        """
        return self._answer(X, probabilities)

    def predict_log_proba(self, X: Any) -> npt.NDArray[np.float64]:
        """Return the logarithm of the probability of each class.

        Parameters
        ----------
        X : array-like or torch.Tensor of shape (n_samples, n_features)
            Features.

        Returns
        -------
        ndarray of float64, shape (n_samples, n_classes)
            Finite, where a probability has underflowed to zero too.
        """
        return self._answer(X, log_probabilities)


@with_shared_sections
class MultinomialLogistic(_LogisticHeads):
    """Multinomial (softmax) logistic regression.

    Minimises ``C * sum_i s_i loss_i + 0.5 * ||coef||^2``, intercept not penalised, to a certified
    gap. Two classes are one binary problem with one head, as in scikit-learn. Of more classes the
    heads, weights and intercepts alike, sum to zero over the classes: adding the same to all of
    them changes no probability, and the penalty wants it so.
    """

    _strategy = "multinomial"


@with_shared_sections
class OneVsRestLogistic(_LogisticHeads):
    """One-vs-rest logistic regression: each class against all others, all solved together.

    Head ``k`` of `coef_` is positive for ``classes_[k]``. Probabilities are the heads' own,
    normalised to sum to 1.
    """

    _strategy = "ovr"


@with_shared_sections
class OneVsOneLogistic(_LogisticHeads):
    """One-vs-one logistic regression: each pair of classes on its own rows, all solved together.

    Probabilities are coupled from the pairwise ones (Wu, Lin and Weng, 2004).
    """

    _strategy = "ovo"

    @property
    def pairs_(self) -> npt.NDArray[np.intp]:
        """Return the pairs of classes, one row a head."""
        check_is_fitted(self)
        return class_pairs(len(self.classes_))


@with_shared_sections
class OneVsRestSVM(LinearHeads):
    """One-vs-rest linear support vector machine: squared hinge loss, all classes solved together.

    The loss of a row is ``max(0, 1 - y f)^2`` of its score ``f`` and its side ``y``, 1 or -1. As in
    the logistic estimators, and other than in scikit-learn's ``LinearSVC``, the intercept is not
    penalised: the two agree without intercepts, and in the limit of a large ``intercept_scaling``.

    A score is a margin and not a logit, so there is no ``predict_proba``; scikit-learn's
    ``CalibratedClassifierCV`` makes probabilities of `decision_function`.
    """

    _strategy = "svm-ovr"


@with_shared_sections
class OneVsOneSVM(LinearHeads):
    """One-vs-one linear support vector machine: squared hinge loss, all pairs solved together.

    See `OneVsRestSVM` for the loss and the intercept.
    """

    _strategy = "svm-ovo"

    @property
    def pairs_(self) -> npt.NDArray[np.intp]:
        """Return the pairs of classes, one row a head."""
        check_is_fitted(self)
        return class_pairs(len(self.classes_))


@with_shared_sections
class ErrorCorrectingLogistic(_LogisticHeads):
    """Error-correcting output codes of logistic regressions, all problems solved together.

    Every problem puts some classes against others, as a code book says. The answer is the class
    whose row of the code book has the smallest sum of logistic losses against the scores, and
    probabilities are the softmax of minus these sums (Allwein, Schapire and Singer, 2000). They are
    sure of themselves, since the problems are not independent: calibrate them with a temperature.

    Two classes are one problem.
    """

    _strategy = "ecoc"

    def __init__(
        self,
        C: float = 1.0,
        *,
        code: Any = None,
        decoding: str = "loss",
        random_state: int = 0,
        tol: float = 1e-6,
        max_iter: int = 500,
        standardize: bool = False,
        class_weight: dict[Any, float] | str | None = None,
        n_jobs: int | None = None,
        memory: int | None = None,
        device: str = "cpu",
        fit_intercept: bool = True,
        normalize: Norm = None,
    ) -> None:
        super().__init__(
            C, tol=tol, max_iter=max_iter, standardize=standardize, class_weight=class_weight,
            n_jobs=n_jobs, memory=memory, device=device, fit_intercept=fit_intercept,
            normalize=normalize,
        )  # fmt: skip
        self.code = code
        self.decoding = decoding
        self.random_state = random_state

    def _choose_strategy(self, n_classes: int) -> Strategy:
        """Choose a code book, or check the one that was given."""
        if self.decoding not in ("loss", "votes"):
            raise ValueError(f"decoding must be 'loss' or 'votes', got {self.decoding!r}")
        seed = self.random_state
        if not isinstance(seed, Integral) or not 0 <= int(seed) < 2**32:
            raise ValueError(f"random_state must be an integer of 0 or more, got {seed!r}")
        given = None if self.code is None else check_code(self.code, n_classes)
        self.code_: Code = code_book(n_classes, int(seed)) if given is None else given
        return self._fitted_strategy()

    def _fitted_strategy(self) -> Strategy:
        """Decode with the code book of the fit."""
        return Strategy("ecoc", "ecoc", code=self.code_, decoding=self.decoding)
