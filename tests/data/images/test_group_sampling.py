"""A test split that takes groups as they are, and is as stratified as they allow."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedGroupKFold

from data.images.sampling import hold_out_groups


def draw(seed, n_groups=40, n_classes=4, size=12):
    """Groups of different sizes, each with shares of classes of its own."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(n_groups), rng.integers(1, 2 * size, n_groups))
    shares = rng.dirichlet(np.ones(n_classes), n_groups)
    labels = np.array([rng.choice(n_classes, p=shares[group]) for group in groups])
    order = rng.permutation(len(groups))
    return labels[order], groups[order], [f"patient {i}" for i in range(n_groups)]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), fraction=st.floats(0.05, 0.6), n_groups=st.integers(2, 30))
def test_no_group_is_on_two_sides_and_no_class_is_lost(seed, fraction, n_groups):
    labels, groups, names = draw(seed, n_groups)
    held = hold_out_groups(labels, groups, names, fraction, 0)
    assert not set(groups[held]) & set(groups[~held])
    assert set(labels[~held]) == set(labels)
    np.testing.assert_array_equal(held, hold_out_groups(labels, groups, names, fraction, 0))


def shares_missed(labels, held, fraction):
    """Largest difference of a class's share in the test split to the share asked for."""
    return max(abs(held[labels == label].mean() - fraction) for label in np.unique(labels))


@pytest.mark.parametrize("seed", range(6))
def test_at_least_as_stratified_as_scikit_learns(seed):
    labels, groups, names = draw(seed)
    ours = shares_missed(labels, hold_out_groups(labels, groups, names, 0.2, 0), 0.2)
    theirs = []
    folds = StratifiedGroupKFold(5, shuffle=True, random_state=seed)
    for _, test in folds.split(labels, labels, groups):
        held = np.zeros(len(labels), bool)
        held[test] = True
        theirs.append(shares_missed(labels, held, 0.2))
    assert ours <= np.mean(theirs)
    assert ours < 0.1


def test_single_rows_are_stratified_nearly_to_the_row():
    labels = np.repeat([0, 1, 2], [500, 100, 10])
    groups = np.arange(610)
    held = hold_out_groups(labels, groups, [str(i) for i in groups], 0.2, 0)
    assert np.abs(np.bincount(labels[held]) - [100, 20, 2]).max() <= 1


def test_order_of_rows_and_numbers_of_groups_do_not_matter():
    labels, groups, names = draw(1)
    held = hold_out_groups(labels, groups, names, 0.3, 0)
    order = np.random.default_rng(0).permutation(len(labels))
    backwards = len(names) - 1 - groups
    again = hold_out_groups(labels[order], backwards[order], names[::-1], 0.3, 0)
    np.testing.assert_array_equal(again, held[order])
    assert (hold_out_groups(labels, groups, names, 0.3, 1) != held).any()


def test_frozen():
    """These rows are in people's stores: the choice must never change."""
    groups = np.arange(24) // 2
    held = hold_out_groups(np.arange(24) % 3, groups, [f"p{i}" for i in range(12)], 0.25, 0)
    assert sorted(set(groups[held].tolist())) == FROZEN


FROZEN = [1, 3, 11]


def test_nothing_can_be_spared():
    labels, names = np.array([0, 0, 1, 1]), ["a", "b"]
    assert not hold_out_groups(labels, np.array([0, 0, 0, 0]), names, 0.5, 0).any()
    assert not hold_out_groups(labels, np.array([0, 0, 1, 1]), names, 0.5, 0).any()
    # Of two groups that both have all classes, one is held out.
    assert hold_out_groups(labels, np.array([0, 1, 0, 1]), names, 0.2, 0).sum() == 2
