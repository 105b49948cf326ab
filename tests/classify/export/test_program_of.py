"""What stage one is handed of a head, and which heads it cannot be handed."""

from __future__ import annotations

import numpy as np
import pytest
from heads_of_every_kind import HEADS, model_of

from classify.export.program_of import head_program
from classify.heads.interface import TrainedHead
from data.common.errors import UserError
from data.format.programs import Order, read_order, write_order


@pytest.mark.parametrize("name", ["parts", "ecoc-10", "sums", "mlp", "cosine"])
def test_a_program_survives_the_folder_that_stage_one_reads(name, tmp_path):
    program = head_program(HEADS[name])
    write_order(tmp_path, Order(program, (), "", {}))
    read = read_order(tmp_path).head
    assert (read.name, read.coding, read.class_names) == (
        HEADS[name].strategy, program.coding, HEADS[name].class_names,
    )  # fmt: skip
    assert (read.temperature, read.normalize) == (program.temperature, program.normalize)
    assert set(read.arrays) == set(program.arrays)
    for key, array in program.arrays.items():
        np.testing.assert_array_equal(read.arrays[key], array, strict=True)


def test_a_norm_of_whole_rows_is_that_of_one_part():
    assert head_program(HEADS["l2"]).normalize == (HEADS["l2"].n_features,)
    assert head_program(HEADS["parts"]).normalize == (4, 5)
    assert head_program(HEADS["ovr-3"]).normalize is None


class Opaque(TrainedHead):
    n_features, n_classes = 4, 3

    def answers(self, block):
        raise NotImplementedError

    state = from_state = answers


@pytest.mark.parametrize(
    ("name", "how"),
    [("knn", "nearest rows"), ("forest", "decision trees"), ("boosting-ovo", "decision trees")],
)
def test_heads_that_are_no_layers_are_refused_with_what_to_take_instead(name, how):
    with pytest.raises(UserError, match=f"{how}.*--to sklearn.*multinomial"):
        head_program(model_of(name, Opaque()))
