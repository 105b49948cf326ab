"""Checks of the estimators' parameters, and the weights of rows that follow from some of them."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.utils import compute_class_weight
from sklearn.utils.validation import _check_sample_weight

from classify.solver.backend import as_labels, check_device


def check_parameters(estimator: Any) -> None:
    """Refuse every parameter that is of another kind than the class's docstring says."""
    check_device(estimator.device)
    for name in ("standardize", "fit_intercept"):
        if not isinstance(getattr(estimator, name), (bool, np.bool_)):
            raise ValueError(f"{name} must be True or False, got {getattr(estimator, name)!r}")
    check_norm(estimator.normalize)
    n_jobs = estimator.n_jobs
    if n_jobs is not None and (
        not isinstance(n_jobs, Integral) or isinstance(n_jobs, bool) or n_jobs == 0
    ):
        raise ValueError(
            f"n_jobs must be an integer other than 0 (-1 for all processors) or None, got "
            f"{n_jobs!r}"
        )
    _check_class_weight(estimator.class_weight)
    for name, kind in (("C", Real), ("tol", Real), ("max_iter", Integral), ("memory", Real)):
        value = getattr(estimator, name)
        if name == "memory" and value is None:
            continue
        if not isinstance(value, kind) or isinstance(value, bool) or not 0 < float(value) < np.inf:
            number = "an integer" if kind is Integral else "a number"
            raise ValueError(f"{name} must be {number} above 0, got {value!r}")


def check_norm(norm: Any) -> None:
    """Refuse a ``normalize`` that is neither a norm's name nor the widths of parts."""
    if norm is None or (isinstance(norm, str) and norm == "l2"):
        return
    if not isinstance(norm, tuple) or not norm:
        raise ValueError(f"normalize must be 'l2', None or a tuple of widths, got {norm!r}")
    for width in norm:
        if not isinstance(width, Integral) or isinstance(width, bool) or width < 1:
            raise ValueError(f"the widths of normalize must be integers above 0, got {width!r}")


def _check_class_weight(weights: Any) -> None:
    if weights is None or (isinstance(weights, str) and weights == "balanced"):
        return
    if not isinstance(weights, dict):
        raise ValueError(
            f"class_weight must be a dict of weights by class, 'balanced' or None, got {weights!r}"
        )
    for name, value in weights.items():
        number = isinstance(value, Real) and not isinstance(value, (bool, np.bool_))
        if not number or not 0 <= float(value) < np.inf:
            raise ValueError(
                f"class_weight must hold finite numbers of 0 or more, got {value!r} for class "
                f"{name!r}"
            )


def class_factors(
    class_weight: Any, y: npt.NDArray[Any], weight: npt.NDArray[np.float64] | None
) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64]]:
    """Return the classes of some rows, and the weight of each: given, or balanced on these rows."""
    classes, labels = np.unique(y, return_inverse=True)
    if isinstance(class_weight, dict):
        return classes, compute_class_weight(class_weight, classes=classes, y=y)
    # As scikit-learn's, but of the classes that have any weight.
    mass = np.bincount(labels, weight)
    some = mass > 0
    per_class = np.zeros(len(classes))
    with np.errstate(over="ignore"):
        per_class[some] = mass[some].mean() / mass[some]
    return classes, per_class


def row_weights(class_weight: Any, y: npt.NDArray[Any], sample_weight: Any) -> Any:
    """Multiply the weights of rows by those of their classes; None where all are 1."""
    weight = None
    if sample_weight is not None:
        weight = _check_sample_weight(
            as_labels(sample_weight), y, dtype=np.float64, ensure_non_negative=True
        )
    if class_weight is None:
        return weight
    classes, per_class = class_factors(class_weight, y, weight)
    with np.errstate(over="ignore"):
        weight = per_class[np.searchsorted(classes, y)] * (1.0 if weight is None else weight)
    if not np.isfinite(weight).all():
        raise ValueError("class_weight times sample_weight is too large: not a finite number")
    return weight
