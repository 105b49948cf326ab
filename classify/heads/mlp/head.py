"""``mlp``: Linear(1024)-ReLU-Linear(512)-ReLU-Linear, trained by torch, answering with numpy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
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
from classify.heads.mlp.course import Course, Layers, Plan
from data.common.errors import UserError

HIDDEN = (1024, 512)
# The share of the hidden units that is dropped out while they are trained.
DROPOUT = 0.5
MAX_EPOCHS = 60
# Where nobody has looked at held-out rows.
EPOCHS = 10
# Epochs without a lower held-out log-loss after which a training ends.
PATIENCE = 3


class TrainedMlp(TrainedHead):
    """Layers for standardised features; probabilities are the softmax of the last one's values."""

    def __init__(self, layers: Layers, setting: Mapping[str, Any]) -> None:
        self.layers, self.setting = layers, dict(setting)
        self.n_features, self.n_classes = len(layers.mean), len(layers.biases[-1])

    def answers(self, block: Floats) -> HeadAnswers:
        """Answer rows of raw features."""
        scores = self.layers.scores(block)
        logs = scores - scores.max(axis=1, keepdims=True)
        return HeadAnswers(scores, logs - np.log(np.exp(logs).sum(axis=1, keepdims=True)))

    def state(self) -> dict[str, Any]:
        """Return the arrays of the layers."""
        return {**self.layers._asdict(), "setting": self.setting}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> TrainedMlp:
        """Make the head again."""
        layers = Layers(*(state[name] for name in Layers._fields))
        layers.check()
        return cls(layers, state["setting"])


class Mlp(HeadKind):
    """Two hidden layers, AdamW, early stopping on held-out rows, then all rows as long."""

    trained = TrainedMlp

    def grid(self, rows: RowSet) -> list[dict[str, Any]]:
        """List one setting: what is chosen on held-out rows is how long it is trained."""
        return [{"dropout": DROPOUT}]

    def n_steps(self, grid: Sequence[Setting]) -> int:
        """Count epochs, at most."""
        return MAX_EPOCHS * (len(grid) + 1)

    def fit(self, rows: RowSet, setting: Setting, context: FitContext) -> TrainedMlp:
        """Train for as many epochs as the setting says."""
        return self._train(rows, None, setting, context)

    def path(
        self, rows: RowSet, held: RowSet, grid: Sequence[Setting], context: FitContext
    ) -> Iterator[TrainedHead]:
        """Train each setting until the held-out log-loss no longer falls, and keep its best."""
        for setting in grid:
            yield self._train(rows, held, setting, context)

    def fit_bytes(self, n_rows: int, n_features: int, n_classes: int) -> int:
        """Count the layers, their gradients and averages, a best copy, and activations."""
        widths = (n_features, *HIDDEN, n_classes)
        weights = sum(low * high for low, high in pairwise(widths))
        return 4 * (6 * weights + 4096 * 4 * sum(widths))

    def saved_bytes(self, n_rows: int, n_features: int, n_classes: int) -> int:
        """Count the bytes of the layers."""
        widths = (n_features, *HIDDEN, n_classes)
        return 4 * sum(low * high + high for low, high in pairwise(widths))

    def needs_matrix(self) -> bool:
        """Say that batches are drawn from all rows, so that these are in memory."""
        return True

    def _train(
        self, rows: RowSet, held: RowSet | None, setting: Setting, context: FitContext
    ) -> TrainedMlp:
        try:
            from classify.heads.mlp.training import train
        except ImportError as error:
            raise UserError(
                f"--head {self.name} is trained with torch, which cannot be loaded ({error}); "
                "install it (pip install torch), or leave this head out"
            ) from error
        plan = Plan(
            hidden=HIDDEN,
            dropout=setting["dropout"],
            max_epochs=setting.get("epochs", EPOCHS) if held is None else MAX_EPOCHS,
            patience=PATIENCE,
            least_steps=setting.get("steps", 0),
        )
        told = _Told(context, MAX_EPOCHS, plan.max_epochs)
        matrix = rows.matrix(self.name)
        of_held = None if held is None else held.matrix(self.name)
        course: Course = train(matrix, rows, of_held, held, plan, context, told.epoch)
        told.rest()
        found = setting
        if held is not None:
            # Fewer rows are trained for as many steps, and so for more epochs.
            found = {**setting, "epochs": course.best, "steps": course.best * course.n_batches}
        head = TrainedMlp(course.layers, found)
        head.converged = held is None or course.stopped
        head.notes = {"curves": course.curves} if held is not None else {"epochs": course.best}
        return head


class _Told:
    """Tell of epochs as shares of the steps that a training has."""

    def __init__(self, context: FitContext, n_steps: int, n_epochs: int) -> None:
        self._on_steps, self._n_steps, self._n_epochs = context.on_steps, n_steps, n_epochs
        self._epochs = self._told = 0

    def epoch(self) -> None:
        self._epochs += 1
        self._tell(min(self._n_steps, self._n_steps * self._epochs // self._n_epochs))

    def rest(self) -> None:
        self._tell(self._n_steps)

    def _tell(self, done: int) -> None:
        if done > self._told:
            self._on_steps(done - self._told)
            self._told = done
