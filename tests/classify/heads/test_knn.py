"""Votes of the nearest rows next to scikit-learn's, and to DINO's formula in a plain loop."""

import numpy as np
import pytest
from clusters_for_tests import CONTEXT, clusters, row_set
from rows_for_tests import Rows
from sklearn.neighbors import KNeighborsClassifier

from classify.heads import neighbours
from classify.heads.interface import FitContext
from classify.heads.knn import KS, Knn
from classify.heads.neighbours import nearest_rows
from classify.solver.backend import DeviceMemoryWarning
from classify.solver.threads import workers

KIND = Knn("knn")


@pytest.fixture(params=["cpu", "torch-cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def context(request, monkeypatch):
    """Search in several blocks, in numpy and in torch."""
    monkeypatch.setattr(neighbours, "ROWS", 64)
    monkeypatch.setattr(neighbours, "QUERIES", 40)
    monkeypatch.setattr("classify.heads.knn.DEVICE_ROWS", 64)
    return FitContext(n_jobs=2, device=request.param)


def obvious(X, y, weights, new, k, n_classes):
    """Return DINO's votes: one row after the other."""
    votes = np.zeros((len(new), n_classes))
    for i, query in enumerate(new):
        similarity = X @ query / np.linalg.norm(X, axis=1) / np.linalg.norm(query)
        for row in np.argsort(-similarity, kind="stable")[:k]:
            votes[i, y[row]] += weights[row] * np.exp(similarity[row] / 0.07)
    return votes


@pytest.mark.parametrize("k", [1, 20, 200])
def test_votes_are_those_of_dinos_formula(k, context):
    X, y = clusters(300, 10, 4, spread=2)
    new = clusters(50, 10, 4, seed=1, spread=2)[0]
    weights = np.random.default_rng(3).uniform(0.5, 2, 300)
    head = KIND.fit(row_set(X, y, weights), {"k": k}, context)
    answers = head.answers(new)
    votes = obvious(X, y, weights, new, k, 4)
    np.testing.assert_allclose(answers.values, votes, rtol=2e-5)
    one_more = votes.sum(axis=1, keepdims=True) / k
    shares = (votes + one_more / 4) / (votes.sum(axis=1, keepdims=True) + one_more)
    np.testing.assert_allclose(np.exp(answers.log_probabilities), shares, rtol=2e-5)


def test_answers_are_scikit_learns_for_every_k_from_one_search(context, monkeypatch):
    X, y = clusters(300, 10, 4, spread=3, dtype=np.float32)
    new = clusters(80, 10, 4, seed=1, spread=3, dtype=np.float32)[0]
    rows = row_set(X, y)
    heads = list(KIND.path(rows, rows, KIND.grid(rows), context))
    assert [head.setting["k"] for head in heads] == list(KS)
    searches = []
    search = type(heads[0]).search
    monkeypatch.setattr(
        type(heads[0]), "search", lambda self, *rest: searches.append(rest) or search(self, *rest)
    )
    for head, answers in zip(heads, KIND.answers(heads, new), strict=True):
        model = KNeighborsClassifier(
            head.setting["k"], metric="cosine", algorithm="brute",
            weights=lambda distance: np.exp((1 - distance) / 0.07),
        ).fit(X.astype(np.float64), y)  # fmt: skip
        np.testing.assert_array_equal(answers.values.argmax(axis=1), model.predict(new))
    assert len(searches) == 1


def test_of_equally_near_rows_the_first_is_nearer(context):
    rng = np.random.default_rng(0)
    few = rng.integers(-2, 3, size=(30, 4)).astype(np.float32)  # many of one direction
    X = few[rng.integers(0, 30, 500)]
    X[::50] = 0
    y = np.zeros(500, dtype=int)
    # Each row once: a query of zeros is as near to all.
    found = KIND.fit(row_set(X, y), {"k": 70}, context).search(few, 70)
    unit = neighbours.unit_rows(X)
    for query, places, similar in zip(
        neighbours.unit_rows(few), found.places, found.similarities, strict=True
    ):
        same = np.diff(similar) == 0
        assert np.all(np.diff(similar) <= 0) and np.all(np.diff(places)[same] > 0)
        exact = unit.astype(np.float64) @ query
        left = np.delete(np.arange(500), places)
        assert exact[left].max() <= exact[places].min() + 1e-6
        # Of those that are as near as the last, the earlier ones.
        last = np.flatnonzero(np.abs(exact - exact[places[-1]]) < 1e-6)
        assert set(last[: np.isin(last, places).sum()]) <= set(places)


def test_numbers_of_rows_that_there_are():
    X, y = clusters(12, 3, 2)
    assert [setting["k"] for setting in KIND.grid(row_set(X, y))] == [1, 5, 10]
    few = row_set(X[:3], [0, 1, 1])
    np.testing.assert_allclose(  # a number of rows that was chosen on more of them
        KIND.fit(few, {"k": 200}, CONTEXT).answers(X).values,
        KIND.fit(few, {"k": 3}, CONTEXT).answers(X).values,
    )


def test_rows_on_the_disk_are_read_a_block_at_a_time(monkeypatch):
    monkeypatch.setattr(neighbours, "ROWS", 16)
    X, y = clusters(400, 8, 3, dtype=np.float32)
    source = Rows(X)
    with workers(2) as pool:
        found = nearest_rows(row_set(source, y), neighbours.unit_rows(X[:50]), 5, pool)
    assert source.largest == 16
    np.testing.assert_array_equal(found.places[:, 0], np.arange(50))


def test_a_search_that_the_device_has_no_room_for_is_done_on_the_cpu(monkeypatch):
    import torch

    from classify.solver.torch_backend import neighbours as on_device

    def full(*_, **__):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB")

    monkeypatch.setattr(on_device, "nearest_keys", full)
    X, y = clusters(60, 4, 2)
    head = KIND.fit(row_set(X, y), {"k": 5}, FitContext(device="torch-cpu"))
    with pytest.warns(DeviceMemoryWarning, match="too little memory for the knn search"):
        found = head.answers(X)
    expected = KIND.fit(row_set(X, y), {"k": 5}, CONTEXT).answers(X)
    np.testing.assert_array_equal(found.values, expected.values)
    assert head.device == "cpu"


@pytest.mark.parametrize(
    "changed, why",
    [
        ({"labels": np.array([0, 1, 9])}, "not among its classes"),
        ({"labels": np.array([0, 1])}, "do not fit together"),
        ({"weights": np.ones(2)}, "do not fit together"),
        ({"setting": {"k": 0}}, "no neighbours"),
    ],
)
def test_a_state_that_is_no_head_is_refused(changed, why):
    state = KIND.fit(row_set(np.eye(3, 4), [0, 1, 1]), {"k": 1}, CONTEXT).state()
    with pytest.raises(ValueError, match=why):
        KIND.trained.from_state({**state, **changed})


@pytest.mark.parametrize("dtype, kept", [(np.float16, np.float16), (np.float32, np.float32)])
def test_the_file_has_half_precision_where_that_is_all_there_is(dtype, kept):
    X = clusters(60, 4, 2)[0].astype(dtype).astype(np.float32)
    state = KIND.fit(row_set(X, np.arange(60) % 2), {"k": 5}, CONTEXT).state()
    assert state["features"].dtype == kept
