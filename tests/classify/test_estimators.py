"""The estimators as scikit-learn citizens, and at the edges of what can be asked of them."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits, load_iris, load_wine, make_blobs
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from classify import (
    ErrorCorrectingLogistic,
    MultinomialLogistic,
    OneVsOneLogistic,
    OneVsOneSVM,
    OneVsRestLogistic,
    OneVsRestSVM,
)

ALL = [MultinomialLogistic, OneVsRestLogistic, OneVsOneLogistic]
EVERY = [*ALL, OneVsRestSVM, OneVsOneSVM, ErrorCorrectingLogistic]


@parametrize_with_checks([estimator() for estimator in EVERY])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


@pytest.mark.parametrize("estimator", EVERY)
def test_pipeline_grid_search_and_clone(estimator):
    X, y = load_wine(return_X_y=True)
    pipeline = make_pipeline(StandardScaler(), estimator())
    name = pipeline.steps[-1][0]
    search = GridSearchCV(pipeline, {f"{name}__C": [1e-3, 1.0]}, cv=3, n_jobs=2)
    search.fit(X, y)
    assert search.best_score_ > 0.95
    assert clone(estimator(C=3, standardize=True)).get_params()["C"] == 3


@pytest.mark.parametrize("estimator", ALL)
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_torch_tensors_are_taken(estimator, dtype):
    torch = pytest.importorskip("torch")
    X, y = load_iris(return_X_y=True)
    tensor = torch.tensor(X, dtype=getattr(torch, dtype), requires_grad=True)
    model = estimator().fit(tensor, torch.tensor(y))
    again = estimator().fit(X.astype(dtype), y)
    np.testing.assert_array_equal(model.coef_, again.coef_)
    np.testing.assert_array_equal(model.predict(tensor), again.predict(X.astype(dtype)))


@pytest.mark.parametrize("estimator", ALL)
def test_float16_is_promoted_and_float32_stays(estimator):
    X, y = load_iris(return_X_y=True)
    half = X.astype(np.float16)
    model = estimator().fit(half, y)
    np.testing.assert_array_equal(model.coef_, estimator().fit(half.astype(np.float32), y).coef_)
    assert estimator().fit(X, y).decision_function(X).dtype == np.float64
    if estimator is not OneVsOneLogistic:
        assert model.decision_function(half).dtype == np.float32


@pytest.mark.parametrize("estimator", ALL)
@pytest.mark.parametrize("standardize", [False, True])
def test_repeating_rows_equals_weighing_them(estimator, standardize):
    X, y = load_iris(return_X_y=True)
    weight = np.random.default_rng(0).integers(0, 3, len(X)).astype(float)
    options = {"C": 0.5, "tol": 1e-13, "standardize": standardize}
    weighted = estimator(**options).fit(X, y, sample_weight=weight)
    times = weight.astype(int)
    repeated = estimator(**options).fit(np.repeat(X, times, axis=0), np.repeat(y, times))
    np.testing.assert_allclose(weighted.coef_, repeated.coef_, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(weighted.intercept_, repeated.intercept_, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("class_weight", ["balanced", {0: 1.0, 1: 5.0, 2: 0.2}])
def test_class_weight_is_scikit_learns(class_weight):
    X, y = load_iris(return_X_y=True)
    keep = np.r_[0:50, 50:80, 100:112]
    X, y = X[keep], y[keep]
    theirs = LogisticRegression(class_weight=class_weight, tol=1e-11, max_iter=10**5).fit(X, y)
    ours = MultinomialLogistic(class_weight=class_weight, tol=1e-12).fit(X, y)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, rtol=1e-4, atol=1e-5)
    for estimator in ALL[1:]:
        by_class = estimator(class_weight=class_weight, tol=1e-12).fit(X, y)
        per_class = (
            len(y) / (3 * np.bincount(y))
            if class_weight == "balanced"
            else np.array([1.0, 5.0, 0.2])
        )
        by_row = estimator(tol=1e-12).fit(X, y, sample_weight=per_class[y])
        np.testing.assert_allclose(by_class.coef_, by_row.coef_, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("estimator", ALL)
def test_permuting_classes_rows_or_features_permutes_the_answer(estimator):
    X, y = load_wine(return_X_y=True)
    options = {"C": 0.1, "tol": 1e-13, "standardize": True}
    model = estimator(**options).fit(X, y)
    rng = np.random.default_rng(0)
    rows, features = rng.permutation(len(X)), rng.permutation(X.shape[1])
    moved = estimator(**options).fit(X[rows][:, features], y[rows])
    np.testing.assert_allclose(moved.coef_, model.coef_[:, features], rtol=1e-5, atol=1e-6)
    renamed = estimator(**options).fit(X, np.array([1, 2, 0])[y])
    np.testing.assert_array_equal(renamed.predict(X), np.array([1, 2, 0])[model.predict(X)])
    np.testing.assert_allclose(
        renamed.predict_proba(X)[:, [1, 2, 0]],
        model.predict_proba(X),
        atol=5e-3,  # LIBSVM's coupling stops within 0.005 / n_classes, and its steps are ordered
    )


@pytest.mark.parametrize("estimator", ALL)
def test_same_bits_twice_and_with_any_number_of_threads(estimator):
    X, y = load_digits(return_X_y=True)
    X = np.tile(X.astype(np.float32), (1, 3))[:, :150]
    models = [estimator(n_jobs=n, C=0.01).fit(X, y) for n in (1, 1, 3)]
    for model in models[1:]:
        assert model.coef_.tobytes() == models[0].coef_.tobytes()
        assert model.intercept_.tobytes() == models[0].intercept_.tobytes()


@pytest.mark.parametrize("estimator", ALL)
def test_a_class_with_one_or_two_rows(estimator):
    X, y = load_iris(return_X_y=True)
    for n in (1, 2):
        keep = np.r_[0:100, 100 : 100 + n]
        model = estimator(tol=1e-10).fit(X[keep], y[keep])
        assert model.certificate_["converged"]
        assert np.isfinite(model.predict_proba(X)).all()


@pytest.mark.parametrize("estimator", ALL)
@pytest.mark.parametrize("standardize", [False, True])
def test_constant_and_duplicated_features(estimator, standardize):
    X, y = load_iris(return_X_y=True)
    options = {"tol": 1e-12, "standardize": standardize}
    plain = estimator(**options).fit(X, y)
    constant = np.hstack([X, np.full((len(X), 1), 7.7), np.zeros((len(X), 1))])
    model = estimator(**options).fit(constant, y)
    assert model.certificate_["converged"]
    np.testing.assert_allclose(model.coef_[:, :4], plain.coef_, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model.coef_[:, 4:], 0, atol=1e-5)
    doubled = estimator(**options).fit(np.hstack([X, X]), y)
    assert doubled.certificate_["converged"]
    np.testing.assert_allclose(doubled.coef_[:, :4], doubled.coef_[:, 4:], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("estimator", ALL)
def test_one_feature_and_nothing_but_constant_features(estimator):
    X, y = load_iris(return_X_y=True)
    model = estimator(tol=1e-10).fit(X[:, 2:3], y)
    assert model.score(X[:, 2:3], y) > 0.9
    flat = estimator(tol=1e-10, standardize=True).fit(np.ones((len(X), 2)), y)
    np.testing.assert_allclose(flat.coef_, 0, atol=1e-8)
    np.testing.assert_allclose(flat.predict_proba(np.ones((1, 2))), 1 / 3, atol=1e-3)


@pytest.mark.parametrize("estimator", ALL)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_separable_data_at_an_enormous_C_stay_finite(estimator, dtype):
    X, y = make_blobs(n_samples=90, centers=3, n_features=5, random_state=0, cluster_std=0.5)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = estimator(C=1e12, max_iter=60).fit(X.astype(dtype), y)
    assert np.isfinite(model.coef_).all() and np.isfinite(model.intercept_).all()
    assert model.score(X.astype(dtype), y) == 1.0
    certificate = model.certificate_
    told = [w for w in caught if issubclass(w.category, ConvergenceWarning)]
    assert bool(told) == (not certificate["converged"])
    assert not [w for w in caught if issubclass(w.category, RuntimeWarning)]


@pytest.mark.parametrize("estimator", ALL)
@pytest.mark.parametrize("scale", [1e-8, 1e8])
def test_badly_scaled_features_converge_or_warn(estimator, scale):
    X, y = load_iris(return_X_y=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = estimator().fit(X * scale, y)
    assert model.certificate_["converged"] != bool(
        [w for w in caught if issubclass(w.category, ConvergenceWarning)]
    )
    assert np.isfinite(model.decision_function(X * scale)).all()


@pytest.mark.parametrize("estimator", ALL)
def test_a_feature_far_from_zero_keeps_its_digits_when_standardised(estimator):
    X, y = load_iris(return_X_y=True)
    near = estimator(C=0.1, standardize=True, tol=1e-6).fit(X.astype(np.float32), y)
    far = (X + np.array([0, 4096, 0, 0])).astype(np.float32)
    model = estimator(C=0.1, standardize=True, tol=1e-6).fit(far, y)
    np.testing.assert_allclose(model.coef_, near.coef_, rtol=0.02, atol=2e-3)


@pytest.mark.parametrize("estimator", ALL)
def test_more_features_than_rows(estimator):
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((30, 700)), np.arange(30) % 3
    model = estimator(C=1e-3, tol=1e-10).fit(X, y)
    assert model.certificate_["converged"] and model.score(X, y) == 1.0


def test_max_iter_warns_with_the_bound():
    X, y = load_wine(return_X_y=True)
    with pytest.warns(ConvergenceWarning, match=r"proven to be within a relative \d") as caught:
        model = OneVsRestLogistic(C=100, max_iter=1).fit(X, y)
    assert "max_iter" in str(caught[0].message)
    assert caught[0].filename == __file__
    assert model.certificate_["status"] == "MAX_ITER"
    assert list(model.n_iter_) == [1, 1, 1]


@pytest.mark.parametrize("estimator", ALL)
def test_a_warm_start_reaches_the_same_optimum_sooner(estimator):
    from classify.linear_head import LinearHead

    X, y = load_wine(return_X_y=True)
    options = {"standardize": True, "tol": 1e-10}
    cold = estimator(C=1.0, **options).fit(X, y)
    near = estimator(C=0.9, **options).fit(X, y)
    warm = estimator(C=1.0, **options).fit(X, y, start=LinearHead(near.coef_, near.intercept_))
    assert warm.n_iter_.sum() < cold.n_iter_.sum()
    np.testing.assert_allclose(warm.coef_, cold.coef_, atol=1e-4)


def test_certificate_is_plain_and_complete():
    import json

    X, y = load_iris(return_X_y=True)
    certificate = OneVsOneLogistic().fit(X, y).certificate_
    assert json.loads(json.dumps(certificate)) == certificate
    assert certificate["n_problems"] == 3 and certificate["converged"] is True
    assert set(certificate) >= {"grad_norm", "objective", "gap_bound", "n_iter", "problems"}
    assert certificate["relative_gap"] <= 1e-6


def test_pairs_name_the_heads():
    X, y = load_iris(return_X_y=True)
    model = OneVsOneLogistic().fit(X, y)
    np.testing.assert_array_equal(model.pairs_, [[0, 1], [0, 2], [1, 2]])
    scores = X @ model.coef_.T + model.intercept_
    for head, (i, j) in enumerate(model.pairs_):
        assert scores[y == j, head].mean() > scores[y == i, head].mean()


@pytest.mark.parametrize("estimator", ALL)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"C": 0}, "C must be a number above 0, got 0"),
        ({"C": -1.0}, "C must be"),
        ({"C": np.inf}, "C must be"),
        ({"C": np.nan}, "C must be"),
        ({"C": "auto"}, "C must be"),
        ({"tol": 0}, "tol must be"),
        ({"max_iter": 1.5}, "max_iter must be an integer"),
    ],
)
def test_bad_parameters_are_named(estimator, options, message):
    X, y = load_iris(return_X_y=True)
    with pytest.raises(ValueError, match=message):
        estimator(**options).fit(X, y)


@pytest.mark.parametrize("estimator", ALL)
def test_bad_data_are_refused(estimator):
    X, y = load_iris(return_X_y=True)
    with pytest.raises(ValueError, match="only one class"):
        estimator().fit(X[:20], y[:20])
    with pytest.raises(ValueError, match="NaN"):
        estimator().fit(np.where(X > 5, np.nan, X), y)
    with pytest.raises(ValueError, match=r"[Nn]egative"):
        estimator().fit(X, y, sample_weight=np.full(len(X), -1.0))
    with pytest.raises(NotFittedError):
        estimator().predict(X)
    with pytest.raises(ValueError, match="features"):
        estimator().fit(X, y).predict(X[:, :2])


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_joblib_backends(backend):
    import joblib

    X, y = load_iris(return_X_y=True)
    with joblib.parallel_backend(backend, n_jobs=2):
        scores = cross_val_score(OneVsOneLogistic(), X, y, cv=3, n_jobs=2)
    assert scores.min() > 0.9


def test_torch_is_not_imported():
    code = (
        "import sys, numpy as np; from classify import OneVsOneLogistic;"
        "X = np.random.default_rng(0).standard_normal((30, 3));"
        "OneVsOneLogistic().fit(X, np.arange(30) % 3).predict_proba(X);"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("estimator", ALL)
def test_the_preconditioner_for_many_columns_reaches_the_same_optimum(estimator, monkeypatch):
    X, y = load_digits(return_X_y=True)
    X, y = X[:400], y[:400]
    options = {"C": 0.01, "tol": 1e-13, "standardize": True}
    own = estimator(**options).fit(X, y)
    monkeypatch.setattr("classify.solver.fit.LARGEST_PRICE", 0)
    monkeypatch.setattr("classify.solver.preconditioner.shared.LEADING", 9)
    monkeypatch.setattr("classify.solver.preconditioner.shared.SAMPLE_ROWS", 37)
    shared = estimator(**options).fit(X, y)
    assert shared.certificate_["converged"] and shared.certificate_["n_passes"] < 150
    np.testing.assert_allclose(shared.coef_, own.coef_, atol=1e-5)
