"""A trained head with the classes that it knows: what answers rows of a store."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from classify.heads.interface import BLOCK_BYTES, HeadAnswers, TrainedHead
from classify.solver.out_of_core import is_source
from classify.solver.row_norms import Norm, normalized


def answers_of_rows(trained: TrainedHead, X: Any, normalize: Norm) -> HeadAnswers:
    """Answer rows (n, n_features) in memory or on the disk, block by block."""
    if not len(X):
        return HeadAnswers(*np.zeros((2, 0, trained.n_classes)))
    step = max(1, BLOCK_BYTES // max(1, X.shape[1] * X.dtype.itemsize))
    parts = []
    for low in range(0, len(X), step):
        high = min(low + step, len(X))
        block = X.read(low, high) if is_source(X) else X[low:high]
        parts.append(trained.answers(normalized(block, normalize)))
    return HeadAnswers(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


class HeadClassifier:
    """Answers rows of raw features by labels, as an estimator of the solver does."""

    def __init__(
        self,
        trained: TrainedHead,
        classes: npt.NDArray[np.int64],
        normalize: Norm = None,
    ) -> None:
        self.trained = trained
        self.classes_ = classes  # (n_known,)
        self.normalize = normalize

    def answers(self, X: Any) -> HeadAnswers:
        """Answer rows (n, n_features)."""
        return answers_of_rows(self.trained, X, self.normalize)

    def predict(self, X: Any) -> npt.NDArray[np.int64]:
        """Return the label (n,) of each row."""
        return self.classes_[self.answers(X).values.argmax(axis=1)]
