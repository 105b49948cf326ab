import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from classify.heads.interface import RowSet
from classify.heads.trees.components import Components, principal_components, reduced


def features(n, d, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 6)) @ rng.normal(size=(6, d)) + rng.normal(size=(n, d))
    return (X * rng.uniform(0.01, 100, d) + rng.normal(size=d) * 1000).astype(np.float32)


def row_set(X, weights=None, **some):
    rows = np.arange(len(X), dtype=np.intp)
    return RowSet(X, rows, np.zeros(len(X), np.intp), 2, weights, **some)


@pytest.mark.parametrize(("n", "d"), [(400, 30), (25, 40)])
def test_components_are_those_of_scikit_learn_on_standardised_features(n, d):
    X = features(n, d)
    theirs = make_pipeline(StandardScaler(), PCA(5)).fit(X.astype(np.float64))
    mine = principal_components(row_set(X), 5)
    expected, found = theirs.transform(X.astype(np.float64)), mine.project(X)
    signs = np.sign((expected * found).sum(axis=0))
    np.testing.assert_allclose(found * signs, expected, atol=5e-3)


@pytest.mark.parametrize(("n", "d"), [(300, 12), (9, 40)])
def test_a_weight_of_two_is_a_row_twice(n, d):
    X = features(n, d)
    weights = np.where(np.arange(n) % 3, 1.0, 2.0)
    twice = principal_components(row_set(np.repeat(X, weights.astype(int), axis=0)), 4)
    once = principal_components(row_set(X, weights), 4)
    np.testing.assert_allclose(once.project(X), twice.project(X), atol=5e-3)


def test_rows_are_read_block_by_block(monkeypatch):
    monkeypatch.setattr("classify.heads.interface.BLOCK_BYTES", 4000)
    X = features(500, 12)
    blocks = principal_components(row_set(X), 4)
    monkeypatch.setattr("classify.heads.interface.BLOCK_BYTES", 1 << 30)
    whole = principal_components(row_set(X), 4)
    np.testing.assert_allclose(blocks.directions, whole.directions, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(reduced(row_set(X), blocks, "tree"), whole.project(X), atol=5e-3)


def test_features_that_do_not_vary_and_rows_that_are_equal():
    X = features(50, 8)
    X[:, 3] = 7
    assert np.isfinite(principal_components(row_set(X), 8).project(X)).all()
    alike = np.repeat(X[:1], 5, axis=0)
    assert np.abs(principal_components(row_set(alike), 8).project(alike)).max() < 1e-3


def test_arrays_that_do_not_fit_are_refused():
    state = principal_components(row_set(features(50, 8)), 3).state()
    assert Components.from_state(state, 8).directions.shape == (3, 8)
    for name, bad in [("mean", state["mean"][:-1]), ("directions", state["directions"] * np.nan)]:
        with pytest.raises(ValueError, match="components"):
            Components.from_state({**state, name: bad}, 8)
