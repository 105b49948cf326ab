"""What a table says, by the role of its columns, whatever file it came from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data.images.arrays import Records

NOT_A_NUMBER = "nan"
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
NAMED = 3  # rows and values that a message names


@dataclass(frozen=True, eq=False)
class Column:
    """A column of few different values."""

    name: str
    values: list[str]  # different ones, as text without spaces around it
    codes: npt.NDArray[np.int64]  # (n,), indices into the values; -1: an empty cell

    def __getitem__(self, row: int) -> str:
        return self.values[self.codes[row]] if self.codes[row] >= 0 else ""

    def rows_of(self, value: str) -> npt.NDArray[np.int64]:
        """Find the rows that have a value."""
        return np.flatnonzero(self.codes == self.values.index(value))


@dataclass(frozen=True, eq=False)
class Table:
    """A table of images; rows are counted from 1 in messages, without a header."""

    path: Path
    image_column: str
    names: list[str]  # (n,), of the images as written; of images in the table, made up
    label: Column
    split: Column | None = None
    group: Column | None = None
    weight: Column | None = None
    records: Records | None = None  # the images, where the table itself holds them
    # The names of the classes that the labels number, where the table tells
    class_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)


def built_table(
    path: Path,
    image_column: str,
    names: list[str],
    builders: Mapping[str, ColumnBuilder],
    records: Records | None = None,
    class_names: tuple[str, ...] = (),
) -> Table:
    """Make a table of the columns that were collected, by their roles."""
    columns = {role: builder.build() for role, builder in builders.items()}
    return Table(path, image_column, names, **columns, records=records, class_names=class_names)


class ColumnBuilder:
    """Collects the cells of a column, block by block."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._known: dict[str, int] = {"": -1}
        self._as_written: dict[str, int] = {}  # the same, of texts with the spaces around them
        self._blocks: list[npt.NDArray[np.int64]] = []

    def add(self, codes: npt.NDArray[np.integer], values: Iterable[Any]) -> None:
        """Add cells as indices into values; -1 is an empty one."""
        into = [self._code(cell_text(value)) for value in values]
        # The last one is what -1 picks.
        self._blocks.append(np.array([*into, -1], np.int64)[codes])

    def add_cells(self, cells: Sequence[Any]) -> None:
        """Add cells one by one; None is an empty one."""
        known = self._as_written
        for cell in dict.fromkeys(cells):  # few, in their order
            if cell.__class__ is str and cell not in known:
                known[cell] = self._code(cell_text(cell))
        codes = [known[cell] if cell.__class__ is str else self._other(cell) for cell in cells]
        self._blocks.append(np.array(codes, np.int64))

    def _other(self, cell: Any) -> int:
        return -1 if cell is None else self._code(cell_text(cell))

    def _code(self, text: str) -> int:
        return self._known.setdefault(text, len(self._known) - 1)

    def build(self) -> Column:
        """Put the blocks together."""
        codes = np.concatenate(self._blocks) if self._blocks else np.empty(0, np.int64)
        return Column(self.name, list(self._known)[1:], codes)


def cell_text(value: Any) -> str:
    """Write a cell as text: numbers as Python does, which is how tables of text have them."""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def is_number(text: str) -> bool:
    """Tell decimal numbers, which classes are sorted by."""
    return _NUMBER.fullmatch(text) is not None


def in_order(names: Iterable[str]) -> list[str]:
    """Sort class names: by number where all are numbers, else by code point."""
    names = list(names)
    if all(map(is_number, names)):
        return sorted(names, key=lambda name: (float(name), name))
    return sorted(names)


def rows_text(
    rows: Sequence[int] | npt.NDArray[np.int64], said: Mapping[int, str] | None = None
) -> str:
    """Name the first rows in a message: ``row 3, row 9, row 12, ...``."""
    parts = []
    for row in list(rows[:NAMED]):
        what = "" if said is None else f" ({said[int(row)]})"
        parts.append(f"row {int(row) + 1}{what}")
    return ", ".join(parts) + (", ..." if len(rows) > NAMED else "")
