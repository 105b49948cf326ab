"""Rows held out by whole groups: nothing on two sides, and shares as even as another's."""

import warnings

import numpy as np
import pytest
from sklearn.model_selection import StratifiedGroupKFold

from data.common import group_split


def hold_out_groups(labels, groups, fraction, seed):
    rng, n = np.random.default_rng(seed), len(np.unique(groups))
    return group_split.hold_out_groups(labels, groups, fraction, lambda _: rng.permutation(n))


def unevenness(labels, held, fraction):
    """Largest difference of a class's held-out share from the wanted one."""
    return max(abs(held[labels == k].mean() - fraction) for k in np.unique(labels))


@pytest.mark.parametrize("seed", range(5))
def test_no_group_is_on_two_sides_and_shares_are_as_even_as_scikit_learns(seed):
    rng = np.random.default_rng(seed)
    n_groups = int(rng.integers(30, 200))
    groups = rng.integers(0, n_groups, 2000)
    leaning = rng.dirichlet(np.ones(4), n_groups)  # groups have mostly one class or two
    labels = np.array([rng.choice(4, p=leaning[g]) for g in groups])
    held = hold_out_groups(labels, groups, 0.1, seed)
    assert not set(groups[held]) & set(groups[~held])
    assert np.array_equal(held, hold_out_groups(labels, groups, 0.1, seed))
    assert not np.array_equal(held, hold_out_groups(labels, groups, 0.1, seed + 1))
    theirs = np.zeros(2000, dtype=bool)
    folds = StratifiedGroupKFold(10, shuffle=True, random_state=seed)
    theirs[next(folds.split(labels, labels, groups))[1]] = True
    assert unevenness(labels, held, 0.1) <= unevenness(labels, theirs, 0.1) + 0.002
    assert unevenness(labels, held, 0.1) < 0.01


def test_every_class_keeps_a_group_and_one_that_can_gives_one():
    labels = np.repeat([0, 0, 1, 1, 2, 3], [30, 30, 5, 60, 40, 50])
    groups = np.repeat([0, 1, 2, 3, 4, 5], [30, 30, 5, 60, 40, 50])
    held = hold_out_groups(labels, groups, 0.1, 0)
    assert set(groups[held]) <= {0, 1, 2} and {2} < set(
        groups[held]
    )  # 4 and 5 hold theirs in whole
    assert len(set(groups[held]) & {0, 1}) == 1
    for labels in ([0, 0, 1, 1], [0, 1, 2, 2]):
        groups = np.array([0, 0, 1, 1])
        assert not hold_out_groups(np.array(labels), groups, 0.5, 0).any()


def test_groups_of_one_row_are_a_stratified_split():
    labels = np.repeat([0, 1, 2], [100, 55, 10])
    held = hold_out_groups(labels, np.arange(165), 0.1, 1)
    assert np.bincount(labels[held]).tolist() in ([10, 5, 1], [10, 6, 1])


def test_names_of_groups_do_not_matter_and_labels_may_be_any():
    rng = np.random.default_rng(0)
    groups, labels = rng.integers(0, 20, 300), rng.integers(0, 3, 300)
    held = hold_out_groups(labels, groups, 0.2, 0)
    assert np.array_equal(held, hold_out_groups(5 * labels - 9, 1000 + 7 * groups, 0.2, 0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not hold_out_groups(labels[:0], groups[:0], 0.2, 0).any()
