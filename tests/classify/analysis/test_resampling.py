"""Tests and intervals that resample groups: against enumeration, theory, and simulated truth."""

from itertools import product

import numpy as np
import pytest
from scipy.special import ndtri
from scipy.stats import binomtest, bootstrap, norm

from classify.analysis.evaluate import evaluate, share_right, wilson_interval
from classify.analysis.resampling import (
    MOST_UNITS,
    accuracy_interval,
    difference_table,
    group_test,
    interval_method,
    standard_error,
    units_of,
    wilson,
)
from classify.analysis.significance import (
    GROUP_METHOD,
    METHOD,
    compare_answers,
    compare_strategies,
    judge_again,
    least_rows,
    mcnemar_exact,
    method_of,
    with_current_method,
)


def table_of(differences, totals):
    return [[d, w, 1] for d, w in zip(differences, totals, strict=True)]


def slow_p(differences, totals, delta):
    """Change the signs of the groups' residuals in every way, and count."""
    residuals = [d - delta * w for d, w in zip(differences, totals, strict=True)]
    seen = sum(residuals)
    sums = [
        sum(sign * r for sign, r in zip(signs, residuals, strict=True))
        for signs in product((1, -1), repeat=len(residuals))
    ]
    above = sum(value >= seen - 1e-9 for value in sums)
    below = sum(value <= seen + 1e-9 for value in sums)
    return min(1.0, 2 * min(above, below) / len(sums))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("weighted", [False, True])
def test_few_groups_are_enumerated(seed, weighted):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(4, 11))
    totals = rng.uniform(0.5, 3, n) if weighted else rng.integers(1, 9, n)
    differences = np.round(rng.uniform(-0.4, 1, n) * totals, 0 if not weighted else 8)
    p, low, high = group_test(table_of(differences, totals), alpha=0.1)
    assert p == pytest.approx(slow_p(differences, totals, 0.0))
    if low > -1:  # what lies beyond the limits is rejected, and what lies within is not
        assert (
            slow_p(differences, totals, low - 1e-6) < 0.1 <= slow_p(differences, totals, low + 1e-6)
        )
        assert (
            slow_p(differences, totals, high + 1e-6)
            < 0.1
            <= slow_p(differences, totals, high - 1e-6)
        )
    else:
        assert 2 / 2**n >= 0.1 and high == 1


@pytest.mark.parametrize(
    "only_a, only_b, rest", [(7, 1, 4), (5, 0, 3), (3, 3, 5), (0, 0, 8), (6, 1, 0)]
)
def test_groups_of_one_image_are_the_exact_mcnemar_test(only_a, only_b, rest):
    differences = [1] * only_a + [-1] * only_b + [0] * rest
    p, *_ = group_test(table_of(differences, [1] * len(differences)), alpha=0.05)
    assert p == pytest.approx(mcnemar_exact(only_a, only_b))


@pytest.mark.parametrize("weighted", [False, True])
def test_many_groups_tend_to_the_clustered_mcnemar_test(weighted):
    """Of Obuchowski (1998), as Yang, Sun and Hardin (2010) write it: z = sum D / sqrt(sum D^2)."""
    rng = np.random.default_rng(1)
    for shift in (0.0, 0.1, 0.2):
        totals = rng.integers(2, 30, 300) * (rng.uniform(0.5, 2, 300) if weighted else 1)
        differences = np.round(rng.normal(shift, 1, 300) * np.sqrt(totals), 0)
        z = differences.sum() / np.sqrt(np.sum(differences**2))
        p, low, high = group_test(table_of(differences, totals), alpha=0.05)
        assert p == pytest.approx(2 * norm.sf(abs(z)), abs=0.004 + 0.04 * p)
        mean, half = (
            differences.sum() / totals.sum(),
            1.96 * standard_error(table_of(differences, totals)),
        )
        assert (low, high) == pytest.approx((mean - half, mean + half), abs=0.15 * half)


@pytest.mark.parametrize("n_tests", [1, 3, 400])
def test_the_interval_excludes_zero_exactly_when_the_test_rejects(n_tests):
    rng = np.random.default_rng(n_tests)
    rejected = 0
    for i in range(40):
        n = int(rng.integers(3, 60))
        groups = rng.integers(0, n, 40 * n)
        labels = np.zeros(40 * n, dtype=np.int64)
        lift = 0.4 * (i % 4)
        a, b = (
            rng.normal(size=40 * n) + 0.7 * rng.normal(size=n)[groups] - s > 0.8 for s in (-lift, 0)
        )
        weights = rng.uniform(0, 2, 40 * n) if i % 2 else None
        units = units_of(groups, weights, len(groups))
        found = compare_answers(labels, 1 - a, 1 - b, n_tests=n_tests, units=units)
        low, high = found["difference_ci95"]
        assert found["significant"] == (low > 0 or high < 0) == (found["mcnemar_p_adjusted"] < 0.05)
        assert low <= found["accuracy_difference"] <= high
        assert found["mcnemar_p_adjusted"] == min(1.0, n_tests * found["mcnemar_p"])
        rejected += found["significant"]
    assert 3 <= rejected <= 37


