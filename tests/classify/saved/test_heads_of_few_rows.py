"""Heads of one-vs-one with very many weights: kept as sums of rows, and read again."""

import numpy as np
import pytest
from specs_for_tests import spec_of

from classify import OneVsOneLogistic
from classify.codings import decisions
from classify.fit.memory_budget import open_store
from classify.saved import heads
from classify.saved.heads import SavedHead, save_head, weights_of
from classify.saved.reading import load_head
from data.common.errors import UserError


@pytest.fixture
def saved(tmp_path, monkeypatch):
    monkeypatch.setattr(heads, "COMPACT_NUMBERS", 100)
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(5), 3)
    X = rng.normal(size=(15, 40)) + rng.normal(size=(5, 40))[y]
    model = OneVsOneLogistic(0.1, standardize=True).fit(X, y)
    names = tuple("abcde")
    made = SavedHead(
        "ovo", names, **weights_of(model.head_), spec=spec_of(), store_key="ab" * 32, C=0.1
    )
    save_head(tmp_path / "ovo.safetensors", made)
    return model, X, tmp_path / "ovo.safetensors"


def test_they_answer_as_the_estimator_does(saved):
    model, X, path = saved
    read = load_head(path)
    assert read.sums is not None
    assert read.n_features == 40
    np.testing.assert_allclose(read.scores(X), model.head_.scores(X), atol=1e-4)
    np.testing.assert_array_equal(read.predict(X), model.predict(X))


def test_rows_that_do_not_fit_their_classes_are_refused(saved, tmp_path):
    from safetensors import safe_open
    from safetensors.numpy import save_file

    with safe_open(saved[2], framework="numpy") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    tensors["starts"] = tensors["starts"][::-1].copy()
    save_file(tensors, tmp_path / "bad.safetensors", metadata)
    with pytest.raises(UserError, match="starts do not ascend from 0 to the 15 rows"):
        load_head(tmp_path / "bad.safetensors")


def test_many_classes_of_few_rows_fit_into_memory(make_store, tmp_path):
    names = tuple(f"c{i}" for i in range(150))
    path = make_store(tmp_path / "s" / "m.h5", names=names, n=300, d=64)
    # 11,175 pairs of 64 features: 200 MB for the solver of many rows.
    _, room = open_store(path, ("ovo",), 60_000_000, 1)
    assert not room.out_of_core


@pytest.mark.parametrize(("dtype", "spread"), [(np.float64, 0.1), (np.float32, 6.0)])
def test_many_classes_are_coupled_to_the_minimum(dtype, spread):
    k, rng = 80, np.random.default_rng(0)
    first, second = np.triu_indices(k, 1)
    liking = spread * rng.normal(size=(3, k))
    scores = liking[:, second] - liking[:, first] + rng.normal(size=(3, len(first)))
    found = decisions.probabilities("ovo", scores.astype(dtype), k)
    for row, p in zip(np.clip(scores, -16, 16), found, strict=True):
        r = np.zeros((k, k))
        r[first, second], r[second, first] = 1 / (1 + np.exp(row)), 1 / (1 + np.exp(-row))
        table = np.ones((k + 1, k + 1))
        table[:k, :k] = -r * r.T + np.diag((r.T**2).sum(axis=1))
        table[k, k] = 0
        exact = np.linalg.solve(table, np.eye(k + 1)[k])[:k]
        np.testing.assert_allclose(p, exact, atol=1e-6)
