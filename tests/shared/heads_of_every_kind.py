"""Heads of every kind, made up, and what their answers are compared by."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from classify.heads.linear import LinearTrained
from classify.heads.mlp.course import Layers
from classify.heads.mlp.head import TrainedMlp
from classify.heads.nearest_mean import CosineMeans
from classify.linear_head import PairHead
from classify.saved.heads import SavedHead
from classify.saved.models import SavedModel
from classify.solver.strategies import Strategy

WIDTH = 9
# Of float32 probabilities: what the formulas give in float64, rounded.
ROUNDING = 1e-7


def linear_head(coding, n_classes, /, scale=3.0, **changes):
    random = np.random.default_rng(n_classes)
    strategy = Strategy(coding, coding)
    n_heads = strategy.n_heads(n_classes)
    code = strategy.code_of(n_classes) if coding == "ecoc" and n_classes > 2 else None
    values = {
        "coef": (scale * random.normal(size=(n_heads, WIDTH))).astype(np.float32),
        "intercept": random.normal(size=n_heads).astype(np.float32),
    }
    values |= {"spec": {}, "store_key": "", "C": 1.0, "code": code, **changes}
    return SavedHead(coding, names_of(n_classes), **values)


def names_of(n_classes):
    return tuple(f"class {i}" for i in range(n_classes))


def sums_head(sizes, **changes):
    """One-vs-one of classes of so many rows."""
    random = np.random.default_rng(0)
    n_classes, n_rows = len(sizes), sum(sizes)
    duals = random.normal(size=(n_rows, n_classes))
    duals[np.arange(n_rows), np.repeat(np.arange(n_classes), sizes)] = 0
    sums = PairHead(
        random.normal(size=(n_rows, WIDTH)).astype(np.float32),
        random.normal(size=WIDTH).astype(np.float32),
        np.append(0, np.cumsum(sizes)),
        duals.astype(np.float32),
        random.normal(size=n_classes * (n_classes - 1) // 2).astype(np.float32),
    )
    none = {"coef": np.empty((0, WIDTH), np.float32), "intercept": np.empty(0, np.float32)}
    return linear_head("ovo", n_classes, sums=sums, **none, **changes)


def model_of(name, trained, **changes):
    return SavedModel(name, names_of(trained.n_classes), trained, {}, "", **changes)


def mlp(n_classes, **changes):
    random = np.random.default_rng(0)
    widths = (WIDTH, 8, 7, n_classes)
    weights = [random.normal(size=(low, high)).astype(np.float32) for low, high in pairwise(widths)]
    biases = [random.normal(size=weight.shape[1]).astype(np.float32) for weight in weights]
    mean, scale = random.normal(size=WIDTH), random.uniform(0.5, 2, WIDTH)
    layers = Layers(mean.astype(np.float32), scale.astype(np.float32), weights, biases)
    return model_of("mlp", TrainedMlp(layers, {}), **changes)


def cosine(n_classes, **changes):
    random = np.random.default_rng(0)
    directions = random.normal(size=(n_classes, WIDTH))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    trained = CosineMeans(random.normal(size=WIDTH), directions, np.zeros(n_classes), 20.0, {})
    return model_of("nearest-mean", trained, **changes)


def rows_of(n_rows=60):
    """Rows of many sizes, one of them zeros."""
    random = np.random.default_rng(7)
    rows = random.normal(size=(n_rows, WIDTH)) * random.choice([0.1, 1, 3], (n_rows, 1))
    rows[n_rows // 2] = 0
    return rows.astype(np.float32)


def check(head, answers, rows, atol=ROUNDING, rtol=1e-6):
    """Compare float32 probabilities and labels with those of a head that stage two reads."""
    probabilities, labels = (np.asarray(part) for part in answers)
    assert (probabilities.dtype, labels.dtype) == (np.float32, np.int64)
    expected = head.probabilities(rows)
    assert probabilities.shape == expected.shape
    np.testing.assert_allclose(probabilities, expected, atol=atol, rtol=rtol)
    np.testing.assert_array_equal(labels, head.predict(rows))


HEADS = {
    f"{coding}-{n_classes}": linear_head(coding, n_classes)
    for coding in ("multinomial", "ovr", "ovo", "ecoc")
    for n_classes in (2, 3, 10, 70)
} | {
    "tempered": linear_head("multinomial", 3, temperature=0.3),
    "ovr-tempered": linear_head("ovr", 2, temperature=2.5),
    "ovo-tempered": linear_head("ovo", 4, temperature=0.7),
    "l2": linear_head("ovr", 3, normalize="l2"),
    "parts": linear_head("ovo", 5, normalize=(4, 5), temperature=1.5),
    "sums": sums_head([3] * 12),
    "sums-many": sums_head([2] * 66, temperature=1.2),
    "sums-uneven": sums_head([1, 40, 2, 1, 3, 25, 2, 2]),
    "mlp": mlp(6, temperature=1.3),
    "mlp-2": mlp(2, normalize="l2"),
    "cosine": cosine(5, temperature=0.8),
    "cosine-2": cosine(2, normalize=(4, 5)),
    "ridge": linear_head("multinomial", 4, coding="multinomial", setting={"alpha": 1.0}),
    "linear-model": model_of(
        "lda",
        LinearTrained(np.random.default_rng(0).normal(size=(2, WIDTH)), np.arange(2.0), {}),
    ),
}
