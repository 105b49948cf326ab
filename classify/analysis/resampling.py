"""Intervals and tests of rows that come in groups, or have weights.

The images of one patient are more alike than those of two, so that a thousand images of ten
patients say about as much as ten images do. What is drawn at random is then the group, and it is
groups that are resampled here, never their rows. Rows that have weights and no groups are groups
of one.

*The interval of an accuracy* is the percentile interval of the cluster bootstrap (Field and Welsh
2007), at the expanded level that makes up for few groups (Hesterberg 2015, section 4.2). Where all
groups have the same accuracy, all are right as a rule, a bootstrap sees no variation; there it is
Wilson's interval with one observation a group.

*The test of a difference.* A group's difference is the weight of its rows that only the first
classifier got right, less that of those that only the second did. If the two are equally good, a
group's difference has either sign with equal chance, whatever its rows have in common, so the test
changes the signs of whole groups at random (Canay, Romano and Shaikh 2017). With groups of one row
that is the exact McNemar test. For many groups its square root of chi squared tends to the
clustered McNemar test of Obuchowski (1998) in the form of Yang, Sun and Hardin (2010); that of
Durkalski et al. (2003) weighs groups instead of rows.

*The interval of a difference* holds every difference that the same test, with the same signs, does
not reject. To change the signs of some groups is to look at the accuracy difference on these groups
alone: Hartigan's (1969) typical values, whose order statistics are the limits. So it excludes 0
exactly when the test rejects.

References
----------
Hartigan, J. A. (1969). Using subsample values as typical values. Journal of the American
    Statistical Association 64, 1303-1317.
Obuchowski, N. A. (1998). On the comparison of correlated proportions for clustered data. Statistics
    in Medicine 17, 1495-1507.
Durkalski, V. L., Palesch, Y. Y., Lipsitz, S. R., Rust, P. F. (2003). Analysis of clustered
    matched-pair data. Statistics in Medicine 22, 2417-2428.
Field, C. A., Welsh, A. H. (2007). Bootstrapping clustered data. Journal of the Royal Statistical
    Society B 69, 369-390.
Yang, Z., Sun, X., Hardin, J. W. (2010). A note on the tests for clustered matched-pair binary data.
    Biometrical Journal 52, 638-652.
Hesterberg, T. C. (2015). What teachers should know about the bootstrap: resampling in the
    undergraduate statistics curriculum. The American Statistician 69, 371-386.
Canay, I. A., Romano, J. P., Shaikh, A. M. (2017). Randomization tests under an approximate symmetry
    assumption. Econometrica 85, 1013-1030.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

# Resamples of a bootstrap, and signs of a test at least; so that all intervals of a page hold at
# once, a test among many needs as many as leave `BEYOND` of them in a tail.
RESAMPLES = 9_999
BEYOND = 10
MOST_SIGNS = 249_999
# More groups than this are put together at random: that changes no expectation, and costs little
# power where there are so many.
MOST_UNITS = 1024
# Of the signs and resamples: the same on every page, whatever the seed of a run.
SEED = 20_031
# A bootstrap's resamples in one step.
_STEP_NUMBERS = 1 << 21


@dataclass(frozen=True)
class Units:
    """What is resampled: which unit each row belongs to, and how much each row weighs."""

    of_rows: npt.NDArray[np.intp]  # (n_rows,), from 0 on
    weights: Floats  # (n_rows,)
    n: int
    n_groups: int | None  # None where every row is on its own, with a weight

    def sums(self, values: npt.NDArray[Any]) -> Floats:
        """Add up the weighted values (n_rows,) of each unit."""
        return np.bincount(self.of_rows, self.weights * values, self.n).astype(np.float64)

    @property
    def totals(self) -> Floats:
        """Return the weight of each unit."""
        return np.bincount(self.of_rows, self.weights, self.n).astype(np.float64)


def units_of(
    groups: npt.NDArray[np.int64] | None, weights: Floats | None, n_rows: int
) -> Units | None:
    """Make the units of rows; None where rows are independent and count alike.

    Rows without weight are left out of every unit's sums.
    """
    if groups is None and weights is None:
        return None
    codes = np.arange(n_rows) if groups is None else np.unique(groups, return_inverse=True)[1]
    n = int(codes.max(initial=-1)) + 1
    n_groups = None if groups is None else n
    if n > MOST_UNITS:
        # As even as can be: each takes as many, or one more.
        places = np.random.default_rng([SEED, n]).permutation(n) % MOST_UNITS
        codes, n = places[codes], MOST_UNITS
    mass = np.ones(n_rows) if weights is None else np.asarray(weights, dtype=np.float64)
    return Units(codes.astype(np.intp), mass, n, n_groups)


def interval_method(units: Units | None) -> str:
    """Name the intervals of accuracies, as `results.json` does."""
    if units is None:
        return "Wilson"
    return "bootstrap of rows" if units.n_groups is None else "bootstrap of groups"


def wilson(share: float, n: float, level: float) -> tuple[float, float]:
    """Wilson's interval of a share of `n` observations, which need not be whole."""
    from scipy.special import ndtri

    z = float(ndtri(0.5 + level / 2))
    middle, half = (
        share + z * z / (2 * n),
        z * math.sqrt(share * (1 - share) / n + (z / n / 2) ** 2),
    )
    return max(0.0, (middle - half) / (1 + z * z / n)), min(1.0, (middle + half) / (1 + z * z / n))


