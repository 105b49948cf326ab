"""Systems that differ by a multiple of the identity, against one dense solution each."""

import numpy as np
import pytest

from classify.heads import closed_form
from classify.heads.closed_form import solve_shifted
from classify.heads.interface import RowSet
from classify.heads.moments import moments_of
from classify.solver.threads import workers


def products(n, rank, seed=0):
    rows = np.random.default_rng(seed).normal(size=(rank, n)) * np.geomspace(1, 30, n)
    return rows.T @ rows


@pytest.mark.parametrize(
    ("n", "n_columns", "n_shifts", "way"),
    [(40, 3, 8, "form"), (7, 1, 7, "form"), (40, 30, 12, "eigh"), (40, 3, 4, "factors")],
)
def test_each_way_solves_what_a_dense_solver_does(monkeypatch, n, n_columns, n_shifts, way):
    matrix = products(n, 2 * n)
    right = np.random.default_rng(1).normal(size=(n, n_columns))
    shifts = np.geomspace(1e-3, 1e5, n_shifts).tolist()
    forms = []
    made = closed_form._Tridiagonal.of
    monkeypatch.setattr(
        closed_form._Tridiagonal, "of", lambda matrix: forms.append(1) or made(matrix)
    )
    monkeypatch.setattr(closed_form, "TOGETHER", 7)  # several turns
    before = matrix.copy()
    with workers(1) as pool:
        found = list(solve_shifted(matrix, right, shifts, pool))
    np.testing.assert_array_equal(matrix, before)
    assert len(forms) == (way == "form") and len(found) == n_shifts
    for shift, solution in zip(shifts, found, strict=True):
        expected = np.linalg.solve(matrix + shift * np.eye(n), right)
        np.testing.assert_allclose(solution, expected, rtol=1e-8, atol=1e-10)


def test_directions_without_variance_have_no_part():
    n = 30
    matrix, shifts = products(n, 10), [0.0, 1e-12, 1e-3, 1.0, 1e2, 1e4, 1e5]
    right = matrix @ np.random.default_rng(1).normal(size=(n, 2))
    with workers(1) as pool:
        found = list(solve_shifted(matrix, right, shifts, pool))
    np.testing.assert_allclose(found[0], np.linalg.pinv(matrix, rcond=1e-10) @ right, atol=1e-8)
    for shift, solution in zip(shifts[3:], found[3:], strict=True):
        expected = np.linalg.solve(matrix + shift * np.eye(n), right)
        np.testing.assert_allclose(solution, expected, rtol=1e-6, atol=1e-9)


def test_features_in_memory_are_left_as_they_are():
    X = np.random.default_rng(0).normal(size=(900, 6)).astype(np.float32)
    before, labels = X.copy(), np.arange(900) % 2
    for rows in (np.arange(900), np.arange(0, 900, 3)):
        with workers(1) as pool:
            found = moments_of(RowSet(X, rows, labels[rows], 2), pool)
        np.testing.assert_array_equal(X, before)
        np.testing.assert_allclose(found.mean, X[rows].mean(axis=0), atol=1e-5)
