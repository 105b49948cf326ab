"""Writing a store: rows streamed to a temporary file, verified, and put in place.

Arrays go to the disk directly, HDF5's own bytes are collected in memory and written after them;
the result is read back and verified, synced, and renamed over the old file. So Ctrl-C, a killed
process, a full disk or a power cut leaves the old file, or none.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data import virtual
from data.common.files import atomic_path, clean_leftovers
from data.common.raw_io import disk_trouble, raw_bytes, write_at
from data.format.blocks import RowCheck, move_down, name_rows, reserve
from data.format.loading import digest_ids
from data.format.records import FeatureArray, Report, SplitSource, StoreError
from data.format.schema import (
    ALL_SPLITS,
    COLUMNS,
    FLOATS,
    INTEGER,
    SCHEMA_VERSION,
    SPLITS,
    UNLABELLED,
)
from data.format.shard_list import Listed
from data.format.spec import canonical_json, spec_key
from data.reading import verify_store
from data.store import TEXT_LIMIT, Skeleton

_SLACK = 64 << 10  # HDF5's own bytes, apart from texts

Block = tuple[FeatureArray, npt.NDArray[np.bool_]]


def join(
    path: str | os.PathLike[str],
    *,
    spec: Mapping[str, Any],
    request: Mapping[str, Any],
    provenance: Mapping[str, Any],
    class_names: Sequence[str],
    splits: Mapping[str, SplitSource],
    group_names: Sequence[str] = (),
    on_rows: Callable[[int], object] | None = None,
    shards: Mapping[str, Sequence[tuple[Path, int, int]]] | None = None,
) -> Report:
    """Write a feature store from blocks of rows, under its final name only when it is verified.

    Where ``shards`` (finished files and their rows, one for each block) are given, the features
    stay in them: see `data.virtual`. A `StoreError` leaves an older file untouched.
    """
    path = Path(path)
    texts = {
        "key": spec_key(spec),
        "spec": canonical_json(spec),
        "provenance": canonical_json(provenance),
        "request": canonical_json(request),
        "class_names": canonical_json(list(class_names)),
    }
    if group_names:
        texts["group_names"] = canonical_json(list(group_names))
    for name, text in texts.items():
        if len(text) > TEXT_LIMIT:
            raise StoreError(f"cannot write {path}: {name} has more than {TEXT_LIMIT:,} bytes")
    dtype = np.dtype(spec["store_dtype"]).newbyteorder("<")
    if dtype not in FLOATS:
        raise ValueError(f"features are stored as float32 or float16, not {dtype}")
    if not set(SPLITS) <= set(splits) <= set(ALL_SPLITS):
        raise ValueError(f"the splits must be train and test, and maybe more: {sorted(splits)}")
    n_names = (len(class_names), len(group_names))
    incoming = [
        _Incoming(path, name, splits[name], n_names, dtype, on_rows)
        for name in ALL_SPLITS
        if name in SPLITS or name in splits
    ]
    width = incoming[0].width
    if not incoming[0].rows or not width:
        raise StoreError(f"cannot write {path}: there are no training rows, or no features")
    for split in incoming:
        if split.rows and split.width != width:
            raise ValueError(f"training rows have width {width}, {split.name} rows {split.width}")

    plan = StorePlan(_layout(incoming), width, dtype, shards is not None)
    needed = plan.nbytes + sum(map(len, texts.values())) + sum(s.id_bytes for s in incoming)
    beside = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        clean_leftovers(path.parent)
        if shards is not None:
            beside = virtual.gather(
                path, [shard for split in incoming for shard, *_ in shards[split.name]]
            )
            for split in incoming:
                split.shards, split.beside = list(shards[split.name]), beside
        with atomic_path(path) as temporary:
            descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
            try:
                reserve(descriptor, needed)
                _assemble(descriptor, plan, incoming, texts)
            finally:
                os.close(descriptor)
            report = _read_back(path, temporary)
        virtual.remove_others(path, beside)
    except OSError as error:
        raise StoreError(disk_trouble(path, error, needed)) from error
    return report


@dataclass(frozen=True)
class StorePlan:
    """How many of everything, and with that where everything lies."""

    splits: tuple[tuple[str, int, tuple[str, ...]], ...]  # name, rows, the columns that it has
    width: int
    dtype: np.dtype[Any]
    virtual: bool = False

    @property
    def arrays(self) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        """Shape and type of each array, in the order in which they lie in the file."""
        arrays: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {
            f"/{name}/features": ((rows, self.width), self.dtype) for name, rows, _ in self.splits
        }
        arrays |= {f"/{name}/labels": ((rows,), INTEGER) for name, rows, _ in self.splits}
        for name, rows, columns in self.splits:
            for column in columns:
                dtype, width = COLUMNS[column]
                arrays[f"/{name}/{column}"] = ((rows, *width), dtype)
        return {n: a for n, a in arrays.items() if not (self.virtual and n.endswith("/features"))}

    @property
    def nbytes(self) -> int:
        """About as many bytes as the file will have, texts apart."""
        return _SLACK + sum(
            int(np.prod(shape, dtype=object)) * dtype.itemsize
            for shape, dtype in self.arrays.values()
        )

    def skeleton(self) -> Skeleton:
        """Allocate everything."""
        made = Skeleton()
        for name, (shape, dtype) in self.arrays.items():
            made.add(name, shape, dtype)
        return made


class _Incoming:
    """The rows of one split, checked on their way to the disk."""

    def __init__(
        self,
        path: Path,
        name: str,
        source: SplitSource,
        n_names: tuple[int, int],
        dtype: np.dtype[Any],
        on_rows: Callable[[int], object] | None,
    ) -> None:
        self.labels = np.array(source.labels, dtype="<i8")
        self.ids = list(source.ids)
        self.columns: dict[str, npt.NDArray[Any]] = {
            column: np.array(getattr(source, column), dtype=dtype_)
            for column, (dtype_, _) in COLUMNS.items()
            if getattr(source, column) is not None
        }
        self._path, self.name, self._dtype, self._on_rows = path, name, dtype, on_rows
        # Where the rows stay in their shards: these, and the folder that they are in.
        self.shards: list[tuple[Path, int, int]] = []
        self.beside: Path | None = None
        self.listed: list[Listed] = []
        self._check_names(n_names[0])
        self._check_columns(n_names[1])
        blocks = iter(source.blocks)
        first = next(blocks, None)
        self.width = 0 if first is None else first[0].shape[1]
        self._blocks: Iterator[Block] = itertools.chain([] if first is None else [first], blocks)

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self.labels)

    @property
    def id_bytes(self) -> int:
        """About as many bytes as the ids take in the file."""
        return sum(len(name.encode("utf-8")) + 48 for name in self.ids)

    def _check_names(self, n_classes: int) -> None:
        if self.labels.ndim != 1 or len(self.ids) != len(self.labels):
            raise ValueError(f"{len(self.ids)} ids for labels of shape {self.labels.shape}")
        outside = (self.labels < 0) | (self.labels >= n_classes)
        if self.name == UNLABELLED:
            n_classes, outside = 0, self.labels != -1
        if outside.any():
            named = name_rows(int(outside.sum()), list(itertools.compress(self.ids, outside)))
            raise self._refuse(f"labels outside 0..{n_classes - 1} in {named}")
        twice = [name for name, times in Counter(self.ids).items() if times > 1]
        if twice:
            raise self._refuse(f"ids that occur more than once: {name_rows(len(twice), twice)}")
        odd = [name for name in self.ids if "\0" in name or not _is_utf8(name)]
        if odd:
            named = name_rows(len(odd), [ascii(name) for name in odd])
            raise self._refuse(f"ids that are not valid UTF-8 text: {named}. Rename these files")

    def _check_columns(self, n_groups: int) -> None:
        for column, values in self.columns.items():
            if values.shape != (self.rows, *COLUMNS[column][1]):
                raise ValueError(f"{column} of shape {values.shape} for {self.rows} rows")
        weights = self.columns.get("weights")
        if weights is not None and not (np.isfinite(weights).all() and (weights >= 0).all()):
            raise self._refuse("weights that are negative or not finite")
        groups = self.columns.get("groups")
        if groups is not None and ((groups < 0) | (groups >= n_groups)).any():
            raise self._refuse(f"groups outside 0..{n_groups - 1}")

    def _refuse(self, why: str) -> StoreError:
        return StoreError(f"cannot write {self._path}: the {self.name} split has {why}")

    def write(self, descriptor: int, offset: int | None) -> tuple[str, bool]:
        """Stream the rows that have an embedding to their place; forget the labels of others.

        Rows that stay in their shards have no place: they are read for their digest.
        """
        digest, check = hashlib.sha256(), RowCheck()
        kept = np.zeros(self.rows, np.bool_)
        start = 0
        for features, ok in self._blocks:
            stop = start + len(features)
            shapes = (features.shape[1:], ok.shape, features.dtype)
            if stop > self.rows or shapes != ((self.width,), (len(features),), self._dtype):
                raise ValueError(f"a block of {shapes} does not fit rows {start} to {stop}")
            kept[start:stop] = ok
            rows = np.ascontiguousarray(features if ok.all() else features[ok], self._dtype)
            check.add(rows, list(itertools.compress(self.ids[start:stop], ok)))
            digest.update(raw_bytes(rows))
            if offset is not None:
                write_at(descriptor, offset, raw_bytes(rows))
                offset += rows.nbytes
            if self.beside is not None:
                self.listed.append(virtual.listed(self.beside, *self.shards[len(self.listed)], ok))
            start = stop
            if self._on_rows is not None:
                self._on_rows(len(features))
        if start != self.rows:
            raise ValueError(f"the {self.name} split has {self.rows} labels and {start} rows")
        trouble = check.message()
        if trouble:
            raise self._refuse(trouble)
        dropped = not kept.all()
        if dropped:
            self.labels = self.labels[kept]
            self.columns = {column: values[kept] for column, values in self.columns.items()}
            self.ids = list(itertools.compress(self.ids, kept))
        return digest.hexdigest(), dropped


def _assemble(
    descriptor: int,
    plan: StorePlan,
    incoming: Sequence[_Incoming],
    texts: Mapping[str, str],
) -> None:
    skeleton = plan.skeleton()
    digests: dict[str, str] = {}
    dropped = False
    for split in incoming:
        table = f"/{split.name}/features"
        place = None if plan.virtual else skeleton.extents[table][0]
        digests[table], some = split.write(descriptor, place)
        dropped = dropped or some
    if not incoming[0].rows:
        raise StoreError("no training row has an embedding")
    if dropped:
        plan = replace(plan, splits=_layout(incoming))
        skeleton = _rearrange(descriptor, skeleton, plan)
    for split in incoming if plan.virtual else ():
        rows = (split.rows, plan.width)
        skeleton.add_virtual(f"/{split.name}/features", rows, plan.dtype, split.listed)
    for split in incoming:
        for column, values in {"labels": split.labels, **split.columns}.items():
            called = f"/{split.name}/{column}"
            digests[called] = skeleton.write(called, descriptor, values)
        skeleton.add_texts(f"/{split.name}/ids", split.ids)
        skeleton.annotate({"sha256": digest_ids(split.ids)}, f"/{split.name}/ids")
    for name, digest in digests.items():
        skeleton.annotate({"sha256": digest}, name)
    skeleton.annotate({"schema_version": SCHEMA_VERSION, **texts})
    skeleton.finish(descriptor)


def _layout(
    incoming: Sequence[_Incoming],
) -> tuple[tuple[str, int, tuple[str, ...]], ...]:
    return tuple((split.name, split.rows, tuple(split.columns)) for split in incoming)


def _rearrange(descriptor: int, old: Skeleton, plan: StorePlan) -> Skeleton:
    """Allocate anew, for fewer rows, and move what was written."""
    new = plan.skeleton()
    tables = [] if plan.virtual else [name for name in new.extents if name.endswith("/features")]
    for table in tables:
        length = new.extents[table][1]
        if length:
            move_down(descriptor, old.extents[table][0], new.extents[table][0], length)
    old.discard()
    return new


def _read_back(path: Path, temporary: Path) -> Report:
    try:
        report = verify_store(temporary)
    except StoreError as error:
        raise StoreError(
            f"cannot write {path}: the disk does not give back what was written ({error})"
        ) from error
    return replace(report, header=replace(report.header, path=path))


def _is_utf8(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
