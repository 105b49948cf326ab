"""Two small heads that tests register: one that is linear, and one that is not."""

from __future__ import annotations

import numpy as np

from classify.heads.interface import HeadAnswers, HeadKind, TrainedHead
from classify.heads.linear import LinearTrained


class ShrunkMeans(HeadKind):
    """Nearest class mean, with means that are drawn towards the middle of all rows."""

    trained = LinearTrained
    open_ended = ("shrink",)

    def grid(self, rows):
        return [{"shrink": share} for share in (0.0, 0.5, 0.9)]

    def fit(self, rows, setting, context):
        X = rows.matrix(self.name).astype(np.float64)
        weights = np.ones(len(rows)) if rows.weights is None else rows.weights
        means = np.stack(
            [
                np.average(X[rows.labels == label], 0, weights[rows.labels == label])
                for label in range(rows.n_classes)
            ]
        )
        means += setting["shrink"] * (means.mean(0) - means)
        return LinearTrained(means, -0.5 * (means**2).sum(axis=1), setting)


class Remembered(TrainedHead):
    """Answers rows by the one training row that is nearest."""

    def __init__(self, X, labels, n_classes):
        self.X, self.labels, self.n_classes = X, labels, n_classes
        self.n_features, self.setting = X.shape[1], {}

    def answers(self, block):
        near = ((block[:, None] - self.X[None]) ** 2).sum(axis=2).argmin(axis=1)
        chances = np.full((len(block), self.n_classes), 0.1 / self.n_classes)
        chances[np.arange(len(block)), self.labels[near]] += 0.9
        return HeadAnswers(chances, np.log(chances))

    def state(self):
        return {"X": self.X, "labels": self.labels, "n_classes": self.n_classes}

    @classmethod
    def from_state(cls, state):
        return cls(state["X"], state["labels"], state["n_classes"])


class Memory(HeadKind):
    """One setting, all rows kept."""

    trained = Remembered

    def grid(self, rows):
        return [{}]

    def fit(self, rows, setting, context):
        return Remembered(rows.matrix(self.name).astype(np.float64), rows.labels, rows.n_classes)

    def needs_matrix(self):
        return True
