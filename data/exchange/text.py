"""Tables of text: CSV and TSV, read in chunks by pandas, and lines of JSON."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.common.errors import UserError
from data.exchange.names import find_columns, listed, wide_columns
from data.exchange.records import (
    Array,
    Blocks,
    Held,
    Mask,
    Outgoing,
    Part,
    Reading,
    named,
    refused,
    rows_of_a_block,
)

_ROLES = ("labels", "split", "groups", "weights", "ids")


def note_columns(source: str, found: Mapping[str, str], reading: Reading) -> None:
    """Say which column was taken for what."""
    if found:
        pairs = ", ".join(f"{role} from {name}" for role, name in found.items())
        reading.on_note(f"{source}: {pairs}")


def read_csv(path: Path, reading: Reading) -> list[Part]:
    """Read a table whose first line names the columns; without features it is one of labels."""
    import pandas

    separator = _separator(path)
    with refused(path, "a table of text"):
        names = list(pandas.read_csv(path, sep=separator, nrows=0).columns)
        found = find_columns(path.name, names, reading)
        wide = [name for name in wide_columns(names) if name not in found.values()]
        taken = {role: name for role, name in found.items() if role in _ROLES}
        few = list(dict.fromkeys(taken.values())) or wide[:1]
        if not few:
            raise _nothing(path, names)
        # A class may be called NA or None; only an empty cell is missing.
        cells = pandas.read_csv(
            path, sep=separator, usecols=few, dtype=str, keep_default_na=False, na_values=[""]
        )
    columns = {role: _objects(cells[name]) for role, name in taken.items()}
    shape = (len(cells), len(wide))
    features = _Table(path, separator, tuple(wide), shape) if wide else None
    if features is None and "features" in found:
        raise UserError(
            f"{path}: the column {found['features']} is one cell a row; in a table of text, "
            "features are a column each, named feature_0, feature_1, ..."
        )
    note_columns(path.name, taken, reading)
    used = {*taken.values(), *wide}
    unread = tuple(name for name in names if name not in used)
    called = named(path.name, taken)
    return [Part(path.name, None, features, columns, shape[0], called, unread)]


def _separator(path: Path) -> str:
    if path.suffix.lower() == ".tsv":
        return "\t"
    with refused(path, "a table of text"), open(path, encoding="utf-8-sig") as stream:
        first = stream.readline()
    return max(",;\t", key=first.count)


def _objects(column: Any) -> Array:
    """Give texts, and None where a cell is empty."""
    missing = column.isna().to_numpy()
    values = column.to_numpy(dtype=object, na_value=None, copy=True)
    values[missing] = None
    return np.asarray(values, dtype=object)


def _nothing(path: Path, names: Sequence[str]) -> UserError:
    return UserError(
        f"{path} has neither labels nor features: its columns are {listed(map(str, names))}; "
        "name one with --label-column"
    )


@dataclass(frozen=True)
class _Table:
    """Features of a table of text, a column each."""

    path: Path
    separator: str
    names: tuple[str, ...]
    shape: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type that they are read as."""
        return np.dtype(np.float64)

    def blocks(self, wanted: Mask) -> Blocks:
        """Read chunk by chunk."""
        import pandas

        with (
            refused(self.path, "a table of numbers"),
            pandas.read_csv(
                self.path,
                sep=self.separator,
                usecols=list(self.names),
                dtype=np.float64,
                **_before_3_1({"float_precision": "round_trip"}),
                chunksize=rows_of_a_block(self.shape, self.dtype),
            ) as chunks,
        ):
            start = 0
            for chunk in chunks:
                if wanted[start : start + len(chunk)].any():
                    yield start, chunk[list(self.names)].to_numpy()
                start += len(chunk)

    def load(self) -> Array:
        """Read all of it."""
        everything = np.ones(self.shape[0], np.bool_)
        return np.concatenate([block for _, block in self.blocks(everything)])


NO_DATES = {"convert_dates": False}


def _before_3_1(options: dict[str, Any]) -> dict[str, Any]:
    """Give options that pandas needs before 3.1 to read numbers as they are, and warns of since."""
    import pandas

    major, minor = (int(part) for part in pandas.__version__.split(".")[:2])
    return options if (major, minor) < (3, 1) else {}


def read_jsonl(path: Path, reading: Reading) -> list[Part]:
    """Read an object a line; features are a list, or a number each."""
    import pandas

    with refused(path, "lines of JSON"):
        table = pandas.read_json(
            path, lines=True, dtype=False, precise_float=True, **_before_3_1(NO_DATES)
        )
    names = [str(name) for name in table.columns]
    table.columns = names
    found = find_columns(path.name, names, reading)
    wide = [name for name in wide_columns(names) if name not in found.values()]
    features = None
    if "features" in found:
        with refused(path, "lines of JSON whose features are lists of one length"):
            features = Held(np.array(table[found["features"]].tolist(), dtype=np.float64))
    elif wide:
        features = Held(table[wide].to_numpy(dtype=np.float64))
    columns = {
        role: _objects(table[name].astype(object)) for role, name in found.items() if role in _ROLES
    }
    if features is None and "labels" not in columns:
        raise _nothing(path, names)
    note_columns(path.name, found, reading)
    used = {*found.values(), *wide}
    unread = tuple(name for name in names if name not in used)
    called = named(path.name, found)
    return [Part(path.name, None, features, columns, len(table), called, unread)]


def write_csv(path: Path, out: Outgoing) -> None:
    """Write one table of all splits, features with the 9 digits that tell float32 apart."""
    head = ["id", "split", "label"]
    head += ["group"] if out.group_names else []
    head += ["weight"] if out.has_weights else []
    row_format = ",".join(["%.9g"] * out.width)
    with open(path, "w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="")
        names = [f"feature_{number}" for number in range(out.width)]
        stream.write(",".join([*head, *names]) + "\n")
        for split in out.splits:
            columns, row = split.columns(), 0
            for block in split.blocks():
                for values in block.astype(np.float32).tolist():
                    cells = [columns["ids"][row], split.name, columns["labels"][row]]
                    for role, name in (("groups", "group"), ("weights", "weight")):
                        if name in head:
                            cell = columns[role][row] if role in columns else None
                            cells.append(repr(cell) if isinstance(cell, float) else cell)
                    writer.writerow(cells)
                    stream.write("," + row_format % tuple(values) + "\n")
                    row += 1
