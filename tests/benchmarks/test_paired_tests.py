"""The paired tests err and cover as the notes say: the same judges as the benchmark, smaller."""

import json

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from benchmarks import paired_tests
from benchmarks.paired_tests import (
    FAVOURS,
    Truth,
    all_hold,
    bounds,
    dependent,
    independent,
    judge_family,
    missed,
    tango_interval,
)
from classify.analysis.paired_interval import difference_intervals
from classify.analysis.significance import mcnemar_exact


@pytest.mark.parametrize(
    ("n", "discordant", "n_tests"), [(200, 10, 15), (2_000, 100, 1), (10_000, 30, 135)]
)
def test_family_wise_error_and_simultaneous_coverage(n, discordant, n_tests):
    found = judge_family(n, discordant, n_tests, 1_000)
    assert found["bound"]["error"] <= 0.05
    assert found["bound"]["coverage"] >= 0.95
    for kind in ("independent", "dependent"):
        assert found[kind]["error"] <= 0.05 + 0.021  # three standard errors
        assert found[kind]["coverage"] >= 0.95 - 0.021


def test_the_bound_is_what_simulations_of_one_test_find():
    for favour in FAVOURS:
        truth = Truth(300, 0.1, favour)
        where, rng = bounds(truth, 1), np.random.default_rng(1)
        expected = 1 - missed(truth, where)
        for draw in (independent, dependent):
            only_a, only_b = draw(truth, 1, 4_000, rng)
            assert np.mean(only_a - only_b) / 300 == pytest.approx(truth.difference, abs=0.002)
            assert np.mean(only_a + only_b) / 300 == pytest.approx(0.1, abs=0.002)
            assert all_hold(where, only_a, only_b) == pytest.approx(expected, abs=0.016)


def test_where_an_interval_misses_is_where_it_does():
    truth = Truth(200, 0.1, 0.5)
    where = bounds(truth, 3)
    for d in range(8, 33):
        a = np.arange(d + 1)
        low, high = difference_intervals(a, d - a, 200, 0.05 / 3).T
        assert (a >= where.above[d]).tolist() == (low > truth.difference).tolist()
        assert (d - a >= where.below[d]).tolist() == (high < truth.difference).tolist()


def test_without_a_difference_missing_is_rejecting():
    where = bounds(Truth(200, 0.1, 0.0), 3)
    for d in range(8, 33):
        rejecting = [a for a in range(d // 2, d + 1) if 3 * mcnemar_exact(a, d - a) < 0.05]
        assert where.above[d] == where.below[d] == (rejecting[0] if rejecting else d + 1)


def test_dependent_tests_are_positively_dependent():
    only_a, only_b = dependent(Truth(2_000, 0.1, 0.0), 6, 2_000, np.random.default_rng(0))
    together = np.corrcoef((only_a - only_b).T)
    assert np.all(together[:3, 3:] > 0.3)  # by the champion
    assert np.all(together[:3, :3] > 0.7)  # and by copying


@pytest.mark.parametrize(("a", "b", "n"), [(8, 1, 60), (20, 20, 300), (0, 5, 40)])
def test_tango_limits_by_maximising_the_likelihood(a, b, n):
    for limit in tango_interval(a, b, n):

        def loss(share, limit=limit):
            shares = np.array([share + limit, share, 1 - 2 * share - limit])
            counts = np.array([a, b, n - a - b])
            return -np.sum(counts[counts > 0] * np.log(np.maximum(shares[counts > 0], 1e-300)))

        ends = max(0, -limit), (1 - limit) / 2
        share = minimize_scalar(loss, bounds=ends, method="bounded", options={"xatol": 1e-12}).x
        score = (a - b - n * limit) / (n * (2 * share + limit - limit**2)) ** 0.5
        assert abs(score) == pytest.approx(1.959964, abs=1e-3)


def test_the_part_writes_its_file(settings, monkeypatch, capsys):
    monkeypatch.setattr(paired_tests, "ROWS", (50,))
    monkeypatch.setattr(paired_tests, "TESTS", (1, 3))
    monkeypatch.setattr(paired_tests, "DISCORDANT", (2, 10, 100))
    monkeypatch.setattr(paired_tests, "WIDTHS", (2, 10))
    paired_tests.run(settings)
    found = json.loads((settings.results / "paired-tests.json").read_text())
    assert found["complete"]
    assert [row.get("tests") for row in found["results"]] == [1, 3, 1, 3, None, None, None, None]
    assert "standard errors of them: yes" in capsys.readouterr().out
