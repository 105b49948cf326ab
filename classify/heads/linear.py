"""Heads that are a linear function and the largest of its values: saved as plain weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from classify.codings import decisions
from classify.heads.interface import Floats, HeadAnswers, TrainedHead
from classify.linear_head import LinearHead


class LinearTrained(TrainedHead):
    """Weights for raw features; probabilities are the softmax of the scores.

    Shapes: coef (n_classes, n_features), intercept (n_classes,). Of two classes one head is kept,
    the second's less the first's, as every linear head of two classes is.
    """

    def __init__(
        self,
        coef: npt.NDArray[np.float64],
        intercept: npt.NDArray[np.float64],
        setting: Mapping[str, Any],
    ) -> None:
        self.n_classes, self.n_features = coef.shape
        if self.n_classes == 2:
            coef, intercept = coef[1:] - coef[:1], intercept[1:] - intercept[:1]
        self.head = LinearHead(coef, intercept)
        self.setting = dict(setting)

    def answers(self, block: Floats) -> HeadAnswers:
        """Answer rows of raw features."""
        rows = block.astype(np.float64, copy=False)
        scores = np.asarray(self.head.scores(rows), dtype=np.float64)
        values = np.hstack([-scores, scores]) if self.n_classes == 2 else scores
        logs = decisions.log_probabilities("multinomial", scores, self.n_classes)
        return HeadAnswers(values, logs)

    def state(self) -> dict[str, Any]:
        """Return the weights; files of linear heads hold them as they are."""
        return {"coef": self.head.coef, "intercept": self.head.intercept, "setting": self.setting}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> LinearTrained:
        """Make the head again."""
        coef, intercept = np.asarray(state["coef"]), np.asarray(state["intercept"])
        if len(coef) == 1:
            coef, intercept = np.vstack([0 * coef, coef]), np.append(0 * intercept, intercept)
        return cls(coef, intercept, state["setting"])
