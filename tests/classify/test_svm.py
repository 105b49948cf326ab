"""Support vector machines against scikit-learn's `LinearSVC`, and against their own optimum."""

import warnings

import numpy as np
import pytest
from sklearn.datasets import load_wine
from sklearn.exceptions import ConvergenceWarning
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier
from sklearn.svm import LinearSVC

from classify import OneVsOneSVM, OneVsRestSVM
from classify.estimator_base import LinearHeads
from classify.selection import select_C
from classify.solver.problems import class_pairs

BOTH = [(OneVsRestSVM, OneVsRestClassifier), (OneVsOneSVM, OneVsOneClassifier)]
TOL = 1e-11


def blobs(n=300, d=8, k=4, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, k, n)
    return rng.standard_normal((n, d)) + rng.standard_normal((k, d))[y], y


def reference(reduction, X, y, C, **options):
    """scikit-learn's coefficients and intercepts, one row a problem."""
    svm = LinearSVC(C=C, loss="squared_hinge", dual=False, tol=1e-12, max_iter=10**5, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted = reduction(svm).fit(X, y)
    coef = np.concatenate([each.coef_ for each in fitted.estimators_])
    return fitted, coef, np.array([float(np.ravel(e.intercept_)[0]) for e in fitted.estimators_])


@pytest.mark.parametrize(("estimator", "reduction"), BOTH)
@pytest.mark.parametrize("device", ["cpu", "torch-cpu"])
@pytest.mark.parametrize(("n", "d"), [(300, 8), (60, 90), (36, 40)])  # rows, their span, few rows
def test_equals_linear_svc_without_intercepts(estimator, reduction, device, n, d):
    X, y = blobs(n, d)
    fitted, coef, _ = reference(reduction, X, y, 0.3, fit_intercept=False)
    ours = estimator(0.3, tol=TOL, fit_intercept=False, device=device).fit(X, y)
    np.testing.assert_allclose(ours.coef_, coef, atol=2e-6 * np.abs(coef).max())
    assert not ours.intercept_.any()
    assert np.array_equal(ours.predict(X), fitted.predict(X))
    np.testing.assert_allclose(
        ours.decision_function(X), fitted.decision_function(X), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(("estimator", "reduction"), BOTH)
def test_is_the_limit_of_a_large_intercept_scaling(estimator, reduction):
    X, y = blobs()
    X += 3  # far from zero, so that a penalised intercept is another one
    ours = estimator(0.3, tol=TOL).fit(X, y)
    apart = []
    for scaling in (10.0, 30.0, 100.0):
        _, coef, intercept = reference(reduction, X, y, 0.3, intercept_scaling=scaling)
        apart.append(np.abs(ours.intercept_ - intercept).max() + np.abs(ours.coef_ - coef).max())
    # With the square of the scaling: 9 and 11.
    assert apart[0] > 5 * apart[1] > 40 * apart[2]
    assert apart[2] < 0.02


def slow_newton(X, side, C, weight):
    """Minimise one problem: Newton's steps over the rows within the margin, halved till down."""
    A = np.column_stack([X, np.ones(len(X))])
    penalty = np.diag([1.0] * X.shape[1] + [0.0])
    point = np.zeros(A.shape[1])

    def value(at):
        return C * (weight * np.maximum(0, 1 - side * (A @ at)) ** 2).sum() + at @ penalty @ at / 2

    for _ in range(200):
        inside = side * (A @ point) < 1
        pulled = weight[inside, None] * A[inside]
        gradient = penalty @ point - 2 * C * pulled.T @ (side - A @ point)[inside]
        if np.abs(gradient).max() < 1e-10:
            break
        step = np.linalg.solve(penalty + 2 * C * pulled.T @ A[inside], gradient)
        length = 1.0
        while value(point - length * step) > value(point) and length > 1e-9:
            length /= 2
        point = point - length * step
    assert np.abs(gradient).max() < 1e-9
    return point, value(point)


@pytest.mark.parametrize("estimator", [OneVsRestSVM, OneVsOneSVM])
@pytest.mark.parametrize("device", ["cpu", "torch-cpu"])
def test_weighted_optimum_is_a_slow_loops_and_the_certificate_bounds_it(estimator, device):
    X, y = blobs(120, 5)
    weight = np.random.default_rng(2).uniform(0, 3, len(X))
    weight[::7] = 0
    loose = estimator(0.5, tol=1e-3, class_weight={0: 2.0, 1: 1.0, 2: 0.5, 3: 1.0}, device=device)
    tight = estimator(**{**loose.get_params(), "tol": TOL}).fit(X, y, weight)
    certificate = loose.fit(X, y, weight).certificate_["problems"]
    weight = weight * np.array([2.0, 1.0, 0.5, 1.0])[y]
    pairs = class_pairs(4) if estimator is OneVsOneSVM else [(None, c) for c in range(4)]
    for i, (other, label) in enumerate(pairs):
        mine = np.ones(len(y), bool) if other is None else np.isin(y, (other, label))
        side = np.where(y[mine] == label, 1.0, -1.0)
        point, least = slow_newton(X[mine], side, 0.5, weight[mine])
        found = np.append(tight.coef_[i], tight.intercept_[i])
        np.testing.assert_allclose(found, point, atol=1e-5)
        gap = certificate["objective"][i] - least
        assert -1e-9 <= gap <= certificate["gap_bound"][i] + 1e-9


@pytest.mark.parametrize("estimator", [OneVsRestSVM, OneVsOneSVM])
def test_two_classes_are_one_problem(estimator):
    X, y = load_wine(return_X_y=True)
    X, y = X[y < 2], y[y < 2]
    _, coef, _ = reference(lambda svm: _Alone(svm), X / 100, y, 1.0, fit_intercept=False)
    ours = estimator(1.0, tol=TOL, fit_intercept=False).fit(X / 100, y)
    np.testing.assert_allclose(ours.coef_, coef, atol=1e-6 * np.abs(coef).max())
    assert ours.decision_function(X).shape == (len(X),)


class _Alone:
    """One binary classifier under the face of a reduction."""

    def __init__(self, svm):
        self.estimators_ = [svm]

    def fit(self, X, y):
        self.estimators_[0].fit(X, y)
        return self


@pytest.mark.parametrize("estimator", [OneVsRestSVM, OneVsOneSVM])
def test_margins_are_no_probabilities(estimator):
    assert isinstance(estimator(), LinearHeads)
    assert not hasattr(estimator(), "predict_proba")


def hinge(model, X, y):
    """The mean squared hinge loss of all problems, each on the rows of its own classes."""
    scores, losses = X @ model.coef_.T + model.intercept_, []
    pairs = class_pairs(len(model.classes_)) if isinstance(model, OneVsOneSVM) else None
    for i, each in enumerate(scores.T):
        mine = np.ones(len(y), bool) if pairs is None else np.isin(y, pairs[i])
        side = np.where(y == (i if pairs is None else pairs[i, 1]), 1, -1)
        losses += [max(0, 1 - s * f) ** 2 for s, f in zip(side[mine], each[mine], strict=True)]
    return np.mean(losses)


@pytest.mark.parametrize(
    ("strategy", "estimator"), [("svm-ovr", OneVsRestSVM), ("svm-ovo", OneVsOneSVM)]
)
@pytest.mark.parametrize("device", ["cpu", "torch-cpu"])
def test_a_path_chooses_C_by_accuracy_then_by_the_loss(strategy, estimator, device):
    X, y = blobs(400, 6, seed=5)
    chosen = select_C(strategy, X, y, grid=[1e-4, 1e-2, 1.0, 30.0], full_path=True, device=device)
    assert all(step["converged"] for step in chosen.path)
    train, merits = np.setdiff1d(np.arange(len(X)), chosen.held), []
    for step in chosen.path:
        model = estimator(step["C"], standardize=True).fit(X[train], y[train])
        held = X[chosen.held], y[chosen.held]
        assert model.score(*held) == pytest.approx(step["accuracy"], abs=0.03)
        merits.append((-step["accuracy"], hinge(model, *held), step["C"]))
    assert min(merits)[2] == chosen.C
    assert len(chosen.per_problem_c) == len(chosen.start.coef)


def test_a_path_ends_where_classes_are_apart():
    X, y = blobs(300, 40, 3, seed=1)
    path = select_C("svm-ovo", 3 * X, y).path
    assert path[-1]["C"] < 1e3
    assert path[-1]["log_loss"] < path[0]["log_loss"]
