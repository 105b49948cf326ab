"""Small problems that several tests share."""

import numpy as np

from classify.solver.design import DesignMatrix
from classify.solver.losses import BINARY_LOSSES
from classify.solver.problems import BinaryProblems, Sides, SoftmaxProblems, class_pairs
from classify.solver.threads import Workers


def blobs(n=150, d=6, k=4, seed=0, dtype=np.float64):
    """Overlapping classes with correlated features of different scales, sorted by class."""
    rng = np.random.default_rng(seed)
    labels = np.sort(rng.integers(0, k, n))
    mix = rng.standard_normal((d, d))
    X = (rng.standard_normal((n, d)) + rng.standard_normal((k, d))[labels]) @ mix
    return X.astype(dtype), labels


def made_up_code(k):
    """A code book for three classes or more, in which some problems lack some classes."""
    code = np.random.default_rng(k).integers(-1, 2, (k, 5)).astype(np.int8)
    code[0], code[1] = 1, -1
    return code


def sides_of(kind, k):
    """Which classes are on which side, for all kinds but the softmax."""
    if kind == "code":
        return Sides.of_code(made_up_code(k))
    if kind.endswith("ovr"):
        return Sides(np.arange(k))
    pairs = class_pairs(k)
    return Sides(pairs[:, 1], pairs[:, 0])


def loss_of(kind):
    """The loss of a kind of binary problems."""
    return BINARY_LOSSES["squared_hinge" if kind.startswith("svm") else "logistic"]


def make(kind, X, labels, C=0.7, weight=None, design=None, workers=None):
    """Set up one strategy's problems."""
    design = DesignMatrix(X) if design is None else design
    workers = Workers() if workers is None else workers
    k = int(labels.max()) + 1
    if kind == "softmax":
        return SoftmaxProblems(design, labels, weight, np.atleast_1d(C), k, workers)
    sides = sides_of(kind, k)
    return BinaryProblems(
        design, labels, weight, np.full(len(sides.positive), C), sides, workers, loss=loss_of(kind)
    )


def naive(kind, X, labels, point, problem, C=0.7, weight=None):
    """The objective of one problem, as its formula reads."""
    d = X.shape[1]
    s = np.ones(len(X)) if weight is None else weight
    k = int(labels.max()) + 1
    table = point.reshape(-1, d + 1)
    w, b = table[:, :d], table[:, d]
    z = X @ w.T + b
    if kind == "softmax":
        loss = np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(X)), labels]
    else:
        if kind == "code":
            entry = made_up_code(k)[labels, problem]
            t, use = (entry > 0).astype(float), entry != 0
        elif kind.endswith("ovr"):
            t, use = (labels == problem).astype(float), np.ones(len(X), bool)
        else:
            i, j = class_pairs(k)[problem]
            t, use = (labels == j).astype(float), (labels == i) | (labels == j)
        if kind.startswith("svm"):
            loss = np.where(use, np.maximum(0, 1 - (2 * t - 1) * z[:, 0]) ** 2, 0.0)
        else:
            loss = np.where(use, np.log1p(np.exp(z[:, 0])) - t * z[:, 0], 0.0)
    return C * (s * loss).sum() + 0.5 * (w**2).sum()


def _entries(sides, problem, labels):
    """1 for the rows that are positive in a problem, -1 for negative ones, 0 for the others."""
    if sides.code is not None:
        return sides.code[labels, problem]
    entries = np.where(labels == sides.positive[problem], 1, -1)
    if sides.negative is not None:
        entries[(entries < 0) & (labels != sides.negative[problem])] = 0
    return entries


def hessian_product(objective, problems, points, directions):
    """Multiply Hessians at points by directions, as the formula reads: in double, row by row."""
    X = objective.design.dense(np.arange(objective.design.n_rows)).astype(np.float64)
    X = np.column_stack([X, np.full(len(X), float(objective.intercept))])
    s = np.ones(len(X)) if objective.weight is None else objective.weight
    products = []
    for problem, point, direction in zip(problems, points, directions, strict=True):
        w, v = (flat.reshape(objective.columns, -1) for flat in (point, direction))
        z, along = X @ w.T, X @ v.T
        if objective.columns == 1:
            entry = _entries(objective.sides, problem, objective.labels)[:, None]
            p = 1 / (1 + np.exp(-z))
            curved = p * (1 - p) * along
            if objective.loss.name == "squared_hinge":
                curved = np.where(entry * z < 1, 2.0, 0.0) * along
            curved[entry == 0] = 0.0
        else:
            p = np.exp(z - z.max(axis=1, keepdims=True))
            p /= p.sum(axis=1, keepdims=True)
            curved = p * along - p * (p * along).sum(axis=1, keepdims=True)
        penalty = v.copy()
        penalty[:, -1] = 0.0
        products.append((objective.C[problem] * (s[:, None] * curved).T @ X + penalty).ravel())
    return np.array(products)
