"""What a head is to the rest of stage two: rows in, a trained head out, and its answers to rows.

The strategies of the solver (`classify.heads.registry.is_solved`) follow a path of C of their own.
Every other head is a `HeadKind`: it lists the settings to choose from, and fits one to rows, which
may lie on the disk. `classify.fit.other_heads` chooses among them on validation rows, fits the
chosen one to all rows, judges and saves it.

Labels are indices 0 to n_classes - 1 among the classes that have training rows, and answers have
one column for each of those; heads never see the names of classes, nor classes without rows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from classify.solver.memory import show_bytes
from classify.solver.out_of_core import is_source
from data.common.errors import UserError

Floats = npt.NDArray[np.floating[Any]]
Setting = Mapping[str, Any]  # JSON values by name, such as {"k": 20}
# Rows of a block: what a thread reads from the disk, or multiplies, at a time.
BLOCK_BYTES = 16 << 20


class HeadAnswers(NamedTuple):
    """What a head says of rows: the answer is the class of the largest value.

    Both (n_rows, n_classes), float64; log-probabilities are finite and those of a row sum to 1 as
    probabilities.
    """

    values: npt.NDArray[np.float64]
    log_probabilities: npt.NDArray[np.float64]


@dataclass(frozen=True)
class RowSet:
    """Rows that a head is fitted to, or judged by."""

    X: Any  # (n, n_features) float32 or float64, or a source of rows on the disk
    rows: npt.NDArray[np.intp]  # which of them, ascending, (n_rows,)
    labels: npt.NDArray[np.intp]  # of these rows, (n_rows,)
    n_classes: int
    weights: npt.NDArray[np.float64] | None = None  # of these rows, above 0; with class weights
    memory: int | None = None  # bytes that copies may take, where features stay on the disk

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def n_features(self) -> int:
        """Return the width of the features."""
        return int(self.X.shape[1])

    @property
    def on_disk(self) -> bool:
        """Tell whether the features stay on the disk."""
        return is_source(self.X)

    def take(self, some: npt.NDArray[np.intp]) -> RowSet:
        """Return some of these rows, by their place among them, ascending."""
        weights = None if self.weights is None else self.weights[some]
        return RowSet(
            self.X, self.rows[some], self.labels[some], self.n_classes, weights, self.memory
        )

    def blocks(self, n_rows: int | None = None) -> Iterator[tuple[slice, Floats]]:
        """Yield the features block by block, and which of these rows they are."""
        row = max(1, self.n_features * self.X.dtype.itemsize)
        step = n_rows or max(1, BLOCK_BYTES // row)
        for low in range(0, len(self.rows), step):
            where = slice(low, min(low + step, len(self.rows)))
            yield where, self._read(self.rows[where])

    def matrix(self, head: str) -> Floats:
        """Return the features as one array; a `UserError` for `head` where they do not fit."""
        needed = len(self.rows) * self.n_features * self.X.dtype.itemsize
        if self.memory is not None and needed > self.memory:
            raise UserError(
                f"--head {head} needs all training features in memory, {show_bytes(needed)}, and "
                f"--memory leaves {show_bytes(self.memory)}; give more, or leave this head out"
            )
        return self._read(self.rows)

    def _read(self, rows: npt.NDArray[np.intp]) -> Floats:
        first, last = (int(rows[0]), int(rows[-1]) + 1) if len(rows) else (0, 0)
        together = last - first == len(rows)
        if self.on_disk:
            found: Floats = self.X.read(first, last) if together else self.X.gather(rows)
            return found
        found = self.X[first:last] if together else self.X[rows]
        return found


@dataclass(frozen=True)
class FitContext:
    """How a head is fitted, besides its setting."""

    seed: int = 0
    n_jobs: int | None = None  # threads; None for all
    device: str = "cpu"  # as `classify.solver.backend.choose_device` returned it
    # Called with a number of steps when these are done: see `HeadKind.n_steps`
    on_steps: Callable[[int], None] = lambda _: None


class TrainedHead(ABC):
    """A head that is fitted: numbers and arrays that answer rows."""

    setting: dict[str, Any]  # with which `HeadKind.fit` makes it again
    n_features: int
    n_classes: int
    converged: bool = True
    # More for results.json, such as the curves of a training: see `classify.results`.
    notes: Mapping[str, Any] = {}

    @abstractmethod
    def answers(self, block: Floats) -> HeadAnswers:
        """Answer rows of raw features (n_rows, n_features)."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Return what `from_state` needs: texts, numbers, lists, dicts and arrays of numbers."""

    @classmethod
    @abstractmethod
    def from_state(cls, state: Mapping[str, Any]) -> TrainedHead:
        """Make the head again; a ``ValueError`` or ``KeyError`` says that the state is no such."""


class HeadKind(ABC):
    """One kind of head; made with the name that the registry has it under."""

    trained: ClassVar[type[TrainedHead]]  # what `fit` returns, and files are read as
    # Parameters whose smallest or largest value, if chosen, may not be the best there is
    open_ended: ClassVar[tuple[str, ...]] = ()

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    def grid(self, rows: RowSet) -> list[dict[str, Any]]:
        """List the settings to choose from for these training rows, the first of equals first.

        A single one is not chosen, and still judged: temperature scaling needs its answers.
        """

    @abstractmethod
    def fit(self, rows: RowSet, setting: Setting, context: FitContext) -> TrainedHead:
        """Fit one setting; it is called in threads side by side for few-shot draws."""

    def n_steps(self, grid: Sequence[Setting]) -> int:
        """Count the steps of progress of `path` and one `fit` after it."""
        return len(grid) + 1

    def path(
        self, rows: RowSet, held: RowSet, grid: Sequence[Setting], context: FitContext
    ) -> Iterator[TrainedHead]:
        """Yield a head for each setting, fitted to `rows`; `held` may end a fit early.

        A head's `setting` is what `fit` is called with if it is chosen, and may hold what was
        learned from the held-out rows, such as a number of epochs.
        """
        for setting in grid:
            yield self.fit(rows, setting, context)
            context.on_steps(1)

    def answers(self, heads: Sequence[TrainedHead], block: Floats) -> list[HeadAnswers]:
        """Answer rows by each head of a path."""
        return [head.answers(block) for head in heads]

    def fit_bytes(self, n_rows: int, n_features: int, n_classes: int) -> int:
        """Count the bytes that a fit takes besides the features."""
        return 0

    def saved_bytes(self, n_rows: int, n_features: int, n_classes: int) -> int:
        """Count the bytes of a head's file, fitted to so many rows."""
        return 4 * (n_features + 1) * n_classes

    def needs_matrix(self) -> bool:
        """Tell whether a fit holds all training features in memory, also where they are on disk."""
        return False
