"""Principal components of standardised features, from one pass over them, which may be on the disk.

Features are standardised first, as for the linear heads, so that neither their units nor the parts
of a sum of stores decide which of them counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from classify.heads.interface import Floats, RowSet
from classify.heads.moments import moments_of, scale_of
from classify.solver.threads import workers

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Components:
    """Where features lie along the leading principal components.

    Shapes: mean (n_features,), directions (n_components, n_features), both float32.
    """

    mean: npt.NDArray[np.float32]
    directions: npt.NDArray[np.float32]

    def project(self, block: Floats) -> npt.NDArray[np.float32]:
        """Reduce rows (n, n_features) to (n, n_components)."""
        found: npt.NDArray[np.float32] = (block.astype(np.float32) - self.mean) @ self.directions.T
        return found

    def state(self) -> dict[str, Any]:
        """Return the arrays."""
        return {"mean": self.mean, "directions": self.directions}

    @classmethod
    def from_state(cls, state: Mapping[str, Any], n_features: int) -> Components:
        """Check the arrays; a ``ValueError`` says that they do not fit each other."""
        mean, directions = state["mean"], state["directions"]
        for array, shape in ((mean, (n_features,)), (directions, (len(directions), n_features))):
            if array.shape != shape or array.dtype != np.float32 or not np.isfinite(array).all():
                raise ValueError(f"components of {n_features} features are {array.shape}")
        return cls(mean, directions)


def principal_components(rows: RowSet, n_components: int, n_jobs: int | None = None) -> Components:
    """Find the leading components of weighted rows, fewer where there are not so many."""
    if len(rows) <= rows.n_features:
        mean, scale, directions = _of_few(rows, n_components)
    else:
        mean, scale, directions = _of_many(rows, n_components, n_jobs)
    # The sign of a direction means nothing; this makes it the same everywhere.
    largest = np.abs(directions).argmax(axis=1)
    directions *= np.sign(directions[np.arange(len(directions)), largest])[:, None]
    return Components(mean.astype(np.float32), (directions / scale).astype(np.float32))


def reduced(rows: RowSet, components: Components | None, head: str) -> npt.NDArray[np.float32]:
    """Return rows as one array in memory, of components or as they are."""
    if components is None:
        return np.ascontiguousarray(rows.matrix(head), dtype=np.float32)
    found = np.empty((len(rows), len(components.directions)), np.float32)
    for where, block in rows.blocks():
        found[where] = components.project(block)
    return found


def _of_many(rows: RowSet, n_components: int, n_jobs: int | None) -> tuple[Array, Array, Array]:
    """Read the rows once for their covariance, (n_features, n_features) in float64."""
    import scipy.linalg

    with workers(n_jobs) as pool:
        moments = moments_of(rows, pool)
    d, scale = rows.n_features, moments.scale
    correlations = moments.scatter / moments.total
    correlations /= scale
    correlations /= scale[:, None]
    _, vectors = scipy.linalg.eigh(
        correlations, subset_by_index=[d - min(n_components, d), d - 1], overwrite_a=True
    )
    return moments.mean, scale, np.ascontiguousarray(vectors.T[::-1])


def _of_few(rows: RowSet, n_components: int) -> tuple[Array, Array, Array]:
    """Take fewer rows than features as they are: their products are the smaller matrix."""
    exact = np.concatenate([block for _, block in rows.blocks()]).astype(np.float64)
    weights = np.ones(len(rows)) if rows.weights is None else rows.weights
    share = weights / weights.sum()
    mean = share @ exact
    exact -= mean
    scale = scale_of(share @ exact**2, mean)
    exact /= scale
    exact *= np.sqrt(share)[:, None]
    _, sizes, directions = np.linalg.svd(exact, full_matrices=False)
    # Rows about their mean span one dimension less than there are rows.
    rank = max(1, int((sizes > 1e-6 * max(sizes[0], 1e-30)).sum()))
    return mean, scale, np.ascontiguousarray(directions[: min(n_components, rank)])
