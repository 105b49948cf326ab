"""Trained heads as torch modules, beside what stage two answers with numpy."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from classify.export.program_of import head_program
from classify.heads.linear import LinearTrained
from classify.heads.mlp.course import Layers
from classify.heads.mlp.head import TrainedMlp
from classify.heads.nearest_mean import CosineMeans
from classify.linear_head import PairHead
from classify.saved.heads import SavedHead
from classify.saved.models import SavedModel
from classify.solver.strategies import Strategy
from extract.exporting.head_module import HeadModule

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


@pytest.mark.parametrize("name", HEADS)
def test_a_module_answers_as_the_head_that_stage_two_reads(name):
    head, rows = HEADS[name], rows_of()
    module = HeadModule(head_program(head))
    # Layers are float32, and round in another order.
    loose = {"atol": 2e-6, "rtol": 1e-4} if name.startswith(("mlp", "linear")) else {}
    check(head, module(torch.from_numpy(rows)), rows, **loose)
    for n_rows in (0, 1):
        probabilities, labels = module(torch.from_numpy(rows[:n_rows]))
        assert probabilities.shape == (n_rows, len(head.class_names))
        assert labels.shape == (n_rows,)


@pytest.mark.parametrize("name", ["multinomial-3", "ovr-10", "ovo-10", "ovo-70", "ecoc-10"])
def test_extreme_scores_neither_overflow_nor_lose_a_class(name):
    head, rows = HEADS[name], 1e4 * rows_of()
    check(head, HeadModule(head_program(head))(torch.from_numpy(rows)), rows)


@pytest.mark.parametrize("n_classes", [2, 3, 10, 70])
@pytest.mark.parametrize("coding", ["multinomial", "ovr", "ovo"])
def test_the_first_of_equal_classes_is_the_answer(coding, n_classes):
    head = linear_head(coding, n_classes, scale=0.0)
    head.intercept[:] = 0
    rows = rows_of(5)
    probabilities, labels = HeadModule(head_program(head))(torch.from_numpy(rows))
    assert labels.tolist() == [0] * 5
    np.testing.assert_allclose(probabilities, 1 / n_classes, rtol=1e-6)


def test_two_of_three_votes_win_and_summed_scores_decide_between_equal_votes():
    head = linear_head("ovo", 3, scale=0.0)
    # 0 beats 1, 2 beats 0, 1 beats 2: one vote each; and 1 has won by most.
    head.intercept[:] = -1, 1, -3
    _, labels = HeadModule(head_program(head))(torch.zeros(1, WIDTH))
    assert labels.tolist() == [1]
    # 1 beats both, though 2 has the largest sum.
    head.intercept[:] = 0.5, 9, -0.5
    _, labels = HeadModule(head_program(head))(torch.zeros(1, WIDTH))
    assert labels.tolist() == [1]


def test_blocks_of_rows_make_no_difference(monkeypatch):
    head, rows = HEADS["ovo-70"], rows_of(11)
    monkeypatch.setattr("extract.exporting.coupling._BLOCK_NUMBERS", 4 * 70**2)
    check(head, HeadModule(head_program(head))(torch.from_numpy(rows)), rows)


def test_a_state_has_the_names_of_the_head_file():
    state = HeadModule(head_program(HEADS["ovr-3"])).state_dict()
    assert list(state) == ["linear.weight", "linear.bias"]
    np.testing.assert_array_equal(state["linear.weight"], HEADS["ovr-3"].coef)
    state = HeadModule(head_program(HEADS["sums"])).state_dict()
    assert set(state) == {"sums." + name for name in ("span", "shift", "starts", "duals", "offset")}
    assert all(not tensor.requires_grad for tensor in state.values())
