"""The same objective, optimum and answers as scikit-learn's estimators."""

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine, make_blobs
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier
from sklearn.preprocessing import StandardScaler

from classify import MultinomialLogistic, OneVsOneLogistic, OneVsRestLogistic
from classify.solver.problems import class_pairs


def digits():
    X, y = load_digits(return_X_y=True)
    return X[:300] / 16, np.array(list("abcdefghij"))[y[:300]]


def wide():
    X, y = make_blobs(n_samples=40, n_features=120, centers=3, cluster_std=6.0, random_state=0)
    return X / 10, y


def binary():
    X, y = load_breast_cancer(return_X_y=True)
    return StandardScaler().fit_transform(X), y


def unbalanced():
    X, y = load_iris(return_X_y=True)
    keep = np.r_[0:50, 50:52, 100:101, 102:150]
    y = np.where(np.arange(150) == 101, 3, y)  # one row, far from alone in its place
    keep = np.r_[keep, 101]
    return X[keep], y[keep]


DATA = {
    "iris": (load_iris(return_X_y=True), 1.0),
    "wine": ((StandardScaler().fit_transform(load_wine().data), load_wine().target), 0.3),
    "breast cancer": (binary(), 0.05),
    "digits": (digits(), 1.0),
    "wide": (wide(), 0.1),
    "few rows": (unbalanced(), 1.0),
}


def peer(C):
    # As tight as it goes: the reference must be nearer the optimum than what is tested.
    return LogisticRegression(C=C, solver="lbfgs", tol=1e-11, max_iter=100_000)


def reference(strategy, C):
    return {
        "multinomial": peer(C),
        "ovr": OneVsRestClassifier(peer(C)),
        "ovo": OneVsOneClassifier(peer(C)),
    }[strategy]


OURS = {"multinomial": MultinomialLogistic, "ovr": OneVsRestLogistic, "ovo": OneVsOneLogistic}


def heads(model):
    if hasattr(model, "estimators_"):
        parts = [(e.coef_[0], e.intercept_[0]) for e in model.estimators_]
        return np.stack([p[0] for p in parts]), np.array([p[1] for p in parts])
    return model.coef_, model.intercept_


def objectives(strategy, coef, intercept, X, labels, C):
    """scikit-learn's objective of each problem, from its formula, in float64."""
    k = labels.max() + 1
    z = X @ coef.T + intercept
    penalty = 0.5 * (coef**2).sum(axis=1)
    if k > 2 and strategy == "multinomial":
        top = z.max(axis=1, keepdims=True)
        loss = np.log(np.exp(z - top).sum(axis=1)) + top[:, 0] - z[np.arange(len(X)), labels]
        return np.array([C * loss.sum() + penalty.sum()])
    values = []
    for head in range(len(coef)):
        if k == 2:
            t, use = labels == 1, np.ones(len(X), bool)
        elif strategy == "ovr":
            t, use = labels == head, np.ones(len(X), bool)
        else:
            i, j = class_pairs(k)[head]
            t, use = labels == j, (labels == i) | (labels == j)
        margin = np.where(t, z[:, head], -z[:, head])[use]
        values.append(C * np.logaddexp(0, -margin).sum() + penalty[head])
    return np.array(values)


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("strategy", OURS)
def test_parity(name, strategy):
    (X, y), C = DATA[name]
    theirs = reference(strategy, C).fit(X, y)
    ours = OURS[strategy](C=C, tol=1e-13).fit(X, y)
    classes, labels = np.unique(y, return_inverse=True)
    np.testing.assert_array_equal(ours.classes_, classes)

    coef, intercept = heads(theirs)
    assert ours.coef_.shape == coef.shape and ours.intercept_.shape == intercept.shape
    np.testing.assert_allclose(ours.coef_, coef, rtol=1e-4, atol=2e-5)
    np.testing.assert_allclose(
        ours.intercept_ - ours.intercept_.mean() * (strategy == "multinomial"),
        intercept - intercept.mean() * (strategy == "multinomial"),
        rtol=1e-4,
        atol=1e-4,
    )
    mine = objectives(strategy, ours.coef_, ours.intercept_, X, labels, C)
    its = objectives(strategy, coef, intercept, X, labels, C)
    np.testing.assert_allclose(mine, its, rtol=1e-8)
    assert np.all(mine <= its * (1 + 1e-11))
    np.testing.assert_allclose(mine, ours.certificate_["problems"]["objective"], rtol=1e-11)

    expected = theirs.decision_function(X)
    found = ours.decision_function(X)
    assert found.shape == expected.shape
    if strategy == "multinomial" and found.ndim == 2:  # both centred: softmax sees differences only
        expected = expected - expected.mean(axis=1, keepdims=True)
        found = found - found.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    if expected.ndim == 2:
        ordered = np.sort(expected, axis=1)
        clear = ordered[:, -1] - ordered[:, -2] > 1e-3
    else:
        clear = np.abs(expected) > 1e-3
    assert clear.mean() > 0.95
    np.testing.assert_array_equal(ours.predict(X)[clear], theirs.predict(X)[clear])
    if strategy != "ovo":
        np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-4)


@pytest.mark.parametrize("strategy", OURS)
def test_standardize_is_a_scaler_in_front(strategy):
    X, y = load_wine(return_X_y=True)
    theirs = reference(strategy, 0.3).fit(StandardScaler().fit_transform(X), y)
    ours = OURS[strategy](C=0.3, tol=1e-12, standardize=True).fit(X, y)
    np.testing.assert_allclose(ours.predict(X), theirs.predict(StandardScaler().fit_transform(X)))
    scores = StandardScaler().fit_transform(X) @ heads(theirs)[0].T
    mine = X @ ours.coef_.T + ours.intercept_ - heads(theirs)[1]
    if strategy == "multinomial":
        scores -= scores.mean(axis=1, keepdims=True)
        mine -= mine.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(mine, scores, atol=1e-3)


@pytest.mark.parametrize("strategy", OURS)
def test_float32_reaches_the_float64_optimum(strategy):
    X, y = digits()
    labels = np.unique(y, return_inverse=True)[1]
    tight = OURS[strategy](C=1.0, tol=1e-12).fit(X, y)
    single = OURS[strategy](C=1.0).fit(X.astype(np.float32), y)
    best = objectives(strategy, tight.coef_, tight.intercept_, X, labels, 1.0)
    found = objectives(strategy, single.coef_, single.intercept_, X, labels, 1.0)
    assert np.all(found <= best * (1 + 1e-6))
    assert single.certificate_["converged"]
    assert single.decision_function(X.astype(np.float32)[:3]).shape == (3, 10)
