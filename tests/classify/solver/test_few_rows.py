"""Fits of few rows in the rows' own coordinates, next to scikit-learn on the features."""

import warnings

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier

from classify import (
    MultinomialLogistic,
    OneVsOneLogistic,
    OneVsRestLogistic,
    held_out_rows,
    selection,
)
from classify.codings.decisions import decide, probabilities, problem_sums, votes_and_margins
from classify.linear_head import LinearHead, PairHead, SpanHead, blended, pairs_of
from classify.scoring import sums_of_pairs
from classify.selection import select_C
from classify.solver.design import DesignMatrix
from classify.solver.few_rows import are_few
from classify.solver.fit import Fitter
from classify.solver.out_of_core import answer_steps
from classify.solver.passes import Group, Passes
from classify.solver.threads import workers

ALL = [OneVsOneLogistic, OneVsRestLogistic, MultinomialLogistic]


def few(sizes, d, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    X = rng.normal(size=(len(y), d)) + rng.normal(size=(len(sizes), d))[y] + 2
    return X.astype(dtype), y, rng.normal(size=(40, d)).astype(dtype) + 2


def theirs(ours, C, X, y, weight=None):
    one = LogisticRegression(C=C, tol=1e-12, max_iter=100_000)
    if ours is MultinomialLogistic:
        return one.fit(X, y, weight)
    meta = OneVsOneClassifier if ours is OneVsOneLogistic else OneVsRestClassifier
    return meta(one).fit(X, y)


def values(coef, intercept, C, X, y, pairs):
    """The pairs' objectives, each by its definition."""
    found = []
    for (a, b), w, bias in zip(pairs, coef, intercept, strict=True):
        mine = (y == a) | (y == b)
        z = np.where(y[mine] == b, 1, -1) * (X[mine] @ w + bias)
        found.append(C * np.logaddexp(0, -z).sum() + w @ w / 2)
    return np.array(found)


@pytest.mark.parametrize("ours", ALL)
@pytest.mark.parametrize(
    ("sizes", "C"), [([3] * 6, 1.0), ([1, 6, 2, 5], 1e-3), ([1] * 5, 100.0), ([2, 9, 4], 1e4)]
)
def test_the_answers_are_scikit_learns(ours, sizes, C):
    X, y, T = few(sizes, 50)
    fitted, other = ours(C, tol=1e-10, max_iter=2000).fit(X, y), theirs(ours, C, X, y)
    np.testing.assert_array_equal(fitted.predict(T), other.predict(T))
    parts = getattr(other, "estimators_", [other])
    coef = np.vstack([part.coef_ for part in parts])
    np.testing.assert_allclose(fitted.coef_, coef, atol=2e-4 * np.abs(coef).max())


@pytest.mark.parametrize("C", [1e-4, 1.0, 1e4])
def test_the_gap_holds_and_no_pair_is_above_scikit_learns_minimum(C):
    X, y, _ = few([3, 1, 4, 2, 3], 60)
    other = theirs(OneVsOneLogistic, C, X, y).estimators_
    coef, bias = (np.concatenate([getattr(e, n) for e in other]) for n in ("coef_", "intercept_"))
    for tol in (1e-2, 1e-5):
        ours = OneVsOneLogistic(C, tol=tol).fit(X, y)
        assert isinstance(ours.head_, PairHead)
        found = ours.certificate_["problems"]
        at = values(ours.coef_, ours.intercept_, C, X, y, ours.pairs_)
        least = values(coef, bias, C, X, y, ours.pairs_)
        np.testing.assert_allclose(found["objective"], at, rtol=1e-10)
        gap = np.array(found["gap_bound"])
        assert (gap <= tol * at).all()
        assert (at - gap <= least * (1 + 1e-9)).all()
        assert set(found["status"]) == {"CONVERGED"}


def test_weights_of_rows_and_no_intercept():
    X, y, _ = few([3, 2, 4], 30)
    weight = np.random.default_rng(1).integers(1, 4, len(y))
    repeated = np.repeat(np.arange(len(y)), weight)
    for options in ({}, {"fit_intercept": False}, {"standardize": False, "normalize": "l2"}):
        ours = OneVsOneLogistic(0.3, tol=1e-11, **options)
        weighed = ours.fit(X, y, sample_weight=weight).coef_
        again = ours.fit(X[repeated], y[repeated]).coef_
        np.testing.assert_allclose(weighed, again, atol=1e-5)
        assert ours.fit_intercept or not ours.intercept_.any()


def test_heads_of_sums_score_as_the_weights_do():
    X, y, T = few([1, 5, 3, 2], 40, dtype=np.float32)
    head = OneVsOneLogistic(0.1, standardize=True).fit(X, y).head_
    plain = LinearHead(head.coef, head.intercept)
    np.testing.assert_allclose(head.scores(T), plain.scores(T), atol=1e-4)
    for i in range(6):
        np.testing.assert_allclose(head.one(i).coef, head.coef[i : i + 1], atol=1e-12)
        np.testing.assert_allclose(head.one(i).intercept, head.intercept[i : i + 1], atol=1e-6)


def test_too_few_iterations_are_said():
    X, y, _ = few([3] * 4, 30)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        ours = OneVsOneLogistic(1e4, max_iter=1).fit(X, y)
    assert "limit of iterations" in str(told[0].message)
    assert ours.certificate_["status"] == "MAX_ITER"
    assert ours.n_iter_.max() == 1


def test_a_path_of_few_rows_starts_from_its_own_heads():
    X, y, _ = few([3] * 8, 40, dtype=np.float32)
    found = select_C("ovo", X, y, grid=np.logspace(-4, 2, 13), n_jobs=1)
    assert isinstance(found.start, PairHead)
    assert max(step["n_iter"] for step in found.path[3:]) <= 3
    assert all(step["converged"] for step in found.path)


def test_what_is_few():
    assert are_few(np.array([3, 3, 3]), 10)
    assert not are_few(np.array([3, 33, 32]), 100)  # two classes of 65 rows together
    assert not are_few(np.array([3, 6, 6]), 10)  # more rows than features
    assert not are_few(np.full(2000, 3), 100)  # too many products of rows


@pytest.mark.parametrize("order", [("coef_", "intercept_"), ("intercept_", "coef_")])
@pytest.mark.parametrize("fitted", [False, True])
def test_weights_can_be_set_one_after_the_other(order, fitted):
    X, y, T = few([3] * 4, 30)
    wanted = OneVsOneLogistic(0.1).fit(X, y)
    other = OneVsOneLogistic(0.1).fit(T[:6], [0, 1, 2] * 2) if fitted else OneVsOneLogistic(0.1)
    with pytest.raises(AttributeError):
        _ = OneVsOneLogistic().coef_
    for name in order:
        setattr(other, name, getattr(wanted, name))
    other.classes_, other.n_features_in_ = wanted.classes_, wanted.n_features_in_
    np.testing.assert_array_equal(other.coef_, wanted.coef_)
    np.testing.assert_array_equal(other.intercept_, wanted.intercept_)
    np.testing.assert_allclose(other.decision_function(T), wanted.decision_function(T), atol=1e-10)


def test_rows_are_answered_in_steps_where_there_are_many_columns():
    X = np.zeros((200, 10), np.float32)
    assert answer_steps(X, 200, 45) == [(0, 200)]
    steps = answer_steps(X, 200, 19_900)
    assert [low for low, _ in steps] == [0, 50, 100, 150]
    assert steps[-1] == (150, 200)
    assert answer_steps(X, 40, 499_500) == [(0, 32), (32, 40)]


@pytest.mark.parametrize("sizes", [[2] * 70, [1, 6, 2, 5, 1, 1, 1, 1] * 9])
def test_scores_made_class_by_class_are_those_of_the_table(sizes):
    X, y, T = few(sizes, 300, dtype=np.float32)
    k = len(sizes)
    head = OneVsOneLogistic(0.1, standardize=True).fit(X, y).head_
    table = LinearHead(head.coef, head.intercept).scores(T.astype(np.float64))
    scores = head.by_class(np.float32)(T)
    assert scores.shape == table.shape
    np.testing.assert_allclose(scores.table(), table, atol=1e-4)
    for label in (0, 3, k - 1):
        found = scores[10:20].with_class(label)
        np.testing.assert_allclose(found, table[10:20, pairs_of(label, k)], atol=1e-4)
    expected = votes_and_margins(table, k)
    for found, wanted in zip(votes_and_margins(scores, k), expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-3)
    np.testing.assert_array_equal(decide("ovo", scores, k), decide("ovo", table, k))
    coupled = [probabilities("ovo", which, k) for which in (scores, table)]
    np.testing.assert_allclose(*coupled, atol=1e-6)


@pytest.mark.parametrize("pairs", [True, False])
def test_pairs_are_judged_on_rows_of_their_own_classes(pairs):
    X, y, _ = few([3] * 9, 60)
    head = OneVsOneLogistic(0.1).fit(X, y).head_
    if not pairs:
        head = LinearHead(head.coef, head.intercept)
    T, own, _ = few([5, 0, 3] * 3, 60, seed=1)
    rows = np.arange(4, len(T))
    with workers(2) as pool:
        found = sums_of_pairs(T, head, own[rows], 9, pool, rows)
    wanted = problem_sums("ovo", head.scores(T[rows]), own[rows], 9)
    np.testing.assert_array_equal(found.n_rows, wanted.n_rows)
    np.testing.assert_array_equal(found.n_right, wanted.n_right)
    np.testing.assert_allclose(found.loss, wanted.loss, rtol=1e-10)
    # A row that weighs 2 is there twice.
    weights = np.random.default_rng(2).integers(0, 3, len(rows))
    with workers(2) as pool:
        found = sums_of_pairs(T, head, own[rows], 9, pool, rows, weights * 1.0)
    again = np.repeat(rows, weights)
    wanted = problem_sums("ovo", head.scores(T[again]), own[again], 9)
    for name in ("n_rows", "n_right", "loss"):
        np.testing.assert_allclose(getattr(found, name), getattr(wanted, name), rtol=1e-10)


@pytest.mark.parametrize("strategy", ["ovo", "ovr"])
def test_one_held_out_row_of_a_class_chooses_no_c_of_its_own(strategy):
    for size, chosen in ((9, False), (15, True)):
        X, y, _ = few([size] * 5, 100)
        found = select_C(strategy, X, y, grid=[0.01, 1], n_jobs=1)
        assert (found.per_problem_c is not None) == chosen


def test_some_rows_of_very_many_scores_judge_the_log_loss(monkeypatch):
    X, y, _ = few([10] * 12, 100, dtype=np.float32)
    whole = select_C("ovo", X, y, grid=[0.001, 1], n_jobs=1)
    monkeypatch.setattr(held_out_rows, "COUPLED_NUMBERS", 66 * 4)
    monkeypatch.setattr(held_out_rows, "score_steps", lambda X, n, head: [(0, 5), (5, 7), (7, n)])
    some = select_C("ovo", X, y, grid=[0.001, 1], n_jobs=1)
    held, k = whole.held, 12
    assert len(held) == 12
    for step, every in zip(some.path, whole.path, strict=True):
        assert step["accuracy"] == every["accuracy"]
    train = np.setdiff1d(np.arange(len(y)), held)
    model = OneVsOneLogistic(1, standardize=True, tol=selection.PATH_TOL).fit(X[train], y[train])
    chance = model.predict_proba(X[held])[np.arange(k), y[held]]
    np.testing.assert_allclose(some.path[1]["log_loss"], -np.log(chance[::3]).mean(), rtol=0.02)
    np.testing.assert_allclose(whole.path[1]["log_loss"], -np.log(chance).mean(), rtol=0.02)


@pytest.mark.parametrize("strategy", ["multinomial", "ovr"])
def test_heads_in_the_span_are_those_for_raw_features(strategy):
    X, y, T = few([3] * 8, 60)
    with workers(1) as pool:
        fitter = Fitter(strategy, X, y, 8, pool, standardize=True)
        first, _ = fitter.solve(0.1, tol=1e-8, max_iter=500)
        assert isinstance(first, SpanHead)
        plain = LinearHead(first.coef, first.intercept)
        np.testing.assert_allclose(first.scores(T), plain.scores(T), atol=1e-9)
        if strategy == "multinomial":
            np.testing.assert_allclose(first.coef.sum(axis=0), 0, atol=1e-12)
            np.testing.assert_allclose(first.intercept.sum(), 0, atol=1e-12)
        second, _ = fitter.solve(0.2, tol=1e-8, max_iter=500)
        half = blended([first, second], [0.5, 0.5])
        assert isinstance(half, SpanHead)
        np.testing.assert_allclose(half.coef, (first.coef + second.coef) / 2, atol=1e-12)
        np.testing.assert_allclose(first.one(2).coef, first.coef[2:3])
        for start in (second, LinearHead(second.coef, second.intercept)):
            _, solution = fitter.solve(0.2, tol=1e-6, max_iter=500, start=start)
            assert solution.n_iter.max() <= 1


@pytest.mark.parametrize("signed", [True, False])
def test_columns_of_few_rows_are_shared_without_a_change(signed):
    rng = np.random.default_rng(0)
    X, w, b = rng.normal(size=(90, 50)), rng.normal(size=(900, 50)), rng.normal(size=900)
    residual = rng.normal(size=(90, 900))
    sign = np.where(np.arange(900) % 3, 1.0, -1.0) if signed else None
    group = [Group(0, 90, np.arange(900), sign)]
    with workers(2) as pool:
        passes = Passes(DesignMatrix(X), pool)
        assert len(passes._column_slices(group)) == 2
        (scores,) = passes.scores(group, w, b)
        totals, products = passes.back(group, [residual], 900)
    flip = 1.0 if sign is None else sign
    np.testing.assert_allclose(scores, (X @ w.T + b) * flip, atol=1e-12)
    np.testing.assert_allclose(totals, residual.sum(axis=0) * flip, atol=1e-12)
    np.testing.assert_allclose(products, (residual * flip).T @ X, atol=1e-12)


@pytest.mark.parametrize("many", [64, 3])
@pytest.mark.parametrize("strategy", ["multinomial", "ovr"])
def test_a_looser_balance_leaves_a_bound_that_holds(strategy, many, monkeypatch):
    X, y, _ = few([3] * 6, 40)
    monkeypatch.setattr("classify.solver.certificate.CHORD_CLASSES", many)
    with workers(1) as pool:
        fitter = Fitter(strategy, X, y, 6, pool)
        _, near = fitter.solve(0.5, tol=1e-10, max_iter=500)
        _, loose = fitter.solve(0.5, tol=1e-2, max_iter=500)
    assert (loose.gap_bound <= 1e-2 * loose.objective).all()
    assert (loose.objective - loose.gap_bound <= near.objective * (1 + 1e-12)).all()
    assert (loose.objective >= (near.objective - near.gap_bound) * (1 - 1e-12)).all()


def test_one_row_of_each_class_is_no_reason_to_warn():
    X, y, _ = few([1] * 30, 40)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted = OneVsRestLogistic(0.1).fit(X, y)
    assert fitted.n_classes_ == 30
