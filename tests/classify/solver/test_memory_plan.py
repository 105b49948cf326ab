"""The plan of a fit's memory counts with the solver's own constants."""

import ast
from pathlib import Path

import pytest

from classify.solver import memory as layout
from classify.solver.preconditioner import sampled as precondition
from classify.solver.preconditioner import shared as shared_hessian


@pytest.mark.parametrize(
    ("module", "name"),
    [(shared_hessian, name) for name in ("LEADING", "DENSE_NUMBERS", "PARTS", "ROWS")]
    + [(precondition, "OWN_ROWS")],
)
def test_constants_are_imported_and_count(module, name, monkeypatch):
    assert getattr(layout, name) == getattr(module, name)
    shape = layout._Shape(n=20_000, d=512, f=4, K=700, m=37)
    before = layout._shared(shape, 12_000), layout._sampled(shape)
    monkeypatch.setattr(layout, name, getattr(module, name) // 2)
    assert (layout._shared(shape, 12_000), layout._sampled(shape)) != before


def test_no_number_of_the_solvers_is_written_down_again():
    tree = ast.parse(Path(layout.__file__).read_text())
    numbers = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    assert not numbers & {16_000_000, 4096, 1024, 256}
