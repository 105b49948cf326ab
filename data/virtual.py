"""Stores whose features stay in their shards: for data too large for one file on one disk.

``/{split}/features`` is then an HDF5 virtual dataset over ``{store}.shards-{digest}/shard-*.h5``,
by names relative to the store, so that the two can be moved together; NaN where a file is missing,
for programs that only know HDF5, which fills in without a word (h5py issue 1546). Icebox does not
read through it. The dataset's attribute ``shards`` lists the files ::

    [[FILE, START, STOP, SHA256, [[FIRST, COUNT], ...]], ...]

with the receipt of each (`data.shards`) and the runs of its rows that are in use. Opening a store
finds every shard, checks its seal and compares its receipt, so one that is missing or another is an
error; verifying compares the rows themselves with the ``sha256`` of the dataset. Everything else of
a store is as ever.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data.common.files import clean_leftovers, sync_folder, temporary_file
from data.format.shard_list import Listed
from data.store import opened


def gather(store: Path, shards: Sequence[Path]) -> Path:
    """Put shards beside a store, under names that tell their content; the shards stay."""
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
    """Remove the shards of a store that was replaced."""
    for folder in store.parent.glob(f"{store.stem}.shards-*"):
        if folder != keep:
            shutil.rmtree(folder, ignore_errors=True)


def listed(folder: Path, path: Path, start: int, stop: int, ok: npt.NDArray[np.bool_]) -> Listed:
    """List a shard.

    Shape: ``ok`` (stop - start,).
    """
    with opened(folder / path.name) as shard:
        sha256 = shard.text("sha256")
    runs, row = [], 0
    for good, group in itertools.groupby(ok.tolist()):
        count = sum(1 for _ in group)
        if good:
            runs.append((row, count))
        row += count
    return Listed(f"{folder.name}/{path.name}", start, stop, sha256, tuple(runs))
