"""Splitting rows for validation."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.intp]

# Share of each class's rows that C is chosen on.
VALIDATION_FRACTION = 0.1


def validation_split(
    y: npt.NDArray[Any], seed: int = 0, fraction: float = VALIDATION_FRACTION
) -> tuple[Integers, Integers]:
    """Split rows into training and validation rows, class by class.

    Every class gives ``fraction`` of its rows to validation, rounded to the nearest, but keeps at
    least one for training and, where it has two or more, gives at least one.

    Parameters
    ----------
    y : ndarray, shape (n_rows,)
        Labels.
    seed : int
        Decides which rows.
    fraction : float
        Share of each class that goes to validation, between 0 and 1.

    Returns
    -------
    train, validation : ndarray of int
        Row indices, ascending.

    Raises
    ------
    ValueError
        If no class has two rows, so that there is nothing to validate on.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction must be between 0 and 1, got {fraction}")
    _, codes = np.unique(np.asarray(y), return_inverse=True)
    generator = np.random.default_rng(seed)
    held = np.zeros(len(codes), dtype=bool)
    for label in range(int(codes.max(initial=-1)) + 1):
        rows = np.flatnonzero(codes == label)
        if len(rows) < 2:
            continue
        n_held = min(len(rows) - 1, max(1, int(np.floor(fraction * len(rows) + 0.5))))
        held[generator.permutation(rows)[:n_held]] = True
    if not held.any():
        raise ValueError(
            f"none of the {len(np.unique(codes))} classes has two rows, so no row can be held out "
            "to choose C on; give C as a number"
        )
    return np.flatnonzero(~held), np.flatnonzero(held)
