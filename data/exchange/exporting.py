"""``python -m data export``: a store in another format, read back before the file is kept."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from data.common.cli import log, progress
from data.common.errors import UserError
from data.common.files import atomic_path, check_writable
from data.common.memory import free_memory
from data.exchange.records import Outgoing, OutgoingSplit
from data.exchange.registry import KINDS, Kind, read_back, write
from data.exchange.rows import SplitRows, Wanted, assembled
from data.format.records import Features, rows_in_words
from data.format.sums import PLUS, sum_parts
from data.reading import open_features


def export_store(store: Path, to: str, out: Path | None = None, *, force: bool = False) -> Path:
    """Write a store in another format: every split, labels as names, ids, groups and weights.

    Parameters
    ----------
    store : Path
        The store, which is verified on the way.
    to : str
        A key of `data.exchange.registry.KINDS`.
    out : Path or None
        The file; beside the store where nothing is said.
    force : bool
        Replace a file that is there.

    Returns
    -------
    Path
        The file. What was read back from it equals the store, bit by bit.

    Raises
    ------
    UserError
        If the store cannot be read or the file cannot be written, or is there already.
    """
    kind = KINDS[to]
    path = _place(store, kind, out)
    if path.exists() and not force:
        raise UserError(f"{path} exists already; give --force to replace it, or --out another name")
    features = open_features(store, in_memory=False)
    check_writable(path.absolute().parent)
    _check_memory(features, to, kind)
    with progress(2 * sum(features.sizes.values()), f"export {to}", "row") as bar:
        outgoing = _outgoing(features, bar.update)
        with atomic_path(path) as temporary:
            write(kind, temporary, outgoing)
            _compare(path, temporary, kind, outgoing, bar.update)
    size = path.stat().st_size
    log(f"{path}: {rows_in_words(features)} rows, {size / 1e6:,.1f} MB, read back and compared")
    return path


def _place(store: Path, kind: Kind, out: Path | None) -> Path:
    stores = sum_parts(store)
    name = PLUS.join(part.stem for part in stores) + kind.suffix
    if out is None:
        return stores[0].parent / name
    if out.is_dir():
        return out / name
    if out.suffix.lower() != kind.suffix:
        raise UserError(
            f"--out {out}: the name of such a file ends in {kind.suffix}; give "
            f"{out.with_suffix(kind.suffix)}"
        )
    return out


def _check_memory(features: Features, to: str, kind: Kind) -> None:
    needed = sum(features.sizes.values()) * features.n_features * np.dtype(features.dtype).itemsize
    if kind.in_memory and 2 * needed > free_memory():
        raise UserError(
            f"--to {to} writes all features at once, which takes {2 * needed / 1e9:,.1f} GB of "
            f"memory, and {free_memory() / 1e9:,.1f} GB are free; parquet and npz are written in "
            "blocks"
        )


def _outgoing(features: Features, on_rows: Any) -> Outgoing:
    dtype = np.dtype(features.dtype)
    names, groups = features.class_names, features.group_names
    splits = []
    for name, split in features.splits.items():
        labels = split.labels.tolist()
        splits.append(
            OutgoingSplit(
                name,
                split.labels,
                tuple(names[label] if label >= 0 else None for label in labels),
                split.ids,
                split.features,
                dtype,
                None if split.groups is None else tuple(groups[g] for g in split.groups.tolist()),
                split.weights,
                on_rows,
            )
        )
    return Outgoing(tuple(splits), features.n_features, dtype, names, groups)


def _compare(path: Path, temporary: Path, kind: Kind, out: Outgoing, on_rows: Any) -> None:
    """Read a file as an import would, and make sure that it is the store."""
    try:
        rows = assembled(read_back(kind, temporary), Wanted())
    except UserError as error:
        raise UserError(f"cannot write {path}: it cannot be read back: {error}") from error
    for split in out.splits:
        found = rows.splits.get(split.name)
        if found is None and not split.n_rows:
            continue
        differing = "the split" if found is None else _differing(found, split, rows, out, on_rows)
        if differing:
            raise UserError(
                f"cannot write {path}: {differing} of {split.name} is not what was written; the "
                "disk does not give back what it got, or this is a fault of Icebox: nothing is kept"
            )


def _differing(
    found: SplitRows, split: OutgoingSplit, rows: Any, out: Outgoing, on_rows: Any
) -> str:
    """Name the first thing that a file does not give back."""
    if found.ids != split.ids:
        return "the list of ids"
    names = [rows.class_names[label] if label >= 0 else None for label in found.labels.tolist()]
    if names != list(split.label_names):
        return "the list of labels"
    if split.group_names is not None:
        groups = [] if found.groups is None else found.groups.tolist()
        if [rows.group_names[group] for group in groups] != list(split.group_names):
            return "the list of groups"
    if split.weights is not None and (
        found.weights is None or not np.array_equal(found.weights, split.weights)
    ):
        return "the list of weights"
    digests = [hashlib.sha256(), hashlib.sha256()]
    for block, _ in found.blocks(out.dtype):
        digests[0].update(block.tobytes())
        on_rows(len(block))
    for block in split.blocks(quiet=True):
        digests[1].update(np.ascontiguousarray(block).tobytes())
    return "" if digests[0].digest() == digests[1].digest() else "the table of features"
