"""Files of ``torch.save``: unpacked by stage one's ``tensors`` command, in a process of its own.

This package needs no torch, and a pickle is opened only by torch's restricted unpickler.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from data.common.cli import EXIT_INTERRUPTED, EXIT_USER
from data.common.errors import UserError
from data.common.own_packages import program
from data.exchange.arrays import parts_of
from data.exchange.npz import read_npy
from data.exchange.records import Entry, Part, Reading

INDEX = "index.json"


def read_torch(path: Path, reading: Reading) -> list[Part]:
    """Read tensors by name, at any depth: ``X_train``, or ``train`` with ``features`` in it."""
    return parts_of(path.name, unpacked(path, reading), reading)


def unpacked(path: Path, reading: Reading) -> dict[str, Entry]:
    """Have the tensors of a file written as NumPy files, and map these."""
    if reading.scratch is None:
        raise ValueError("files of torch need a folder to be unpacked in")
    folder = reading.scratch()
    command = [*program("extract"), "tensors", f"--out={folder}", "--", str(path)]
    done = subprocess.run(  # noqa: S603
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        start_new_session=True,
    )
    if done.returncode == EXIT_INTERRUPTED:
        raise KeyboardInterrupt
    if done.returncode == EXIT_USER:
        raise UserError(done.stderr.strip().partition("error: ")[2] or done.stderr.strip())
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr}")
    index: dict[str, str] = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    return {name: read_npy(folder / file) for name, file in index.items()}
