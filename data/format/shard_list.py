"""The attribute ``shards`` of a store whose features stay in their shards; see `data.virtual`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.format.blocks import FileRun, stamp_of
from data.format.loading import Stored
from data.format.records import StoreError

_TOGETHER = (
    "A store and the folder of its shards belong side by side: put the folder back, or make the "
    "store again with --force"
)

_NAME = re.compile(r"(?P<folder>[^/.][^/]*)/shard-(train|test)-\d{9,}\.h5")


@dataclass(frozen=True)
class Listed:
    """A shard as a store lists it."""

    file: str  # its path, relative to the store
    start: int
    stop: int
    sha256: str  # of its receipt
    # First row within the shard and number of rows, for each run of rows that are in use
    runs: tuple[tuple[int, int], ...]

    def to_json(self) -> list[Any]:
        """Return the entry of the attribute."""
        runs = [list(run) for run in self.runs]
        return [self.file, self.start, self.stop, self.sha256, runs]


def parse_listed(path: Path, text: str) -> list[Listed]:
    """Read the attribute ``shards``, of which nothing is believed."""
    found = []
    try:
        for file, start, stop, sha256, runs in json.loads(text):
            if not _NAME.fullmatch(file) or not 0 <= start < stop or not isinstance(sha256, str):
                raise ValueError(file)
            for first, count in runs:
                if not 0 <= first < first + count <= stop - start:
                    raise ValueError(file)
            pairs = tuple((int(first), int(count)) for first, count in runs)
            found.append(Listed(file, start, stop, sha256, pairs))
    except (ValueError, TypeError, RecursionError) as error:
        raise StoreError(f"{path} is damaged: its list of shards cannot be read") from error
    return found


def locate(
    store: Path,
    key: str,
    wanted: Stored,
    text: str,
    opened: Callable[[Path], AbstractContextManager[Any]],
) -> tuple[FileRun, ...]:
    """Find every shard of a virtual dataset, and make sure that it is the one that is meant.

    ``opened`` is `data.store.opened`.
    """
    split = wanted.name.strip("/").split("/")[0]
    runs: list[FileRun] = []
    position = 0
    row_bytes = int(np.prod(wanted.shape[1:], dtype=object)) * wanted.dtype.itemsize
    for listed in parse_listed(store, text):
        path = store.parent / listed.file
        if not path.exists():
            raise StoreError(f"{store}: its shard {listed.file} is missing. {_TOGETHER}")
        with opened(path) as shard:
            receipt = (shard.text("key"), shard.text("split"), shard.text("sha256"))
            rows = (shard.number("start"), shard.number("stop"))
            if receipt != (key, split, listed.sha256) or rows != (listed.start, listed.stop):
                raise StoreError(
                    f"{store}: its shard {listed.file} is not the one that it was joined from. "
                    f"{_TOGETHER}"
                )
            table = shard.stored("/features")
            shape = (rows[1] - rows[0], *wanted.shape[1:])
            if table.dtype != wanted.dtype or table.shape != shape:
                raise StoreError(f"{path} is damaged: features of {table.dtype} {table.shape}")
            stamp = stamp_of(shard.descriptor)
        for first, count in listed.runs:
            begin, length = table.offset + first * row_bytes, count * row_bytes
            runs.append(FileRun(path, stamp, begin, position, length))
            position += length
    if position != wanted.nbytes:
        raise StoreError(f"{store} is damaged: its shards do not have the rows of {wanted.name}")
    return tuple(runs)
