"""The formats: which module reads a file, and which writes one. A new one is a file and a line."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.common.errors import UserError, nearest
from data.exchange.arrays import parts_of_files
from data.exchange.names import listed
from data.exchange.records import Entry, Outgoing, Part, Reading

# By suffix: the module under data.exchange, and its reader.
READERS = {
    ".npz": ("npz", "read_npz"),
    ".npy": ("npz", "read_npy"),
    ".parquet": ("parquet", "read_parquet"),
    ".pq": ("parquet", "read_parquet"),
    ".h5ad": ("h5ad", "read_h5ad"),
    ".safetensors": ("safetensors_file", "read_safetensors"),
    ".pt": ("torch_file", "read_torch"),
    ".pth": ("torch_file", "read_torch"),
    ".h5": ("hdf5", "read_hdf5"),
    ".hdf5": ("hdf5", "read_hdf5"),
    ".csv": ("text", "read_csv"),
    ".tsv": ("text", "read_csv"),
    ".jsonl": ("text", "read_jsonl"),
}
# One array a file, which is known by the file's name.
_ALONE = (".npy", ".pt", ".pth")
# Tables of text may be lists of images, too.
FEATURE_SUFFIXES = tuple(READERS)


@dataclass(frozen=True)
class Kind:
    """A format that a store is written in."""

    suffix: str
    module: str
    writer: str
    in_memory: bool = False  # whether its library wants all features at once


KINDS = {
    "parquet": Kind(".parquet", "parquet", "write_parquet"),
    "npz": Kind(".npz", "npz", "write_npz"),
    "anndata": Kind(".h5ad", "h5ad", "write_h5ad", in_memory=True),
    "safetensors": Kind(".safetensors", "safetensors_file", "write_safetensors", in_memory=True),
    "csv": Kind(".csv", "text", "write_csv"),
}


def check_file(path: Path) -> None:
    """Refuse what no reader can be found for."""
    if not path.exists():
        raise UserError(f"{path} does not exist; give files of features")
    if path.is_dir():
        raise UserError(f"{path} is a folder; give files of features ({', '.join(READERS)})")
    if path.suffix.lower() not in READERS:
        hint = nearest(path.suffix, READERS) if path.suffix else ""
        raise UserError(
            f"{path} is none of the formats that are read ({', '.join(READERS)}); "
            f"{hint or 'write it as one of them'}"
        )
    if not path.stat().st_size:
        raise UserError(f"{path} is empty (0 bytes); write it again, or leave it out")


def read_files(paths: Sequence[Path], reading: Reading) -> list[Part]:
    """Read files of features and of labels; files of one array each are read as one."""
    for path in paths:
        check_file(path)
    _check_names(paths)
    parts: list[Part] = []
    alone: dict[str, tuple[str, Entry]] = {}
    for path in paths:
        suffix = path.suffix.lower()
        if suffix in _ALONE:
            entry = _single(path, reading)
            if entry is not None:
                alone[path.name] = (path.stem, entry)
                continue
        found = _function(*READERS[suffix])(path, reading)
        parts += found
    if alone:
        parts += parts_of_files(alone, reading)
    return parts


def _check_names(paths: Iterable[Path]) -> None:
    names = [path.name for path in paths]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(
            f"two files are called {listed(twice)}; their rows and splits are told apart by the "
            "names of the files: rename one"
        )


def _single(path: Path, reading: Reading) -> Entry | None:
    """Read a file that holds one array and nothing else."""
    if path.suffix.lower() == ".npy":
        entry: Entry = _function("npz", "read_npy")(path)
        return entry
    entries: dict[str, Entry] = _function("torch_file", "unpacked")(path, reading)
    return entries.get("")


def _function(module: str, name: str) -> Callable[..., Any]:
    found: Callable[..., Any] = getattr(importlib.import_module(f"data.exchange.{module}"), name)
    return found


def write(kind: Kind, path: Path, out: Outgoing) -> None:
    """Write a store in another format."""
    _function(kind.module, kind.writer)(path, out)


def read_back(kind: Kind, path: Path) -> list[Part]:
    """Read what `write` wrote."""
    found: list[Part] = _function(*READERS[kind.suffix])(path, Reading())
    return found
