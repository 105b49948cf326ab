"""The plan of a fit's memory counts with the solver's own constants."""

import ast
from pathlib import Path

import pytest

from classify.solver import memory, tuning


@pytest.mark.parametrize(
    "name", ["LEADING", "DENSE_NUMBERS", "PARTS", "SAMPLE_ROWS", "OWN_ROWS", "SHARED_ROWS"]
)
def test_constants_are_imported_and_count(name, monkeypatch):
    assert getattr(memory, name) == getattr(tuning, name)
    shape = memory._Shape(n=20_000, d=512, f=4, K=700, m=37, by_class=True)
    before = memory._shared(shape, 12_000), memory._sampled(shape)
    monkeypatch.setattr(memory, name, getattr(tuning, name) // 2)
    assert (memory._shared(shape, 12_000), memory._sampled(shape)) != before


def test_no_number_of_the_solvers_is_written_down_again():
    tree = ast.parse(Path(memory.__file__).read_text())
    numbers = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    assert not numbers & {16_000_000, 4096, 1024, 256}
