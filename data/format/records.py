"""What a feature store hands over: plain records, free of the file format."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data.common.errors import UserError
from data.format.moments import Moments

FeatureArray = npt.NDArray[np.float32] | npt.NDArray[np.float16]


class StoreError(UserError):
    """A feature store or shard cannot be read or written; the message names the file."""


@dataclass(frozen=True, eq=False)
class FeatureSplit:
    """The rows of one split, as read-only arrays in memory.

    Attributes
    ----------
    features : ndarray of float32 or float16, shape (n_samples, n_features)
        The embeddings, in the type they are stored in; a `data.format.stored_rows.StoredRows` where
        the store was opened with ``in_memory=False``.
    labels : ndarray of int64, shape (n_samples,)
        Indices into the store's ``class_names``.
    ids : list of str
        Which image each row is.
    """

    features: FeatureArray
    labels: npt.NDArray[np.int64]
    ids: list[str]

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        rows, width = self.features.shape
        return f"<FeatureSplit {rows:,} x {width:,} {self.features.dtype}>"


@dataclass(frozen=True, repr=False, eq=False)
class Header:
    """What a store says of itself, without its rows.

    Attributes
    ----------
    path : pathlib.Path
        The file.
    schema_version : int
        The layout that the file follows.
    key : str
        SHA-256 of the canonical JSON of ``spec``.
    spec : dict
        Everything that decides the numbers.
    provenance : dict
        How, where and when they were computed.
    request : dict
        The options as given, for finding the store again without a model.
    class_names : tuple of str
        What the labels index.
    n_train, n_test, n_features : int
        Rows of the splits, and the width of a row.
    dtype : str
        ``"float32"`` or ``"float16"``.
    """

    path: Path
    schema_version: int
    key: str
    spec: dict[str, Any]
    provenance: dict[str, Any]
    request: dict[str, Any]
    class_names: tuple[str, ...]
    n_train: int
    n_test: int
    n_features: int
    dtype: str

    def _summary(self) -> str:
        return (
            f"{self.path.name}: {self.n_train:,} train + {self.n_test:,} test rows "
            f"x {self.n_features:,} {self.dtype}, {len(self.class_names):,} classes"
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._summary()}>"


@dataclass(frozen=True, repr=False, eq=False)
class Features(Header):
    """A feature store in memory, where nothing of the file stays open, or all but its features.

    Attributes
    ----------
    path : Path
        Of the file.
    schema_version : int
        The layout that the file follows.
    key : str
        SHA-256 of the canonical JSON of `spec`.
    spec : dict
        Everything that decides the numbers.
    provenance : dict
        How, where and when they were computed.
    request : dict
        The options as given, for finding the store again without a model.
    class_names : tuple of str
        What the labels index.
    n_train, n_test, n_features : int
        Rows of the splits, and the width of a row.
    dtype : str
        ``"float32"`` or ``"float16"``.
    train, test : FeatureSplit
        The rows: `features` of shape (n_samples, n_features), `labels` and `ids`.
    moments : Moments or None
        Per-class sufficient statistics of the training rows, where the file has them, and they
        were read into memory.
    """

    train: FeatureSplit
    test: FeatureSplit
    moments: Moments | None


@dataclass(frozen=True)
class DatasetReport:
    """One dataset of a verified store: its name, shape, type and digest."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    sha256: str


@dataclass(frozen=True)
class Report:
    """What `data.reading.verify_store` found; that there is a report means that all is well.

    Attributes
    ----------
    header : Header
        What the store says of itself.
    datasets : tuple of DatasetReport
        Every dataset with the digest that was recomputed.
    sealed : bool
        Whether the bytes outside the datasets are under a checksum as well (see
        `data.format.seal`). False for files that another program has written or changed.
    size : int
        Bytes of the file.
    odd : tuple of str
        What is strange but not wrong, in sentences: see `data.quality`.
    """

    header: Header
    datasets: tuple[DatasetReport, ...]
    sealed: bool
    size: int
    odd: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class SplitSource:
    """The rows of one split on their way into a store.

    Attributes
    ----------
    labels : ndarray of int, shape (n_samples,)
        Indices into the class names.
    ids : sequence of str
        One for each row, all different.
    blocks : iterable of (features, ok)
        Consecutive row blocks: ``features`` of shape (k, n_features) in the store's type, and
        ``ok`` of shape (k,), False where there is no embedding and the row is left out.
    """

    labels: npt.NDArray[np.int64]
    ids: tuple[str, ...] | list[str]
    blocks: Iterable[tuple[FeatureArray, npt.NDArray[np.bool_]]]


@dataclass(frozen=True)
class ShardReceipt:
    """What a shard says of itself: which rows of which store, and their digest."""

    key: str
    split: str
    start: int
    stop: int
    dtype: str
    sha256: str


@dataclass(frozen=True)
class Listed:
    """A shard as a store lists it.

    Attributes
    ----------
    file : str
        Its path, relative to the store.
    start, stop : int
        The rows of the split that it was made for.
    sha256 : str
        Of its receipt.
    runs : tuple of (int, int)
        First row within the shard and number of rows, for each run of rows that are in use.
    """

    file: str
    start: int
    stop: int
    sha256: str
    runs: tuple[tuple[int, int], ...]

    def to_json(self) -> list[Any]:
        """Return the entry of the attribute."""
        runs = [list(run) for run in self.runs]
        return [self.file, self.start, self.stop, self.sha256, runs]
