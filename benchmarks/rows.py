"""The rows that everybody fits: float32, standardised, with a digest of their content."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Rows:
    """Training rows.

    Attributes
    ----------
    name : str
        What they are, for people.
    X : ndarray of float32, shape (n_rows, n_features)
        Standardised features.
    y : ndarray of int, shape (n_rows,)
        Class indices, every class present.
    """

    name: str
    X: npt.NDArray[np.float32]
    y: npt.NDArray[np.intp]

    @property
    def n_classes(self) -> int:
        """Return the number of classes."""
        return int(self.y.max()) + 1

    def digest(self) -> str:
        """Return a digest of features, labels and shape: what results are cached under."""
        found = hashlib.sha256(repr(self.X.shape).encode())
        found.update(np.ascontiguousarray(self.X).data)
        found.update(np.ascontiguousarray(self.y, dtype=np.int64).data)
        return found.hexdigest()[:24]

    def describe(self) -> str:
        """Say what they are, with their shape."""
        n, d = self.X.shape
        return f"{self.name}: {n:,} x {d:,} float32, {self.n_classes} classes"

    def save(self, folder: Path) -> Path:
        """Write them into a folder, for another process."""
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / "X.npy", self.X)
        np.save(folder / "y.npy", self.y)
        (folder / "name.txt").write_text(self.name, encoding="utf-8")
        return folder

    @classmethod
    def load(cls, folder: Path, mapped: bool = False) -> Rows:
        """Read what `save` wrote, into memory or as mapped files."""
        name = (folder / "name.txt").read_text(encoding="utf-8")
        X, y = (np.load(folder / f"{a}.npy", mmap_mode="r" if mapped else None) for a in "Xy")
        return cls(name, X, y)


def standardised(X: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Return float32 rows with mean 0 and deviation 1 (0 for what is constant)."""
    blocks = [slice(start, start + 4096) for start in range(0, len(X), 4096)]
    mean = X.mean(axis=0, dtype=np.float64)
    # By blocks: all of them in float64 would be twice the features.
    squares = [((X[block] - mean) ** 2).sum(axis=0) for block in blocks]
    scale = np.sqrt(np.sum(squares, axis=0) / len(X))
    scale[scale == 0] = 1
    result = np.empty(X.shape, np.float32)
    for block in blocks:
        result[block] = (X[block] - mean) / scale
    return result


def from_store(path: Path) -> Rows:
    """Read the training rows of a feature store.

    Parameters
    ----------
    path : Path
        A feature store; a bad one raises `data.common.errors.UserError`.

    Returns
    -------
    Rows
        Standardised.
    """
    from data import open_features

    features = open_features(path).train
    _, y = np.unique(features.labels, return_inverse=True)
    return Rows(path.name, standardised(features.features), y)


def made(n_rows: int, n_features: int, n_classes: int) -> Rows:
    """Make classification data, the same each time.

    Parameters
    ----------
    n_rows, n_features, n_classes : int
        Shape; a tenth of the features is informative and two fifths follow from those.

    Returns
    -------
    Rows
        Standardised.
    """
    from sklearn.datasets import make_classification

    informative = max(n_features // 9, int(np.ceil(np.log2(2 * n_classes))))
    X, y = make_classification(
        n_rows,
        n_features,
        n_informative=informative,
        n_redundant=min(2 * n_features // 5, n_features - informative),
        n_classes=n_classes,
        random_state=0,
    )
    return Rows("made data", standardised(X), y.astype(np.intp))


def store_bytes(path: Path) -> int:
    """Return the bytes of a store's features, both splits, without keeping them.

    Parameters
    ----------
    path : Path
        A feature store.

    Returns
    -------
    int
        What they take in memory as they are stored.
    """
    from data import open_features

    features = open_features(path, verify=False)
    return int(features.train.features.nbytes + features.test.features.nbytes)
