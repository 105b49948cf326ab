"""``python -m extract program`` and ``answers``: the halves of exporting a head that need torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data.common.files import atomic_path
from data.format.programs import read_order
from extract.commands.embed_images import read_list
from extract.exporting.program import load_program
from extract.exporting.registry import form_of


def write_program(order: Path, to: str, out: Path) -> None:
    """Write the program that an order is for, in one form."""
    form = form_of(to)
    form.write(load_program(read_order(order)), out)


def run_program(program: Path, to: str, listing: Path, out: Path) -> None:
    """Run what was written on image files, and write what it answers as a NumPy archive."""
    probabilities, labels = form_of(to).answers(program, read_list(listing))
    with atomic_path(out) as temporary, open(temporary, "wb") as stream:
        np.savez(stream, probabilities=probabilities, labels=labels)
