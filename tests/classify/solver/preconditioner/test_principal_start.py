"""The start in a few directions is near the optimum, and only there where it pays."""

import numpy as np
import pytest
from problems_for_tests import blobs, make

from classify.solver.design import DesignMatrix
from classify.solver.fit import Fitter
from classify.solver.preconditioner import principal_start as coarse
from classify.solver.threads import Workers
from classify.solver.tuning import START_CLOSE_TOL


def wide(n=900, d=520, k=3, rank=None, seed=0):
    """Overlapping classes of many features, sorted by class; of some rank where it is given."""
    rng = np.random.default_rng(seed)
    labels = np.sort(rng.integers(0, k, n))
    inner = d if rank is None else rank
    X = rng.standard_normal((n, inner)) + 0.7 * rng.standard_normal((k, inner))[labels]
    if rank is not None:
        X = X @ rng.standard_normal((rank, d)) / np.sqrt(rank)
    return X.astype(np.float32), labels


def at_base_rates(objective):
    points = np.zeros((objective.n_problems, objective.n_parameters))
    objective.split(points)[1][:] = objective.base_rates()
    return points


@pytest.mark.parametrize("kind", ["ovo", "ovr", "softmax"])
def test_what_lies_in_the_directions_is_solved(kind):
    X, labels = wide(rank=20)
    objective = make(kind, X, labels, C=0.1)
    everything = np.arange(objective.n_problems)
    base = at_base_rates(objective)
    found, sketch = coarse.start_from_directions(objective, base)
    axes = sketch.axes
    np.testing.assert_allclose(axes.T @ axes, np.eye(coarse.START_DIRECTIONS), atol=1e-5)
    np.testing.assert_allclose(sketch.turned, X @ axes, atol=1e-4)
    assert np.all(sketch.chance == 1.0)
    assert sketch.rest < 1e-5 * X.var()  # twenty directions are all
    centred = (X - X.mean(axis=0)) @ axes
    np.testing.assert_allclose(sketch.spread, (centred**2).mean(axis=0), rtol=1e-3, atol=1e-4)
    assert np.all(np.diff(sketch.spread) <= 0)
    few, turned, beside = sketch.leading(5)
    np.testing.assert_array_equal(few, axes[:, :5])
    np.testing.assert_array_equal(turned, sketch.turned[:, :5])
    others = X - X.mean(axis=0) - centred[:, :5] @ few.T
    assert beside == pytest.approx((others**2).sum() / len(X) / (X.shape[1] - 5), rel=1e-3)
    strategy = {"ovo": "ovo", "ovr": "ovr", "softmax": "multinomial"}[kind]
    fitter = Fitter(strategy, X, labels, 3, Workers())
    least = fitter.solve(0.1, tol=1e-7, max_iter=500)[1].objective
    start = objective.evaluate(everything, found)[0]
    before = objective.evaluate(everything, base)[0]
    # The tolerance bounds the duality gap, in terms of the objective.
    assert np.all(start - least <= coarse.START_TOL * start)
    assert np.all(start - least <= 0.2 * (before - least))


def test_every_other_row_stands_for_two(monkeypatch):
    X, labels = wide(n=3000, rank=20)
    monkeypatch.setattr(coarse, "START_ROWS", 1500)
    weight = np.random.default_rng(0).uniform(0.5, 1.5, len(X))
    objective = make("ovo", X, labels, C=0.02, weight=weight)
    drawn = []
    restricted = type(objective).restricted

    def noted(self, design, rows, stride, workers):
        drawn.append((len(rows), stride.min(), stride.max()))
        return restricted(self, design, rows, stride, workers)

    monkeypatch.setattr(type(objective), "restricted", noted)
    everything = np.arange(objective.n_problems)
    base = at_base_rates(objective)
    found, _ = coarse.start_from_directions(objective, base)
    assert drawn == [(1501, 2, 2)]  # every other one of each class
    start, before = (objective.evaluate(everything, points)[0] for points in (found, base))
    assert np.all(start < before)


def test_it_is_not_made_where_it_does_not_pay():
    X, labels = wide()
    assert coarse.worthwhile(make("ovo", X, labels, C=1.0))
    assert not coarse.worthwhile(make("ovo", X, labels, C=1e-6))
    assert not coarse.worthwhile(make("ovo", X[:, :100], labels, C=1.0))
    few = [np.flatnonzero(labels == k)[:count] for k, count in enumerate((300, 5, 5))]
    some = np.concatenate(few)
    assert not coarse.worthwhile(make("ovo", X[some], labels[some], C=1.0))


