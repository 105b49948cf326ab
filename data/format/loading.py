"""Arrays of a store from disk into memory: digested, checked, and named when they are wrong."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from data.common.raw_io import BLOCK_BYTES, raw_bytes, read_at
from data.format.blocks import IDS_NAMED, FileRun, name_rows, read_array, read_runs, rows_not_finite
from data.format.records import Features, FeatureSplit, Header, StoreError

AGAIN = "Extract the features again (python -m extract ... --force)"


@dataclass(frozen=True)
class Stored:
    """Where a dataset lies in its file, by the file's own account."""

    name: str  # its path in the file, as ``/train/features``
    shape: tuple[int, ...]
    dtype: np.dtype[Any]  # the type of its elements; ``object`` for text
    offset: int  # its first byte
    sha256: str  # the digest that its content shall have
    runs: tuple[FileRun, ...] | None = None  # where it lies if in other files

    @property
    def nbytes(self) -> int:
        """Bytes it takes in the file."""
        itemsize = 16 if self.dtype == object else self.dtype.itemsize
        return int(np.prod(self.shape, dtype=object)) * itemsize

    def read(self, descriptor: int, position: int, buffer: memoryview) -> None:
        """Fill a buffer from a position in the dataset, of a file that is open."""
        if self.runs is None:
            read_at(descriptor, self.offset + position, buffer)
        else:
            read_runs(self.runs, position, buffer)


class OpenFile(Protocol):
    """An open file, as `data.store` hands it over."""

    path: Path
    descriptor: int
    foreign_seal: bool

    def version(self) -> object:
        """Return the root attribute ``schema_version``, or None."""

    def text(self, name: str) -> str:
        """Return a text attribute of the root."""

    def says(self, name: str) -> bool:
        """Say whether the root has an attribute of this name."""

    def has(self, name: str) -> bool:
        """Say whether the file has an object of this name."""

    def stored(self, name: str) -> Stored:
        """Find a dataset that lies in the file, whole."""

    def texts(self, stored: Stored) -> list[str]:
        """Read a dataset of texts."""


def digest_ids(ids: Sequence[str]) -> str:
    """Digest each id's UTF-8 bytes followed by one NUL."""
    return hashlib.sha256("".join(f"{name}\0" for name in ids).encode("utf-8")).hexdigest()


def load(file: OpenFile, datasets: Sequence[Stored], *, verify: bool) -> dict[str, Any]:
    """Read datasets side by side, read-only, and compare them with their digests."""
    numbers = [stored for stored in datasets if stored.dtype != object]
    numbers.sort(key=lambda stored: -stored.nbytes)  # the longest task first
    try:  # all at once, and before any thread runs
        found: dict[str, Any] = {s.name: np.empty(s.shape, s.dtype) for s in numbers}
    except MemoryError as error:
        need = sum(stored.nbytes for stored in numbers) / 2**20
        raise StoreError(
            f"{file.path} needs {need:,.0f} MiB of memory, which is not free"
        ) from error
    with ThreadPoolExecutor(max_workers=4) as pool:
        running = [
            pool.submit(read_array, partial(s.read, file.descriptor), found[s.name], verify=verify)
            for s in numbers
        ]
        for stored in datasets:
            if stored.dtype == object:  # here, since it needs Python's lock and arrays do not
                found[stored.name] = _load_texts(file, stored, verify=verify)
        results = [task.result() for task in running]
    for stored, (digest, finite) in zip(numbers, results, strict=True):
        array = found[stored.name]
        if verify and digest != stored.sha256:
            raise _other_digest(file.path, stored, str(digest), array)
        if not finite:
            ids = found.get(f"{stored.name.removesuffix('/features')}/ids")
            raise StoreError(
                f"{file.path}: {stored.name} holds NaN or infinite values{_in_rows(array, ids)}. "
                f"{AGAIN}, with --precision fp32 if half precision overflowed"
            )
        array.flags.writeable = False
    return found


def _load_texts(file: OpenFile, stored: Stored, *, verify: bool) -> list[str]:
    ids = file.texts(stored)
    if verify and digest_ids(ids) != stored.sha256:
        raise _other_digest(file.path, stored, digest_ids(ids))
    return ids


