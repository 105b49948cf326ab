"""What estimators of linear heads share: parameters, checks of the input, the fit, decisions."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import assert_all_finite
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import (
    _check_feature_names,
    _check_n_features,
    check_consistent_length,
    check_is_fitted,
    column_or_1d,
    validate_data,
)

from classify.codings.decisions import (
    decide,
    decision_values,
    log_probabilities,
    probabilities,
    temper,
    temper_logarithms,
)
from classify.linear_head import Head, LinearHead, PairHead, SpanHead
from classify.parameters import check_parameters, row_weights
from classify.scoring import DoubleRows, answers
from classify.solver.backend import as_labels, choose_device, lies_on, open_fitter
from classify.solver.design import all_finite
from classify.solver.fit import plan
from classify.solver.out_of_core import is_source
from classify.solver.row_norms import Norm, normalized
from classify.solver.solution import Solution
from classify.solver.strategies import Strategy, strategy_of
from classify.solver.threads import workers
from data.common.memory import default_memory

Floats = npt.NDArray[np.floating[Any]]

_DTYPES = [np.float64, np.float32]
# Attributes of estimators that were read from files: see `classify.saved.estimators`.
_OF_FILES = ("temperature_", "coupled_as_")
# C times all weights: the objective, and the sums and squares that bound it, stay finite.
LARGEST_MASS = 1e100


def as_features(X: Any) -> Any:
    """Turn an array or tensor into an array in a dtype that is computed in: float16 as float32."""
    torch = sys.modules.get("torch")  # a tensor can only exist if the caller has imported torch
    if torch is not None and isinstance(X, torch.Tensor):
        X = X.detach().cpu()
        X = (X.float() if X.dtype in (torch.float16, torch.bfloat16) else X).numpy()
    if getattr(X, "dtype", None) == np.float16:
        X = np.asarray(X, dtype=np.float32)
    return X


class LinearHeads(ClassifierMixin, BaseEstimator):
    """What the estimators share."""

    _strategy: ClassVar[str]

    def __init__(
        self,
        C: float = 1.0,
        *,
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
        self.C = C
        self.tol = tol
        self.max_iter = max_iter
        self.standardize = standardize
        self.class_weight = class_weight
        self.n_jobs = n_jobs
        self.memory = memory
        self.device = device
        self.fit_intercept = fit_intercept
        self.normalize = normalize

    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        start: Head | None = None,
    ) -> LinearHeads:
        """Fit the heads.

        Parameters
        ----------
        X : array-like or torch.Tensor of shape (n_samples, n_features)
            Features. float32 is multiplied in float32, with sums in float64; float64 in float64;
            float16 is promoted to float32. A `data.format.stored_rows.StoredRows` is fitted out of
            core.
        y : array-like of shape (n_samples,)
            Labels, at least two different ones.
        sample_weight : array-like of shape (n_samples,), optional
            Weight of each row's loss. A row whose weight, times its class's, is 0 is as if absent:
            a class that has no other rows is not among `classes_`.
        start : LinearHead or PairHead, optional
            Heads to start from, such as `classify.selection.Selection.start`. The optimum does not
            depend on them.

        Returns
        -------
        self
            The fitted estimator.

        Raises
        ------
        ValueError
            If a parameter is out of range, the device is not there, fewer than two classes have
            rows of a weight above 0, or `memory` is too little (a
            `classify.solver.memory.TooLittleMemoryError`).
        """
        solution = self._solve(X, y, sample_weight, start)
        if not solution.converged:
            self._warn(solution)
        return self

    def _solve(self, X: Any, y: Any, sample_weight: Any, start: Head | None) -> Solution:
        """Fit as `fit` does, and leave it to the caller to report what did not converge."""
        check_parameters(self)
        device = "cpu" if is_source(X) else choose_device(self.device, X)
        X, y = self._check_input(X, as_labels(y), device)
        if y.dtype.kind not in "biu":  # whole numbers pass, with a warning where classes are many
            check_classification_targets(y)
        weight, rows = row_weights(self.class_weight, y, sample_weight), None
        if weight is not None and not weight.all():
            rows = np.flatnonzero(weight)
            y, weight = y[rows], weight[rows]
        labels = self._learn_classes(y, rows is not None)
        n_classes = self.n_classes_
        strategy = self._choose_strategy(n_classes)
        self._check_mass(float(len(y) if weight is None else weight.sum()))
        n_jobs, layout = self.n_jobs, None
        if is_source(X):
            memory = default_memory() if self.memory is None else int(self.memory)
            layout = plan(X.shape, X.dtype, strategy, n_classes, memory, self.n_jobs)
            n_jobs = layout.threads
        with workers(n_jobs) as pool:
            if isinstance(X, np.ndarray) and not all_finite(X, pool):
                assert_all_finite(X, estimator_name=type(self).__name__, input_name="X")
            fitter = open_fitter(
                device,
                strategy,
                normalized(X, self.normalize),
                labels,
                n_classes,
                pool,
                sample_weight=weight,
                standardize=bool(self.standardize),
                rows=rows,
                memory_plan=layout,
                fit_intercept=bool(self.fit_intercept),
            )
            head, solution = fitter.solve(
                float(self.C), tol=float(self.tol), max_iter=int(self.max_iter), start=start
            )
        for name in _OF_FILES:
            self.__dict__.pop(name, None)
        self.head_: Head = head.plain if isinstance(head, SpanHead) else head
        self.n_iter_ = solution.n_iter
        self.device_ = fitter.device
        self.certificate_ = solution.certificate()
        return solution

    def _choose_strategy(self, n_classes: int) -> Strategy:
        """Say how so many classes become heads, for a fit."""
        return strategy_of(self._strategy)

    def _fitted_strategy(self) -> Strategy:
        """Say how the heads that were fitted are decoded."""
        strategy = strategy_of(self._strategy)
        order = vars(self).get("coupled_as_")
        return strategy if order is None else replace(strategy, coupled_as=order)

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes, with heads as plain arrays, so that files name no other class."""
        state = dict(super().__getstate__())  # which is the attributes themselves
        head = state.pop("head_", None)
        if isinstance(head, PairHead):
            names = ("span", "shift", "starts", "duals", "offset")
            state["sums_"] = {name: getattr(head, name) for name in names}
        elif head is not None:
            state |= {"coef_": head.coef, "intercept_": head.intercept}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        if "sums_" in state:
            state["head_"] = PairHead(**state.pop("sums_"))
        elif "coef_" in state:
            state["head_"] = LinearHead(state.pop("coef_"), state.pop("intercept_"))
        super().__setstate__(state)

    @property
    def coef_(self) -> npt.NDArray[np.float64]:
        """Weights for raw features, ``(n_heads, n_features)``."""
        return self._head().coef

    @coef_.setter
    def coef_(self, coef: npt.NDArray[np.float64]) -> None:
        self._put(coef, self.intercept_ if hasattr(self, "head_") else np.zeros(len(coef)))

    @property
    def intercept_(self) -> npt.NDArray[np.float64]:
        """Intercepts, ``(n_heads,)``."""
        return self._head().intercept

    @intercept_.setter
    def intercept_(self, intercept: npt.NDArray[np.float64]) -> None:
        self._put(self.coef_ if hasattr(self, "head_") else np.empty((0, 0)), intercept)

    def _put(self, coef: npt.NDArray[np.float64], intercept: npt.NDArray[np.float64]) -> None:
        """Keep heads that are set from outside, one attribute after the other, in either order."""
        self.head_ = LinearHead(coef, intercept)

    def _head(self) -> Head:
        head: Head | None = vars(self).get("head_")
        if head is None:  # as an attribute that is not there, which is what is asked for
            raise AttributeError(f"this {type(self).__name__} is not fitted yet")
        return head

    def _check_input(self, X: Any, y: Any, device: str) -> tuple[Any, Any]:
        """Check features and labels as scikit-learn does, wherever they lie."""
        if lies_on(X, device):
            return self._check_tensor(X, y)
        if not is_source(X):
            return validate_data(
                self,
                as_features(X),
                y,
                dtype=_DTYPES,
                order="C",
                accept_sparse=False,
                ensure_all_finite=False,  # in `_solve`, in threads
            )
        validate_data(self, X, skip_check_array=True)
        y = column_or_1d(y, warn=True)
        check_consistent_length(X, y)
        return X, y

    def _check_mass(self, mass: float) -> None:
        if not float(self.C) * mass <= LARGEST_MASS:
            raise ValueError(
                f"C times the sum of the rows' weights is {float(self.C) * mass:g}, more than "
                f"{LARGEST_MASS:g}, whose losses would not be finite; lower C or the weights"
            )

    def _learn_classes(self, y: npt.NDArray[Any], some: bool) -> npt.NDArray[np.intp]:
        """Set the classes, and return each row's; `some` if rows without a weight are left out."""
        self.classes_, labels = np.unique(y, return_inverse=True)
        self.n_classes_ = len(self.classes_)
        if self.n_classes_ < 2:
            of = " of the rows whose weight is above 0" if some else ""
            found = f"only one class: {self.classes_[0]!r}" if len(y) else "none"
            raise ValueError(
                f"{type(self).__name__} needs at least 2 classes in the data, but y{of} holds "
                f"{found}"
            )
        if any(isinstance(name, str) and not name.strip() for name in self.classes_.tolist()):
            raise ValueError(
                "y holds a label that is an empty string; give every row the name of its class, or "
                "leave rows without one out"
            )
        return labels

    def _check_tensor(self, X: Any, y: Any) -> tuple[Any, Any]:
        """Check features that stay on their device as `validate_data` checks arrays."""
        if X.ndim != 2:
            raise ValueError(f"X must be a matrix, got a tensor of shape {tuple(X.shape)}")
        if not X.is_floating_point():
            X = X.double()
        elif X.element_size() < 4:
            X = X.float()
        # The extremes are not finite where a number is not, and take no memory of X's size.
        if X.numel() and not all(bool(extreme.isfinite()) for extreme in X.aminmax()):
            raise ValueError("Input X contains NaN or infinity.")
        y = column_or_1d(y, warn=True)
        check_consistent_length(X, y)
        _check_n_features(self, X, reset=True)
        _check_feature_names(self, X, reset=True)
        return X, y

    def _warn(self, solution: Any) -> None:
        late = [status for status in solution.status if status.name != "CONVERGED"]
        reasons = "; ".join(status.value for status in dict.fromkeys(late))
        warnings.warn(
            f"{type(self).__name__}: {len(late)} of {len(solution.status)} problems stopped before "
            f"tol={self.tol:g}: {reasons}. The objective is proven to be within a relative "
            f"{self.certificate_['relative_gap']:.1e} of its minimum.",
            ConvergenceWarning,
            stacklevel=3,
        )

    def _answer(self, X: Any, answer: Callable[..., npt.NDArray[Any]]) -> npt.NDArray[Any]:
        """Call ``answer(strategy, scores, n_classes)``, for blocks of rows where they are large."""
        check_is_fitted(self)
        head, n_classes = self.head_, len(self.classes_)
        if not is_source(X):
            X = validate_data(self, as_features(X), dtype=_DTYPES, accept_sparse=False, reset=False)
        else:
            validate_data(self, X, skip_check_array=True, reset=False)
            if not len(X):
                raise ValueError(
                    f"Found array with 0 sample(s) (shape={X.shape}): at least 1 is needed"
                )
        X = normalized(DoubleRows(X) if self._of_file() else X, self.normalize)
        strategy = self._fitted_strategy()
        return answers(
            X, head, lambda scores: answer(strategy, scores, n_classes), n_jobs=self.n_jobs
        )

    def _of_file(self) -> bool:
        """Tell an estimator that was read from a file, and not fitted since."""
        return "temperature_" in vars(self)

    def _probabilities(self, X: Any) -> npt.NDArray[np.float64]:
        found: npt.NDArray[np.float64] = self._answer(X, probabilities)
        return temper(found, vars(self).get("temperature_"))

    def _log_probabilities(self, X: Any) -> npt.NDArray[np.float64]:
        found: npt.NDArray[np.float64] = self._answer(X, log_probabilities)
        return temper_logarithms(found, vars(self).get("temperature_"))

    def decision_function(self, X: Any) -> Floats:
        """Return the decision value of each class.

        Parameters
        ----------
        X : array-like or torch.Tensor of shape (n_samples, n_features)
            Features.

        Returns
        -------
        ndarray of float, shape (n_samples, n_classes), or (n_samples,) for two classes
            Linear scores; for one-vs-one, votes plus confidences in (-1/3, 1/3); for a code book,
            what its decoding makes of them.
        """
        return self._answer(X, decision_values)

    def predict(self, X: Any) -> npt.NDArray[Any]:
        """Return the class with the highest decision value; the first, where several have it.

        Parameters
        ----------
        X : array-like or torch.Tensor of shape (n_samples, n_features)
            Features.

        Returns
        -------
        ndarray, shape (n_samples,)
            Labels.
        """
        answers = self._answer(X, decide)  # before the classes, which there may not be yet
        return self.classes_[answers]
