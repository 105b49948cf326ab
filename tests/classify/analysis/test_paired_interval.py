"""Intervals of accuracy differences: they agree with the test, and they cover."""

import os
from math import comb

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import binom, multinomial, norm

from classify.analysis.paired_interval import difference_intervals
from classify.analysis.significance import (
    PairedCounts,
    adjusted_p,
    difference_interval,
    mcnemar_exact,
)

LONG = bool(os.environ.get("ICEBOX_FAULTS"))  # `make faults`
TESTS = (1, 2, 3, 9, 135, 1305)


def rejects(only_a, only_b, n_tests):
    """Whether n_tests * p < 0.05, in whole numbers: no rounding anywhere."""
    d = only_a + only_b
    tail = sum(comb(d, i) for i in range(min(only_a, only_b) + 1))
    return 20 * n_tests * min(2 * tail, 2**d) < 2**d


def all_splits(most):
    return [(a, d - a) for d in range(most + 1) for a in range(d + 1)]


def near_the_edge(d, n_tests):
    """Splits of d discordant rows around the one at which the test begins to reject."""
    least = next(b for b in range(d // 2, -1, -1) if b == 0 or rejects(d - b, b, n_tests))
    return [(d - b, b) for b in range(max(0, least - 3), least + 4)]


def excludes_zero(limits):
    limits = np.asarray(limits)
    return (limits[..., 0] > 0) | (limits[..., 1] < 0)


@pytest.mark.parametrize("n_tests", TESTS)
def test_intervals_exclude_zero_exactly_when_the_test_rejects(n_tests):
    splits = all_splits(90 if LONG else 24)
    splits += [s for d in (60, 333, 1000) for s in near_the_edge(d, n_tests)]
    splits += [(b, a) for a, b in splits]
    only_a, only_b = np.array(splits).T
    expected = [rejects(a, b, n_tests) for a, b in splits]
    assert any(expected) and not all(expected)
    for n in (only_a + only_b, 10_000):
        rows = np.maximum(n, 1)
        limits = difference_intervals(only_a, only_b, rows, 0.05 / n_tests)
        assert excludes_zero(limits).tolist() == expected
        ends = np.array([(only_a - only_b) / rows]).T
        assert np.all(limits[:, :1] <= ends) and np.all(ends <= limits[:, 1:])


def test_p_decides_where_rounding_would_not(monkeypatch):
    for a, b in all_splits(12):
        p = adjusted_p(mcnemar_exact(a, b), 3)
        assert (p < 0.05) == rejects(a, b, 3)
        for shift in (-1e-3, 1e-3):  # limits that are wrong on either side
            monkeypatch.setattr(
                "classify.analysis.significance.difference_intervals",
                lambda *given, shift=shift: difference_intervals(*given) + shift,
            )
            found = difference_interval(PairedCounts(100, a, b, 100), 3)
            assert excludes_zero(found) == rejects(a, b, 3)


def slow_lower(a, b, n, alpha):
    """PropImp from binomial tails that are solved for their limits, over a fine grid of angles."""

    def limit(hits, trials, tail):
        if not hits:
            return 0.0
        return brentq(lambda share: binom.sf(hits - 1, trials, share) - tail, 0, 1, xtol=1e-14)

    z, d, found = norm.isf(alpha / 2), a + b, []
    for angle in np.linspace(0, np.pi / 2, 91):
        tails = norm.sf(z * np.cos(angle)), norm.sf(z * np.sin(angle))
        theta = 2 * limit(a, d, tails[0]) - 1
        psi = limit(d, n, tails[1]) if theta > 0 else 1 - limit(n - d, n, tails[1])
        found.append(theta * psi)
    return min(found)


@pytest.mark.parametrize(
    ("a", "b", "n"), [(1, 8, 656), (0, 0, 50), (20, 20, 40), (7, 0, 7), (30, 90, 500)]
)
def test_intervals_equal_a_slow_search(a, b, n):
    for alpha in (0.05, 0.05 / 135):
        got = difference_intervals(a, b, n, alpha)
        expected = slow_lower(a, b, n, alpha), -slow_lower(b, a, n, alpha)
        np.testing.assert_allclose(got, expected, atol=3e-4 * (expected[1] - expected[0]))


def test_ends_of_the_scale():
    # Nothing discordant: the exact upper limit of a share of which none of 656 was seen.
    low, high = difference_intervals(0, 0, 656, 0.05)
    assert high == -low == pytest.approx(1 - 0.025 ** (1 / 656))
    # Every row discordant and on one side.
    low, high = difference_intervals(10, 0, 10, 0.05)
    assert 0 < low < 1 == high
    assert difference_intervals(0, 0, 1, 0.05).tolist() == pytest.approx([-0.975, 0.975])


@pytest.mark.parametrize("n_tests", [1, 3, 135])
@pytest.mark.parametrize("n", [9, 40])
def test_coverage_and_error_are_kept_for_every_outcome_of_small_test_sets(n, n_tests):
    a, b = np.array([(a, b) for a in range(n + 1) for b in range(n + 1 - a)]).T
    low, high = difference_intervals(a, b, n, 0.05 / n_tests).T
    for discordance in (0.01, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.95, 1.0):
        for theta in (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.97, 1.0):
            difference = discordance * theta
            shares = [(discordance + difference) / 2, (discordance - difference) / 2]
            shares.append(max(0.0, 1 - sum(shares)))
            chances = multinomial.pmf(np.column_stack([a, b, n - a - b]), n, shares)
            chances = np.nan_to_num(chances)
            assert chances.sum() == pytest.approx(1)
            missed = chances[(difference < low - 1e-12) | (difference > high + 1e-12)].sum()
            # One of n_tests: all of them hold with 95 %, whatever they have to do with each other.
            assert n_tests * missed <= 0.05
