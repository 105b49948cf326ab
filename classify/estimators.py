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

import inspect
from numbers import Integral
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from classify.codings.decisions import decision_values, pair_answers, probabilities
from classify.estimator_base import LinearHeads
from classify.linear_head import Head
from classify.solver.codes import Code, check_code, code_book
from classify.solver.problems import class_pairs
from classify.solver.row_norms import Norm
from classify.solver.solution import Solution
from classify.solver.strategies import Strategy, strategy_of

Floats = npt.NDArray[np.floating[Any]]
_Estimator = TypeVar("_Estimator", bound=type[LinearHeads])


# The sections of numpydoc that the estimators share: see `with_shared_sections`.
_SECTIONS = """\
Parameters
----------
C : float
    Weight of the losses against the penalty. The losses are summed, not averaged.
tol : float
    Largest duality gap, relative to the objective, of any problem.
max_iter : int
    Largest number of iterations; reaching it raises a ``ConvergenceWarning`` with the bound
    that was reached.
standardize : bool
    Penalise the weights of standardised features (training mean 0, standard deviation 1;
    constant features are only centred). The scaling is folded into `coef_` and `intercept_`,
    which take raw features either way.
class_weight : dict, 'balanced' or None
    Weights of the classes in `y`, as in scikit-learn's ``LogisticRegression``; they multiply
    `sample_weight` in every problem. Balanced are the classes that have any weight.
n_jobs : int or None
    Threads; ``None`` means as many as BLAS may use.
memory : int or None
    Bytes that a fit may take whose features stay on the disk, apart from `y` and
    `sample_weight`; ``None`` means half of what is free. Fits of arrays take no notice.
device : {'cpu', 'auto', 'cuda', 'cuda:N'}
    Where to fit. ``auto`` is the device of a CUDA tensor `X`, which is then not copied, else
    CUDA where there is one. A fit that does not fit into the device's memory is done on the
    CPU, with a warning. Predictions are computed on the CPU.
fit_intercept : bool
    Whether the heads have intercepts. Without them `intercept_` is zero, and `standardize`
    scales features but does not centre them.
normalize : None, 'l2' or tuple of int
    ``l2`` divides every row by its Euclidean norm before anything else, in a fit and in
    predictions; rows of zeros stay so. A tuple of widths divides each part of a row by its own.

Attributes
----------
classes_ : ndarray of shape (n_classes,)
    Labels, sorted; of rows of a weight above 0.
n_classes_ : int
    How many.
coef_ : ndarray of float64, shape (n_heads, n_features)
    Weights for raw features; one head for two classes.
intercept_ : ndarray of float64, shape (n_heads,)
    Intercepts.
n_iter_ : ndarray of int, shape (n_problems,)
    Iterations of each problem.
device_ : str
    Where it was fitted.
certificate_ : dict
    How near the optimum the fit is: see `classify.solver.solution.Solution.certificate`.
n_features_in_ : int
    Width of the features.
temperature_ : float or None
    What `classify.load_head` found in a file: logarithms of probabilities are divided by it. A fit
    sets none; the estimator of a file has no `n_iter_`, `device_` and `certificate_`.
"""
_PAIRS = """\
pairs_ : ndarray of int, shape (n_pairs, 2)
    Indices into `classes_` of each head's two classes; the head is positive for the second.
"""


_CODES = """\
code : array-like of int, shape (n_classes, n_problems), or None
    Code book of -1 (negative), 1 (positive) and 0 (left out), for the sorted classes. ``None``
    takes all ways to divide up to seven classes in two, and for more classes
    ``ceil(10 log2(n_classes))`` problems, the best of many random code books.
decoding : {'loss', 'votes'}
    Which class a row of scores is nearest to: the one with the smallest sum of losses, or the one
    that most problems agree with, and between equals the sum of the scores.
random_state : int
    Seed of the code books that are drawn.
"""
_CODE = """\
code_ : ndarray of int, shape (n_classes, n_problems)
    The code book that was used.
"""


def with_shared_sections(estimator: _Estimator) -> _Estimator:
    """Add to an estimator's docstring what holds of all of them."""
    if estimator.__doc__:  # python -OO has none
        more = _PAIRS if strategy_of(estimator._strategy).coding == "ovo" else ""
        sections = _SECTIONS
        if estimator._strategy == "ecoc":
            sections = sections.replace("tol : float\n", f"{_CODES}tol : float\n", 1)
            more = _CODE
        estimator.__doc__ = f"{inspect.cleandoc(estimator.__doc__)}\n\n{sections}{more}"
    return estimator


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
        return self._probabilities(X)

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
        return self._log_probabilities(X)


def _is_calibrated(estimator: LinearHeads) -> bool:
    return estimator._of_file()


class _MarginHeads(LinearHeads):
    """What those have whose scores are margins: probabilities where a file has calibrated them."""

    @available_if(_is_calibrated)
    def predict_proba(self, X: Any) -> npt.NDArray[np.float64]:
        """Return the probability of each class; of the estimator of a file only.

        Parameters
        ----------
        X : array-like or torch.Tensor of shape (n_samples, n_features)
            Features.

        Returns
        -------
        ndarray of float64, shape (n_samples, n_classes)
            Those of margins taken for logits, calibrated by the temperature of the file.
        """
        return self._probabilities(X)

    @available_if(_is_calibrated)
    def predict_log_proba(self, X: Any) -> npt.NDArray[np.float64]:
        """Return the logarithm of the probability of each class; of the estimator of a file only.

        Parameters
        ----------
        X : array-like or torch.Tensor of shape (n_samples, n_features)
            Features.

        Returns
        -------
        ndarray of float64, shape (n_samples, n_classes)
            Finite, where a probability has underflowed to zero too.
        """
        return self._log_probabilities(X)


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
class OneVsRestSVM(_MarginHeads):
    """One-vs-rest linear support vector machine: squared hinge loss, all classes solved together.

    The loss of a row is ``max(0, 1 - y f)^2`` of its score ``f`` and its side ``y``, 1 or -1. As in
    the logistic estimators, and other than in scikit-learn's ``LinearSVC``, the intercept is not
    penalised: the two agree without intercepts, and in the limit of a large ``intercept_scaling``.

    A score is a margin and not a logit, so a fit has no ``predict_proba``; scikit-learn's
    ``CalibratedClassifierCV`` makes probabilities of `decision_function`. The estimator of a file
    (`classify.load_head`) has one: what a run has calibrated by the file's temperature.
    """

    _strategy = "svm-ovr"


@with_shared_sections
class OneVsOneSVM(_MarginHeads):
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
