"""A classifier as `torch.export`'s program: written, and run on image files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import fx, nn

from extract.exporting.tracing import traced

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from extract.exporting.program import Program

Answers = tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]


def write_exported(program: Program, path: Path) -> None:
    """Write the program, for any number of images of any one size."""
    found = traced(program)
    _forget_places(found)
    torch.export.save(found, path)


def _forget_places(found: ExportedProgram) -> None:
    """Leave out where on this machine the code of each operation is."""
    for module in found.graph_module.modules():
        graph = getattr(module, "graph", None)
        for node in graph.nodes if isinstance(graph, fx.Graph) else ():
            node.meta.pop("stack_trace", None)


def run_exported(path: Path, images: Sequence[Path]) -> Answers:
    """Run a program on image files, one by one, and on several copies of one at once."""
    from PIL import Image

    module: nn.Module = torch.export.load(path).module()
    rows = []
    with torch.inference_mode():
        for number, name in enumerate(images):
            with Image.open(name) as opened:
                pixels = torch.from_numpy(np.array(opened.convert("RGB")))
            copies = 1 + 2 * (number == 0)  # the number of images is free as well
            rows.append([part[-1:] for part in module(pixels.expand(copies, *pixels.shape))])
    probabilities, labels = (torch.cat(parts).numpy() for parts in zip(*rows, strict=True))
    return probabilities.astype(np.float64), labels.astype(np.int64)
