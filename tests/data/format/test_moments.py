"""The sufficient statistics against their definition in float64."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.format import moments
from data.format.moments import RangeError, class_moments


def direct(features, labels, n_classes):
    """The definition, in float64."""
    features = features.astype(np.float64)
    width = features.shape[1]
    mean, scatter = np.zeros((n_classes, width)), np.zeros((n_classes, width, width))
    for index in range(n_classes):
        rows = features[labels == index]
        if len(rows):
            mean[index] = rows.mean(axis=0)
            centred = rows - mean[index]
            scatter[index] = centred.T @ centred
    return np.bincount(labels, minlength=n_classes), mean, scatter


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize(("offset", "spread"), [(0, 1), (1000, 1), (-5, 1e-3), (1e6, 0.5)])
def test_agrees_with_the_definition(monkeypatch, dtype, offset, spread):
    if dtype == np.float16 and offset >= 1000:
        offset, spread = 1000, 8  # what half precision holds
    monkeypatch.setattr(moments, "BLOCK_BYTES", 4 * 12 * 37)  # several uneven blocks
    rng = np.random.default_rng(0)
    features = rng.normal(offset, spread, (900, 12)).astype(dtype)
    features[:, 3] = features[:, 4]
    labels = rng.choice(5, 900, p=[0.5, 0.3, 0.19, 0.01, 0])  # the last class has no rows
    found = class_moments(features, labels, 5)
    count, mean, scatter = direct(features, labels, 5)
    assert found.count.dtype == np.int64
    assert found.mean.dtype == found.scatter.dtype == np.float32
    np.testing.assert_array_equal(found.count, count)
    np.testing.assert_allclose(found.mean, mean, rtol=2e-7, atol=1e-7 * spread)
    scale = np.sqrt(np.einsum("cii,cjj->cij", scatter, scatter)) + 1e-30
    assert np.max(np.abs(found.scatter - scatter) / scale) < 1e-6
    assert (found.scatter == found.scatter.transpose(0, 2, 1)).all()


def test_a_single_row_and_constant_features_have_no_scatter():
    features = np.full((4, 3), 0.1, np.float32)
    found = class_moments(features, np.array([0, 1, 1, 1]), 2)
    assert not found.scatter.any()
    np.testing.assert_array_equal(found.mean, features[:2])


@pytest.mark.parametrize("scale", [1e30, 1e-30])
def test_scales_beyond_float32_are_refused(scale):
    features = (np.random.default_rng(0).normal(size=(50, 3)) * scale).astype(np.float32)
    with pytest.raises(RangeError):
        class_moments(features, np.zeros(50, int), 1)


@settings(max_examples=50, deadline=None)
@given(
    rows=st.integers(1, 40),
    width=st.integers(1, 6),
    n_classes=st.integers(1, 5),
    seed=st.integers(0, 1000),
)
def test_classes_add_up_to_the_whole(rows, width, n_classes, seed):
    """Chan's rule: the scatter of all rows from those of the classes and their means."""
    rng = np.random.default_rng(seed)
    features = rng.normal(3, 2, (rows, width)).astype(np.float32)
    labels = rng.integers(0, n_classes, rows)
    parts = class_moments(features, labels, n_classes)
    whole = class_moments(features, np.zeros(rows, int), 1)
    away = parts.mean.astype(float) - whole.mean[0]
    between = np.einsum("c,ci,cj->ij", parts.count, away, away)
    np.testing.assert_allclose(
        parts.scatter.sum(0, dtype=float) + between, whole.scatter[0], rtol=1e-3, atol=1e-3
    )
