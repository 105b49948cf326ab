"""NumPy's files: ``.npy`` (rows at their places) and ``.npz`` (read as a stream of rows)."""

from __future__ import annotations

import contextlib
import os
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from data.exchange.arrays import parts_of
from data.exchange.records import (
    Array,
    Blocks,
    Entry,
    Mask,
    Outgoing,
    Part,
    Reading,
    Sliced,
    refused,
    rows_of_a_block,
)

# The header of an array is a literal of Python.
_HEADER = (SyntaxError, tokenize.TokenError)
_ZIP = (zipfile.BadZipFile, zlib.error, NotImplementedError, *_HEADER)
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
Header = tuple[tuple[int, ...], bool, np.dtype[Any]]


def read_npy(path: Path) -> Entry:
    """Find the rows of an array in its file; only its header is read now."""
    with refused(path, "a NumPy file", *_HEADER), open(path, "rb") as stream:
        shape, fortran, dtype = _header(stream)
        needed = stream.tell() + int(np.prod(shape, dtype=object)) * dtype.itemsize
        held = os.fstat(stream.fileno()).st_size
        if not dtype.hasobject and held < needed:
            raise EOFError(f"it has {held:,} of {needed:,} bytes")

    @contextlib.contextmanager
    def opened() -> Iterator[Any]:
        with refused(path, "a NumPy file", *_HEADER):
            if fortran or not shape:
                table = np.load(path, mmap_mode="r", allow_pickle=False)
                yield table
                return
            with open(path, "rb") as stream:
                if _header(stream) != (shape, fortran, dtype):
                    raise ValueError("it has changed while it was read")
                yield _Rows(stream, shape, dtype)

    return Sliced(shape, dtype, opened)


class _Rows:
    """Rows of an open file, read and not mapped: pages of a map would count as memory in use."""

    def __init__(self, stream: IO[bytes], shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._stream, self._begin = stream, stream.tell()
        self._shape, self._dtype = shape, dtype

    def __getitem__(self, rows: slice) -> Array:
        start, stop, _ = rows.indices(self._shape[0])
        width = int(np.prod(self._shape[1:], dtype=object))
        self._stream.seek(self._begin + start * width * self._dtype.itemsize)
        found = np.fromfile(self._stream, self._dtype, (stop - start) * width)
        if len(found) != (stop - start) * width:
            raise EOFError("it ends too early")
        return found.reshape(stop - start, *self._shape[1:])


def read_npz(path: Path, reading: Reading) -> list[Part]:
    """Read the arrays of an archive."""
    with refused(path, "an npz file", *_ZIP), zipfile.ZipFile(path) as archive:
        members = [name for name in archive.namelist() if name.endswith(".npy")]
        entries: dict[str, Entry] = {}
        for name in members:
            with archive.open(name) as stream:
                entries[name.removesuffix(".npy")] = _Member(path, name, *_header(stream))
    return parts_of(path.name, entries, reading)


def _header(stream: IO[bytes]) -> Header:
    version = np.lib.format.read_magic(stream)
    if version not in _HEADERS:
        raise ValueError(f"version {version} of the npy format")
    shape, fortran, dtype = _HEADERS[version](stream)
    return shape, fortran, dtype


@dataclass(frozen=True)
class _Member:
    """An array of an archive, read from its beginning to its end, compressed or not."""

    path: Path
    member: str
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]

    def blocks(self, wanted: Mask) -> Blocks:
        """Read rows as they come out of the archive; columns in order, as a whole."""
        step = rows_of_a_block(self.shape, self.dtype)
        whole = self.load() if self.fortran else None
        with (
            refused(self.path, "an npz file", *_ZIP),
            zipfile.ZipFile(self.path) as archive,
            archive.open(self.member) as stream,
        ):
            _header(stream)
            for start in range(0, self.shape[0], step):
                stop = min(start + step, self.shape[0])
                rows = stop - start
                block = self._next(stream, rows) if whole is None else whole[start:stop]
                if wanted[start:stop].any():
                    yield start, block

    def _next(self, stream: IO[bytes], rows: int) -> Array:
        needed = rows * int(np.prod(self.shape[1:], dtype=object)) * self.dtype.itemsize
        pieces = []
        while needed and (piece := stream.read(needed)):
            pieces.append(piece)
            needed -= len(piece)
        if needed:
            raise EOFError(f"{self.member} ends too early")
        return np.frombuffer(b"".join(pieces), self.dtype).reshape(rows, *self.shape[1:])

    def load(self) -> Array:
        """Read all of it."""
        with (
            refused(self.path, "an npz file", *_ZIP),
            np.load(self.path, allow_pickle=False) as archive,
        ):
            return np.asarray(archive[self.member.removesuffix(".npy")])


def write_npz(path: Path, out: Outgoing) -> None:
    """Write ``X_train``, ``y_train`` and so on, uncompressed, a block of rows at a time."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for split in out.splits:
            name, columns = split.short_name, split.columns()
            _write(archive, f"X_{name}", (split.n_rows, out.width), out.dtype, split.blocks())
            labels = [label or "" for label in columns.pop("labels")]
            _write_all(archive, f"y_{name}", np.array(labels, dtype=np.str_))
            for role, values in columns.items():
                kind = np.float64 if role == "weights" else np.str_
                _write_all(archive, f"{role}_{name}", np.array(values, dtype=kind))
        _write_all(archive, "class_names", np.array(out.class_names, dtype=np.str_))
        if out.group_names:
            _write_all(archive, "group_names", np.array(out.group_names, dtype=np.str_))


def _write_all(archive: zipfile.ZipFile, name: str, array: Array) -> None:
    _write(archive, name, array.shape, array.dtype, iter([array]))


def _write(
    archive: zipfile.ZipFile,
    name: str,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    blocks: Iterator[Array],
) -> None:
    info = zipfile.ZipInfo(f"{name}.npy")  # of 1980, so that equal stores give equal files
    with archive.open(info, "w", force_zip64=True) as stream:
        header: Mapping[str, Any] = {
            "descr": np.lib.format.dtype_to_descr(dtype),
            "fortran_order": False,
            "shape": shape,
        }
        np.lib.format.write_array_header_1_0(stream, dict(header))
        for block in blocks:
            stream.write(np.ascontiguousarray(block).tobytes())
