"""Embeddings of a trained network, in place of made ones: the same optimum as scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import logsumexp
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier
from sklearn.preprocessing import StandardScaler

from classify import MultinomialLogistic, OneVsOneLogistic, OneVsRestLogistic
from data.reading import open_features
from extract.model.bundled import find_file

pytestmark = pytest.mark.skipif(find_file() is None, reason="the extra demo is not installed")
C = 0.001


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """150 digits at 64 pixels, embedded with the bundled weights: 1,280 features, all >= 0."""
    from extract.options import Options
    from extract.run import extract

    path = extract(
        Options(
            dataset="digits", limit=150, model="tf_efficientnet_lite0", weights="bundled",
            image_size=64, engine="channels-last", batch_size=20,
            features_dir=tmp_path_factory.mktemp("features"),
        )
    )  # fmt: skip
    store = open_features(path)
    assert store.train.features.shape == (150, 1280)
    return store.train, store.test


def objective(fit, X, labels, kind):
    """The sum of scikit-learn's objectives, written down again."""
    scores, own = fit.decision_function(X), np.eye(10)[labels]
    if kind is MultinomialLogistic:
        loss = (logsumexp(scores, axis=1) - scores[own > 0]).sum()
        coef = fit.coef_
    else:
        loss = np.logaddexp(0, np.where(own > 0, -scores, scores)).sum()
        heads = getattr(fit, "estimators_", None)
        coef = fit.coef_ if heads is None else np.concatenate([head.coef_ for head in heads])
    return C * loss + 0.5 * (coef**2).sum()


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (MultinomialLogistic, lambda fit: fit),
        (OneVsRestLogistic, OneVsRestClassifier),
        (OneVsOneLogistic, OneVsOneClassifier),
    ],
)
def test_the_optimum_is_scikit_learns(digits, ours, theirs):
    train, test = digits
    scaler = StandardScaler().fit(train.features.astype(np.float64))
    X, unseen = (scaler.transform(s.features.astype(np.float64)) for s in (train, test))
    fit = LogisticRegression(C=C, tol=1e-4, max_iter=2_000)
    expected = theirs(fit).fit(X, train.labels)
    found = ours(C=C, tol=1e-6).fit(X, train.labels)
    if ours is not OneVsOneLogistic:
        reached = objective(found, X, train.labels, ours)
        assert reached <= objective(expected, X, train.labels, ours) * (1 + 1e-5)
    np.testing.assert_array_equal(found.predict(unseen), expected.predict(unseen))
    # From 15 images of each class at 64 pixels; chance is 0.1.
    assert found.score(unseen, test.labels) > 0.5
