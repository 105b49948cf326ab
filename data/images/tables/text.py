"""Tables of text: separated by commas, semicolons, tabs or white space, with a header or not."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from data.common.errors import UserError
from data.images.tables.columns import Header, choose_columns, has_header
from data.images.tables.records import ColumnBuilder, Table, built_table

_SAMPLE = 1 << 16  # characters that tell what separates the columns
_SAMPLE_LINES = 50
_BLOCK_ROWS = 100_000
_SEPARATORS = (",", ";", "\t", "|")
_WHITE = " "  # any run of white space
_WORDS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars", _WHITE: "white space"}


@dataclass(frozen=True)
class TextTable:
    """How a file of text is a table."""

    path: Path
    encoding: str
    separator: str
    header: Header
    n_columns: int  # those of the header, and those that are empty behind it


def look_at(path: Path, asked: Mapping[str, str | None]) -> TextTable:
    """Find out what separates the columns, and what they are called."""
    encoding = _encoding(path)
    try:
        with open(path, encoding=encoding, errors="replace", newline="") as stream:
            sample = stream.read(_SAMPLE)
    except OSError as error:
        raise UserError(f"cannot read the table {path}: {error.strerror}") from error
    except UnicodeError as error:
        raise _not_text(path, encoding) from error
    if "\0" in sample:
        raise UserError(
            f"{path} is no table of text: it holds bytes of zero; save it as CSV in UTF-8, or give "
            "the table that was meant"
        )
    lines = [line for line in sample.splitlines() if line.strip()]
    if len(sample) == _SAMPLE and len(lines) > 1:
        lines.pop()  # it may go on
    if not lines:
        raise UserError(f"the table {path} is empty; a row for each image is expected")
    separator = _separator(lines[:_SAMPLE_LINES], path.suffix.lower())
    rows = list(islice(_rows(io.StringIO("\n".join(lines)), separator), _SAMPLE_LINES))
    first = [cell.strip() for cell in rows[0]]
    named = has_header(first, asked)
    names = first if named else [str(i + 1) for i in range(len(first))]
    cells = rows[1:] if named else rows
    header = Header(path, tuple(names), not named, tuple(cells[0][: len(names)]) if cells else ())
    width = len(names)
    for number, row in enumerate(cells):
        if any(cell.strip() for cell in row[len(names) :]):
            raise _too_many(path, number + 1, len(row), header, separator)
        width = max(width, len(row))
    return TextTable(path, encoding, separator, header, width)


def read_text(path: Path, asked: Mapping[str, str | None]) -> Table:
    """Read a table of text with pandas, some rows at a time."""
    import pandas
    from pandas.errors import ParserError

    found = look_at(path, asked)
    chosen = choose_columns(found.header, asked)
    builders = {
        role: ColumnBuilder(found.header.names[i]) for role, i in chosen.items() if role != "image"
    }
    names: list[str] = []
    options: dict[str, Any] = {
        "sep": r"\s+" if found.separator == _WHITE else found.separator,
        "header": None if found.header.numbered else 0,
        "names": list(range(found.n_columns)),
        "dtype": str,
        # An empty cell is an empty one; NA may be a class.
        "keep_default_na": False,
        "na_values": [""],
        "skipinitialspace": True,
        "encoding": found.encoding,
        "chunksize": _BLOCK_ROWS,
        "engine": "c",
    }
    try:
        with pandas.read_csv(path, **options) as blocks:
            for block in blocks:
                images = block[chosen["image"]]
                names += images.where(images.notna(), "").tolist()
                for role, builder in builders.items():
                    codes, values = pandas.factorize(block[chosen[role]])
                    builder.add(codes, values)
    except UnicodeError as error:
        raise _not_text(path, found.encoding) from error
    except ParserError as error:
        raise _unparsed(found, str(error)) from error
    return built_table(path, found.header.names[chosen["image"]], names, builders)


def names_in_text(path: Path, asked: Mapping[str, str | None]) -> Iterator[str]:
    """Name the images without pandas, for a fingerprint; unreadable rows are left out."""
    found = look_at(path, asked)
    position = choose_columns(found.header, asked)["image"]
    with open(path, encoding=found.encoding, errors="surrogateescape", newline="") as stream:
        rows = _rows(stream, found.separator)
        try:
            if not found.header.numbered:
                next(rows, None)
            for row in rows:
                if len(row) > position:
                    yield row[position]
        except (csv.Error, UnicodeError):
            return


def _rows(stream: io.TextIOBase | Any, separator: str) -> Iterator[list[str]]:
    if separator == _WHITE:
        # As pandas does: quotes keep a name with spaces together.
        for line in stream:
            if line.strip():
                yield next(csv.reader([re.sub(r"\s+", " ", line.strip())], delimiter=" "))
        return
    for row in csv.reader(stream, delimiter=separator, skipinitialspace=True):
        if any(row):
            yield row


def _encoding(path: Path) -> str:
    """Tell UTF-16 and the mark of UTF-8 by their first bytes."""
    try:
        with open(path, "rb") as stream:
            head = stream.read(4)
    except OSError as error:
        raise UserError(
            f"cannot read the table {path}: {error.strerror}; check the name given to --dataset"
        ) from error
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    return "utf-8-sig" if head.startswith(codecs.BOM_UTF8) else "utf-8"


def _separator(lines: list[str], suffix: str) -> str:
    """Choose what gives all rows the same number of cells, two or more."""
    order = ("\t", *_SEPARATORS) if suffix == ".tsv" else _SEPARATORS
    for separator in order:
        counts = {len(row) for row in _rows(io.StringIO("\n".join(lines)), separator)}
        if len(counts) == 1 and counts.pop() > 1:
            return separator
    for separator in order:  # rows of different lengths: the header decides, and an error follows
        if separator in lines[0]:
            return separator
    return _WHITE if len(lines[0].split()) > 1 else ","


def _not_text(path: Path, encoding: str) -> UserError:
    """Find the first line that is not in the encoding of the others."""
    place = ""
    if encoding != "utf-16":
        with open(path, "rb") as stream:
            for number, line in enumerate(stream):
                try:
                    line.decode("utf-8")
                except UnicodeError as error:
                    bad = line[error.start : error.start + 8]  # type: ignore[attr-defined]
                    place = f": line {number + 1} has the bytes {bad!r}"
                    break
    return UserError(
        f"the table {path} is not in {encoding.upper().removesuffix('-SIG')}{place}\n"
        "save it in UTF-8, such as with: iconv -f latin1 -t utf-8 OLD > NEW"
    )


def _too_many(path: Path, row: int, n_cells: int, header: Header, separator: str) -> UserError:
    return UserError(
        f"{path}: row {row} has {n_cells} cells, and there are {len(header.names)} columns "
        f"({', '.join(header.names[:6])}), separated by {_WORDS[separator]}\n"
        'put a name that holds the separator into quotes ("a, b.png"), or remove what is too much'
    )


def _unparsed(found: TextTable, reason: str) -> UserError:
    wide = re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", reason)
    if wide:
        row = int(wide[2]) - (0 if found.header.numbered else 1)
        return _too_many(found.path, row, int(wide[3]), found.header, found.separator)
    quote = re.search(r"EOF inside string starting at row (\d+)", reason)
    if quote:
        return UserError(
            f"{found.path}: a quote that opens in row {int(quote[1])} is never closed; close it, "
            "or remove it"
        )
    return UserError(f"{found.path} cannot be read as a table: {reason.strip()}; mend that row")
