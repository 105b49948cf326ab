"""``knn``: the votes of the nearest training rows, as DINO's evaluation counts them.

M. Caron et al., "Emerging properties in self-supervised vision transformers", ICCV 2021, after
Z. Wu et al., "Unsupervised feature learning via non-parametric instance discrimination", CVPR 2018:
rows are compared by cosine; each of the `k` nearest votes for its class with
``exp(similarity / 0.07)``, times its weight. The class with most votes wins, the first of equals.

A probability is a class's share of the votes and of one more, as large as theirs are on average,
which is split evenly: a class without votes is improbable, not impossible.

The head is its training rows, which stay where they are; its file holds a copy of them, in half
precision where that is all that they have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from classify.heads.interface import (
    FitContext,
    Floats,
    HeadAnswers,
    HeadKind,
    RowSet,
    Setting,
    TrainedHead,
)
from classify.heads.moments import threads_for
from classify.heads.neighbours import (
    ROWS,
    Neighbours,
    nearest_rows,
    places_and_similarities,
    search_bytes,
    unit_rows,
)
from classify.solver.backend import TORCH_ON_CPU, device_title, note_on_device
from classify.solver.threads import workers

KS = (1, 5, 10, 20, 100, 200)
TEMPERATURE = 0.07
# Rows that a device is sent at a time.
DEVICE_ROWS = 8192
# What a file of rows takes while it is written: the rows, and three copies that skops makes.
FILE_COPIES = 4


class Nearest(TrainedHead):
    """Training rows that vote."""

    def __init__(
        self,
        rows: RowSet,
        setting: Mapping[str, Any],
        n_jobs: int | None = None,
        device: str = "cpu",
    ) -> None:
        self.rows, self.setting = rows, dict(setting)
        self.n_features, self.n_classes = rows.n_features, rows.n_classes
        self.n_jobs, self.device = n_jobs, device

    @property
    def k(self) -> int:
        """Return how many rows vote."""
        return min(int(self.setting["k"]), len(self.rows))

    def answers(self, block: Floats) -> HeadAnswers:
        """Answer rows of raw features."""
        return self.votes(self.search(block, self.k))

    def search(self, block: Floats, k: int) -> Neighbours:
        """Find the `k` nearest training rows of rows of raw features."""
        queries = unit_rows(block)
        if self.device != "cpu" and len(block):
            found = self._search_on_device(queries, k)
            if found is not None:
                return found
        kept, each = 3 * queries.nbytes + 24 * k * len(block), search_bytes(self.n_features, k)
        with workers(threads_for(self.rows, self.n_jobs, kept, each)) as pool:
            return nearest_rows(self.rows, queries, k, pool)

    def _search_on_device(self, queries: Floats, k: int) -> Neighbours | None:
        """Search on the device; None where it had too little memory, and the CPU goes on."""
        from classify.solver.torch_backend.fit import is_out_of_memory, release
        from classify.solver.torch_backend.neighbours import nearest_keys

        at = "cpu" if self.device == TORCH_ON_CPU else self.device
        try:
            blocks = self.rows.blocks(DEVICE_ROWS)
            return places_and_similarities(nearest_keys(blocks, queries, k, at))
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        release(at)
        note_on_device(
            f"{device_title(self.device)} has too little memory for the knn search; the CPU does "
            "it instead. Choose the device cpu to save the attempt."
        )
        self.device = "cpu"
        return None

    def votes(self, found: Neighbours) -> HeadAnswers:
        """Count the votes of the first `k` of the nearest rows."""
        places, n = found.places[:, : self.k], len(found.places)
        votes = np.exp(found.similarities[:, : self.k].astype(np.float64) / TEMPERATURE)
        if self.rows.weights is not None:
            votes *= self.rows.weights[places]
        cells = np.arange(n)[:, None] * self.n_classes + self.rows.labels[places]
        counted = np.bincount(cells.ravel(), votes.ravel(), n * self.n_classes)
        values = counted.astype(np.float64).reshape(n, self.n_classes)
        total = votes.sum(axis=1, keepdims=True)
        mean = total / self.k
        shares = (values + mean / self.n_classes) / (total + mean)
        return HeadAnswers(values, np.log(shares))

    def state(self) -> dict[str, Any]:
        """Return the training rows; a `UserError` where they do not fit into memory."""
        features = np.ascontiguousarray(self.rows.matrix("knn"))
        if all(_is_half(features[low : low + ROWS]) for low in range(0, len(features), ROWS)):
            features = features.astype(np.float16)
        return {
            "features": features,
            "labels": self.rows.labels,
            "weights": self.rows.weights,
            "n_classes": self.n_classes,
            "setting": self.setting,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Nearest:
        """Make the head again, for a CPU."""
        features, labels = np.asarray(state["features"]), np.asarray(state["labels"], np.intp)
        n_classes, weights = int(state["n_classes"]), state["weights"]
        if features.ndim != 2 or labels.shape != features.shape[:1] or not len(labels):
            raise ValueError("features and labels of a knn head do not fit together")
        if not np.isfinite(features).all():
            raise ValueError("features of a knn head are not all finite")
        if labels.min() < 0 or labels.max() >= n_classes:
            raise ValueError("a label of a knn head is not among its classes")
        weights = None if weights is None else np.asarray(weights, np.float64)
        if weights is not None and weights.shape != labels.shape:
            raise ValueError("weights and labels of a knn head do not fit together")
        if int(state["setting"]["k"]) < 1:
            raise ValueError("a knn head has no neighbours")
        rows = RowSet(features, np.arange(len(labels)), labels, n_classes, weights)
        return cls(rows, state["setting"])


def _is_half(block: Floats) -> bool:
    """Tell whether half precision holds these numbers exactly."""
    with np.errstate(over="ignore"):
        return np.array_equal(block.astype(np.float16), block)


class Knn(HeadKind):
    """The nearest rows by cosine."""

    trained = Nearest

    def grid(self, rows: RowSet) -> list[dict[str, Any]]:
        """List how many rows may vote: those numbers that there are rows for."""
        return [{"k": k} for k in KS if k <= max(1, len(rows))]

    def fit(self, rows: RowSet, setting: Setting, context: FitContext) -> TrainedHead:
        """Keep the rows."""
        return Nearest(rows, setting, context.n_jobs, context.device)

    def answers(self, heads: Sequence[TrainedHead], block: Floats) -> list[HeadAnswers]:
        """Answer rows by each head, from one search where they have the same rows."""
        nearest = [head for head in heads if isinstance(head, Nearest)]
        if len(nearest) < len(heads) or any(head.rows is not nearest[0].rows for head in nearest):
            return super().answers(heads, block)
        found = nearest[0].search(block, max(head.k for head in nearest))
        return [head.votes(found) for head in nearest]

    def saved_bytes(self, n_rows: int, n_features: int, n_classes: int) -> int:
        """Count the rows in single precision, their labels and weights."""
        return n_rows * (4 * n_features + 16)

    def fit_bytes(self, n_rows: int, n_features: int, n_classes: int) -> int:
        """Count a search of a block of queries, a thread's own, and copies that saving makes."""
        search = 24 * 4096 * max(KS) + search_bytes(n_features, max(KS))
        return search + FILE_COPIES * self.saved_bytes(n_rows, n_features, n_classes)
