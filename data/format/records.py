"""What a feature store hands over: plain records, free of the file format."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data.common.errors import UserError

FeatureArray = npt.NDArray[np.float32] | npt.NDArray[np.float16]


class StoreError(UserError):
    """A feature store or shard cannot be read or written.

    The message names the file, says what is wrong with it and what to do next. A `UserError`:
    command lines show it without a traceback.
    """


@dataclass(frozen=True, eq=False)
class FeatureSplit:
    """The rows of one split: read-only arrays, or features that stay on the disk."""

    # (n_samples, n_features), the embeddings, in the type they are stored in; a
    # `data.format.stored_rows.StoredRows` where the store was opened with ``in_memory=False``
    features: FeatureArray
    # (n_samples,), indices into the store's ``class_names``; -1 in the split ``unlabelled``
    labels: npt.NDArray[np.int64]
    ids: list[str]  # which image each row is
    # (n_samples,), indices into ``group_names``, where the rows come in groups
    groups: npt.NDArray[np.int64] | None = None
    weights: npt.NDArray[np.float64] | None = None  # (n_samples,), where the rows have weights
    # (n_samples, 32), the SHA-256 of each image; None in stores of before it was kept
    image_sha256: npt.NDArray[np.uint8] | None = None
    # (n_samples,), ascending: which rows of the store's split these are; None for all of them
    rows: npt.NDArray[np.intp] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        rows, width = self.features.shape
        return f"<FeatureSplit {rows:,} x {width:,} {self.features.dtype}>"


@dataclass(frozen=True, repr=False, eq=False)
class Header:
    """What a store says of itself, without its rows."""

    path: Path
    schema_version: int  # the layout that the file follows
    key: str  # SHA-256 of the canonical JSON of ``spec``
    spec: dict[str, Any]  # everything that decides the numbers
    provenance: dict[str, Any]  # how, where and when they were computed
    request: dict[str, Any]  # the options as given, for finding the store again without a model
    class_names: tuple[str, ...]  # what the labels index
    n_train: int
    n_test: int
    n_features: int
    dtype: str  # ``"float32"`` or ``"float16"``
    n_validation: int = field(default=0, kw_only=True)
    n_unlabelled: int = field(default=0, kw_only=True)
    # What the groups index; empty where there are none
    group_names: tuple[str, ...] = field(default=(), kw_only=True)
    # The classes that were kept of those in the file, as they were asked for; empty for all
    kept_classes: tuple[str, ...] = field(default=(), kw_only=True)

    @property
    def sizes(self) -> dict[str, int]:
        """Rows of each split that the store has."""
        more = {"validation": self.n_validation, "unlabelled": self.n_unlabelled}
        sizes = {"train": self.n_train, "test": self.n_test}
        return sizes | {name: rows for name, rows in more.items() if rows}

    def _summary(self) -> str:
        return (
            f"{self.path.name}: {' + '.join(f'{n:,} {name}' for name, n in self.sizes.items())} "
            f"rows x {self.n_features:,} {self.dtype}, {len(self.class_names):,} classes"
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._summary()}>"


@dataclass(frozen=True, eq=False)
class StorePart:
    """One of the stores that a sum (``a.h5+b.h5``) puts side by side."""

    header: Header
    columns: slice  # of the sum's features
    # By split, which of the store's rows each row of the sum is, (n_samples,); None: the same
    orders: dict[str, npt.NDArray[np.intp] | None]


@dataclass(frozen=True, repr=False, eq=False)
class Features(Header):
    """A feature store as `open_features` reads it.

    Attributes
    ----------
    path : pathlib.Path
        The file.
    schema_version : int
        The layout that the file follows.
    key : str
        SHA-256, 64 hexadecimal digits, of the canonical JSON of ``spec``.
    spec : dict
        Everything that decides the numbers: dataset, model, preprocessing, pooling, precision.
    provenance : dict
        How, where and when they were computed; seconds, images per second, versions.
    request : dict
        The options as given, for finding the store again without a model.
    class_names : tuple of str
        What the labels index.
    n_train, n_test, n_features : int
        Rows of the two splits, and the width of a row.
    dtype : str
        ``"float32"`` or ``"float16"``: how the file holds the features.
    n_validation, n_unlabelled : int
        Rows of the splits that not every store has; 0 where it has not.
    group_names : tuple of str
        What ``groups`` index; empty where the rows do not come in groups.
    kept_classes : tuple of str
        The classes that `data.chosen_classes.keep_classes` kept; empty where all are there.
    train, test : FeatureSplit
        The rows: ``features``, ndarray of float32 or float16, shape (n_samples, n_features), or
        a `data.format.stored_rows.StoredRows` of that shape where the store was opened with
        ``in_memory=False``; ``labels``, ndarray of int64, shape (n_samples,); ``ids``, list of
        str, which image each row is; and where the store has them ``groups``, ndarray of int64,
        ``weights``, ndarray of float64, both of shape (n_samples,), and ``image_sha256``, ndarray
        of uint8, shape (n_samples, 32).
    validation : FeatureSplit or None
        The rows that settings are chosen on, where the data set has such a split.
    unlabelled : FeatureSplit or None
        Rows without labels, which fits leave out; their ``labels`` are -1.
    parts : tuple of StorePart
        The stores that are side by side in a sum, ``a.h5+b.h5``; empty of a store of its own.
    """

    train: FeatureSplit
    test: FeatureSplit
    validation: FeatureSplit | None = None
    unlabelled: FeatureSplit | None = None
    parts: tuple[StorePart, ...] = ()

    @property
    def splits(self) -> dict[str, FeatureSplit]:
        """The splits that the store has by name, in their order."""
        return {name: getattr(self, name) for name in self.sizes}


def rows_in_words(header: Header) -> str:
    """Say how many rows of each split there are."""
    return " and ".join(f"{rows:,} {name}" for name, rows in header.sizes.items())


@dataclass(frozen=True)
class DatasetReport:
    """One dataset of a verified store: its name, shape, type and digest."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    sha256: str


@dataclass(frozen=True)
class Report:
    """What `data.reading.verify_store` found; that there is a report means that all is well."""

    header: Header
    datasets: tuple[DatasetReport, ...]  # every dataset with the digest that was recomputed
    # Whether the bytes outside the datasets are under a checksum as well (see
    # `data.format.seal`). False for files that another program has written or changed
    sealed: bool
    size: int
    odd: tuple[str, ...] = ()  # what is strange but not wrong, in sentences: see `data.quality`


@dataclass(frozen=True, eq=False)
class SplitSource:
    """The rows of one split on their way into a store."""

    labels: npt.NDArray[np.int64]  # (n_samples,), indices into the class names
    ids: tuple[str, ...] | list[str]  # one for each row, all different
    # Consecutive row blocks: ``features`` of shape (k, n_features) in the store's type, and
    # ``ok`` of shape (k,), False where there is no embedding and the row is left out
    blocks: Iterable[tuple[FeatureArray, npt.NDArray[np.bool_]]]
    groups: npt.NDArray[np.int64] | None = None  # (n_samples,), indices into the group names
    weights: npt.NDArray[np.float64] | None = None  # (n_samples,)
    image_sha256: npt.NDArray[np.uint8] | None = None  # (n_samples, 32)


@dataclass(frozen=True)
class ShardReceipt:
    """What a shard says of itself: which rows of which store, and their digest."""

    key: str
    split: str
    start: int
    stop: int
    dtype: str
    sha256: str
