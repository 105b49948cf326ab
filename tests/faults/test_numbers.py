"""Odd data for the estimators and the whole fit: scikit-learn's answer, or one clear error."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from fault_world import call, write_store
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier

from classify import MultinomialLogistic, OneVsOneLogistic, OneVsRestLogistic
from classify.solver.tuning import FEW_ROWS

PEERS = {
    MultinomialLogistic: lambda inner: inner,
    OneVsRestLogistic: OneVsRestClassifier,
    OneVsOneLogistic: OneVsOneClassifier,
}
ALL = list(PEERS)
LONG = bool(os.environ.get("ICEBOX_FAULTS"))  # `make faults`: the sizes themselves
MANY_CLASSES = 1000 if LONG else 150
MANY_FEATURES = 20_000 if LONG else 2000
CURVES = [] if LONG else ["--no-few-shot"]


def blobs(n, d, k, seed=0, spread=1.0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % k
    return rng.normal(size=(k, d))[y] * 2 + spread * rng.normal(size=(n, d)), y


def rows(name):
    """Make the data of a case: X, y, and C."""
    X, y = blobs(60, 5, 3)
    if name == "two classes":
        return *blobs(60, 5, 2), 1.0
    if name == "one row of a class":
        return X, np.where(np.arange(60) == 7, 3, y), 1.0
    if name == "two rows of a class":
        return X, np.where(np.isin(np.arange(60), [7, 30]), 3, y), 1.0
    if name == "one feature":
        return X[:, :1], y, 1.0
    if name == "constant features":
        return np.column_stack([X, np.full(60, 3.0), np.zeros(60)]), y, 1.0
    if name == "duplicate features":
        return np.column_stack([X, X, X]), y, 1.0
    if name == "duplicate rows":
        return np.repeat(X, 5, axis=0), np.repeat(y, 5), 1.0
    if name == "labels of text":
        return X, np.array(["ant", "bee", "a cat"])[y], 1.0
    if name == "labels with gaps":
        return X, np.array([-5, 0, 10**12])[y], 1.0
    if name == "small features":
        return X * 1e-3, y, 1e6
    if name == "separable":
        return *blobs(60, 5, 3, spread=0.01), 1.0
    if name == "half precision":
        return X.astype(np.float16), y, 1.0
    if name == "more features than rows":
        return *blobs(40, 300, 3), 0.1
    raise AssertionError(name)


CASES = [
    "two classes",
    "one row of a class",
    "two rows of a class",
    "one feature",
    "constant features",
    "duplicate features",
    "duplicate rows",
    "labels of text",
    "labels with gaps",
    "small features",
    "separable",
    "half precision",
    "more features than rows",
]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("ours", ALL)
def test_scikit_learns_answer(ours, name):
    X, y, C = rows(name)
    fitted = ours(C=C, tol=1e-9, n_jobs=1).fit(X, y)
    assert fitted.certificate_["converged"]
    wide = X.astype(np.float64)
    peer = PEERS[ours](LogisticRegression(C=C, tol=1e-9, max_iter=10_000)).fit(wide, y)
    np.testing.assert_array_equal(fitted.classes_, peer.classes_)
    np.testing.assert_array_equal(fitted.predict(X), peer.predict(wide))
    theirs, mine = peer.decision_function(wide), fitted.decision_function(X)
    if ours is MultinomialLogistic and mine.ndim == 2:
        # The same number added to all classes' intercepts changes no probability and no penalty.
        theirs, mine = (s - s.mean(axis=1, keepdims=True) for s in (theirs, mine))
    tolerance = 3e-3 if X.dtype == np.float16 else 1e-3
    np.testing.assert_allclose(mine, theirs, rtol=tolerance, atol=tolerance)
    probabilities = fitted.predict_proba(X)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("ours", ALL)
def test_extreme_scales_do_not_matter_when_standardised(ours, dtype, scale):
    X, y = blobs(60, 5, 3)
    usual = ours(standardize=True, n_jobs=1).fit(X, y)
    scaled = (X * scale).astype(dtype)
    fitted = ours(standardize=True, n_jobs=1).fit(scaled, y)
    assert fitted.certificate_["converged"]
    assert np.isfinite(fitted.coef_).all()
    np.testing.assert_array_equal(fitted.predict(scaled), usual.predict(X))
    np.testing.assert_allclose(fitted.predict_proba(scaled), usual.predict_proba(X), atol=1e-3)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("ours", ALL)
def test_extreme_scales_are_finite_or_said(ours, dtype, scale):
    """Without standardising, a penalty of 1 forbids small features and leaves large ones free."""
    X, y = blobs(60, 5, 3)
    scaled = (X * scale).astype(dtype)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            fitted = ours(n_jobs=1).fit(scaled, y)
        except ValueError as error:
            assert "scale" in str(error) or "large" in str(error) or "infinity" in str(error)
            return
    assert np.isfinite(fitted.coef_).all()
    assert np.isfinite(fitted.intercept_).all()
    assert np.isfinite(fitted.predict_proba(scaled)).all()
    assert fitted.certificate_["converged"] or any("Convergence" in str(w.category) for w in said)
    if scale < 1:  # nothing can be told apart: the answer is that of the intercepts alone
        assert len(set(fitted.predict(scaled))) == 1


@pytest.mark.parametrize("ours", ALL)
def test_all_rows_equal(ours):
    X, y = np.ones((30, 4)), np.repeat([0, 1, 2], [5, 10, 15])
    fitted = ours(n_jobs=1, tol=1e-9).fit(X, y)
    assert set(fitted.predict(X)) == {2}
    if ours is MultinomialLogistic:  # the shares of the classes, since the intercept is free
        np.testing.assert_allclose(fitted.predict_proba(X[:1])[0], [1 / 6, 1 / 3, 1 / 2], atol=1e-3)


@pytest.mark.parametrize("ours", ALL)
def test_many_features_on_two_hundred_rows(ours):
    X, y = blobs(200, MANY_FEATURES, 3)
    fitted = ours(C=1e-3, n_jobs=1).fit(X.astype(np.float32), y)
    assert fitted.certificate_["converged"]
    peer = PEERS[ours](LogisticRegression(C=1e-3, tol=1e-8, max_iter=1000)).fit(X, y)
    np.testing.assert_array_equal(fitted.predict(X.astype(np.float32)), peer.predict(X))


@pytest.mark.parametrize("ours", [MultinomialLogistic, OneVsRestLogistic])
def test_many_classes(ours):
    X, y = blobs(3 * MANY_CLASSES, 30, MANY_CLASSES, spread=0.1)
    fitted = ours(C=10.0, n_jobs=1).fit(X, y)
    assert fitted.certificate_["converged"]
    assert fitted.coef_.shape == (MANY_CLASSES, 30)
    assert (fitted.predict(X) == y).mean() > 0.9


def test_many_classes_in_pairs():
    X, y = blobs(2 * MANY_CLASSES, 8, MANY_CLASSES, spread=0.1)
    fitted = OneVsOneLogistic(C=10.0, n_jobs=1).fit(X, y)
    assert fitted.certificate_["converged"]
    assert fitted.coef_.shape == (MANY_CLASSES * (MANY_CLASSES - 1) // 2, 8)
    # scikit-learn's answer, pair by pair: all of them would take it an hour.
    for problem in np.random.default_rng(0).choice(len(fitted.coef_), 25, replace=False):
        first, second = fitted.pairs_[problem]
        mine = (y == first) | (y == second)
        peer = LogisticRegression(C=10.0, tol=1e-10, max_iter=10_000).fit(X[mine], y[mine])
        found = X[mine] @ fitted.coef_[problem] + fitted.intercept_[problem]
        np.testing.assert_allclose(found, peer.decision_function(X[mine]), rtol=0.01, atol=0.01)
    some = X[:20]
    scores = fitted.decision_function(some)
    np.testing.assert_array_equal(fitted.predict(some), scores.argmax(axis=1))
    # Of votes: on how many of its pairs a class wins.
    votes = np.zeros((20, MANY_CLASSES))
    won = some @ fitted.coef_.T + fitted.intercept_ > 0
    for row in range(20):
        answers = np.where(won[row], fitted.pairs_[:, 1], fitted.pairs_[:, 0])
        votes[row] = np.bincount(answers, minlength=MANY_CLASSES)
    np.testing.assert_array_equal(np.rint(scores), votes)
    np.testing.assert_allclose(fitted.predict_proba(some).sum(axis=1), 1)
    assert (fitted.predict(X[:50]) == y[:50]).mean() > 0.9


@pytest.mark.parametrize("ours", ALL)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinities_are_refused(ours, value):
    X, y = blobs(60, 5, 3)
    X[13, 2] = value
    with pytest.raises(ValueError, match=r"NaN|infinity"):
        ours().fit(X, y)


# -- the whole fit ----------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _figures(unwritten_figures):
    """Leave the figures empty, but for tests that are marked `figures`."""


def fit(store, tmp_path, *more):
    words = ["fit", str(store), f"--reports-dir={tmp_path}/reports", "--jobs=1"]
    done = call(["classify", *words, *more])
    if done.code:
        return done, None
    run = Path(done.out.strip()).parent
    return done, json.loads((run / "results.json").read_text())


# Their numbers are odd in the figures too.
FIGURES = ["separable", "all rows equal", "tiny", "huge"]
ROWS = [name for name in CASES if "labels" not in name and name not in FIGURES]


@pytest.mark.parametrize(
    "name", [*ROWS, *(pytest.param(name, marks=pytest.mark.figures) for name in FIGURES)]
)
def test_a_whole_fit_of_odd_rows(name, tmp_path):
    if name == "all rows equal":
        X, y = np.ones((60, 4)), np.arange(60) % 3
    elif name in ("tiny", "huge"):
        X, y = blobs(60, 5, 3)
        X = X * (1e-30 if name == "tiny" else 1e30)
    else:
        X, y, _ = rows(name)
    dtype = "float16" if X.dtype == np.float16 else "float32"
    names = [f"class {i}" for i in range(int(y.max()) + 1)]
    store = write_store(tmp_path / "a.h5", y, y, names, X, X, dtype=dtype)
    done, results = fit(store, tmp_path, "--c-grid=0.1,1")
    assert done.code == 0, done.err
    for entry in results["strategies"].values():
        assert np.isfinite(entry["test"]["log_loss"])
        if name != "all rows equal":
            assert entry["converged"], entry["certificate"]
            assert entry["test"]["accuracy"] > 0.5
    assert all(np.isfinite(c["mcnemar_p"]) for c in results["comparisons"])


def test_a_class_missing_from_the_test_split_or_from_training(tmp_path):
    X, y = blobs(60, 5, 3)
    store = write_store(tmp_path / "a.h5", y, y[y < 2], ["a", "b", "c"], X, X[y < 2])
    _, results = fit(store, tmp_path, "--c=1")
    assert results["strategies"]["ovo"]["test"]["per_class"]["c"]["support"] == 0
    assert any("No test image has the class c" in text for text in results["warnings"])
    store = write_store(tmp_path / "b.h5", y[y < 2], y, ["a", "b", "c"], X[y < 2], X)
    _, results = fit(store, tmp_path, "--c=1")
    assert list(results["strategies"]) == ["multinomial"]  # two classes are one problem
    assert results["strategies"]["multinomial"]["test"]["per_class"]["c"]["recall"] == 0
    assert any("No training image has the class c" in text for text in results["warnings"])


def test_a_whole_fit_of_many_classes(tmp_path):
    """Pairs that there is no memory for are refused at once, with what to do, which then works."""
    X, y = blobs(3 * MANY_CLASSES, 64, MANY_CLASSES, spread=0.3)
    X_test, y_test = X[:MANY_CLASSES] + 0.1, y[:MANY_CLASSES]
    # One class of more rows, or all pairs would be fitted in the coordinates of their few rows.
    more = np.flatnonzero(y == 0).repeat(FEW_ROWS)
    X, y = np.vstack([X, X[more] + 0.01]), np.concatenate([y, y[more]])
    names = [f"class {i}" for i in range(MANY_CLASSES)]
    store = write_store(tmp_path / "a.h5", y, y_test, names, X, X_test)
    memory = "--memory=2GB" if LONG else "--memory=150MB"
    refused, _ = fit(store, tmp_path, "--c=1", memory)
    assert refused.code == 2
    assert f"({MANY_CLASSES * (MANY_CLASSES - 1) // 2:,} heads) needs at least" in refused.err
    assert not list((tmp_path / "reports").rglob("*"))
    advice = refused.err.split("fit the others alone: ")[1].split()
    assert advice == ["--head", "multinomial", "--head", "ovr"]
    done, results = fit(store, tmp_path, "--c=1", memory, *advice, *CURVES)
    assert done.code == 0, done.err
    for entry in results["strategies"].values():
        assert entry["converged"]
        assert entry["test"]["accuracy"] > 0.95


def test_a_whole_fit_of_many_features(tmp_path):
    X, y = blobs(200, MANY_FEATURES, 3)
    store = write_store(tmp_path / "a.h5", y, y[:60], "abc", X, X[:60])
    done, results = fit(store, tmp_path, "--c-grid=1e-4,1e-3", *CURVES)
    assert done.code == 0, done.err
    assert len(results["strategies"]) == 3
    for entry in results["strategies"].values():
        assert entry["converged"]
        assert entry["test"]["accuracy"] > 0.95
