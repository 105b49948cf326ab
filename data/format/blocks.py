"""Rows of features as raw bytes in a file: read, digested and checked in blocks.

The store's arrays are contiguous and uncompressed, so they are read with plain `os.preadv`, which
releases Python's lock (HDF5 holds one of its own), into the array they belong in: several
datasets at a time, each block digested and checked while it is in the processor's cache.
"""

from __future__ import annotations

import errno
import hashlib
import os
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data.common.raw_io import BLOCK_BYTES, raw_bytes, read_at, write_at
from data.format.records import StoreError

IDS_NAMED = 5
_FLOAT16_EXPONENT = np.uint16(0x7C00)


def read_array(
    read: Callable[[int, memoryview], object], array: npt.NDArray[Any], *, verify: bool
) -> tuple[str | None, bool]:
    """Fill an array from a file; digest it and look for NaN and infinities on the way.

    ``read`` takes a position in the array's bytes, and a buffer to fill from there.
    """
    raw = raw_bytes(array)
    flat = array.reshape(-1)
    digest = hashlib.sha256()
    finite = True
    step = BLOCK_BYTES // array.itemsize * array.itemsize
    for start in range(0, len(raw), step):
        block = raw[start : start + step]
        read(start, block)
        if verify:
            digest.update(block)
            first = start // array.itemsize
            finite = finite and all_finite(flat[first : first + len(block) // array.itemsize])
    return (digest.hexdigest() if verify else None), finite


def move_down(descriptor: int, source: int, target: int, length: int) -> None:
    """Move bytes within a file towards its beginning; the two extents may overlap."""
    if target > source:
        raise ValueError("bytes can only be moved towards the beginning")
    buffer = memoryview(bytearray(min(length, BLOCK_BYTES)))
    for start in range(0, length if target < source else 0, BLOCK_BYTES):
        part = buffer[: min(BLOCK_BYTES, length - start)]
        read_at(descriptor, source + start, part)
        write_at(descriptor, target + start, part)


def all_finite(values: npt.NDArray[Any]) -> bool:
    """Say whether an array holds neither NaN nor infinity; True for integers."""
    if values.dtype == np.float16:  # its own isfinite is slow
        bits = np.ascontiguousarray(values).view(np.uint16)
        return not bool(((bits & _FLOAT16_EXPONENT) == _FLOAT16_EXPONENT).any())
    return bool(np.isfinite(values).all())


def rows_not_finite(features: npt.NDArray[Any]) -> npt.NDArray[np.intp]:
    """Find the rows that hold NaN or infinity.

    Shape: ``features`` (n_samples, n_features).
    """
    step = max(1, BLOCK_BYTES // max(1, features.itemsize * features.shape[1]))
    found = [np.empty(0, np.intp)]
    for start in range(0, len(features), step):
        block = features[start : start + step]
        if not all_finite(block):
            found.append(start + np.flatnonzero(~np.isfinite(block).all(axis=1)))
    return np.concatenate(found)


def name_rows(count: int, first_ids: Sequence[str]) -> str:
    """Count rows and name the first few: ``"2 rows (cats/1.png, cats/7.png)"``."""
    named = ", ".join(first_ids[:IDS_NAMED]).replace("\n", " ")
    more = ", ..." if count > min(IDS_NAMED, len(first_ids)) else ""
    return f"{count:,} {'row' if count == 1 else 'rows'} ({named}{more})"


# Of fewer rows, zeros in most of them may be chance.
ROWS_TO_TELL = 16


class RowCheck:
    """Collects the rows that cannot be embeddings, block by block: NaN, infinite, or all zero.

    A few zeros can be right: a black image in raw pixels, a plain one behind a ReLU. They are named
    when the store is verified (`data.quality`). Where most rows are zeros, the network is broken.
    """

    def __init__(self) -> None:
        self._n_rows = 0
        self._not_finite: list[str] = []
        self._zero: list[str] = []

    def add(self, features: npt.NDArray[Any], ids: Sequence[str]) -> None:
        """Look at a block of rows.

        Shape: ``features`` (n_samples, n_features).
        """
        self._n_rows += len(features)
        bad = rows_not_finite(features)
        self._not_finite += [ids[int(row)] for row in bad]
        self._zero += [ids[int(row)] for row in np.flatnonzero(~features.any(axis=1))]

    def message(self) -> str | None:
        """Say what was found, with the likely causes."""
        if self._not_finite:
            return (
                f"NaN or infinite values in {name_rows(len(self._not_finite), self._not_finite)}. "
                "Likely causes: an overflow in half precision (try --precision fp32 and "
                "--store-dtype float32), or broken weights"
            )
        if self._n_rows >= ROWS_TO_TELL and 2 * len(self._zero) > self._n_rows:
            return (
                f"nothing but zeros in {name_rows(len(self._zero), self._zero)}. Likely causes: "
                "weights that do not belong to the model, an underflow in half precision (try "
                "--precision fp32), or a wrong --mean or --std"
            )
        return None


def reserve(descriptor: int, size: int) -> None:
    """Claim disk space for a file at once, so that a full disk shows before the work is done."""
    os.ftruncate(descriptor, size)
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise


@dataclass(frozen=True)
class FileRun:
    """A run of a dataset's bytes in a file of its own."""

    path: Path
    stamp: tuple[int, int, int]  # its inode, size and time of change when it was verified
    offset: int  # where in the file the run begins, in bytes
    first: int  # where in the dataset it begins
    nbytes: int  # its length


def stamp_of(descriptor: int) -> tuple[int, int, int]:
    """Fingerprint an open file by what the file system knows of it."""
    found = os.fstat(descriptor)
    return found.st_ino, found.st_size, found.st_mtime_ns


def read_runs(runs: Sequence[FileRun], position: int, buffer: memoryview) -> None:
    """Fill a buffer from a position in a dataset."""
    done = 0
    index = bisect_right(runs, position, key=lambda run: run.first) - 1
    while done < len(buffer):
        if not 0 <= index < len(runs):
            raise EOFError(f"the shards end at byte {position + done:,}")
        run = runs[index]
        skip = position + done - run.first
        length = min(run.nbytes - skip, len(buffer) - done)
        _read_run(run, skip, buffer[done : done + length])
        done += length
        index += 1


def _read_run(run: FileRun, skip: int, buffer: memoryview) -> None:
    try:
        descriptor = os.open(run.path, os.O_RDONLY)
    except OSError as error:
        raise StoreError(
            f"the shard {run.path} cannot be read any more: {error.strerror}. The store needs "
            "the folder of its shards beside it"
        ) from error
    try:
        if stamp_of(descriptor) != run.stamp:
            raise StoreError(
                f"the shard {run.path} has changed since it was verified; open the store again"
            )
        read_at(descriptor, run.offset + skip, buffer)
    finally:
        os.close(descriptor)
