"""Stores whose features stay in their shards: for data too large for one file on one disk.

``/{split}/features`` is then an HDF5 virtual dataset over ``{store}.shards-{digest}/shard-*.h5``,
by names relative to the store, so that the two can be moved together; NaN where a file is missing,
for programs that only know HDF5, which fills in without a word (h5py issue 1546). Icebox does not
read through it. The dataset's attribute ``shards`` lists the files ::

    [[FILE, START, STOP, SHA256, [[FIRST, COUNT], ...]], ...]

with the receipt of each (`data.shards`) and the runs of its rows that are in use. Opening a store
finds every shard, checks its seal and compares its receipt, so one that is missing or another is an
error; verifying compares the rows themselves with the ``sha256`` of the dataset. Everything else of
a store is as ever, but that there are no moments.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from data.common.files import clean_leftovers, sync_folder, temporary_file
from data.format.pieces import Piece, stamp_of
from data.format.records import Listed, StoreError

if TYPE_CHECKING:
    from data.store import StoreFile

_NAME = re.compile(r"(?P<folder>[^/.][^/]*)/shard-(train|test)-\d{9,}\.h5")
TOGETHER = (
    "A store and the folder of its shards belong side by side: put the folder back, or make the "
    "store again with --force"
)


def parse(path: Path, text: str) -> list[Listed]:
    """Read the attribute ``shards``, of which nothing is believed.

    Parameters
    ----------
    path : Path
        The store, for messages.
    text : str
        The attribute.

    Returns
    -------
    list of Listed
        In the order of the rows.

    Raises
    ------
    StoreError
        If it is not what a store of Icebox has.
    """
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
    file: StoreFile, name: str, shape: tuple[int, ...], dtype: np.dtype[Any], text: str
) -> tuple[Piece, ...]:
    """Find every shard of a virtual dataset, and make sure that it is the one that is meant.

    Parameters
    ----------
    file : StoreFile
        The store.
    name : str
        The dataset: ``/{split}/features``.
    shape, dtype
        Of the dataset.
    text : str
        Its attribute ``shards``.

    Returns
    -------
    tuple of Piece
        Where its bytes lie.

    Raises
    ------
    StoreError
        If a shard is missing, damaged or another one.
    """
    from data.store import opened

    key, split = file.text("key"), name.strip("/").split("/")[0]
    pieces: list[Piece] = []
    position, row_bytes = 0, int(np.prod(shape[1:], dtype=object)) * dtype.itemsize
    for listed in parse(file.path, text):
        path = file.path.parent / listed.file
        if not path.exists():
            raise StoreError(f"{file.path}: its shard {listed.file} is missing. {TOGETHER}")
        with opened(path) as shard:
            receipt = (shard.text("key"), shard.text("split"), shard.text("sha256"))
            rows = (shard.number("start"), shard.number("stop"))
            if receipt != (key, split, listed.sha256) or rows != (listed.start, listed.stop):
                raise StoreError(
                    f"{file.path}: its shard {listed.file} is not the one that it was joined "
                    f"from. {TOGETHER}"
                )
            table = shard.stored("/features")
            if table.dtype != dtype or table.shape != (rows[1] - rows[0], *shape[1:]):
                raise StoreError(f"{path} is damaged: features of {table.dtype} {table.shape}")
            stamp = stamp_of(shard.descriptor)
        for first, count in listed.runs:
            length = count * row_bytes
            pieces.append(Piece(path, stamp, table.offset + first * row_bytes, position, length))
            position += length
    if position != int(np.prod(shape, dtype=object)) * dtype.itemsize:
        raise StoreError(f"{file.path} is damaged: its shards do not have the rows of {name}")
    return tuple(pieces)


def gather(store: Path, shards: Sequence[Path]) -> Path:
    """Put shards beside a store, under names that tell their content; the shards stay.

    Parameters
    ----------
    store : Path
        The final name of the store.
    shards : sequence of Path
        Finished shards, on the same disk if possible: they are linked, or else copied.

    Returns
    -------
    Path
        The folder ``{store}.shards-{digest}``.
    """
    from data.store import opened

    digest = hashlib.sha256()
    for path in shards:
        with opened(path) as shard:
            digest.update(shard.text("sha256").encode("ascii"))
    folder = store.parent / f"{store.stem}.shards-{digest.hexdigest()[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    clean_leftovers(folder)
    for path in shards:
        with temporary_file(folder / path.name) as temporary:
            try:
                os.link(path, temporary)
            except OSError as error:
                if error.errno not in (errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.EMLINK):
                    raise
                shutil.copyfile(path, temporary)
            os.replace(temporary, folder / path.name)
    sync_folder(folder)
    sync_folder(folder.parent)
    return folder


def remove_others(store: Path, keep: Path | None) -> None:
    """Remove the shards of a store that was replaced.

    Parameters
    ----------
    store : Path
        The store.
    keep : Path or None
        The folder that it uses.
    """
    for folder in store.parent.glob(f"{store.stem}.shards-*"):
        if folder != keep:
            shutil.rmtree(folder, ignore_errors=True)


def listed(folder: Path, path: Path, start: int, stop: int, ok: npt.NDArray[np.bool_]) -> Listed:
    """List a shard.

    Parameters
    ----------
    folder : Path
        From `gather`.
    path : Path
        The shard.
    start, stop : int
        Its rows.
    ok : ndarray of bool, shape (stop - start,)
        Which of them are in use.

    Returns
    -------
    Listed
        With its receipt's digest.
    """
    from data.store import opened

    with opened(folder / path.name) as shard:
        sha256 = shard.text("sha256")
    runs, row = [], 0
    for good, group in itertools.groupby(ok.tolist()):
        count = sum(1 for _ in group)
        if good:
            runs.append((row, count))
        row += count
    return Listed(f"{folder.name}/{path.name}", start, stop, sha256, tuple(runs))
