"""Trained heads as torch modules, beside what stage two answers with numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from heads_of_every_kind import HEADS, WIDTH, check, linear_head, rows_of

from classify.export.program_of import head_program
from extract.exporting.head_module import HeadModule


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
