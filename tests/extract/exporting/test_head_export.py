"""Trained heads through ``torch.export`` and ONNX: the graphs answer as the heads do."""

from __future__ import annotations

import os

import pytest
import torch
from heads_of_every_kind import HEADS, WIDTH, check, rows_of

from classify.export.program_of import head_program
from extract.exporting.head_module import HeadModule
from extract.exporting.onnx_file import OPSET

# Heads of one graph: exporting takes seconds, and a graph with a loop most of them.
WITHOUT_LOOPS = ("tempered", "ovr-tempered", "ovr-10", "ecoc-10", "mlp", "cosine")
GRAPHS = [WITHOUT_LOOPS, ("parts",)]
if os.environ.get("ICEBOX_FAULTS"):  # `make faults`
    loops = ("ovo-10", "ovo-70", "ovo-tempered", "sums", "sums-many", "sums-uneven")
    GRAPHS += [(name,) for name in loops]


class Several(torch.nn.Module):
    """Heads that answer the same rows."""

    def __init__(self, names):
        super().__init__()
        self.heads = torch.nn.ModuleList(HeadModule(head_program(HEADS[name])) for name in names)

    def forward(self, rows):
        return [answer for head in self.heads for answer in head(rows)]


@pytest.fixture(scope="module", params=GRAPHS, ids="+".join)
def exported(request):
    batch = torch.export.Dim("batch", min=0)
    program = torch.export.export(
        Several(request.param), (torch.zeros(3, WIDTH),), dynamic_shapes=({0: batch},)
    )
    return request.param, program


def check_all(names, answers, rows):
    for i, name in enumerate(names):
        # Layers are float32, and round in another order.
        loose = {"atol": 2e-6, "rtol": 1e-4} if name == "mlp" else {}
        check(HEADS[name], answers[2 * i : 2 * i + 2], rows, **loose)


def test_an_exported_program_takes_batches_of_all_sizes(exported):
    names, program = exported
    for rows in (rows_of(), rows_of()[:2], rows_of()[:1], rows_of()[:0]):
        check_all(names, program.module()(torch.from_numpy(rows)), rows)


def test_onnxruntime_gives_the_same(exported, tmp_path):
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    names, program = exported
    path = tmp_path / "head.onnx"
    torch.onnx.export(program, dynamo=True, opset_version=OPSET, verbose=False).save(path)
    session = onnxruntime.InferenceSession(path)
    (taken,) = session.get_inputs()
    rows = rows_of()
    # A limit of a probability that had become float32 would be seen where scores are large.
    for some in (rows, 1e4 * rows, 1e-3 * rows, rows[:1], rows[:0]):
        check_all(names, session.run(None, {taken.name: some}), some)
