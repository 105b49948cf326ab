"""A program traced by `torch.export`: any number of images, of any one size."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from data.common.errors import UserError
from extract.exporting.program import Classifier, Program
from extract.model.silence import silenced

if TYPE_CHECKING:
    from torch.export import ExportedProgram

INPUT = "images"
AXES = ("n", "height", "width")


def traced(program: Program) -> ExportedProgram:
    """Trace a backbone and its head; a `UserError` says that the network's code does not allow it.

    Its input is ``images``, uint8 (n, height, width, 3); it gives probabilities and labels.
    """
    dimensions = {axis: torch.export.Dim(name) for axis, name in enumerate(AXES)}
    # Two images, as one would be taken for a number that never changes.
    images = torch.zeros(2, 37, 53, 3, dtype=torch.uint8)
    with without_logs():
        try:
            return torch.export.export(
                Classifier(program), (images,), dynamic_shapes=(dimensions,), strict=False
            )
        except (RuntimeError, ValueError, TypeError, AttributeError, NotImplementedError) as error:
            raise UserError(
                f"{name_of(program)} cannot be traced by torch.export: {first_line(error)}\n"
                "Export a head of another network, or give --to timm, or use python -m classify "
                "predict"
            ) from error


@contextmanager
def without_logs() -> Iterator[None]:
    """Keep torch from writing to stderr: of what fails it logs a traceback, beside ours."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with silenced():
            yield
    finally:
        logging.disable(before)


def name_of(program: Program) -> str:
    """Name the networks of a program."""
    return " + ".join(network.name for network in program.networks)


def first_line(error: BaseException) -> str:
    """Give what an error says, in one line."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__
