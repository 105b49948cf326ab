"""Shards: consecutive rows of one split, on disk while a store is being computed.

A shard is a sealed HDF5 file (`data.format.seal`) with the datasets ``features`` and ``ok`` and, as
attributes, its receipt: which rows of which store it holds. It is made in memory, written to a
temporary file, read back, synced and renamed, so that a shard under its final name is whole. One
that was damaged afterwards is noticed, and computed again.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data.common.files import atomic_path
from data.common.raw_io import disk_trouble, raw_bytes
from data.format.blocks import RowCheck, reserve
from data.format.loading import load
from data.format.records import FeatureArray, ShardReceipt, StoreError
from data.format.schema import FLOATS
from data.store import Skeleton, opened

SHARD_VERSION = 1
_SLACK = 16 << 10


def write_shard(
    path: str | os.PathLike[str],
    features: FeatureArray,
    ok_mask: npt.NDArray[np.bool_],
    *,
    key: str,
    split: str,
    start: int,
    ids: Sequence[str] | None = None,
    unread_rotations: Sequence[int] = (),
) -> ShardReceipt:
    """Write the rows ``start`` to ``start + len(features)`` of a split.

    Shapes: ``features`` (k, n_features); ``ok_mask`` (k,).
    """
    path = Path(path)
    features = features if features.flags.c_contiguous else features.copy()
    if features.dtype not in FLOATS or features.ndim != 2 or ok_mask.shape != features.shape[:1]:
        raise ValueError(f"no shard: {features.dtype} {features.shape}, mask {ok_mask.shape}")
    names = [f"row {start + i}" for i in range(len(features))] if ids is None else ids
    check = RowCheck()
    check.add(features[ok_mask], list(itertools.compress(names, ok_mask)))
    trouble = check.message()
    if trouble:
        raise StoreError(f"the {split} split has {trouble}")

    ok = np.ascontiguousarray(ok_mask, np.uint8)
    receipt = ShardReceipt(
        key, split, start, start + len(features), str(features.dtype), _digest(features, ok)
    )
    needed = features.nbytes + ok.nbytes + _SLACK + 24 * len(unread_rotations)
    try:
        with atomic_path(path) as temporary:
            descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
            try:
                reserve(descriptor, needed)
                skeleton = Skeleton()
                skeleton.add("/features", features.shape, features.dtype)
                skeleton.add("/ok", ok.shape, ok.dtype)
                for name, array in (("/features", features), ("/ok", ok)):
                    skeleton.annotate({"sha256": skeleton.write(name, descriptor, array)}, name)
                skeleton.annotate({"shard_version": SHARD_VERSION, **asdict(receipt)})
                if unread_rotations:
                    text = json.dumps(sorted(map(int, unread_rotations)))
                    skeleton.annotate({"unread_rotations": text})
                skeleton.finish(descriptor)
            finally:
                os.close(descriptor)
            _read(temporary, key, split, start, receipt.stop)
    except OSError as error:
        raise StoreError(disk_trouble(path, error, needed)) from error
    return receipt


def read_shard(
    path: str | os.PathLike[str],
    *,
    key: str,
    split: str,
    start: int,
    stop: int,
    on_damage: Callable[[str], object] | None = None,
) -> tuple[FeatureArray, npt.NDArray[np.bool_]] | None:
    """Read a shard, if it is there, whole, and the one that is meant.

    Shapes: Returns (stop - start, n_features); returns (stop - start,).
    """
    path = Path(path)
    if not path.exists():
        return None
    try:
        return _read(path, key, split, start, stop)[:2]
    except StoreError as error:
        if on_damage is not None:
            on_damage(str(error))
        return None


def check_shard(
    path: str | os.PathLike[str], *, key: str, split: str, start: int, stop: int
) -> tuple[ShardReceipt, npt.NDArray[np.bool_]] | None:
    """Verify a shard from the first byte to the last, and hand over what it says of itself.

    Shape: (stop - start,).
    """
    path = Path(path)
    try:
        _, ok, receipt = _read(path, key, split, start, stop)
    except StoreError:
        return None
    return receipt, ok


def unread_rotations(path: str | os.PathLike[str]) -> list[int]:
    """Give the rows of a shard whose images' rotation could not be read.

    A shard that is not there or damaged has none: it is noticed when its rows are wanted.
    """
    try:
        with opened(path) as file:
            rows = (
                json.loads(file.text("unread_rotations")) if file.says("unread_rotations") else []
            )
    except (StoreError, ValueError):
        return []
    return [row for row in rows if isinstance(row, int)] if isinstance(rows, list) else []


def _read(
    path: Path, key: str, split: str, start: int, stop: int
) -> tuple[FeatureArray, npt.NDArray[np.bool_], ShardReceipt]:
    with opened(path) as file:
        if not file.sealed:
            raise StoreError(f"{path} is damaged: it has no seal")
        if file.number("shard_version") != SHARD_VERSION:
            raise StoreError(f"{path} was written by another version of Icebox")
        receipt = ShardReceipt(
            file.text("key"),
            file.text("split"),
            file.number("start"),
            file.number("stop"),
            file.text("dtype"),
            file.text("sha256"),
        )
        found = (receipt.key, receipt.split, receipt.start, receipt.stop)
        if found != (key, split, start, stop):
            raise StoreError(
                f"{path} holds rows {receipt.start} to {receipt.stop} of {receipt.split} of the "
                f"store {receipt.key[:8]}, not {start} to {stop} of {split} of {key[:8]}"
            )
        table, mask = file.stored("/features"), file.stored("/ok")
        if (
            table.dtype not in FLOATS
            or mask.dtype != np.uint8
            or len(table.shape) != 2
            or table.shape[:1] != mask.shape
            or mask.shape != (stop - start,)
        ):
            raise StoreError(f"{path} is damaged: arrays of {table.shape} and {mask.shape}")
        arrays = load(file, [table, mask], verify=False)
    features, ok = arrays["/features"], arrays["/ok"]
    if _digest(features, ok) != receipt.sha256:
        raise StoreError(f"{path} is damaged: its rows are not those that were written")
    return features, ok.astype(np.bool_), receipt


def _digest(features: FeatureArray, ok: npt.NDArray[np.uint8]) -> str:
    digest = hashlib.sha256(raw_bytes(features))
    digest.update(raw_bytes(ok))
    return digest.hexdigest()
