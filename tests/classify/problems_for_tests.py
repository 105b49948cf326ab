"""Small problems that several tests share."""

import numpy as np

from classify.solver.design import DesignMatrix
from classify.solver.problems import BinaryProblems, SoftmaxProblems, class_pairs
from classify.solver.threads import Workers


def blobs(n=150, d=6, k=4, seed=0, dtype=np.float64):
    """Overlapping classes with correlated features of different scales, sorted by class."""
    rng = np.random.default_rng(seed)
    labels = np.sort(rng.integers(0, k, n))
    mix = rng.standard_normal((d, d))
    X = (rng.standard_normal((n, d)) + rng.standard_normal((k, d))[labels]) @ mix
    return X.astype(dtype), labels


def make(kind, X, labels, C=0.7, weight=None, design=None, workers=None):
    """Set up one strategy's problems."""
    design = DesignMatrix(X) if design is None else design
    workers = Workers() if workers is None else workers
    k = int(labels.max()) + 1
    if kind == "softmax":
        return SoftmaxProblems(design, labels, weight, np.atleast_1d(C), k, workers)
    if kind == "ovr":
        return BinaryProblems(design, labels, weight, np.full(k, C), np.arange(k), None, workers)
    pairs = class_pairs(k)
    return BinaryProblems(
        design, labels, weight, np.full(len(pairs), C), pairs[:, 1], pairs[:, 0], workers
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
        if kind == "ovr":
            t, use = (labels == problem).astype(float), np.ones(len(X), bool)
        else:
            i, j = class_pairs(k)[problem]
            t, use = (labels == j).astype(float), (labels == i) | (labels == j)
        loss = np.where(use, np.log1p(np.exp(z[:, 0])) - t * z[:, 0], 0.0)
    return C * (s * loss).sum() + 0.5 * (w**2).sum()


def hessian_product(objective, problems, points, directions):
    """Multiply the Hessians at points by directions: curvatures times the directions' scores."""
    groups, at, _ = objective.scores(problems, points)
    of = objective.scores(problems, directions).values
    along, _ = objective.split(directions)
    products = []
    for group, scores, direction in zip(groups, at, of, strict=True):
        product = objective.curvature(scores, group.start, group.stop, group, direction)
        if objective.weight is not None:
            product = product * objective.weight[group.start : group.stop, None]
        products.append(product.astype(scores.dtype, copy=False))
    return objective.assemble(problems, along, *objective.passes.back(groups, products, len(along)))
