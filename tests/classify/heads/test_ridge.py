"""Ridge regression next to scikit-learn's `RidgeClassifier`."""

import numpy as np
import pytest
from clusters_for_tests import CONTEXT, clusters, row_set
from sklearn.linear_model import RidgeClassifier
from sklearn.preprocessing import StandardScaler

from classify.heads.ridge import ALPHAS, Ridge

KIND = Ridge("ridge")


def theirs(X, y, alpha, weights=None):
    """Return raw coefficients and intercepts of scikit-learn's, in float64."""
    scaler = StandardScaler().fit(X.astype(np.float64), sample_weight=weights)
    model = RidgeClassifier(alpha, solver="cholesky")
    model.fit(scaler.transform(X.astype(np.float64)), y, sample_weight=weights)
    coef = np.atleast_2d(model.coef_) / scaler.scale_
    return coef, model.intercept_ - coef @ scaler.mean_


@pytest.mark.parametrize("n, d", [(400, 30), (40, 90)])
@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("weighted", [False, True])
def test_every_penalty_is_scikit_learns(n, d, n_classes, weighted):
    X, y = clusters(n, d, n_classes)
    weights = np.random.default_rng(1).uniform(0.2, 3, n) if weighted else None
    rows = row_set(X, y, weights)
    for head in KIND.path(rows, rows, KIND.grid(rows), CONTEXT):
        coef, intercept = theirs(X, y, head.setting["alpha"], weights)
        np.testing.assert_allclose(head.head.coef, coef, rtol=1e-6, atol=1e-6 * abs(coef).max())
        np.testing.assert_allclose(
            head.head.intercept, intercept, rtol=1e-6, atol=1e-6
        )  # of deviations, too


def test_one_fit_is_that_of_the_path():
    X, y = clusters(300, 20, 3)
    rows = row_set(X, y)
    path = list(KIND.path(rows, rows, KIND.grid(rows), CONTEXT))
    assert [head.setting["alpha"] for head in path] == sorted(ALPHAS, reverse=True)
    for head in path[::5]:
        one = KIND.fit(rows, head.setting, CONTEXT)
        np.testing.assert_allclose(one.head.coef, head.head.coef, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
def test_a_fit_of_float32_features_is_corrected(weighted):
    X, y = clusters(3000, 60, 5)
    X = (X @ np.random.default_rng(2).normal(size=(60, 60)) + 300).astype(np.float32)
    weights = np.random.default_rng(1).uniform(0.2, 3, len(y)) if weighted else None
    head = KIND.fit(row_set(X, y, weights), {"alpha": 1.0}, CONTEXT)
    coef, intercept = theirs(X, y, 1.0, weights)
    scores = X.astype(np.float64) @ coef.T + intercept
    np.testing.assert_allclose(head.answers(X).values, scores, atol=1e-6)  # of deviations, too
