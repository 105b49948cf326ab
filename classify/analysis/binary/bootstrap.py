"""Resamples of the rows of two classes, and the intervals that follow from them.

Rows that are independent and alike are drawn within each class, as test sets are made with so many
images of each. Groups, or rows that have weights, are drawn whole, whatever classes they hold.
Intervals are percentiles, at the expanded level that makes up for few units (Hesterberg 2015,
section 4.2), as in `classify.analysis.resampling`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from classify.analysis.binary.ranking import LEVEL, BinaryRows, Floats, Integers
from classify.analysis.resampling import SEED, expanded_tail, resamples

RESAMPLES = 2_000
# Scores at which resamples are added up: the first and last ones, and evenly chosen ones between.
ENDS, BETWEEN = 150, 500
# Resampled sums in one step.
_STEP_NUMBERS = 1 << 21


@dataclass(frozen=True, eq=False)
class Resampled:
    """Weights of the rows of the first scores, resample by resample."""

    places: Integers  # how many of the first scores a column is of, from 0 on, (n_places,)
    hits: Floats  # of positive rows, (n_resamples, n_places)
    alarms: Floats  # of negative rows, likewise
    tail: float  # share of the resamples below an interval, and above it

    def at(self, place: int) -> tuple[Floats, Floats]:
        """Return hits and false alarms of each resample at a place that was asked for."""
        column = int(np.searchsorted(self.places, place))
        assert self.places[column] == place
        return self.hits[:, column], self.alarms[:, column]

    def interval(self, values: Floats) -> tuple[Floats, Floats]:
        """Return the percentiles of each column of values (n_resamples, ...)."""
        low, high = np.quantile(values, [self.tail, 1 - self.tail], axis=0)
        return low, high

    def ends(self, values: Floats) -> tuple[float, float]:
        """Return the percentiles of values (n_resamples,)."""
        low, high = self.interval(values)
        return float(low), float(high)


def resample(rows: BinaryRows, wanted: list[int], level: float = LEVEL) -> Resampled:
    """Draw resamples, and add them up at some scores, those `wanted` among them."""
    n = len(rows.scores)
    evenly = np.linspace(0, n, BETWEEN).astype(np.intp)
    ends = np.arange(min(n, ENDS))
    every = np.array([*wanted, 0, n], dtype=np.intp)
    places = np.unique(np.concatenate([ends, n - ends, evenly, every]))
    if rows.units is None:
        n_units = int(min(np.count_nonzero(rows.truth), np.count_nonzero(~rows.truth)))
        rng = np.random.default_rng([SEED, len(rows.truth)])
        hits, alarms = (_within(np.diff(sums[places]), rng) for sums in (rows.hits, rows.alarms))
    else:
        n_units = int(np.count_nonzero(rows.units.totals > 0))
        hits, alarms = _of_units(rows, places)
        both = (hits[:, -1] > 0) & (alarms[:, -1] > 0)  # a resample may miss a rare class
        hits, alarms = hits[both], alarms[both]
    tail = (1 - level) / 2 if n_units < 2 else expanded_tail(n_units, level)
    return Resampled(places, hits, alarms, tail)


def _within(counts: Floats, rng: np.random.Generator) -> Floats:
    """Draw the rows of a class, which are so many between places, as often as there are rows."""
    n = round(counts.sum())
    drawn = rng.multinomial(n, counts / counts.sum(), RESAMPLES)
    return _cumulative(drawn)


def _of_units(rows: BinaryRows, places: Integers) -> tuple[Floats, Floats]:
    """Draw units whole: the sums of each at each place, as often as it was drawn."""
    from scipy.sparse import coo_array

    units = rows.units
    assert units is not None
    some, unit = np.unique(units.of_rows[rows.weights > 0], return_inverse=True)
    shape = (len(some), len(places) - 1)
    counts = resamples(len(some))[:RESAMPLES]
    found = []
    for mine in (rows.truth, ~rows.truth):
        mass = (rows.weights * mine)[rows.weights > 0]
        column = np.searchsorted(places, rows.codes[rows.weights > 0], side="right") - 1
        sums = coo_array((mass, (unit, column)), shape=shape).tocsr().T
        step = max(1, _STEP_NUMBERS // len(some))
        parts = [
            (sums @ counts[low : low + step].T.astype(np.float64)).T
            for low in range(0, RESAMPLES, step)
        ]
        found.append(_cumulative(np.concatenate(parts)))
    return found[0], found[1]


def _cumulative(parts: npt.NDArray[np.floating] | npt.NDArray[np.int64]) -> Floats:
    sums = np.zeros((len(parts), parts.shape[1] + 1))
    np.cumsum(parts, axis=1, out=sums[:, 1:])
    return sums
