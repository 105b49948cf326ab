"""Parquet: features in a column of lists, or a column each; read batch by batch with pyarrow."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.common.errors import UserError
from data.exchange.names import find_columns, wide_columns
from data.exchange.records import (
    Array,
    Blocks,
    Mask,
    Outgoing,
    Part,
    Reading,
    named,
    needs,
    refused,
    rows_of_a_block,
)
from data.exchange.text import note_columns

_ROWS = 65_536


def _pyarrow(path: Path) -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise needs("pyarrow", "parquet", f"the Parquet file {path}") from error
    return pyarrow


def read_parquet(path: Path, reading: Reading) -> list[Part]:
    """Read a table; one without features is a table of labels."""
    pyarrow = _pyarrow(path)
    with refused(path, "a Parquet file", pyarrow.ArrowException):
        file = pyarrow.parquet.ParquetFile(path)
        schema, n_rows = file.schema_arrow, file.metadata.num_rows
        found = find_columns(path.name, schema.names, reading)
        features = _features(path, schema, found, pyarrow, n_rows)
        if features is None:
            found.pop("features", None)
        columns = {
            role: _column(path, file, name, pyarrow)
            for role, name in found.items()
            if role not in ("features",)
        }
    note_columns(path.name, found, reading)
    names = _names(schema.metadata or {})
    taken = {*found.values(), *(features.names if features is not None else ())}
    unread = tuple(name for name in schema.names if name not in taken)
    called = named(path.name, found)
    return [Part(path.name, None, features, columns, n_rows, called, unread, **names)]


def _names(metadata: Mapping[bytes, bytes]) -> dict[str, tuple[str, ...]]:
    found = {}
    for name in ("class_names", "group_names"):
        try:
            values = json.loads(metadata.get(f"icebox.{name}".encode(), b"[]"))
        except ValueError:
            continue
        if isinstance(values, list) and values and all(isinstance(v, str) for v in values):
            found[name] = tuple(values)
    return found


def _column(path: Path, file: Any, name: str, pyarrow: Any) -> Array:
    """Read a column into memory: numbers as numbers where none is missing, else objects."""
    column = file.read(columns=[name]).column(name)
    if pyarrow.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pyarrow.types.is_nested(column.type):
        raise UserError(f"{path}: the column {name} holds {column.type}, expected a value a row")
    if column.null_count == 0 and pyarrow.types.is_primitive(column.type):
        return np.asarray(column.to_numpy())
    return np.array(column.to_pylist(), dtype=object)


@dataclass(frozen=True)
class _Lists:
    """Features in one column of lists, or in several columns of numbers."""

    path: Path
    names: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def blocks(self, wanted: Mask) -> Blocks:
        """Read row group by row group, each in batches; leave out groups without wanted rows."""
        pyarrow = _pyarrow(self.path)
        rows = min(_ROWS, rows_of_a_block(self.shape, self.dtype))
        with refused(self.path, "a Parquet file", pyarrow.ArrowException):
            file = pyarrow.parquet.ParquetFile(self.path)
            start = 0
            for group in range(file.num_row_groups):
                stop = start + file.metadata.row_group(group).num_rows
                if wanted[start:stop].any():
                    yield from self._group(file, group, start, rows)
                start = stop

    def _group(self, file: Any, group: int, start: int, rows: int) -> Blocks:
        batches = file.iter_batches(rows, row_groups=[group], columns=list(self.names))
        for batch in batches:
            if len(self.names) == 1 and _is_list(batch.schema.field(0).type):
                yield start, self._lists(batch.column(0), start)
            else:
                yield start, self._wide(batch, start)
            start += batch.num_rows

    def _lists(self, column: Any, start: int) -> Array:
        lengths = np.asarray(column.value_lengths().fill_null(-1))
        wrong = np.flatnonzero(lengths != self.shape[1])
        if len(wrong):
            row = int(wrong[0])
            have = "no list" if lengths[row] < 0 else f"{lengths[row]:,} values"
            raise UserError(
                f"{self.path}: {self.names[0]} has {have} in row {start + row}, and "
                f"{self.shape[1]:,} in the first; every row needs as many"
            )
        values = column.flatten()
        if values.null_count:
            row = int(np.flatnonzero(np.asarray(values.is_null()))[0]) // self.shape[1]
            raise UserError(
                f"{self.path}: {self.names[0]} has an empty value in row {start + row}; "
                "fill it in, or leave the row out"
            )
        return np.asarray(values.to_numpy(zero_copy_only=False)).reshape(-1, self.shape[1])

    def _wide(self, batch: Any, start: int) -> Array:
        table = np.empty((batch.num_rows, self.shape[1]), self.dtype)
        for number, name in enumerate(self.names):
            column = batch.column(name)
            if column.null_count:
                row = start + int(np.flatnonzero(np.asarray(column.is_null()))[0])
                raise UserError(
                    f"{self.path}: {name} has an empty value in row {row}; fill it in, or leave "
                    "the row out"
                )
            table[:, number] = column.to_numpy(zero_copy_only=False)
        return table

    def load(self) -> Array:
        """Read all of it."""
        everything = np.ones(self.shape[0], np.bool_)
        return np.concatenate([block for _, block in self.blocks(everything)])


def _is_list(kind: Any) -> bool:
    import pyarrow.types as types

    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _features(
    path: Path, schema: Any, found: Mapping[str, str], pyarrow: Any, n_rows: int
) -> _Lists | None:
    """Find the columns of the features; None in a table of labels."""
    name = found.get("features")
    lists = [f.name for f in schema if _is_list(f.type) and _numeric(f.type.value_type, pyarrow)]
    if name is None and len(lists) == 1:
        name = lists[0]
    if name is not None and name in lists:
        kind = schema.field(name).type
        width = _width(path, name, pyarrow) if not hasattr(kind, "list_size") else kind.list_size
        return _Lists(path, (name,), (n_rows, width), np.dtype(kind.value_type.to_pandas_dtype()))
    if name is not None and not _numeric(schema.field(name).type, pyarrow):
        raise UserError(
            f"{path}: the column {name} holds {schema.field(name).type}, expected a list of "
            "numbers a row"
        )
    if len(lists) > 1:
        raise UserError(
            f"{path} has several columns of lists ({', '.join(lists[:5])}); say which holds the "
            "features with --features-path COLUMN"
        )
    numbers = [f.name for f in schema if _numeric(f.type, pyarrow)]
    wide = [n for n in wide_columns(numbers) if n not in found.values()]
    if not wide:
        return None
    kinds = [np.dtype(schema.field(n).type.to_pandas_dtype()) for n in wide]
    return _Lists(path, tuple(wide), (n_rows, len(wide)), np.result_type(*kinds))


def _numeric(kind: Any, pyarrow: Any) -> bool:
    return bool(pyarrow.types.is_floating(kind) or pyarrow.types.is_integer(kind))


def _width(path: Path, name: str, pyarrow: Any) -> int:
    """Read the length of the first list."""
    file = pyarrow.parquet.ParquetFile(path)
    for batch in file.iter_batches(1, columns=[name]):
        length = batch.column(0).value_lengths()[0].as_py()
        return int(length or 0)
    return 0


def write_parquet(path: Path, out: Outgoing) -> None:
    """Write one table of all splits: id, split, label, group, weight, features."""
    pa = _pyarrow(path)
    schema = _schema(pa, out)
    with pa.parquet.ParquetWriter(path, schema) as writer:
        for split in out.splits:
            columns, start = split.columns(), 0
            none = [None] * split.n_rows
            for block in split.blocks():
                stop = start + len(block)
                rows: dict[str, list[Any]] = {
                    "id": columns["ids"][start:stop],
                    "split": [split.name] * len(block),
                    "label": columns["labels"][start:stop],
                }
                for role, name in (("groups", "group"), ("weights", "weight")):
                    if name in schema.names:
                        rows[name] = columns.get(role, none)[start:stop]
                arrays = [pa.array(values, schema.field(n).type) for n, values in rows.items()]
                flat = pa.array(np.ascontiguousarray(block).reshape(-1))
                arrays.append(pa.FixedSizeListArray.from_arrays(flat, out.width))
                writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))
                start = stop


def _schema(pa: Any, out: Outgoing) -> Any:
    fields = [("id", pa.string()), ("split", pa.string()), ("label", pa.string())]
    if out.group_names:
        fields.append(("group", pa.string()))
    if out.has_weights:
        fields.append(("weight", pa.float64()))
    kind = pa.float16() if out.dtype == np.float16 else pa.float32()
    fields.append(("features", pa.list_(kind, out.width)))
    metadata = {"icebox.class_names": json.dumps(list(out.class_names))}
    if out.group_names:
        metadata["icebox.group_names"] = json.dumps(list(out.group_names))
    return pa.schema(fields, metadata=metadata)
