"""The choice of C: the split, the path, its end, and the rule for ties."""

import numpy as np
import pytest
from sklearn.datasets import load_digits, load_iris

from classify import OneVsRestLogistic
from classify.codings.decisions import ProblemSums
from classify.selection import C_GRID, PATIENCE, choose_per_problem_c, select_C, validation_split
from classify.solver.problems import class_pairs


def test_split_is_stratified_and_keeps_single_rows_for_training():
    y = np.repeat([0, 1, 2, 3, 4], [100, 55, 10, 2, 1])
    train, held = validation_split(np.random.default_rng(0).permutation(y), seed=1)
    shuffled = np.random.default_rng(0).permutation(y)
    assert list(np.bincount(shuffled[held], minlength=5)) == [10, 6, 1, 1, 0]
    np.testing.assert_array_equal(np.sort(np.r_[train, held]), np.arange(len(y)))
    again = validation_split(shuffled, seed=1)
    np.testing.assert_array_equal(again[1], held)
    assert not np.array_equal(validation_split(shuffled, seed=2)[1], held)


def test_split_of_string_labels_and_of_nothing_to_split():
    train, held = validation_split(np.array(["b", "a", "b", "a"]))
    assert len(train) == len(held) == 2
    with pytest.raises(ValueError, match="two rows"):
        validation_split(np.array([0, 1, 2]))
    with pytest.raises(ValueError, match="fraction"):
        validation_split(np.array([0, 0]), fraction=1.0)


def test_grid_is_the_designs():
    np.testing.assert_allclose(C_GRID, np.logspace(-6, 5, 45))


@pytest.mark.parametrize("strategy", ["multinomial", "ovr", "ovo"])
def test_path_goes_up_and_the_choice_follows_the_rule(strategy):
    X, y = load_digits(return_X_y=True)
    X, y = X[:500], y[:500]
    grid = np.logspace(-6, 5, 12)
    steps = []
    selection = select_C(strategy, X, y, grid=grid[::-1], on_step=steps.append)
    assert steps == selection.path
    visited = [entry["C"] for entry in selection.path]
    np.testing.assert_allclose(visited + selection.not_visited, grid)
    best = min(selection.path, key=lambda e: (-e["accuracy"], e["log_loss"], e["C"]))
    assert best["C"] == selection.C
    assert selection.n_train + selection.n_validation == 500
    assert selection.start.coef.shape[1] == 64
    assert best["accuracy"] > 0.85


def test_path_ends_after_rising_log_losses_and_full_path_does_not():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((200, 60)), np.arange(200) % 4  # nothing to learn
    short = select_C("ovr", X, y)
    losses = np.array([entry["log_loss"] for entry in short.path])
    assert short.not_visited
    assert np.all(np.diff(losses)[-PATIENCE:] > 0)
    assert len(short.path) + len(short.not_visited) == len(C_GRID)
    full = select_C("ovr", X, y, full_path=True)
    assert not full.not_visited and len(full.path) == len(C_GRID)
    assert [e["accuracy"] for e in full.path[: len(short.path)]] == [
        e["accuracy"] for e in short.path
    ]


def test_entries_are_those_of_separate_fits():
    X, y = load_iris(return_X_y=True)
    selection = select_C("ovr", X, y, grid=[0.01, 1.0, 100.0])
    train, held = validation_split(y)
    for entry in selection.path:
        model = OneVsRestLogistic(C=entry["C"], standardize=True, tol=1e-10).fit(X[train], y[train])
        assert entry["accuracy"] == model.score(X[held], y[held])
        p = model.predict_proba(X[held])[np.arange(len(held)), y[held]]
        np.testing.assert_allclose(entry["log_loss"], -np.log(p).mean(), rtol=1e-2)


def test_a_refit_starts_where_the_path_ended():
    X, y = load_digits(return_X_y=True)
    selection = select_C("ovr", X[:400], y[:400], grid=[0.01, 0.1])
    options = {"C": selection.C, "standardize": True}
    warm = OneVsRestLogistic(**options).fit(X[:400], y[:400], start=selection.start)
    cold = OneVsRestLogistic(**options).fit(X[:400], y[:400])
    assert warm.n_iter_.sum() < cold.n_iter_.sum()
    np.testing.assert_array_equal(warm.predict(X), cold.predict(X))


def test_a_class_with_one_row_is_trained_on():
    X, y = load_iris(return_X_y=True)
    y = y.copy()
    y[149] = 3
    selection = select_C("ovo", X, y, grid=[0.1, 1.0])
    assert selection.start.coef.shape == (6, 4)


@pytest.mark.parametrize("grid", [[], [0.0, 1.0], [-1.0], [np.nan], [np.inf]])
def test_bad_grids_are_refused(grid):
    X, y = load_iris(return_X_y=True)
    with pytest.raises(ValueError, match="grid of C"):
        select_C("ovr", X, y, grid=grid)


def test_an_interrupt_gets_through():
    X, y = load_iris(return_X_y=True)

    def stop(entry):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        select_C("multinomial", X, y, on_step=stop)


def test_each_problem_may_have_a_value_of_its_own():
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss
    from sklearn.preprocessing import StandardScaler

    X, y = load_digits(return_X_y=True)
    X, y = X[y < 4][:400], y[y < 4][:400]
    X = X + np.random.default_rng(0).normal(size=X.shape) * 6
    grid = [1e-4, 1e-2, 1.0, 100.0]
    found = select_C("ovo", X, y, grid=grid, full_path=True, n_jobs=1)
    train, held = validation_split(y)
    np.testing.assert_array_equal(found.held, held)
    scaler = StandardScaler().fit(X[train])
    Z = scaler.transform(X)
    for chosen, (a, b) in zip(found.per_problem_c, class_pairs(4), strict=True):
        mine, judged = train[np.isin(y[train], (a, b))], held[np.isin(y[held], (a, b))]
        merits = []
        for C in grid:
            model = LogisticRegression(C=C, max_iter=2000, tol=1e-8).fit(Z[mine], y[mine])
            loss = log_loss(y[judged], model.predict_proba(Z[judged]))
            merits.append((-model.score(Z[judged], y[judged]), loss))
        assert chosen == grid[merits.index(min(merits))]
    assert len(set(found.per_problem_c)) > 1
    assert select_C("multinomial", X, y, grid=grid, n_jobs=1).per_problem_c is None


def test_a_problem_without_held_out_rows_has_the_shared_value():
    n_rows, n_right = np.array([0, 4]), np.array([0, 3])  # of two problems
    weak = ProblemSums(n_rows, n_right, np.array([0.0, 2.0]))
    strong = ProblemSums(n_rows, n_right, np.array([0.0, 1.0]))
    assert choose_per_problem_c(np.array([0.1, 1.0]), [weak, strong], 0.5).tolist() == [0.5, 1.0]
