"""Records that the orchestrator fills and analyses read: options of a fit, and what was fitted."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from classify.selection import Selection


@dataclass(frozen=True)
class FitOptions:
    """What `python -m classify fit` was told.

    Attributes
    ----------
    strategies : tuple of str
        Without repetition, in the order in which they are reported.
    c : float or None
        None chooses it.
    c_grid : tuple of float or None
        The values to choose from; None for the usual 45.
    full_path : bool
        Visit every value of the grid.
    jobs : int or None
        Threads; None for all.
    reports_dir : Path
        Where results go.
    seed : int
        Of the validation split.
    max_iter : int or None
        Iterations at most for each fit; None for the estimators' own.
    memory : int or None
        Bytes that a run may take; None for half of what is free.
    command : str
        The command line, for the record.
    device : str
        Where to fit: what `classify.solver.backend.choose_device` returned.
    share : int
        How many runs side by side share that memory.
    few_shot : bool
        Whether to measure accuracy against labelled images per class.
    data_dir : Path or None
        Where the images lie, for the report to show some; None for where the store says.
    fit_intercept, normalize
        As the estimators take them.
    """

    strategies: tuple[str, ...] = ("multinomial", "ovr", "ovo")
    c: float | None = None
    c_grid: tuple[float, ...] | None = None
    full_path: bool = False
    jobs: int | None = None
    reports_dir: Path = Path("reports")
    seed: int = 0
    max_iter: int | None = None
    memory: int | None = None
    command: str = ""
    device: str = "cpu"
    share: int = 1
    few_shot: bool = True
    data_dir: Path | None = None
    fit_intercept: bool = True
    normalize: str | None = None


@dataclass
class Fitted:
    """One strategy, fitted and asked for its answers on the test rows."""

    estimator: Any
    entry: dict[str, Any]
    predictions: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float64]
    scores: npt.NDArray[np.float64]
    seconds: dict[str, float]
    selection: Selection | None
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Room:
    """The memory of a run.

    Attributes
    ----------
    memory : int
        Bytes that the run may take.
    out_of_core : bool
        Whether the features stay on the disk.
    solver : int or None
        Bytes that are left for one fit; None in memory.
    """

    memory: int
    out_of_core: bool
    solver: int | None