def clustered(rng, n_groups, size, correlation, accuracy, difference=0.0):
    """Two classifiers that are right on all images of a group together more often than not."""
    groups = np.repeat(np.arange(n_groups), rng.poisson(size - 1, n_groups) + 1)
    shared = rng.normal(size=n_groups)
    answers = []
    for share in (accuracy + difference / 2, accuracy - difference / 2):
        of_group = 0.7 * shared + np.sqrt(1 - 0.7**2) * rng.normal(size=n_groups)
        noise = rng.normal(size=len(groups))
        latent = np.sqrt(correlation) * of_group[groups] + np.sqrt(1 - correlation) * noise
        answers.append(latent < ndtri(share))
    return groups, *answers


@pytest.mark.parametrize("n_groups, size, accuracy", [(20, 20, 0.8), (60, 10, 0.9)])
def test_size_and_coverage_hold_under_clustering_where_those_of_independent_rows_do_not(
    n_groups, size, accuracy
):
    rng, repeats = np.random.default_rng(7), 200
    found = {name: 0 for name in ("groups", "exact", "accuracy", "wilson", "difference")}
    for _ in range(repeats):
        groups, a, b = clustered(rng, n_groups, size, 0.3, accuracy)
        units = units_of(groups, None, len(groups))
        found["groups"] += group_test(difference_table(a, b, units), 0.05).p < 0.05
        found["exact"] += mcnemar_exact(int((a & ~b).sum()), int((b & ~a).sum())) < 0.05
        low, high = accuracy_interval(a, units)
        found["accuracy"] += low <= accuracy <= high
        low, high = wilson_interval(int(a.sum()), len(a))
        found["wilson"] += low <= accuracy <= high
        groups, a, b = clustered(rng, n_groups, size, 0.3, accuracy, 0.05)
        test = group_test(difference_table(a, b, units_of(groups, None, len(groups))), 0.05)
        found["difference"] += test.low <= 0.05 <= test.high
    rates = {name: count / repeats for name, count in found.items()}
    assert rates["groups"] <= 0.08 and rates["exact"] >= 0.11, rates
    assert rates["accuracy"] >= 0.9 and rates["wilson"] <= 0.85, rates
    assert rates["difference"] >= 0.92, rates


