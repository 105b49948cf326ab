"""Each classifier against the best of the others: against a loop over pairs, and scipy's test."""

import numpy as np
import pytest
from scipy.stats import binomtest

from classify.analysis.best_of_many import against_best, method_of_best, numbers_of
from classify.analysis.resampling import units_of
from classify.analysis.significance import (
    compare_answers,
    difference_interval,
    paired_counts,
)


def answers(accuracies, n=400, seed=0):
    rng = np.random.default_rng(seed)
    hard = rng.random(n)
    return np.stack([0.7 * hard + 0.3 * rng.random(n) < share for share in accuracies])


SETS = {
    "alike": [0.8] * 5,
    "one is better": [0.7, 0.9, 0.7, 0.71, 0.69, 0.72, 0.7],
    "ladder": np.linspace(0.6, 0.9, 9),
    "two": [0.8, 0.72],
}


@pytest.mark.parametrize("name", SETS)
def test_numbers_are_those_of_a_loop_over_pairs(name):
    rights = answers(SETS[name])
    k, accuracy = len(rights), rights.mean(axis=1)
    for i, found in enumerate(against_best(rights)):
        others = [j for j in range(k) if j != i]
        assert found.rival == max(others, key=lambda j: accuracy[j])
        assert found.difference == pytest.approx(accuracy[i] - accuracy[others].max())
        limits = [difference_interval(paired_counts(rights[i], rights[j]), k - 1) for j in others]
        assert found.low == pytest.approx(min(low for low, _ in limits))
        assert found.high == pytest.approx(min(high for _, high in limits))
        ps = {
            j: binomtest(
                int((rights[i] & ~rights[j]).sum()), int((rights[i] != rights[j]).sum())
            ).pvalue
            for j in others
            if accuracy[j] > accuracy[i]
        }
        assert found.p == pytest.approx(min(ps.values(), default=1.0))
        assert found.p_adjusted == pytest.approx(min(1.0, (k - 1) * found.p))
        beaten = [j for j, p in ps.items() if (k - 1) * p < 0.05]
        assert (found.beaten_by is None) == (not beaten)
        assert found.beaten_by is None or found.beaten_by in beaten
        told = numbers_of(found, k - 1)
        assert told["may_be_best"] == (not beaten) and told["n_tests"] == k - 1
    if name in ("one is better", "ladder"):
        assert 0 < sum(entry.beaten_by is None for entry in against_best(rights)) < k


def test_of_two_classifiers_it_is_their_paired_test():
    rights = answers(SETS["two"])
    labels = np.zeros(rights.shape[1], int)
    pair = compare_answers(labels, *(~rights).astype(int))
    first, second = against_best(rights)
    assert [first.low, first.high] == pair["difference_ci95"]
    assert second.p == second.p_adjusted == pair["mcnemar_p"] and first.p == 1.0
    assert (second.beaten_by is not None) == pair["significant"]


@pytest.mark.parametrize("grouped", [False, True])
def test_an_interval_is_below_zero_exactly_when_p_is_below_5_percent(grouped):
    beaten = 0
    for seed in range(15):
        rights = answers(np.linspace(0.72, 0.8, 4), n=300, seed=seed)
        groups = np.arange(300) // 5 if grouped else None
        for entry in against_best(rights, units_of(groups, None, 300)):
            assert (entry.high < 0) == (entry.p_adjusted < 0.05) == (entry.beaten_by is not None)
            assert entry.low <= entry.difference <= entry.high
            beaten += entry.high < 0
    assert 5 < beaten < 55


def test_groups_and_weights_are_those_of_the_paired_test_of_groups():
    rights = answers([0.9, 0.6, 0.85], n=200)
    rng = np.random.default_rng(0)
    units = units_of(np.arange(200) // 8, rng.uniform(0.5, 2, 200), 200)
    labels = np.zeros(200, int)
    found = against_best(rights, units)
    for i, entry in enumerate(found):
        limits, differences = [], []
        for j in {0, 1, 2} - {i}:
            a, b = sorted((i, j))  # its signs are drawn, and mirrored for the other way round
            pair = compare_answers(labels, *(~rights[[a, b]]).astype(int), n_tests=2, units=units)
            low, high = pair["difference_ci95"]
            limits.append((low, high) if i < j else (-high, -low))
            differences.append(pair["accuracy_difference"] * (1 if i < j else -1))
        assert [entry.low, entry.high] == pytest.approx(np.min(limits, axis=0).tolist())
        assert entry.difference == pytest.approx(min(differences))
    assert found[1].beaten_by is not None and found[0].beaten_by is None
    assert "signs of groups" in method_of_best(units)
    assert "McNemar" in method_of_best(None) and "Hsu" in method_of_best(None)


def test_equal_answers_may_both_be_the_best():
    rights = answers([0.9, 0.5])[[0, 0, 1]]
    first, second, third = against_best(rights)
    assert first == second._replace(rival=1)
    assert first.difference == 0 and first.beaten_by is None and third.beaten_by is not None
