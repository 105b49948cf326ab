"""Which of many classifiers may be the best, on the test rows that all of them answered.

The one with the highest accuracy on the test rows was chosen on these rows, so it cannot be taken
for the best, and a test against it alone would not hold what it says. Multiple comparisons with the
best (Hsu 1981, 1984) do without knowing it: of ``k`` classifiers, one *may be the best* unless
some other is better by a paired test at the level ``0.05 / (k - 1)``. The tests are those of
`classify.analysis.significance`, two-sided, so that of two classifiers the table says what their
test says.

Only tests against the truly best classifier can exclude it, and there are ``k - 1`` of these, of
which each errs in its direction with a chance of ``0.025 / (k - 1)``: it is among those that may be
the best with 97.5 % or more, whoever has the highest accuracy on the test rows.

The difference of a classifier is its accuracy less the highest of the others. Its interval goes
from the least lower limit to the least upper limit of the intervals of its differences to each of
the others, at the level ``1 - 0.05 / (k - 1)``:

- The upper limit is below 0 exactly when some other is better, and above all others the lower
  limit is above 0 exactly when this one is better than each. The adjusted p is ``k - 1`` times the
  smallest p of the classifiers that have a higher accuracy, and below 0.05 in just these cases.
- The interval of a classifier misses with a chance of 5 % at most. Its lower limit errs only where
  that of the difference to the best of the others does, which has a chance of
  ``0.025 / (k - 1)``, and its upper limit only where one of ``k - 1`` does.
- With 95 % at once: the best is among those that may be it, its interval holds, and so does the
  lower limit of every other. All of it follows from ``k - 1`` intervals, those of the best.

``make bench PARTS=best-of-many`` simulates all three.

References
----------
Hsu, J. C. (1981). Simultaneous confidence intervals for all distances from the "best". Annals of
    Statistics 9, 1026-1034.
Hsu, J. C. (1984). Constrained simultaneous confidence intervals for multiple comparisons with the
    best. Annals of Statistics 12, 1136-1144.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from classify.analysis.paired_interval import difference_intervals
from classify.analysis.resampling import Units, difference_table, group_test
from classify.analysis.significance import ALPHA, GROUP_METHOD, METHOD

Floats = npt.NDArray[np.float64]
Rights = npt.NDArray[np.bool_]

TINY = np.nextafter(0.0, 1.0)
PLAN = "multiple comparisons with the best (Hsu 1981)"


class Pairs(NamedTuple):
    """Every classifier (a row) against every other (a column): all (k, k), 0 on the diagonal."""

    difference: Floats
    low: Floats  # of the intervals of the differences, at the level 1 - 0.05 / (k - 1)
    high: Floats
    p: Floats  # two-sided


class AgainstBest(NamedTuple):
    """A classifier against the best of the others."""

    rival: int  # that has the highest accuracy of the others
    difference: float  # to that
    low: float
    high: float
    p: float  # the smallest of tests against classifiers with a higher accuracy; 1 without any
    p_adjusted: float
    beaten_by: int | None  # the classifier that it is the furthest behind by a test, if by any


def against_best(rights: Rights, units: Units | None = None) -> list[AgainstBest]:
    """Compare each of two or more classifiers with the best of the others.

    Shapes: `rights` (k, n_rows), whether each classifier is right; the result has k entries.
    """
    k = len(rights)
    pairs = _pairs(rights) if units is None else _pairs_of_units(rights, units)
    apart = ~np.eye(k, dtype=np.bool_)
    found = []
    for i in range(k):
        others = np.flatnonzero(apart[i])
        rival = int(others[np.argmin(pairs.difference[i, others])])
        ahead = others[pairs.difference[i, others] < 0]
        p = float(pairs.p[i, ahead].min(initial=1.0))
        high = float(pairs.high[i, others].min())
        beaten = int(others[np.argmin(pairs.high[i, others])]) if high < 0 else None
        found.append(
            AgainstBest(
                rival,
                float(pairs.difference[i, rival]),
                float(pairs.low[i, others].min()),
                high,
                p,
                min(1.0, (k - 1) * p),
                beaten,
            )
        )
    return found


def method_of_best(units: Units | None) -> str:
    """Name the procedure, as the comparison's `results.json` does."""
    return f"{PLAN}: {METHOD if units is None else GROUP_METHOD}"


def _pairs(rights: Rights) -> Pairs:
    from scipy.special import bdtr

    k, n = rights.shape
    counted = rights.astype(np.float64)
    both = counted @ counted.T  # whole numbers, exact in float64
    only = np.diag(both)[:, None] - both
    a, b = np.triu_indices(k, 1)
    wins, losses = only[a, b].astype(np.int64), only[b, a].astype(np.int64)
    p = np.minimum(1.0, 2.0 * bdtr(np.minimum(wins, losses), wins + losses, 0.5))
    limits = difference_intervals(wins, losses, np.full(len(a), n), ALPHA / (k - 1))
    return _both_ways(k, (wins - losses) / n, limits[:, 0], limits[:, 1], p)


def _pairs_of_units(rights: Rights, units: Units) -> Pairs:
    k = len(rights)
    shares = np.array([np.average(right, weights=units.weights) for right in rights])
    a, b = np.triu_indices(k, 1)
    tests = [
        group_test(difference_table(rights[i], rights[j], units), ALPHA, k - 1)
        for i, j in zip(a.tolist(), b.tolist(), strict=True)
    ]
    low, high, p = (
        np.array([getattr(test, name) for test in tests]) for name in ("low", "high", "p")
    )
    return _both_ways(k, shares[a] - shares[b], low, high, p)


def _both_ways(k: int, difference: Floats, low: Floats, high: Floats, p: Floats) -> Pairs:
    """Fill tables from the pairs above the diagonal; p decides where the last bit would."""
    clear = (k - 1) * p < ALPHA
    low, high = (
        np.where(clear, low, np.minimum(low, 0.0)),
        np.where(clear, high, np.maximum(high, 0.0)),
    )
    low = np.where(clear & (difference > 0), np.maximum(low, TINY), low)
    high = np.where(clear & (difference < 0), np.minimum(high, -TINY), high)
    a, b = np.triu_indices(k, 1)
    tables = np.zeros((4, k, k))
    for table, upper, lower in zip(
        tables, (difference, low, high, p), (-difference, -high, -low, p), strict=True
    ):
        table[a, b], table[b, a] = upper, lower
    return Pairs(*tables)


def numbers_of(entry: AgainstBest, n_tests: int) -> dict[str, Any]:
    """Give the numbers of one classifier as the comparison's `results.json` has them."""
    return {
        "accuracy_difference": entry.difference,
        "difference_ci95": [entry.low, entry.high],
        "p": entry.p,
        "p_adjusted": entry.p_adjusted,
        "n_tests": n_tests,
        "may_be_best": entry.beaten_by is None,
    }
