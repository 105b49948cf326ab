"""The choice of C with a given validation split, with groups, and with weights."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.utils.class_weight import compute_sample_weight

from classify.codings.decisions import problem_sums
from classify.selection import select_C, validation_split
from classify.solver.backend import TORCH_ON_CPU

GRID = [1e-3, 1e-2, 0.1]


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    y = rng.choice(3, 600, p=[0.6, 0.3, 0.1])
    X = rng.normal(size=(3, 8))[y] + 1.4 * rng.normal(size=(600, 8))
    return X, y, rng.uniform(0.2, 3, 600)


def test_the_given_rows_judge_and_the_others_are_fitted(rows, monkeypatch):
    monkeypatch.setattr("classify.selection.PATH_TOL", 1e-9)
    X, y, _ = rows
    held = np.random.default_rng(1).permutation(600)[:150]
    found = select_C("multinomial", X, y, grid=GRID, full_path=True, held=held)
    assert np.array_equal(found.held, np.sort(held))
    assert (found.n_train, found.n_validation) == (450, 150)
    rest = np.setdiff1d(np.arange(600), held)
    for step in found.path:
        model = LogisticRegression(C=step["C"], tol=1e-8, max_iter=1000)
        mean, scale = X[rest].mean(axis=0), X[rest].std(axis=0)
        chances = model.fit((X[rest] - mean) / scale, y[rest]).predict_proba(
            (X[held] - mean) / scale
        )
        assert step["accuracy"] == pytest.approx(
            np.mean(chances.argmax(axis=1) == y[held]), abs=1e-9
        )
        assert step["log_loss"] == pytest.approx(log_loss(y[held], chances), rel=1e-5)


@pytest.mark.parametrize("class_weight", [None, "balanced", {0: 1.0, 1: 0.5, 2: 4.0}])
@pytest.mark.parametrize("strategy", ["multinomial", "ovr"])
def test_weights_reach_the_fits_and_what_judges_them(rows, strategy, class_weight, monkeypatch):
    monkeypatch.setattr("classify.selection.PATH_TOL", 1e-9)
    X, y, weight = rows
    weight = np.where(np.arange(600) % 7 == 0, 0.0, weight)
    found = select_C(strategy, X, y, grid=GRID, full_path=True, sample_weight=weight,
                     class_weight=class_weight)  # fmt: skip
    held = found.held
    assert (weight[held] > 0).all()
    train = np.setdiff1d(np.flatnonzero(weight), held)
    # scikit-learn's balanced weights of rows that weigh, by themselves.
    mass = np.bincount(y[train], weight[train])
    factors = mass.mean() / mass if class_weight == "balanced" else np.array(
        [1.0 if class_weight is None else class_weight[k] for k in range(3)]
    )  # fmt: skip
    of_train, of_held = weight[train] * factors[y[train]], weight[held] * factors[y[held]]
    mean = np.average(X[train], axis=0, weights=of_train)
    scale = np.sqrt(np.average((X[train] - mean) ** 2, axis=0, weights=of_train))
    Z, Z_held = (X[train] - mean) / scale, (X[held] - mean) / scale
    for step in found.path:
        model = LogisticRegression(C=step["C"], tol=1e-8, max_iter=1000)
        if strategy == "multinomial":
            chances = model.fit(Z, y[train], of_train).predict_proba(Z_held)
        else:
            heads = [
                LogisticRegression(C=step["C"], tol=1e-8, max_iter=1000).fit(
                    Z, y[train] == k, of_train
                )
                for k in range(3)
            ]
            chances = np.stack([head.predict_proba(Z_held)[:, 1] for head in heads], axis=1)
            chances /= chances.sum(axis=1, keepdims=True)
        right = chances.argmax(axis=1) == y[held]
        assert step["accuracy"] == pytest.approx(np.average(right, weights=of_held), abs=1e-9)
        assert step["log_loss"] == pytest.approx(
            log_loss(y[held], chances, sample_weight=of_held), rel=1e-5
        )


def test_the_devices_code_chooses_the_same(rows):
    X, y, weight = rows
    options = {"grid": GRID, "sample_weight": weight, "class_weight": "balanced",
               "held": np.arange(0, 600, 5), "full_path": True}  # fmt: skip
    host, there = (select_C("ovo", X, y, device=at, **options) for at in ("cpu", TORCH_ON_CPU))
    assert there.device == TORCH_ON_CPU and host.C == there.C
    for a, b in zip(host.path, there.path, strict=True):
        assert a["accuracy"] == pytest.approx(b["accuracy"], abs=0.01)
        assert a["log_loss"] == pytest.approx(b["log_loss"], rel=3e-3)


def test_balanced_weights_are_scikit_learns_where_rows_weigh_alike(rows):
    X, y, _ = rows
    ours = select_C("ovr", X, y, grid=GRID, class_weight="balanced")
    train = np.setdiff1d(np.arange(600), ours.held)
    factors = dict(zip(y[train], compute_sample_weight("balanced", y[train]), strict=True))
    same = select_C("ovr", X, y, grid=GRID, class_weight=factors)
    for a, b in zip(ours.path, same.path, strict=True):
        assert a == pytest.approx(b)


def test_weights_of_one_choose_as_none_do(rows):
    X, y, _ = rows
    plain = select_C("ovo", X, y, grid=GRID)
    ones = select_C("ovo", X, y, grid=GRID, sample_weight=np.ones(600))
    assert np.array_equal(plain.held, ones.held) and ones.C == plain.C
    assert np.array_equal(ones.per_problem_c, plain.per_problem_c)
    for a, b in zip(plain.path, ones.path, strict=True):
        assert a == pytest.approx(b, rel=1e-5)


def test_problems_judged_with_weights_are_rows_repeated():
    rng = np.random.default_rng(0)
    scores, labels, weights = (
        rng.normal(size=(50, 6)),
        rng.integers(0, 4, 50),
        rng.integers(0, 4, 50),
    )
    again = np.repeat(np.arange(50), weights)
    found = problem_sums("ovo", scores, labels, 4, weights.astype(float))
    expected = problem_sums("ovo", scores[again], labels[again], 4)
    for name in ("n_rows", "n_right", "loss"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name))


def test_some_rows_judge_the_log_loss_with_their_own_weights(rows, monkeypatch):
    X, y, weight = rows
    whole = select_C("ovo", X, y, grid=GRID, sample_weight=weight, full_path=True)
    monkeypatch.setattr("classify.held_out_rows.COUPLED_NUMBERS", 3 * 20)  # every third row or so
    some = select_C("ovo", X, y, grid=GRID, sample_weight=weight, full_path=True)
    judged = whole.held[:: -(-3 * len(whole.held) // 60)]
    assert len(judged) < len(whole.held)
    for a, b in zip(whole.path, some.path, strict=True):
        assert a["accuracy"] == b["accuracy"] and a["log_loss"] != b["log_loss"]
    alone = select_C("ovo", np.r_[X, X[judged]], np.r_[y, y[judged]], grid=GRID, full_path=True,
                     sample_weight=np.r_[np.where(np.isin(np.arange(600), whole.held), 0, weight),
                                         weight[judged]],
                     held=600 + np.arange(len(judged)))  # fmt: skip
    monkeypatch.undo()
    for a, b in zip(some.path, alone.path, strict=True):
        assert a["log_loss"] == pytest.approx(b["log_loss"], rel=1e-5)


def test_no_group_is_on_two_sides(rows):
    X, y, weight = rows
    groups = np.random.default_rng(2).integers(0, 60, 600)
    found = select_C("ovr", X, y, grid=GRID, groups=groups, sample_weight=weight)
    rest = np.setdiff1d(np.arange(600), found.held)
    assert not set(groups[found.held]) & set(groups[rest])
    assert 0.07 <= len(found.held) / 600 <= 0.13
    train, held = validation_split(y, 0, groups=groups)
    assert np.array_equal(held, found.held) and np.array_equal(train, rest)
    given = select_C("ovr", X, y, grid=GRID, groups=groups, held=np.arange(100))
    assert np.array_equal(given.held, np.arange(100))  # a split that is given is not changed


def test_what_cannot_be_held_out_or_judged_is_refused(rows):
    X, y, _ = rows
    with pytest.raises(ValueError, match="each of the 3 groups has a class in whole"):
        select_C("ovr", X, y, groups=y)
    with pytest.raises(ValueError, match="only validation rows have the class 2"):
        select_C("ovr", X, y, held=np.flatnonzero(y == 2))
    with pytest.raises(ValueError, match="no validation row has any weight"):
        select_C("ovr", X, y, held=np.arange(9), sample_weight=np.arange(600) >= 9)


def test_one_vs_rest_of_weights_is_scikit_learns():
    """The refit, too."""
    from classify import OneVsRestLogistic

    rng = np.random.default_rng(3)
    y = rng.integers(0, 3, 200)
    X, weight = rng.normal(size=(3, 5))[y] + rng.normal(size=(200, 5)), rng.uniform(0, 2, 200)
    ours = OneVsRestLogistic(0.5, tol=1e-9).fit(X, y, weight)
    for k in range(3):
        theirs = LogisticRegression(C=0.5, tol=1e-10, max_iter=2000).fit(X, y == k, weight)
        np.testing.assert_allclose(ours.coef_[k], theirs.coef_[0], atol=2e-4)
