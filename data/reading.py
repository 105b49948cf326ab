"""Reading stores: their header, their features, and their checksums."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import numpy as np
import numpy.typing as npt

from data.format.loading import (
    Stored,
    check_labels,
    iter_table,
    load,
    to_features,
    verify_table,
)
from data.format.records import (
    DatasetReport,
    Features,
    Header,
    Report,
    StoreError,
)
from data.format.schema import ALL_SPLITS, TEXT, describe
from data.format.stored_rows import StoredRows
from data.format.sums import check_names, side_by_side, sum_header, sum_parts
from data.quality import odd_rows
from data.store import StoreFile, opened

_TELL_BYTES = 1 << 30


def read_header(path: str | os.PathLike[str]) -> Header:
    """Read what a store says of itself, in a few milliseconds.

    Everything outside the arrays is verified; the arrays are not read. Of a sum, ``a.h5+b.h5``, it
    is not known yet whether the rows pair.
    """
    parts = sum_parts(path)
    if len(parts) > 1:
        check_names(path, parts)
        return sum_header(path, [read_header(part) for part in parts])
    with opened(path) as file:
        return describe(file)[0]


def open_features(
    path: str | os.PathLike[str],
    *,
    verify: bool = True,
    in_memory: bool = True,
) -> Features:
    """Read a feature store into memory, or all of it but the features.

    Parameters
    ----------
    path : str or os.PathLike
        A feature store, ``FEATURES_DIR/DATASET/*.h5``, or several with the same rows, side by side
        as one: ``a.h5+b.h5``. Rows are paired by their ids, in the order of the first store.
    verify : bool
        Compare every array with its digest, and refuse NaN and infinities. Without it only
        the structure, the labels and the bytes outside the arrays are checked.
    in_memory : bool
        False leaves the features on the disk, as `data.format.stored_rows.StoredRows`; they are
        verified all the same, a block at a time.

    Returns
    -------
    Features
        ``train`` and ``test`` with ``features`` of float32 or float16, shape (n_samples,
        n_features), ``labels`` of int64, shape (n_samples,), and ``ids``; what the store says of
        itself beside them. Arrays are read-only; no file stays open but by features that were left
        on the disk.

    Raises
    ------
    StoreError
        If the file is missing, damaged, of another schema, or does not fit into the memory that
        is free, or stores of a sum do not pair; the message says what, and what to do.

    Examples
    --------
    >>> from data import open_features
    >>> store = open_features("features/digits/NAME.h5")  # doctest: +SKIP
    >>> store.train.features.shape  # doctest: +SKIP
    (1442, 256)
    """
    parts = sum_parts(path)
    if len(parts) > 1:
        check_names(path, parts)
        return side_by_side(
            path, [_left_on_disk(part, verify) for part in parts], verify, in_memory
        )
    with opened(path) as file:
        return _load(file, verify=verify, in_memory=in_memory)[0]


def _left_on_disk(path: str | os.PathLike[str], verify: bool) -> Features:
    """Read a store, and leave it to the caller to verify the features."""
    with opened(path) as file:
        return _load(file, verify=verify, in_memory=False, verify_tables=False)[0]


def verify_store(path: str | os.PathLike[str]) -> Report:
    """Verify a feature store from the first byte to the last."""
    with opened(path) as file:
        try:
            features, datasets = _load(file, verify=True, in_memory=False)
        except StoreError:
            if file.size > _TELL_BYTES:
                raise
            features, datasets = _load(file, verify=True)  # whole tables tell which rows are bad
    reports = tuple(
        DatasetReport(d.name, d.shape, "text" if d.dtype == TEXT else str(d.dtype), d.sha256)
        for d in datasets.values()
    )
    header = Header(**{field.name: getattr(features, field.name) for field in fields(Header)})
    return Report(header, reports, file.sealed, file.size, tuple(odd_rows(features)))


def iter_blocks(
    path: str | os.PathLike[str], split: str, rows: int = 4096, *, verify: bool = True
) -> Iterator[tuple[npt.NDArray[Any], npt.NDArray[np.int64]]]:
    """Read a split in blocks of rows, without holding all of it in memory.

    Shapes: Yields (k, n_features); yields (k,).
    """
    if split not in ALL_SPLITS or rows < 1:
        raise ValueError(f"no split {split!r}, or no blocks of {rows} rows")
    with opened(path) as file:
        header, datasets = describe(file)
        if split not in header.sizes:
            raise ValueError(f"{path} has no split {split!r}")
        name = f"/{split}/labels"
        labels = load(file, [datasets[name]], verify=verify)[name]
        check_labels(file.path, name, labels, len(header.class_names))
        table = datasets[f"/{split}/features"]
        blocks = iter_table(file.path, file.descriptor, table, rows, verify=verify)
        for start, block in zip(range(0, len(labels), rows), blocks, strict=True):
            yield block, labels[start : start + len(block)]


def _load(
    file: StoreFile, *, verify: bool, in_memory: bool = True, verify_tables: bool = True
) -> tuple[Features, dict[str, Stored]]:
    """Read what is wanted; verify the rest, a block at a time, and leave it where it is."""
    header, datasets = describe(file)
    tables = [] if in_memory else [f"/{split}/features" for split in header.sizes]
    wanted = [stored for name, stored in datasets.items() if name not in tables]
    found = load(file, wanted, verify=verify)
    for name in tables:
        if verify and verify_tables:
            ids = found[f"{name.removesuffix('/features')}/ids"]
            verify_table(file.path, file.descriptor, datasets[name], ids)
        found[name] = StoredRows(file.path, file.descriptor, datasets[name])
    return to_features(header, found), datasets