def to_features(header: Header, found: Mapping[str, Any]) -> Features:
    """Put a store's datasets into the record that its reader gets."""
    splits: dict[str, Any] = {}
    for split in header.sizes:
        labels = found[f"/{split}/labels"]
        check_labels(header.path, f"/{split}/labels", labels, len(header.class_names))
        groups, weights = found.get(f"/{split}/groups"), found.get(f"/{split}/weights")
        check_columns(header, split, groups, weights)
        splits[split] = FeatureSplit(
            found[f"/{split}/features"],
            labels,
            found[f"/{split}/ids"],
            groups,
            weights,
            found.get(f"/{split}/image_sha256"),
        )
    facts = {field.name: getattr(header, field.name) for field in fields(Header)}
    return Features(**facts, **splits)


def iter_table(
    path: Path,
    descriptor: int,
    stored: Stored,
    rows: int,
    *,
    verify: bool,
    ids: Sequence[str] | None = None,
) -> Iterator[npt.NDArray[Any]]:
    """Read a table in blocks of rows.

    Shape: (k, n_features).
    """
    height, width = stored.shape
    digest = hashlib.sha256()
    for start in range(0, height, rows):
        block = np.empty((min(rows, height - start), width), stored.dtype)
        stored.read(descriptor, start * width * block.itemsize, raw_bytes(block))
        if verify:
            digest.update(raw_bytes(block))
            bad = rows_not_finite(block)
            if len(bad):
                first = start + int(bad[0])
                named = "" if ids is None else f" ({ids[first]})"
                raise StoreError(
                    f"{path}: {stored.name} holds NaN or infinite values, first in row "
                    f"{first}{named}. {AGAIN}"
                )
        yield block
    if verify and digest.hexdigest() != stored.sha256:
        raise _other_digest(path, stored, digest.hexdigest())


def verify_table(
    path: Path, descriptor: int, stored: Stored, ids: Sequence[str] | None = None
) -> None:
    """Compare an array of numbers with its digest, and refuse NaN, a block at a time."""
    height = stored.shape[0]
    width = stored.nbytes // max(1, height * stored.dtype.itemsize)
    table = replace(stored, shape=(height, width))
    rows = max(1, BLOCK_BYTES // max(1, width * stored.dtype.itemsize))
    for _ in iter_table(path, descriptor, table, rows, verify=True, ids=ids):
        pass


def check_labels(path: Path, name: str, labels: npt.NDArray[np.int64], n_classes: int) -> None:
    """Refuse labels that index no class.

    Shape: ``labels`` (n_samples,).
    """
    if name == "/unlabelled/labels":
        n_classes, wrong = 0, np.flatnonzero(labels != -1)
    else:
        wrong = np.flatnonzero((labels < 0) | (labels >= n_classes))
    if len(wrong):
        some = ", ".join(f"row {row}: {labels[row]}" for row in wrong[:IDS_NAMED])
        raise StoreError(
            f"{path}: {name} holds {len(wrong):,} labels outside 0..{n_classes - 1} ({some}). "
            f"{AGAIN}"
        )


def check_columns(
    header: Header,
    split: str,
    groups: npt.NDArray[np.int64] | None,
    weights: npt.NDArray[np.float64] | None,
) -> None:
    """Refuse groups that index no group name, and weights that are no weights."""
    path, n_groups = header.path, len(header.group_names)
    if groups is not None and len(groups) and not 0 <= groups.min() <= groups.max() < n_groups:
        raise StoreError(f"{path}: /{split}/groups is outside 0..{n_groups - 1}. {AGAIN}")
    if weights is not None and not (np.isfinite(weights).all() and (weights >= 0).all()):
        raise StoreError(
            f"{path}: /{split}/weights holds values that are negative or not finite. {AGAIN}"
        )


def _in_rows(array: npt.NDArray[Any], ids: Sequence[str] | None) -> str:
    if array.ndim != 2 or ids is None:
        return ""
    rows = rows_not_finite(array)
    return f" in {name_rows(len(rows), [ids[row] for row in rows[:IDS_NAMED]])}"


def _other_digest(
    path: Path, stored: Stored, found: str, array: npt.NDArray[Any] | None = None
) -> StoreError:
    also = ""
    if array is not None and array.ndim == 2 and len(rows_not_finite(array)):
        rows = rows_not_finite(array)
        also = f" It holds NaN or infinite values in {len(rows):,} rows (first: row {rows[0]})."
    return StoreError(
        f"{path} is damaged: {stored.name} has sha256 {found[:12]}..., and "
        f"{stored.sha256[:12]}... is what was written.{also} {AGAIN}"
    )
