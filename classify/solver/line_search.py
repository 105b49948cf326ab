"""Line searches on convex functions, many at once, by their slopes.

A convex function's slope only rises, so its sign says on which side of the minimum a step is:
every evaluation narrows a bracket, and Newton's step on the slope is taken wherever it falls
inside. Slopes keep their digits near the minimum, where rounding hides the differences of values.

A flat slope is not enough: far beyond the minimum, where losses have become linear, a function may
be as flat as at its start, and much higher. So a look also says where a function is above its
start, and no such step is taken.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from classify.solver.tuning import CURVATURE, LARGEST_TRIALS, MARGIN, STRETCH

Array = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

# And never longer than this, which single precision still holds.
LARGEST = 1e30


# Values of functions are known to so many of their rounding errors.
ROUNDINGS = 10.0
# A bracket that two trials have not halved is halved, whatever Newton's steps say.
HALF = 0.5
# Ends further apart than this have their geometric mean between them.
APART = 4.0


class Look(NamedTuple):
    """What is known of the functions at some steps, each array of shape ``(k,)``."""

    slope: Array
    curvature: Array
    above: Bools  # whether the function is higher there than at zero, by more than rounding


@dataclass(frozen=True)
class Steps:
    """Where the searches ended."""

    # (k,): Steps.
    step: Array
    # (k,): Slopes there.
    slope: Array
    # (k,): Whether the slope there is as flat as was asked for, and the function not above its
    # start. Where it is not, the step is the longest that is known to be short of the minimum.
    found: Bools


def search(
    evaluate: Callable[[Array], Look], slope: Array, flat: float, first: Array | None = None
) -> Steps:
    """Find where convex functions are nearly flat, from zero upwards.

    Shapes: `slope` (k,), `first` (k,).
    """
    step = np.ones_like(slope) if first is None else first
    low, high = np.zeros_like(slope), np.full_like(slope, np.inf)
    wide = wider = np.full_like(slope, np.inf)  # the bracket, one trial ago and two
    at, found = np.full_like(slope, np.nan), np.zeros(len(slope), dtype=bool)
    for _ in range(LARGEST_TRIALS):
        at, bend, above = evaluate(step)
        finite = np.isfinite(at) & np.isfinite(bend)
        found = finite & ~above & (np.abs(at) <= flat * np.abs(slope))
        if found.all():
            return Steps(step, at, found)
        # A step that is not finite, or above the start, is too long whatever its slope says.
        short = finite & ~above & (at < 0)
        low = np.where(short, np.maximum(low, step), low)
        high = np.where(~short & ~found, np.minimum(high, step), high)
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            newton = step - at / bend
        closed = np.isfinite(high)
        width = np.where(closed, high - low, 0.0)
        inside = np.clip(newton, low + MARGIN * width, high - MARGIN * width)
        # Newton's steps may crawl along one side of a bracket: halving bounds the number of trials.
        slow = ~np.isfinite(newton) | (width > HALF * wider)
        inside = np.where(slow, _middle(low, high), inside)
        wide, wider = np.where(closed, width, np.inf), wide
        # Without an upper end Newton's step is taken, but grows at least by half and not too fast.
        longer = np.clip(newton, 1.5 * step, STRETCH * step)
        longer = np.minimum(np.where(np.isfinite(longer), longer, STRETCH * step), LARGEST)
        step = np.where(found, step, np.where(closed, inside, longer))
    # A convex function is below its start wherever it still falls.
    step = np.where(found | (low == 0), step, low)
    at, _, above = evaluate(step)
    return Steps(step, at, found & ~above)


def _middle(low: Array, high: Array) -> Array:
    """Halve brackets: by the ends' geometric mean where they are of different sizes."""
    with np.errstate(invalid="ignore", over="ignore"):
        return np.where((low > 0) & (high > APART * low), np.sqrt(low * high), 0.5 * (low + high))


def fell(before: Array, value: Array, slope: Array, after: Array, noise: Array) -> Bools:
    """Say which functions have gone down, or, where rounding hides that, have become flatter."""
    flatter = (value <= before + noise) & (np.abs(after) <= CURVATURE * np.abs(slope))
    return np.isfinite(value) & np.isfinite(after) & ((value < before - noise) | flatter)
