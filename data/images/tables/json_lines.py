"""Tables in JSON lines: an object a row.

They are read with Python's own parser. pandas' guesses types, and does not say which line is wrong.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data.common.errors import UserError
from data.images.tables.columns import Header, choose_columns
from data.images.tables.records import ColumnBuilder, Table, built_table

_BLOCK_ROWS = 100_000
_SAMPLE_ROWS = 100  # in which every column of interest is named


def read_json_lines(path: Path, asked: Mapping[str, str | None]) -> Table:
    """Read a table of JSON lines."""
    header = _header(path)
    chosen = {role: header.names[i] for role, i in choose_columns(header, asked).items()}
    image = chosen.pop("image")
    builders = {role: ColumnBuilder(name) for role, name in chosen.items()}
    names: list[str] = []
    cells: dict[str, list[Any]] = {role: [] for role in builders}

    def flush() -> None:
        for role, builder in builders.items():
            builder.add_cells(cells[role])
            cells[role].clear()

    columns_of = [(name, cells[role].append) for role, name in chosen.items()]
    for row, record in enumerate(_records(path)):
        cell = record.get(image)
        names.append(cell if cell.__class__ is str else str(_plain(path, row, image, cell) or ""))
        for name, append in columns_of:
            cell = record.get(name)
            append(cell if cell.__class__ is str else _plain(path, row, name, cell))
        if len(names) % _BLOCK_ROWS == 0:
            flush()
    flush()
    return built_table(path, image, names, builders)


def names_in_json_lines(path: Path, asked: Mapping[str, str | None]) -> Iterator[str]:
    """Name the images, for a fingerprint; lines that cannot be read are passed over."""
    header = _header(path)
    image = header.names[choose_columns(header, asked)["image"]]
    with open(path, "rb") as stream:
        for line in stream:
            try:
                name = json.loads(line)[image]
            except (ValueError, KeyError, TypeError):
                continue
            if isinstance(name, str):
                yield name


def _header(path: Path) -> Header:
    """Name the columns, which the first rows have."""
    names: dict[str, str] = {}
    for row, record in enumerate(_records(path)):
        for name, cell in record.items():
            if not names.get(name):
                names[name] = cell if isinstance(cell, str) else ""
        if row >= _SAMPLE_ROWS:
            break
    if not names:
        raise UserError(f"the table {path} is empty; a line for each image is expected")
    return Header(path, tuple(names), False, tuple(names.values()))


def _records(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with open(path, "rb") as stream:
            for number, line in enumerate(stream):
                if line.isspace():
                    continue
                if number == 0:
                    line = line.removeprefix(b"\xef\xbb\xbf")
                yield _record(path, number, line)
    except OSError as error:
        raise UserError(
            f"cannot read the table {path}: {error.strerror}; check the name given to --dataset"
        ) from error


def _record(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        bad = line[error.start : error.start + 8]
        raise UserError(
            f"the table {path} is not in UTF-8: line {number + 1} has the bytes {bad!r}\n"
            "save it in UTF-8, such as with: iconv -f latin1 -t utf-8 OLD > NEW"
        ) from error
    except ValueError as error:
        raise UserError(
            f"{path}: line {number + 1} is not JSON: {error}; a line for each image is expected, "
            'such as {"file_name": "a.png", "label": "cat"}'
        ) from error
    if not isinstance(found, dict):
        raise UserError(
            f"{path}: line {number + 1} is no object but "
            f"{line.strip()[:40].decode(errors='replace')!r}; a "
            'line for each image is expected, such as {"file_name": "a.png", "label": "cat"}'
        )
    return found


def _plain(path: Path, row: int, name: str, cell: Any) -> Any:
    if isinstance(cell, (list, dict)):
        raise UserError(
            f"{path}: row {row + 1} has a {'list' if isinstance(cell, list) else 'object'} in the "
            f"column {name}; text or a number is expected: write one label for each image"
        )
    return cell
