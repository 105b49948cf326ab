"""Weights of rows and classes, and heads that sum to zero: the same numbers as scikit-learn's."""

import warnings

import numpy as np
import pytest
from sklearn.datasets import load_digits, load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from classify import MultinomialLogistic, OneVsOneLogistic, OneVsRestLogistic
from classify.linear_head import LinearHead
from classify.saved.heads import SavedHead, save_head
from classify.saved.reading import load_head

ALL = [MultinomialLogistic, OneVsRestLogistic, OneVsOneLogistic]
DEVICES = ["cpu", "torch-cpu"]


def iris(dtype=np.float64):
    X, y = load_iris(return_X_y=True)
    return X.astype(dtype), y


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("estimator", ALL)
@pytest.mark.parametrize("class_weight", [None, "balanced", {0: 2.0, 1: 0.5, 2: 3.0}])
@pytest.mark.parametrize("standardize", [False, True])
def test_rows_of_weight_zero_are_as_if_absent(estimator, class_weight, standardize, device):
    X, y = iris()
    rng = np.random.default_rng(0)
    weight = rng.uniform(0.5, 2, len(y)) * (rng.random(len(y)) < 0.7)
    for gone in (None, 1):  # and where no row of a class is left
        weight[y == gone] = 0
        options = {"class_weight": class_weight, "standardize": standardize, "device": device}
        some = estimator(**options).fit(X, y, sample_weight=weight)
        keep = weight > 0
        dropped = estimator(**options).fit(X[keep], y[keep], sample_weight=weight[keep])
        np.testing.assert_array_equal(some.classes_, dropped.classes_)
        np.testing.assert_allclose(some.coef_, dropped.coef_, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(some.intercept_, dropped.intercept_, rtol=1e-10, atol=1e-12)
        assert some.certificate_["converged"]
        assert np.isfinite(some.predict_proba(X)).all()


@pytest.mark.parametrize("estimator", ALL)
def test_a_class_weight_of_zero_leaves_a_class_out(estimator):
    X, y = iris()
    model = estimator(class_weight={0: 1.0, 1: 0.0, 2: 1.0}).fit(X, y)
    assert model.classes_.tolist() == [0, 2]
    assert model.n_classes_ == 2
    np.testing.assert_array_equal(model.coef_, estimator().fit(X[y != 1], y[y != 1]).coef_)


def test_balanced_weights_with_row_weights_are_scikit_learns():
    X, y = iris()
    weight = np.random.default_rng(0).uniform(0, 2, len(y))
    weight[:20] = 0
    theirs = LogisticRegression(class_weight="balanced", tol=1e-11, max_iter=10**5)
    theirs.fit(X, y, sample_weight=weight)
    ours = MultinomialLogistic(class_weight="balanced", tol=1e-12).fit(X, y, sample_weight=weight)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(ours.intercept_, theirs.intercept_, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("estimator", ALL)
@pytest.mark.parametrize(
    ("class_weight", "said"),
    [
        ({0: np.nan}, "nan for class 0"),
        ({0: np.inf}, "inf for class 0"),
        ({0: -1}, "-1 for class 0"),
        ({0: "2"}, "'2' for class 0"),
        ({0: True}, "True for class 0"),
        ({7: 2.0}, "not in class_weight"),
        ("even", "'balanced' or None"),
        ([1, 2, 3], "'balanced' or None"),
        ({0: 0, 1: 0, 2: 0}, "at least 2 classes"),
        ({0: 0, 1: 0, 2: 1}, "at least 2 classes"),
    ],
)
def test_class_weights_that_make_no_sense_are_refused(estimator, class_weight, said):
    X, y = iris()
    with pytest.raises(ValueError, match=said):
        estimator(class_weight=class_weight).fit(X, y)


@pytest.mark.parametrize("estimator", ALL)
def test_products_that_are_not_finite_are_refused(estimator):
    X, y = iris()
    huge = np.full(len(y), 1e200)
    with pytest.raises(ValueError, match="not a finite number"):
        estimator(class_weight={0: 1e200, 1: 1.0, 2: 1.0}).fit(X, y, sample_weight=huge)
    with pytest.raises(ValueError, match="lower C or the weights"):
        estimator().fit(X, y, sample_weight=huge)
    with pytest.raises(ValueError, match="lower C or the weights"):
        estimator(C=1e300).fit(X, y)
    for bad in (np.nan, np.inf, -1.0):
        with pytest.raises(ValueError, match=r"(?i)sample_weight|negative"):
            estimator().fit(X, y, sample_weight=np.r_[bad, np.ones(len(y) - 1)])


def test_nothing_is_certified_of_what_is_not_finite():
    from classify.solver.lbfgs import minimise
    from classify.solver.solution import Certificate, Status

    class Endless:
        def __init__(self, problems, points, rounding):
            self.points, self.value = points.copy(), np.array([np.inf])
            self.gradient = np.zeros((1, 1))

        def keep(self, mask):
            self.value = self.value[mask]

    def certify(problems, points):
        return Certificate(points, np.array([np.inf]), np.zeros(1), np.array([np.inf]))

    found = minimise(Endless, np.zeros((1, 1)), None, certify, tol=1e-6, max_iter=3)
    assert found.status[0] is not Status.CONVERGED


FOUND = {}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("load", [load_iris, load_digits])
def test_multinomial_heads_sum_to_zero_and_are_scikit_learns(load, standardize, dtype, device):
    X, y = load(return_X_y=True)
    X = X.astype(dtype)
    C = 0.05
    seen = StandardScaler().fit_transform(X.astype(np.float64)) if standardize else X
    seen = seen.astype(np.float64)
    key = hash((C, seen.tobytes()))  # the same for both devices, and digits in both precisions
    if key not in FOUND:
        # Its L-BFGS takes 5,000 iterations on digits, and ends further from the minimum.
        exact = LogisticRegression(C=C, tol=1e-10, solver="newton-cholesky")
        FOUND[key] = exact.fit(seen, y)
    theirs = FOUND[key]
    options = {"C": C, "standardize": standardize, "tol": 1e-10, "device": device}
    rng = np.random.default_rng(0)
    k = len(theirs.classes_)
    # What is common to all classes, in a start, must not be there at the end.
    start = LinearHead(rng.normal(size=theirs.coef_.shape) * 0.1 + 3, rng.normal(size=k) + 100)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # single precision may not reach so small a tolerance
        models = [MultinomialLogistic(**options).fit(X, y, start=s) for s in (None, start)]
    for model in models:
        np.testing.assert_allclose(model.coef_.sum(axis=0), 0, atol=1e-12)
        assert abs(model.intercept_.sum()) < 1e-12
        np.testing.assert_allclose(
            model.decision_function(X), theirs.decision_function(seen), rtol=1e-3, atol=2e-3
        )
        np.testing.assert_allclose(model.predict_proba(X), theirs.predict_proba(seen), atol=1e-3)


def test_two_classes_have_one_head_as_in_scikit_learn():
    X, y = iris()
    X, y = X[y < 2], y[y < 2]
    ours, theirs = MultinomialLogistic(tol=1e-12).fit(X, y), LogisticRegression(tol=1e-10).fit(X, y)
    assert ours.coef_.shape == theirs.coef_.shape == (1, 4)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, rtol=1e-4)
    np.testing.assert_allclose(ours.intercept_, theirs.intercept_, rtol=1e-4)


def test_a_saved_head_keeps_the_sum_of_zero(tmp_path):
    from specs_for_tests import spec_of

    X, y = iris()
    model = MultinomialLogistic(standardize=True).fit(X, y)
    saved = SavedHead(
        "multinomial", ("a", "b", "c"), model.coef_.astype(np.float32),
        model.intercept_.astype(np.float32), spec_of(), "ab" * 32, 1.0,
    )  # fmt: skip
    save_head(tmp_path / "h.safetensors", saved)
    head = load_head(tmp_path / "h.safetensors")
    np.testing.assert_allclose(head.coef.sum(axis=0), 0, atol=1e-5)
    assert abs(head.intercept.sum()) < 1e-5
