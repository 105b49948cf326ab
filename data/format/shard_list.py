"""The attribute ``shards`` of a store whose features stay in their shards; see `data.virtual`."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.format.records import StoreError

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
