"""Rows divided by their Euclidean norms, as linear probes of CLIP's and DINO's features do.

Where rows are several features side by side, each part of a row is divided by its own norm.

Norms are computed in float64 from rows scaled by their largest number, so that neither squares that
overflow nor such that vanish spoil them. A row of zeros stays as it is.
"""

from __future__ import annotations

import itertools
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from classify.solver.out_of_core import is_source
from classify.solver.tuning import NORM_NUMBERS

NORMS = ("none", "l2")
# None leaves rows alone, ``l2`` divides whole rows, and widths of parts divide each part by itself.
Norm: TypeAlias = str | tuple[int, ...] | None


def normalized(X: Any, norm: Norm) -> Any:
    """Return features whose rows, or the parts of whose rows, have a norm of one."""
    if norm is None:
        return X
    parts = _columns(norm, X.shape[1])
    if is_source(X):
        return NormalizedRows(X, norm)
    result = np.empty_like(X) if isinstance(X, np.ndarray) else X.new_empty(X.shape)
    step = max(1, NORM_NUMBERS // max(1, X.shape[1]))
    for low in range(0, len(X), step):
        for columns in parts:
            block = X[low : low + step, columns]
            result[low : low + step, columns] = (
                _rows(block) if isinstance(block, np.ndarray) else _tensor_rows(block)
            )
    return result


def _columns(norm: Norm, n_features: int) -> list[slice]:
    """List the columns that share a norm."""
    if not isinstance(norm, tuple):
        return [slice(None)]
    if sum(norm) != n_features:
        raise ValueError(
            f"normalize has parts of {' + '.join(map(str, norm))} columns, and X has {n_features}"
        )
    ends = [0, *itertools.accumulate(norm)]
    return [slice(low, high) for low, high in itertools.pairwise(ends)]


class NormalizedRows:
    """A source of rows that are normalised when they are read, like `data.format.stored_rows`."""

    def __init__(self, source: Any, norm: Norm = "l2") -> None:
        self.source, self.norm = source, norm
        self.shape, self.ndim, self.dtype = source.shape, 2, np.dtype(source.dtype)

    def __len__(self) -> int:
        return int(self.shape[0])

    def read(self, start: int, stop: int, out: npt.NDArray[Any] | None = None) -> npt.NDArray[Any]:
        """Read consecutive rows, into an array where one is given."""
        rows: npt.NDArray[Any] = self.source.read(start, stop, out)
        rows[...] = normalized(rows, self.norm)
        return rows

    def gather(self, rows: npt.NDArray[np.intp]) -> npt.NDArray[Any]:
        """Read any rows, in their order."""
        found: npt.NDArray[Any] = normalized(self.source.gather(rows), self.norm)
        return found


def _rows(block: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    with np.errstate(invalid="ignore"):  # what is not finite stays so, and is refused elsewhere
        largest = np.abs(block).max(axis=1, keepdims=True, initial=0).astype(np.float64)
        scaled = block / np.where(largest > 0, largest, 1.0)
        norm = np.sqrt(np.einsum("ij,ij->i", scaled, scaled))[:, None]
        return np.asarray(scaled / np.where(norm > 0, norm, 1.0))


def _tensor_rows(block: Any) -> Any:
    block = block.double()
    largest = block.abs().amax(dim=1, keepdim=True)
    scaled = block / largest.masked_fill(largest == 0, 1.0)
    norm = (scaled * scaled).sum(dim=1, keepdim=True).sqrt()
    return scaled / norm.masked_fill(norm == 0, 1.0)
