"""The libraries that Icebox is timed against, each in its own words for the same problem."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin

from benchmarks.search import LADDER

MAX_ITER = 5000
ADVICE = "pip install '.[bench]'"
# snapml penalises its intercept, as one more weight. The weight of a feature that is always this
# large is penalised 400 times less, and what that does to the objective is far below 1e-6.
SNAPML_SCALING = 20.0


@dataclass(frozen=True)
class Peer:
    """A library with a logistic regression of scikit-learn's interface.

    Attributes
    ----------
    name : str
        As it is spoken of.
    package : str
        Its distribution, whose version is recorded.
    module : str
        What is imported.
    ladder : tuple of float
        Its tolerances.
    strategies : tuple of str
        What it can fit to this objective.
    remark : str
        Shown above its table.
    """

    name: str
    package: str
    module: str
    ladder: tuple[float, ...] = LADDER
    strategies: tuple[str, ...] = ("multinomial", "ovr", "ovo")
    remark: str = ""


PEERS = {
    peer.name: peer
    for peer in (
        Peer("scikit-learn", "scikit-learn", "sklearn", remark="solver lbfgs, its default"),
        Peer("newton-cholesky", "scikit-learn", "sklearn", remark="scikit-learn's other solver"),
        Peer("scikit-learn-intelex", "scikit-learn-intelex", "sklearnex"),
        Peer(
            "snapml",
            "snapml",
            "snapml",
            # Its tol is a change of the weights, so looser ones may do.
            ladder=(1e-3, 3e-4, *LADDER),
            strategies=("ovr", "ovo"),
            remark="no multinomial objective is offered; it penalises its intercept, here (with "
            f"intercept_scaling={SNAPML_SCALING:g}) {SNAPML_SCALING**2:g} times less than a weight",
        ),
        Peer(
            "cyanure",
            "cyanure",
            "cyanure",
            # Its tol is a duality gap, relative to the objective: ours, but it may stop later.
            ladder=(1e-3, 3e-4, *LADDER),
            remark="it stops on a duality gap, as Icebox does; its losses are averaged, so it is "
            "given lambda = 1 / (n C)",
        ),
    )
}
DEFAULT = ("scikit-learn", "scikit-learn-intelex", "snapml", "cyanure")


class Cyanure(ClassifierMixin, BaseEstimator):
    """cyanure's classifier, told C: its losses are averaged over the rows, so its penalty is too.

    Attributes
    ----------
    classes_, coef_, intercept_ : ndarray
        As scikit-learn's, once fitted.
    """

    def __init__(self, C: float = 1.0, tol: float = 1e-3) -> None:
        self.C, self.tol = C, tol

    def fit(self, X: npt.NDArray[Any], y: npt.NDArray[Any]) -> Cyanure:
        """Fit two classes by one logistic loss, more by the softmax's."""
        from cyanure.estimators import Classifier

        self.classes_ = np.unique(y)
        two = len(self.classes_) == 2
        inner = Classifier(
            loss="logistic" if two else "multiclass-logistic",
            penalty="l2",
            lambda_1=1 / (len(X) * self.C),
            fit_intercept=True,
            tol=self.tol,
            max_iter=MAX_ITER,
            verbose=False,
            n_threads=1 if two else -1,
        )
        inner.fit(np.ascontiguousarray(X), np.searchsorted(self.classes_, y))
        # Of the softmax it has a column for each class.
        coef = np.asarray(inner.coef_, np.float64)
        self.coef_ = coef.reshape(1, -1) if two else coef.reshape(X.shape[1], -1).T
        self.intercept_ = np.ravel(np.asarray(inner.intercept_, np.float64))
        return self

    def predict(self, X: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Answer by the highest score; scikit-learn's meta-estimators ask for it."""
        scores = self.decision_function(X)
        return np.asarray(
            self.classes_[scores.argmax(axis=1) if scores.ndim == 2 else (scores > 0).astype(int)]
        )

    def decision_function(self, X: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return linear scores."""
        scores = X @ self.coef_.T + self.intercept_
        return np.asarray(scores[:, 0] if len(self.coef_) == 1 else scores)


def cores() -> int:
    """Return how many processes a peer's meta-estimator may use: one a core."""
    return os.cpu_count() or 1


def installed(name: str) -> str | None:
    """Return the version of a peer, or None where it is not installed; nothing is imported."""
    peer = PEERS[name]
    try:
        return version(peer.package) if find_spec(peer.module) else None
    except PackageNotFoundError:
        return None


def prepare(name: str) -> None:
    """Load a peer; scikit-learn-intelex patches scikit-learn for the whole process."""
    if name == "scikit-learn-intelex":
        from sklearnex import get_patch_names, patch_sklearn

        # The names were short ones until 2026.
        names = ("sklearn.linear_model.LogisticRegression", "LogisticRegression")
        patch_sklearn([next(known for known in names if known in get_patch_names())])


def single(name: str, C: float, tol: float) -> Any:
    """Return a peer's unfitted logistic regression, which `prepare` has loaded.

    Parameters
    ----------
    name : str
        A key of `PEERS`.
    C : float
        Weight of the losses.
    tol : float
        The peer's own tolerance.

    Returns
    -------
    estimator
        With an intercept and an L2 penalty.
    """
    if name == "snapml":
        from snapml import LogisticRegression as Snap

        return Snap(
            regularizer=1 / C,
            tol=tol,
            max_iter=MAX_ITER,
            fit_intercept=True,
            intercept_scaling=SNAPML_SCALING,
            dual=True,
            n_jobs=1,
            random_state=0,
        )
    if name == "cyanure":
        return Cyanure(C, tol)
    # After patching, this name is scikit-learn-intelex's class.
    from sklearn.linear_model import LogisticRegression

    solver = "newton-cholesky" if name == "newton-cholesky" else "lbfgs"
    return LogisticRegression(C=C, tol=tol, max_iter=MAX_ITER, solver=solver)


def estimator(name: str, strategy: str, C: float, tol: float) -> Any:
    """Return a peer's unfitted estimator of a strategy, with all cores at work."""
    from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier

    one = single(name, C, tol)
    if strategy == "multinomial":
        return one
    meta = OneVsRestClassifier if strategy == "ovr" else OneVsOneClassifier
    return meta(one, n_jobs=cores())


def icebox(strategy: str, C: float, **options: Any) -> Any:
    """Return Icebox's unfitted estimator of a strategy, at its default tolerance."""
    import classify

    names = {
        "multinomial": "MultinomialLogistic",
        "ovr": "OneVsRestLogistic",
        "ovo": "OneVsOneLogistic",
    }
    return getattr(classify, names[strategy])(C=C, **options)


def quietly(unfitted: Any, X: Any, y: Any) -> Any:
    """Fit without warnings: how near the optimum a fit is, is measured here and not asked."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return unfitted.fit(X, y)


def weights_of(fitted: Any) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the heads of any fitted estimator in float64.

    Parameters
    ----------
    fitted : estimator
        Icebox's, a peer's, or one of scikit-learn's meta-estimators around a peer's.

    Returns
    -------
    coef : ndarray, shape (n_heads, n_features)
        Weights.
    intercept : ndarray, shape (n_heads,)
        Intercepts.
    """
    coefs, intercepts = [], []
    for part in getattr(fitted, "estimators_", [fitted]):
        coefs.append(np.atleast_2d(np.asarray(part.coef_, np.float64)))
        # snapml's is the weight of its constant feature, not their product.
        scaling = part.intercept_scaling if type(part).__module__.startswith("snapml") else 1.0
        intercepts.append(scaling * np.ravel(np.asarray(part.intercept_, np.float64)))
    return np.concatenate(coefs), np.concatenate(intercepts)
