"""The heads that the solver does not fit, as a scikit-learn estimator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from classify.codings.decisions import temper, temper_logarithms
from classify.estimator_base import as_features
from classify.heads.classifier import answers_of_rows
from classify.heads.interface import FitContext, HeadAnswers, RowSet, TrainedHead
from classify.heads.linear import LinearTrained
from classify.heads.registry import HEADS, head_kind, is_solved
from classify.heads.skops_files import plain
from classify.parameters import check_norm, row_weights
from classify.scoring import DoubleRows
from classify.solver.backend import as_labels, choose_device
from classify.solver.out_of_core import is_source
from classify.solver.row_norms import Norm, normalized

Array = npt.NDArray[np.float64]
_DTYPES = [np.float64, np.float32]


class HeadEstimator(ClassifierMixin, BaseEstimator):
    """A head of the registry with its setting: ridge, lda, nearest-mean, knn, trees, mlp, ...

    Parameters
    ----------
    head : str
        Its name, as ``--head`` has it, of those that the solver does not fit.
    setting : dict
        What a run chooses and records, such as ``{"alpha": 100.0}`` or ``{"k": 20}``.
    normalize : None, 'l2' or tuple of int
        What rows are divided by, as in `classify.MultinomialLogistic`.
    class_weight : dict, 'balanced' or None
        Weights of the classes in a fit.
    n_jobs : int or None
        Threads of a fit; ``None`` means as many as BLAS may use.
    device : {'cpu', 'auto', 'cuda', 'cuda:N'}
        Where to fit, of heads that can be fitted on a device.
    random_state : int
        Seed of a fit.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Labels, sorted.
    n_features_in_ : int
        Width of the features.
    trained_ : classify.heads.interface.TrainedHead
        What answers rows; its classes may be in another order.
    coef_ : ndarray of float64, shape (n_heads, n_features)
        Weights for raw features; of linear heads only.
    intercept_ : ndarray of float64, shape (n_heads,)
        Intercepts; of linear heads only.
    temperature_ : float or None
        Of the head of a file only: logarithms of probabilities are divided by it.
    """

    def __init__(
        self,
        head: str,
        setting: Mapping[str, Any],
        *,
        normalize: Norm = None,
        class_weight: dict[Any, float] | str | None = None,
        n_jobs: int | None = None,
        device: str = "cpu",
        random_state: int = 0,
    ) -> None:
        self.head = head
        self.setting = setting
        self.normalize = normalize
        self.class_weight = class_weight
        self.n_jobs = n_jobs
        self.device = device
        self.random_state = random_state

    @classmethod
    def of(
        cls,
        head: str,
        trained: TrainedHead,
        class_names: Sequence[str],
        *,
        normalize: Norm = None,
        temperature: float | None = None,
    ) -> HeadEstimator:
        """Make the estimator of a head that is trained; its classes are names, in its order."""
        estimator = cls(head, dict(trained.setting), normalize=normalize)
        estimator._put(trained, np.array(class_names))
        estimator.n_features_in_ = trained.n_features
        estimator.temperature_ = temperature
        return estimator

    def _put(self, trained: TrainedHead, classes: npt.NDArray[Any]) -> None:
        self.trained_ = trained
        self._order = np.argsort(classes, kind="stable")  # of the head's classes
        self.classes_ = classes[self._order]

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> HeadEstimator:
        """Fit the head with its setting.

        Parameters
        ----------
        X : array-like or torch.Tensor of shape (n_samples, n_features)
            Features.
        y : array-like of shape (n_samples,)
            Labels, at least two different ones.
        sample_weight : array-like of shape (n_samples,), optional
            Weight of each row; rows of weight 0 are as if absent.

        Returns
        -------
        self
            The fitted estimator.

        Raises
        ------
        ValueError
            If a parameter is out of range, or fewer than two classes have rows of a weight above 0.
        """
        if self.head not in HEADS or is_solved(self.head):
            known = ", ".join(name for name in HEADS if not is_solved(name))
            raise ValueError(f"head must be one of {known}, got {self.head!r}")
        check_norm(self.normalize)
        X, y = validate_data(self, as_features(X), as_labels(y), dtype=_DTYPES, order="C")
        check_classification_targets(y)
        weight, rows = row_weights(self.class_weight, y, sample_weight), np.arange(len(y))
        if weight is not None:
            rows = np.flatnonzero(weight)
            weight = weight[rows]
        classes, labels = np.unique(y[rows], return_inverse=True)
        if len(classes) < 2:
            raise ValueError(
                f"{type(self).__name__} needs at least 2 classes in the data, but y holds only "
                f"{len(classes)} class of a weight above 0"
            )
        context = FitContext(int(self.random_state), self.n_jobs, choose_device(self.device))
        row_set = RowSet(normalized(X, self.normalize), rows, labels, len(classes), weight)
        self.__dict__.pop("temperature_", None)
        self._put(head_kind(self.head).fit(row_set, self.setting, context), classes)
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes, with the head as plain arrays, so that files name no class."""
        state = dict(super().__getstate__())  # which is the attributes themselves
        if "trained_" in state:
            state["trained_"] = plain(state["trained_"].state(), "head")
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        if "trained_" in state:
            if state["head"] not in HEADS or is_solved(state["head"]):
                raise ValueError(f"head is {state['head']!r}")
            state["trained_"] = head_kind(state["head"]).trained.from_state(state["trained_"])
        super().__setstate__(state)

    def _answers(self, X: Any) -> HeadAnswers:
        """Answer rows, with columns in the order of the head's own classes."""
        check_is_fitted(self)
        if is_source(X):
            validate_data(self, X, skip_check_array=True, reset=False)
        else:
            X = validate_data(self, as_features(X), dtype=_DTYPES, reset=False)
        # As the files of linear heads are scored.
        X = DoubleRows(X) if isinstance(self.trained_, LinearTrained) else X
        return answers_of_rows(self.trained_, X, self.normalize)

    def decision_function(self, X: Any) -> Array:
        """Return the value of each class, of which the largest is the answer.

        Parameters
        ----------
        X : array-like or torch.Tensor of shape (n_samples, n_features)
            Features.

        Returns
        -------
        ndarray of float64, shape (n_samples, n_classes), or (n_samples,) for two classes
            Of two classes, half of what the second has more than the first: of linear heads, the
            score.
        """
        values = self._answers(X).values[:, self._order]
        return (values[:, 1] - values[:, 0]) / 2 if len(self.classes_) == 2 else values

    def predict(self, X: Any) -> npt.NDArray[Any]:
        """Return the class of the largest value.

        Parameters
        ----------
        X : array-like or torch.Tensor of shape (n_samples, n_features)
            Features.

        Returns
        -------
        ndarray, shape (n_samples,)
            Labels; between equal values, that of the first class in the head's own order.
        """
        best = self._answers(X).values.argmax(axis=1)
        return self.classes_[np.argsort(self._order)[best]]

    def predict_log_proba(self, X: Any) -> Array:
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
        found = self._answers(X).log_probabilities[:, self._order]
        return temper_logarithms(found, vars(self).get("temperature_"))

    def predict_proba(self, X: Any) -> Array:
        """Return the probability of each class.

        Parameters
        ----------
        X : array-like or torch.Tensor of shape (n_samples, n_features)
            Features.

        Returns
        -------
        ndarray of float64, shape (n_samples, n_classes)
            Rows sum to 1; of the head of a file, calibrated by its temperature.
        """
        found = np.exp(self._answers(X).log_probabilities[:, self._order])
        return temper(found, vars(self).get("temperature_"))

    @property
    def coef_(self) -> Array:
        """Weights for raw features, ``(n_heads, n_features)``, of linear heads."""
        return self._linear("coef")

    @property
    def intercept_(self) -> Array:
        """Intercepts, ``(n_heads,)``, of linear heads."""
        return self._linear("intercept")

    def _linear(self, name: str) -> Array:
        trained = vars(self).get("trained_")
        if not isinstance(trained, LinearTrained):
            raise AttributeError(f"this {type(self).__name__} has no {name}_: it is not linear")
        found: Array = getattr(trained.head, name)
        if len(self._order) == 2:
            return found if self._order[0] == 0 else -found
        return found[self._order]
