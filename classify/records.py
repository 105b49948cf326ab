"""Records that the orchestrator fills and analyses read: options of a fit, and what was fitted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from classify.selection import Selection
    from classify.solver.row_norms import Norm
    from data.format.records import Features


@dataclass(frozen=True)
class FitOptions:
    """What ``python -m classify fit`` was told."""

    strategies: tuple[str, ...] = ("multinomial", "ovr", "ovo")  # names of heads, in this order
    c: float | None = None  # None chooses it
    c_grid: tuple[float, ...] | None = None  # to choose from; None for the usual 45 values
    full_path: bool = False  # visit every value of the grid
    jobs: int | None = None  # threads; None for all
    reports_dir: Path = Path("reports")
    seed: int = 0  # of the validation split
    max_iter: int | None = None  # None for the estimators' own
    memory: int | None = None  # bytes that a run may take; None for half of what is free
    command: str = ""  # for the record
    device: str = "cpu"  # as classify.solver.backend.choose_device returned it
    share: int = 1  # how many runs side by side share the memory
    few_shot: bool = True
    data_dir: Path | None = None  # where the images lie; None for where the store says
    fit_intercept: bool = True
    normalize: Norm = None  # l2; of a sum of stores the widths of its parts, once it is open
    class_weight: str | None = None  # balanced, or a file
    classes: tuple[str, ...] = ()  # the rows of these alone; all where none is named
    cost: tuple[float, float] | None = None  # of a false positive and a false negative
    named: bool = True  # whether the user named the heads


@dataclass(frozen=True)
class Room:
    """The memory of a run, in bytes; `solver` is what is left for one fit out of core."""

    memory: int
    out_of_core: bool
    solver: int | None


@dataclass(frozen=True)
class TrainingRows:
    """The rows that heads are fitted to: the training split, then a validation split if given."""

    X: Any  # (n_rows, n_features), in memory or on the disk
    labels: npt.NDArray[np.int64]  # (n_rows,)
    groups: npt.NDArray[np.int64] | None  # (n_rows,)
    weights: npt.NDArray[np.float64] | None  # (n_rows,)
    n_validation: int  # rows of the given split, the last ones; 0 without

    @property
    def held(self) -> npt.NDArray[np.intp] | None:
        """Return the rows of the given validation split."""
        n = len(self.labels)
        return np.arange(n - self.n_validation, n) if self.n_validation else None


@dataclass(frozen=True)
class FitInputs:
    """An open store with its features as they are fitted, in memory or on the disk."""

    features: Features
    train: TrainingRows
    X_test: Any
    options: FitOptions
    room: Room
    class_weight: Any  # by class index, "balanced" or None
    # What intervals and tests on the test rows resample (`classify.analysis.resampling.Units`);
    # None where rows are independent and count alike
    units: Any


@dataclass(frozen=True)
class HeldAnswers:
    """What a head says of training rows that it was not fitted to, and that its setting is from.

    Shapes: rows, labels, weights (n_held,); log_probabilities (n_held, n_known).
    """

    rows: npt.NDArray[np.intp]  # among the training rows
    labels: npt.NDArray[np.intp]  # indices among the classes that the head knows
    log_probabilities: npt.NDArray[np.float64]
    weights: npt.NDArray[np.float64] | None
    converged: bool  # the fit that answered


@dataclass(frozen=True)
class Fitted:
    """One head, fitted and asked for its answers on the test rows.

    `predictions` (n_test,); `probabilities` and `scores` (n_test, n_classes); `margins`, of
    one-vs-one's classes that there are heads for (n_test, n_known).
    """

    estimator: Any  # of `classify.estimators`, or a `classify.heads.classifier.HeadClassifier`
    entry: dict[str, Any]  # of results.json; analyses add to it
    predictions: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float64]
    scores: npt.NDArray[np.float64]
    seconds: dict[str, float]
    selection: Selection | None  # of a head that the solver fits
    held_answers: HeldAnswers | None = None  # of the others; the solver's are worked out later
    margins: npt.NDArray[np.float64] | None = None
    warnings: tuple[str, ...] = ()

    @property
    def solved(self) -> bool:
        """Tell whether the solver fitted it."""
        return hasattr(self.estimator, "certificate_")

    @property
    def n_scores(self) -> int:
        """Count the scores that a row is answered by."""
        head = self.estimator.head_ if self.solved else None
        return len(self.estimator.classes_) if head is None else int(head.n_heads)

    @property
    def held_rows(self) -> npt.NDArray[np.intp] | None:
        """Return the training rows that the setting was chosen on."""
        if self.held_answers is not None:
            return self.held_answers.rows
        return None if self.selection is None else self.selection.held
