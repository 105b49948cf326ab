"""Tables in Parquet: names of image files, or the images' own bytes, read when they are wanted."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from data.common.errors import UserError
from data.common.packages import install_extra
from data.images.tables.columns import Header, choose_columns
from data.images.tables.records import ColumnBuilder, Table, built_table

_BLOCK_ROWS = 100_000
_IMAGE_BLOCK = 64  # images that are held at a time
_BUFFER = 1 << 20


class ParquetImages:
    """The encoded images of a column; each process reads the file for itself, from front to back.

    A row before the block at hand begins the row group anew: rows are asked for in their order.
    """

    def __init__(self, path: Path, column: str, leaf: str, rows_of_groups: tuple[int, ...]) -> None:
        self.path, self.column, self.leaf = path, column, leaf
        # (n_groups + 1,): the first row of each row group, and the end
        self.starts = np.concatenate([[0], np.cumsum(rows_of_groups, dtype=np.int64)])
        self._forget()

    def _forget(self) -> None:
        self._lock = Lock()
        self._file: Any = None
        self._stream: Iterator[Any] | None = None
        self._block: list[bytes | None] = []
        self._first = self._next = 0  # row of the block, row behind what the stream has given
        self._group = -1

    def __getstate__(self) -> dict[str, Any]:
        """Send what the images are, and nothing of what is open."""
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._forget()

    def name(self, row: int) -> str:
        """Name an image by its row."""
        return f"{self.path}, row {row + 1} of {self.column}"

    def read(self, row: int) -> bytes:
        """Read the bytes of an image's file."""
        with self._lock:
            if not self._first <= row < self._first + len(self._block):
                self._seek(row)
            found = self._block[row - self._first]
        if found is None:
            raise UserError(
                f"{self.path}: row {row + 1} has no image in the column {self.column}; the bytes "
                "of an image file are expected in every row: remove the row, or write them"
            )
        return found

    def _seek(self, row: int) -> None:
        group = int(np.searchsorted(self.starts, row, side="right")) - 1
        if group != self._group or row < self._next or self._stream is None:
            if self._file is None:
                self._file = _open(self.path)
            self._stream = self._file.iter_batches(
                _IMAGE_BLOCK, row_groups=[group], columns=[self.leaf], use_threads=False
            )
            self._group, self._next = group, int(self.starts[group])
        while row >= self._next:
            try:
                batch = next(self._stream)
            except StopIteration:
                raise UserError(
                    f"{self.path} has changed while it was being read\n"
                    "let the copying or editing end, then run the same command again"
                ) from None
            except OSError as error:
                raise _damaged(self.path, error) from error
            self._first, self._next = self._next, self._next + len(batch)
            if row < self._next:
                self._block = _bytes_of(batch.column(0))


def _bytes_of(array: Any) -> list[bytes | None]:
    """Take the bytes out of a column of bytes, or out of the structs that hold them."""
    import pyarrow

    if pyarrow.types.is_struct(array.type):
        array = array.field(0)
    found: list[bytes | None] = array.to_pylist()
    return found


def read_parquet(path: Path, asked: Mapping[str, str | None]) -> Table:
    """Read a table in Parquet; images that it holds stay in the file."""
    file = _open(path)
    header = _header(path, file)
    chosen = {role: header.names[i] for role, i in choose_columns(header, asked).items()}
    image = chosen.pop("image")
    leaf = _image_leaf(path, file, image)
    for role, name in chosen.items():
        _check_plain(path, file, role, name)
    builders = {role: ColumnBuilder(name) for role, name in chosen.items()}
    wanted = sorted({*chosen.values(), *([] if leaf is None else [_path_leaf(file, image)])} - {""})
    if leaf is None:
        wanted = sorted({*wanted, image})
    names: list[str] = []
    try:
        for batch in file.iter_batches(_BLOCK_ROWS, columns=wanted):
            for role, builder in builders.items():
                _add(builder, batch.column(chosen[role]))
            names += _names(batch, image) if image in batch.schema.names else [""] * len(batch)
    except OSError as error:
        raise _damaged(path, error) from error
    records = None
    if leaf is not None:
        metadata = file.metadata
        sizes = tuple(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))
        records = ParquetImages(path, image, leaf, sizes)
        if "" in names or len(set(names)) < len(names):  # names that are no names: rows have them
            names = [f"{path.name}:{row}" for row in range(len(names))]
    return built_table(path, image, names, builders, records, _label_names(file, chosen["label"]))


