"""Rows for tests of heads."""

import numpy as np

from classify.heads.interface import FitContext, RowSet

CONTEXT = FitContext(n_jobs=2)


def clusters(n, d, n_classes, seed=0, dtype=np.float64, spread=1.0):
    """Draw rows about class means, all classes with rows; features differ in scale."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % n_classes)
    centres = rng.normal(size=(n_classes, d))
    X = centres[labels] + spread * rng.normal(size=(n, d))
    return (X * rng.uniform(0.1, 10, d) + rng.normal(size=d)).astype(dtype), labels


def row_set(X, labels, weights=None, n_classes=None):
    """Make a set of all rows."""
    n_classes = int(np.max(labels)) + 1 if n_classes is None else n_classes
    return RowSet(X, np.arange(len(labels)), np.asarray(labels), n_classes, weights)


def softmax(scores):
    """Return probabilities, the obvious way."""
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)
