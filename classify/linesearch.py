"""Line searches on convex functions, many at once, by their slopes.

A convex function's slope only rises, so its sign says on which side of the minimum a step is:
every evaluation narrows a bracket, and Newton's step on the slope is taken wherever it falls
inside. Slopes keep their digits near the minimum, where rounding hides the differences of values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

LARGEST_TRIALS = 40
# A step is at most this many times the one before, until one has been too long.
STRETCH = 10.0
# Newton's steps stay this far inside the bracket, as a share of its width.
MARGIN = 0.05


@dataclass(frozen=True)
class Steps:
    """Where the searches ended.

    Attributes
    ----------
    step : ndarray of float64, shape (k,)
        Steps.
    slope : ndarray of float64, shape (k,)
        Slopes there.
    found : ndarray of bool, shape (k,)
        Whether the slope there is as flat as was asked for.
    """

    step: Array
    slope: Array
    found: npt.NDArray[np.bool_]


def search(evaluate: Callable[[Array], tuple[Array, Array]], slope: Array, flat: float) -> Steps:
    """Find where convex functions are nearly flat, from zero upwards.

    Parameters
    ----------
    evaluate : callable
        From steps, shape (k,), to slopes and curvatures there. It is called with all steps until
        the last search has ended, those that have ended at their last step.
    slope : ndarray of float64, shape (k,)
        Slopes at zero, negative.
    flat : float
        A step is taken where the slope's size is at most this share of the one at zero.

    Returns
    -------
    Steps
        One for each function.
    """
    step = np.ones_like(slope)
    low, high = np.zeros_like(slope), np.full_like(slope, np.inf)
    found = np.zeros(len(slope), dtype=bool)
    at = np.full_like(slope, np.nan)
    for _ in range(LARGEST_TRIALS):
        at, bend = evaluate(step)
        finite = np.isfinite(at) & np.isfinite(bend)
        found = finite & (np.abs(at) <= flat * np.abs(slope))
        if found.all():
            break
        short = finite & (at < 0)
        low = np.where(short, np.maximum(low, step), low)
        high = np.where(~short & ~found, np.minimum(high, step), high)
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            newton = step - at / bend
        closed = np.isfinite(high)
        width = np.where(closed, high - low, 0.0)
        inside = np.clip(newton, low + MARGIN * width, high - MARGIN * width)
        inside = np.where(np.isfinite(newton), inside, low + 0.5 * width)
        longer = np.clip(newton, 1.5 * step, STRETCH * step)
        longer = np.where(np.isfinite(longer), longer, STRETCH * step)
        step = np.where(found, step, np.where(closed, inside, longer))
    return Steps(step, at, found)