def accuracy_interval(
    right: npt.NDArray[np.bool_], units: Units, level: float = 0.95
) -> tuple[float, float]:
    """Find the cluster bootstrap's interval of a weighted accuracy.

    Shapes: right (n_rows,).
    """
    hits, totals = units.sums(right), units.totals
    some = totals > 0
    hits, totals = hits[some], totals[some]
    n, share = len(totals), float(hits.sum() / totals.sum())
    if n < 2 or np.ptp(hits / totals) < 1e-12:
        # Kish's number of observations: that of the groups, if they weigh alike.
        return wilson(share, float(totals.sum() ** 2 / np.sum(totals**2)), level)
    drawn, both = resamples(n), np.stack([hits, totals], axis=1)
    shares = np.empty(RESAMPLES)
    step = max(1, _STEP_NUMBERS // n)
    for first in range(0, RESAMPLES, step):
        # Not through BLAS: the same bits whatever the number of threads.
        sums = np.einsum("ij,jk->ik", drawn[first : first + step].astype(np.float64), both)
        shares[first : first + step] = sums[:, 0] / sums[:, 1]
    tail = expanded_tail(n, level)
    low, high = np.quantile(shares, [tail, 1 - tail])
    return max(0.0, float(low)), min(1.0, float(high))


def expanded_tail(n: int, level: float) -> float:
    """Return the share of resamples below an interval, and above it, of `n` units."""
    from scipy.special import ndtr
    from scipy.stats import t

    return float(ndtr(math.sqrt(n / (n - 1)) * t.ppf((1 - level) / 2, n - 1)))


@lru_cache(maxsize=2)  # a page has several intervals of the same groups
def resamples(n: int) -> npt.NDArray[np.uint8]:
    """Draw how often each of `n` units is in each resample (RESAMPLES, n)."""
    rng = np.random.default_rng([SEED, n])
    counts = np.empty((RESAMPLES, n), np.uint8)
    step = max(1, _STEP_NUMBERS // n)
    for first in range(0, RESAMPLES, step):
        rows = min(step, RESAMPLES - first)
        places = rng.integers(0, n, (rows, n)) + n * np.arange(rows)[:, None]
        counts[first : first + rows] = np.bincount(places.ravel(), minlength=rows * n).reshape(
            rows, n
        )
    return counts


class GroupTest(NamedTuple):
    """A test of a difference by signs of groups, and the interval of the difference at a level."""

    p: float
    low: float
    high: float


def difference_table(
    right_a: npt.NDArray[np.bool_], right_b: npt.NDArray[np.bool_], units: Units
) -> list[list[float]]:
    """List the units' differences and weights with how many units have them: ``[d, w, count]``.

    All numbers of a comparison follow from it. Shapes: right_a, right_b (n_rows,).
    """
    sums = np.stack([units.sums(right_a * 1.0 - right_b), units.totals], axis=1)
    found, counts = np.unique(sums[units.totals > 0], axis=0, return_counts=True)
    return [[float(d), float(w), int(n)] for (d, w), n in zip(found, counts, strict=True)]


def group_test(table: Sequence[Sequence[float]], alpha: float, n_tests: int = 1) -> GroupTest:
    """Test whether a difference is 0, and find its interval of the level ``1 - alpha / n_tests``.

    Shapes: table (n_kinds, 3), of `difference_table`.
    """
    differences, totals = _expanded(table)
    enough = 2 * BEYOND * n_tests / alpha - 1
    signs, exact = _signs(len(totals), int(min(MOST_SIGNS, max(RESAMPLES, enough))))
    moved, mass = _sums_of_some(differences, signs), _sums_of_some(totals, signs)
    # Sums of weights that should cancel leave rounding.
    moved[np.abs(moved) <= 1e-12 * np.abs(differences).sum()] = 0.0
    nothing = mass == 0
    values = np.sort(moved[~nothing] / mass[~nothing])
    # Signs that change nothing are what was observed; an enumeration holds it, a sample gets it.
    always = int(nothing.sum()) + (0 if exact else 1)
    every = len(mass) + (0 if exact else 1)
    below = int(np.searchsorted(values, 0.0, side="right")) + always
    above = len(values) - int(np.searchsorted(values, 0.0, side="left")) + always
    p = min(1.0, 2.0 * min(below, above) / every)
    # A limit is the first value at which as many are beyond it as do not reject.
    rank = math.ceil(alpha / n_tests / 2 * every * (1 - 1e-12)) - always
    low, high = (values[rank - 1], values[-rank]) if rank >= 1 else (-1.0, 1.0)
    return GroupTest(p, float(low), float(high))


def standard_error(table: Sequence[Sequence[float]]) -> float:
    """Estimate the standard error of a difference from those of the groups."""
    differences, totals = _expanded(table)
    mean = differences.sum() / totals.sum()
    return float(np.sqrt(np.sum((differences - mean * totals) ** 2)) / totals.sum())


def _expanded(table: Sequence[Sequence[float]]) -> tuple[Floats, Floats]:
    found = np.asarray(table, dtype=np.float64).reshape(-1, 3)
    order = np.lexsort(found.T[::-1])
    rows = np.repeat(found[order, :2], found[order, 2].astype(np.intp), axis=0)
    return rows[:, 0], rows[:, 1]


@lru_cache(maxsize=2)
def _signs(n: int, wanted: int) -> tuple[npt.NDArray[np.uint8], bool]:
    """Draw which units change their sign, or list every choice where these are not more.

    Eight units are a byte: (n_bytes, n_choices).
    """
    n_bytes = (n + 7) // 8
    if n < 31 and 2**n <= wanted:
        choices = np.arange(2**n, dtype="<u4").view(np.uint8).reshape(-1, 4).T
        return np.ascontiguousarray(choices[: max(1, n_bytes)]), True
    rng = np.random.default_rng([SEED, n, wanted])
    return rng.integers(0, 256, (n_bytes, wanted), dtype=np.uint8), False


def _sums_of_some(values: Floats, signs: npt.NDArray[np.uint8]) -> Floats:
    """Add up the values (n_units,) of every choice of units, byte by byte from tables of 256."""
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
    padded = np.zeros(8 * len(signs))
    padded[: len(values)] = values
    total = np.zeros(signs.shape[1])
    for eight, chosen in zip(padded.reshape(-1, 8), signs, strict=True):
        total += np.einsum("ij,j->i", bits, eight)[chosen]
    return total
