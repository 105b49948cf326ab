"""The witness on a device against numpy's, and against scikit-learn's own loss."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from benchmarks import objective as on_the_host
from benchmarks.check_cuda import judge

STRATEGIES = ("multinomial", "ovr", "ovo")


def problem(strategy, n=300, d=7, k=5):
    rng = np.random.default_rng(0)
    heads = k * (k - 1) // 2 if strategy == "ovo" else k
    X = rng.normal(size=(n, d)).astype(np.float32)
    y = rng.permutation(np.arange(n) % k).astype(np.int64)
    return X, y, rng.normal(size=(heads, d)), rng.normal(size=heads)


@pytest.mark.parametrize("block", [judge.BLOCK_NUMBERS, 64])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_it_says_what_numpy_says(strategy, block, monkeypatch):
    monkeypatch.setattr(judge, "BLOCK_NUMBERS", block)
    X, y, coef, intercept = problem(strategy)
    found = judge.objective(strategy, coef, intercept, 0.3, torch.from_numpy(X), y)
    expected = on_the_host.objective(strategy, coef, intercept, 0.3, X, y)
    assert found == pytest.approx(expected, rel=1e-12)


def test_scores_that_are_far_off_lose_no_digits():
    X, y, coef, intercept = problem("ovr")
    found = judge.objective("ovr", 40 * coef, intercept, 1.0, torch.from_numpy(X), y)
    expected = on_the_host.objective("ovr", 40 * coef, intercept, 1.0, X, y)
    assert found == pytest.approx(expected, rel=1e-12)


def test_it_is_scikit_learns_loss():
    X, y, *_ = problem("multinomial")
    model = LogisticRegression(C=0.3, tol=1e-8).fit(X, y)
    coef, intercept = judge.weights_of(model)
    found = judge.objective("multinomial", coef, intercept, 0.3, torch.from_numpy(X), y)
    expected = 0.3 * log_loss(y, model.predict_proba(X), normalize=False) + 0.5 * (coef**2).sum()
    assert found == pytest.approx(expected, rel=1e-6)


def test_heads_are_taken_from_arrays_and_tensors():
    class Model:
        coef_, intercept_ = torch.ones(1, 3), torch.zeros(1)

    class Several:
        estimators_ = (Model(), Model())

    coef, intercept = judge.weights_of(Several())
    assert coef.shape == (2, 3) and intercept.shape == (2,) and coef.dtype == np.float64