def names_in_parquet(path: Path, asked: Mapping[str, str | None]) -> Iterator[str]:
    """Name the image files, for a fingerprint; none where the table itself holds the images."""
    file = _open(path)
    header = _header(path, file)
    image = header.names[choose_columns(header, asked)["image"]]
    if _image_leaf(path, file, image) is None:
        for batch in file.iter_batches(_BLOCK_ROWS, columns=[image]):
            yield from (name for name in _names(batch, image) if name)


def _open(path: Path) -> Any:
    try:
        from pyarrow import ArrowInvalid
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise UserError(
            f"--dataset {path}: Parquet is read with pyarrow, which is not installed; "
            f"{install_extra('parquet')} installs it"
        ) from error
    try:
        # Through a buffer, not a whole row group of images at once.
        return ParquetFile(path, pre_buffer=False, buffer_size=_BUFFER)
    except (OSError, ArrowInvalid) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> UserError:
    reason = (getattr(error, "strerror", None) or str(error)).strip().splitlines()[0]
    return UserError(
        f"{path} cannot be read as Parquet: {reason}; check the name, or write the file again"
    )


def _header(path: Path, file: Any) -> Header:
    """Name the columns; for those without a usual name, what they hold tells the images."""
    schema = file.schema_arrow
    examples = [_example(file, field) for field in schema]
    return Header(path, tuple(schema.names), False, tuple(examples))


def _example(file: Any, field: Any) -> str:
    """Show what a column holds: text as it is, and bytes of images as the name of an image."""
    import pyarrow

    if _holds_bytes(field.type):
        return "bytes.png"
    if not (pyarrow.types.is_string(field.type) or pyarrow.types.is_large_string(field.type)):
        return str(field.type)
    for batch in file.iter_batches(1, columns=[field.name]):
        return str(batch.column(0)[0].as_py() or "")
    return ""


def _holds_bytes(kind: Any) -> bool:
    import pyarrow

    is_binary = pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind)
    is_struct = pyarrow.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
    return bool(is_binary or is_struct)


def _image_leaf(path: Path, file: Any, column: str) -> str | None:
    """Find where the bytes of images are; None where the column has names of files."""
    import pyarrow

    kind = file.schema_arrow.field(column).type
    if pyarrow.types.is_dictionary(kind):
        kind = kind.value_type
    if pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind):
        return None
    if not _holds_bytes(kind):
        raise UserError(
            f"{path}: the column {column} holds {kind}, no images: names of image files, bytes of "
            "image files, or structs of bytes and path are expected\nname another with "
            "--image-column; features that you have already go in with python -m data import"
        )
    if not pyarrow.types.is_struct(kind):
        return column
    # Datasets of Hugging Face leave the bytes out where they only point at files.
    for batch in file.iter_batches(1, columns=[column]):
        first = batch.column(0)[0].as_py() or {}
        if first.get("bytes") is None and first.get("path"):
            return None
        break
    return f"{column}.bytes"


def _path_leaf(file: Any, column: str) -> str:
    kind = file.schema_arrow.field(column).type
    import pyarrow

    has_path = pyarrow.types.is_struct(kind) and kind.get_field_index("path") >= 0
    return f"{column}.path" if has_path else ""


def _names(batch: Any, column: str) -> list[str]:
    cells = batch.column(column).to_pylist()
    return [
        (cell or {}).get("path") or "" if isinstance(cell, dict) else cell or "" for cell in cells
    ]


def _check_plain(path: Path, file: Any, role: str, column: str) -> None:
    import pyarrow

    kind = file.schema_arrow.field(column).type
    if pyarrow.types.is_nested(kind) or _holds_bytes(kind):
        raise UserError(
            f"{path}: the column {column} holds {kind}; text or numbers are expected for the "
            f"{role}s: name another with --{role}-column"
        )


def _add(builder: ColumnBuilder, array: Any) -> None:
    """Add the cells of a batch by their different values."""
    import pyarrow

    if not pyarrow.types.is_dictionary(array.type):
        array = array.dictionary_encode()
    codes: npt.NDArray[np.int64] = array.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    builder.add(codes.astype(np.int64), array.dictionary.to_pylist())


def _label_names(file: Any, column: str) -> tuple[str, ...]:
    """Read the names that Hugging Face's datasets write beside labels that are numbers."""
    written = (file.schema_arrow.metadata or {}).get(b"huggingface", b"")
    try:
        names = json.loads(written)["info"]["features"][column]["names"]
    except (TypeError, ValueError, KeyError):
        return ()
    return tuple(map(str, names)) if isinstance(names, list) else ()
