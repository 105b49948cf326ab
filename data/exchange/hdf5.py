"""HDF5 files of other programs: datasets by their paths."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data.common.errors import UserError
from data.exchange.arrays import parts_of
from data.exchange.records import Array, Entry, Part, Reading, Sliced
from data.store import foreign_file

_MOST = 10_000  # datasets that are looked at


def read_hdf5(path: Path, reading: Reading) -> list[Part]:
    """Read datasets: those that the user named, or else those with the usual names."""
    with foreign_file(path) as file:
        if "schema_version" in file.attrs and "spec" in file.attrs:
            raise UserError(
                f"{path} is a store of Icebox already; use it as it is: "
                f"python -m classify fit {path}"
            )
        entries: dict[str, Entry] = {}

        def visit(name: str, node: Any) -> bool | None:
            if hasattr(node, "dtype") and hasattr(node, "shape") and node.shape:
                entries[f"/{name}"] = _entry(path, f"/{name}", node)
            return True if len(entries) >= _MOST else None

        file.visititems(visit)  # follows no link
    named = {name for _, name in (*reading.features, *reading.labels)}
    named |= set(reading.columns.values())
    # Paths may be given without the first slash.
    entries = {name[1:] if name[1:] in named else name: entry for name, entry in entries.items()}
    return parts_of(path.name, entries, reading)


def _entry(path: Path, name: str, node: Any) -> Entry:
    text = node.dtype.kind in "OS" and node.dtype.metadata is not None
    if node.external or node.is_virtual:
        raise UserError(f"{path}: {name} is kept in other files, which are not read")
    if text:
        return _Texts(path, name, node.shape)

    @contextlib.contextmanager
    def opened() -> Iterator[Any]:
        with foreign_file(path) as file:
            yield file[name]

    return Sliced(node.shape, np.dtype(node.dtype), opened)


class _Texts:
    """A dataset of texts, whose type is an object in HDF5's library and text here."""

    def __init__(self, path: Path, name: str, shape: tuple[int, ...]) -> None:
        self.path, self.name, self.shape = path, name, shape
        self.dtype: np.dtype[Any] = np.dtype(np.str_)

    def blocks(self, wanted: Any) -> Iterator[tuple[int, Array]]:
        """Give all of it."""
        yield 0, self.load()

    def load(self) -> Array:
        """Read it."""
        with foreign_file(self.path) as file:
            return np.array(file[self.name].asstr()[()], dtype=np.str_)
