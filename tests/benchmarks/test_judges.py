"""What the benchmarks judge by: objectives, the search for a tolerance, slopes."""

import numpy as np
import pytest

from benchmarks import objective as module
from benchmarks import peers
from benchmarks.hundred import of_pairs, split_classes
from benchmarks.objective import objective
from benchmarks.one_c import goals
from benchmarks.path import interpolate
from benchmarks.rows import Rows, made, standardised
from benchmarks.search import LADDER, loosest
from benchmarks.slopes import fit_slope


def direct(strategy, coef, intercept, C, X, y):
    """Row by row and head by head, as the formulas read."""
    k = y.max() + 1
    pairs = [(i, j) for i in range(k) for j in range(i + 1, k)]
    loss = 0.0
    for x, label in zip(X.astype(np.float64), y, strict=True):
        z = coef @ x + intercept
        if strategy == "multinomial" and k > 2:
            loss += np.log(np.exp(z).sum()) - z[label]
            continue
        for head, score in enumerate(z):
            if strategy == "ovo" or k == 2:
                if label not in pairs[head]:
                    continue
                positive = label == pairs[head][1]
            else:
                positive = label == head
            loss += np.log1p(np.exp(-score if positive else score))
    return C * loss + 0.5 * (coef**2).sum()


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("strategy", ["multinomial", "ovr", "ovo"])
def test_objective_is_the_direct_formula(strategy, classes, monkeypatch):
    monkeypatch.setattr(module, "BLOCK_NUMBERS", 50)  # several blocks
    rng = np.random.default_rng(0)
    X = rng.standard_normal((60, 5)).astype(np.float32)
    y = rng.permutation(np.arange(60) % classes)
    heads = 1 if classes == 2 else 6 if strategy == "ovo" else 4
    coef, intercept = rng.standard_normal((heads, 5)), rng.standard_normal(heads)
    expected = direct(strategy, coef, intercept, 0.3, X, y)
    assert objective(strategy, coef, intercept, 0.3, X, y) == pytest.approx(expected, rel=1e-12)


def test_the_pairs_of_a_sample_are_those_of_the_whole(monkeypatch):
    monkeypatch.setattr(peers, "cores", lambda: 1)
    rows = made(200, 10, 4)
    fitted = peers.quietly(peers.estimator("scikit-learn", "ovo", 0.1, 1e-4), rows.X, rows.y)
    coef, intercept = peers.weights_of(fitted)
    pairs = np.array([(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)])
    heads = [(coef[[k]], intercept[[k]]) for k in range(6)]
    whole = objective("ovo", coef, intercept, 0.1, rows.X, rows.y)
    assert of_pairs(rows, pairs, heads, 0.1) == pytest.approx(whole, rel=1e-12)


class FakePeer:
    """At the optimum with `loosest_good` or tighter; too slow below `slow_below`."""

    def __init__(self, loosest_good, slow_below=0.0):
        self.good, self.slow, self.asked = loosest_good, slow_below, []

    def __call__(self, tol):
        self.asked.append(tol)
        if tol < self.slow:
            return None
        return (1e-7 if tol <= self.good else 100 * tol), 1.0


@pytest.mark.parametrize("good", LADDER)
@pytest.mark.parametrize("start", [1e-4, 1e-5, 2e-6, 1e-7])
def test_the_search_finds_the_loosest_tolerance(good, start):
    peer = FakePeer(good)
    found = loosest(peer, start=start)
    assert (found.tol, found.reached) == (good, True)
    assert len(set(peer.asked)) == len(peer.asked) == len(found.tried)


def test_a_search_that_gets_nowhere_reports_the_nearest():
    found = loosest(FakePeer(0.0))
    assert (found.tol, found.reached) == (1e-7, False)
    assert [step["tol"] for step in found.tried] == [1e-5, 3e-6, 1e-6, 3e-7, 1e-7]


def test_a_fit_that_takes_too_long_is_not_followed_by_a_tighter_one():
    peer = FakePeer(1e-6, slow_below=2e-6)
    found = loosest(peer)
    assert peer.asked == [1e-5, 3e-6, 1e-6]
    assert (found.tol, found.reached) == (3e-6, False)
    assert found.tried[-1] == {"tol": 1e-6, "excess": None, "seconds": None}


def test_a_start_that_takes_too_long_is_followed_by_looser_ones():
    peer = FakePeer(1e-7, slow_below=2e-5)
    found = loosest(peer)
    assert peer.asked == [1e-5, 3e-5]
    assert (found.tol, found.reached) == (3e-5, False)
    assert loosest(FakePeer(1.0, slow_below=1.0)).tol is None


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0])
def test_slopes_of_known_exponents(exponent):
    sizes = [10, 20, 40, 80]
    slope, r_squared = fit_slope(sizes, [3e-6 * size**exponent for size in sizes])
    assert slope == pytest.approx(exponent)
    assert r_squared == pytest.approx(1.0)


def test_seconds_between_the_points_lie_on_lines_in_log_c():
    points = {1e-2: 1.0, 1.0: 3.0}
    assert interpolate([1e-6, 1e-2, 1e-1, 1.0, 10.0], points) == pytest.approx([1, 1, 2, 3, 3])


def test_rows_are_standardised_and_their_digest_is_their_content(tmp_path):
    rng = np.random.default_rng(0)
    X = (5 + 3 * rng.standard_normal((5000, 4))).astype(np.float32)
    X[:, 3] = 7
    Z = standardised(X)
    assert Z.dtype == np.float32
    assert Z[:, :3].std(axis=0) == pytest.approx(1, abs=1e-5)
    assert Z.mean(axis=0) == pytest.approx(0, abs=1e-5)
    rows = Rows("some", Z, np.arange(5000) % 3)
    assert Rows.load(rows.save(tmp_path / "rows")).digest() == rows.digest()
    assert Rows("other", Z, np.arange(5000) % 2).digest() != rows.digest()


def test_classes_are_split_within_themselves():
    rows = made(300, 10, 3)
    many = split_classes(rows, 12)
    assert many.n_classes == 12
    for label in range(12):
        assert len(set(rows.y[many.y == label])) == 1
    assert split_classes(many, 12) is many


def test_goals_do_not_count_a_fit_that_is_not_at_the_optimum():
    def row(strategy, ratio, excess=1e-8):
        return {"strategy": strategy, "C": 0.1, "ratio": ratio, "our_excess": excess}

    line = goals([row("ovr", 12), row("ovo", 4.5), row("multinomial", 4.5)])
    assert "goal of 10x: ovr C=0.1; only" in line
    assert "for ovo): ovo C=0.1; below it: multinomial C=0.1" in line
    assert "NOT AT" not in line
    assert "NOT AT THE OPTIMUM OURSELVES: ovr" in goals([row("ovr", 12, 1e-5)])