def test_the_accuracys_interval_is_scipys_bootstrap_of_groups():
    rng = np.random.default_rng(3)
    groups, right, _ = clustered(rng, 50, 12, 0.3, 0.8)
    units = units_of(groups, None, len(groups))
    hits, totals = units.sums(right), units.totals
    n = len(totals)
    from scipy.stats import t

    level = 1 - 2 * norm.cdf(np.sqrt(n / (n - 1)) * t.ppf(0.025, n - 1))
    theirs = bootstrap(
        (hits, totals), lambda h, w, axis: h.sum(axis=axis) / w.sum(axis=axis), paired=True,
        vectorized=True, method="percentile", confidence_level=level, n_resamples=9999,
        rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    assert accuracy_interval(right, units) == pytest.approx((theirs.low, theirs.high), abs=0.006)
    assert accuracy_interval(right, units) == accuracy_interval(right, units)


def test_wilsons_interval_where_all_groups_are_alike():
    for right, n in ((17, 20), (20, 20), (0, 3)):
        theirs = binomtest(right, n).proportion_ci(0.95, method="wilson")
        assert wilson(right / n, n, 0.95) == pytest.approx((theirs.low, theirs.high))
    groups = np.repeat(np.arange(8), 5)
    everything = np.ones(40, dtype=bool)
    assert accuracy_interval(everything, units_of(groups, None, 40)) == pytest.approx(
        wilson(1, 8, 0.95)
    )
    one = accuracy_interval(everything, units_of(np.zeros(40, dtype=np.int64), None, 40))
    assert one == pytest.approx(wilson(1, 1, 0.95)) and one[0] < 0.21


def test_rows_of_no_weight_are_no_observations():
    rng = np.random.default_rng(4)
    groups, a, b = clustered(rng, 20, 10, 0.3, 0.8)
    weights = np.where(groups < 10, 0.0, rng.uniform(0.5, 2, len(groups)))
    some = weights > 0
    whole, part = (
        units_of(groups, weights, len(groups)),
        units_of(groups[some], weights[some], some.sum()),
    )
    assert accuracy_interval(a, whole) == pytest.approx(accuracy_interval(a[some], part))
    assert difference_table(a, b, whole) == difference_table(a[some], b[some], part)


def test_very_many_groups_are_put_together_evenly_and_no_row_is_lost():
    n = 5 * MOST_UNITS + 3
    groups = np.repeat(np.arange(n), 2)
    units = units_of(groups, None, 2 * n)
    assert units.n_groups == n and units.n == MOST_UNITS
    assert np.array_equal(units.of_rows[0::2], units.of_rows[1::2])
    assert set(units.totals.tolist()) == {10.0, 12.0}
    right = np.random.default_rng(0).random(2 * n) < 0.9
    ours, rows = accuracy_interval(right, units), wilson_interval(int(right.sum()), 2 * n)
    assert ours == pytest.approx(rows, abs=0.003)
    assert units_of(None, None, 5) is None


def test_weights_of_one_and_groups_of_one_change_no_number_of_a_classifier():
    rng = np.random.default_rng(5)
    labels, answers = rng.integers(0, 3, (2, 90))
    chances = rng.dirichlet(np.ones(3), 90)
    plain = evaluate(labels, answers, chances, "abc")
    same = evaluate(labels, answers, chances, "abc", np.ones(90), units_of(None, np.ones(90), 90))
    assert same.pop("accuracy_ci95") == pytest.approx(plain.pop("accuracy_ci95"), abs=0.02)
    for name, value in plain.items():
        assert same[name] == (value if isinstance(value, (dict, list)) else pytest.approx(value))


def test_whole_weights_are_repeated_rows():
    """Every metric, witnessed by rows that are there as often as they weigh."""
    rng = np.random.default_rng(6)
    labels, answers = rng.integers(0, 3, (2, 80))
    chances, weights = rng.dirichlet(np.ones(3), 80), rng.integers(0, 4, 80)
    again = np.repeat(np.arange(80), weights)
    units = units_of(None, weights * 1.0, 80)
    found = evaluate(labels, answers, chances, "abc", weights * 1.0, units)
    expected = evaluate(labels[again], answers[again], chances[again], "abc")
    for name in ("accuracy", "balanced_accuracy", "macro_f1", "log_loss", "brier", "ece",
                 "top2_accuracy"):  # fmt: skip
        assert found[name] == pytest.approx(expected[name]), name
    for name in "abc":
        for metric in ("precision", "recall", "f1"):
            assert found["per_class"][name][metric] == pytest.approx(
                expected["per_class"][name][metric]
            )
        assert found["per_class"][name]["support"] == np.sum(labels == "abc".index(name))


def some_comparison(n_groups=40, seed=8, difference=0.1, n_tests=3):
    rng = np.random.default_rng(seed)
    groups, a, b = clustered(rng, n_groups, 10, 0.3, 0.8, difference)
    units = units_of(groups, None, len(groups))
    answers = {"ovr": 1 - a, "ovo": 1 - b}
    labels = np.zeros(len(groups), dtype=np.int64)
    (found,) = compare_strategies(
        labels, answers, dict.fromkeys(answers, True), n_tests=n_tests, units=units
    )
    return found


def test_a_comparison_is_judged_again_from_what_it_holds():
    found = some_comparison()
    assert judge_again(found, 3) == found
    wider = judge_again(found, 30)
    assert wider["mcnemar_p"] == pytest.approx(found["mcnemar_p"], abs=0.01)
    assert wider["difference_ci95"][0] < found["difference_ci95"][0]
    assert wider["detectable_difference"] > found["detectable_difference"]
    assert method_of([found]) == GROUP_METHOD and method_of([]) == METHOD
    old = {"comparisons": [found], "comparison_method": METHOD, "strategies": {}, "verdict": ""}
    again = with_current_method(old)
    assert again["comparison_method"] == GROUP_METHOD and with_current_method(again) is again


def test_what_could_be_detected_is_detected_in_four_of_five_cases():
    told = np.median([some_comparison(seed=seed, difference=0, n_tests=1)["detectable_difference"]
                      for seed in range(30)])  # fmt: skip
    hits = [
        some_comparison(seed=100 + seed, difference=told, n_tests=1)["significant"]
        for seed in range(200)
    ]
    assert 0.7 <= np.mean(hits) <= 0.9


def test_too_few_groups_say_so():
    least = least_rows(0.05)
    few, enough = some_comparison(least - 1, n_tests=1), some_comparison(least, n_tests=1)
    assert few["detectable_difference"] is None and not few["significant"]
    assert (
        f"; {least - 1} groups can show none, however large: one test needs at least {least}"
        in few["verdict"]
    )
    assert enough["detectable_difference"] > 0
    assert few["n_groups"] == least - 1
    labels = np.zeros(60, dtype=np.int64)
    same = compare_answers(labels, labels, labels, units=units_of(np.arange(60) // 2, None, 60))
    assert same["mcnemar_p"] == 1 and same["difference_ci95"] == [0, 0] and not same["significant"]
    assert 0.05 < same["detectable_difference"] < 0.5


def test_names_of_intervals_and_shares():
    right = np.array([True, False, True, True])
    labels = np.zeros(4, dtype=np.int64)
    assert interval_method(None) == "Wilson"
    assert interval_method(units_of(None, np.ones(4), 4)) == "bootstrap of rows"
    units = units_of(np.array([0, 0, 1, 1]), np.array([1.0, 1, 1, 5]), 4)
    assert interval_method(units) == "bootstrap of groups"
    assert share_right(1 - right, labels, units)["accuracy"] == pytest.approx(7 / 8)