def test_small_classes_keep_their_rows_and_large_ones_give_some(monkeypatch):
    labels = np.repeat([0, 1, 2, 4], [1000, 3, 450, 2000])
    labels = labels[np.random.default_rng(0).permutation(len(labels))]
    rows, stride = coarse._some_rows(labels, len(labels) / 8)
    assert np.all(np.diff(rows) > 0)
    for label, count, each in ((0, 1000, 5), (1, 3, 1), (2, 450, 2), (4, 2000, 8)):
        mine = labels[rows] == label
        assert np.all(stride[mine] == each) and mine.sum() == -(-count // each)
    # Rows of the restricted problem count for as many as they stand for.
    labels, weight = np.sort(labels), np.random.default_rng(1).uniform(0.5, 1.5, len(labels))
    rows, stride = coarse._some_rows(labels, len(labels) / 8)
    X = np.random.default_rng(2).standard_normal((len(labels), 6))
    for given in (None, weight):
        objective = make("ovo", X, labels, C=0.3, weight=given)
        few = objective.restricted(DesignMatrix(X[rows]), rows, stride, Workers())
        scaled = stride if given is None else given[rows] * stride
        same = make("ovo", X[rows], labels[rows], C=0.3, weight=scaled)
        points = np.random.default_rng(3).standard_normal((10, 7))
        for got, expected in zip(
            few.evaluate(np.arange(10), points), same.evaluate(np.arange(10), points), strict=True
        ):
            np.testing.assert_allclose(got, expected, rtol=1e-12)


@pytest.mark.parametrize("standardize", [False, True])
def test_a_fit_from_there_ends_where_one_from_zero_does(monkeypatch, standardize):
    X, labels = wide(n=1500, k=6)
    # As for many pairs: one inverse for all, and their own for slow ones.
    monkeypatch.setattr("classify.solver.fit.SMALL_WORK", 0.0)
    monkeypatch.setattr("classify.solver.fit.LARGEST_PRICE", 0.0)
    monkeypatch.setattr("classify.solver.fit.SLOW_PRICE", 1.0)
    monkeypatch.setattr("classify.solver.preconditioner.sampled.SETTLED", 3)
    made = []

    def noted(*arguments):
        made.append(True)
        return start(*arguments)

    start = coarse.start_from_directions
    monkeypatch.setattr("classify.solver.fit.start_from_directions", noted)
    solutions = []
    for worthwhile in (coarse.worthwhile, lambda objective: False):
        monkeypatch.setattr("classify.solver.fit.worthwhile", worthwhile)
        fitter = Fitter("ovo", X, labels, 6, Workers(2), standardize=standardize)
        head, solution = fitter.solve(1.0, tol=1e-7, max_iter=500)
        assert solution.converged
        solutions.append((head, solution))
    assert made == [True]
    (a, one), (b, other) = solutions
    np.testing.assert_allclose(one.objective, other.objective, rtol=2e-7)
    np.testing.assert_allclose(a.coef, b.coef, atol=2e-3 * np.abs(b.coef).max())
    assert fitter._preconditioner is not None and fitter._preconditioner._inverses


@pytest.mark.parametrize("strategy", ["multinomial", "ovr"])
def test_columns_with_inverses_of_their_own_start_there_too(monkeypatch, strategy):
    X, labels = wide(n=1500, k=3)
    monkeypatch.setattr("classify.solver.fit.LARGEST_PRICE", 1000.0)
    heads, n_iter = [], []
    for work, started in ((0.0, True), (1e12, False)):  # expensive inverses, and cheap ones
        monkeypatch.setattr("classify.solver.fit.SMALL_WORK", work)
        fitter, starts = Fitter(strategy, X, labels, 3, Workers(2)), []
        start = coarse.start_from_directions
        monkeypatch.setattr(
            "classify.solver.fit.start_from_directions",
            lambda *given, start=start, starts=starts: starts.append(given[2]) or start(*given),
        )
        head, solution = fitter.solve(0.1, tol=1e-7, max_iter=500)
        assert starts == ([START_CLOSE_TOL] if started else [])
        assert solution.converged and fitter._preconditioner._inverses
        assert fitter._preconditioner.sketch is None
        n_iter.append(solution.n_iter.max())
        # The multinomial's penalty makes what is common to all classes zero, up to its tolerance.
        heads.append(head.coef - (strategy == "multinomial") * head.coef.mean(axis=0))
    np.testing.assert_allclose(*heads, atol=2e-3 * np.abs(heads[0]).max())
    assert n_iter[0] < n_iter[1]


def test_threads_do_not_change_its_bits():
    X, labels = wide(n=1200, k=4)
    found = [
        coarse.start_from_directions(
            make("ovo", X, labels, C=1.0, workers=Workers(n)), at_base_rates(make("ovo", X, labels))
        )[0]
        for n in (1, 2)
    ]
    np.testing.assert_array_equal(*found)


def test_features_without_any_spread_do_no_harm():
    X, labels = blobs(n=900, d=6, k=3)
    X = np.concatenate([X, np.ones((900, 514))], axis=1).astype(np.float32)
    head, solution = Fitter("ovo", X, labels, 3, Workers()).solve(0.1, tol=1e-6, max_iter=300)
    assert solution.converged and np.isfinite(head.coef).all()
    objective = make("ovo", X, labels, C=0.1)
    found, _ = coarse.start_from_directions(objective, at_base_rates(objective))
    assert np.isfinite(found).all()
