"""How well scores rank positive rows above negative ones.

The area under the ROC curve has the variance of DeLong et al. (1988), found from ranks as Sun and
Xu (2014) do; of rows that come in groups, that of Obuchowski (1997), which is the same where every
group is one row. Weights of rows count as so many rows. The interval is symmetric in the logarithm
of the odds (Qin and Hotilovac 2008), so that it stays within 0 and 1 and holds near 1.

References
----------
DeLong, E. R., DeLong, D. M., Clarke-Pearson, D. L. (1988). Comparing the areas under two or more
    correlated receiver operating characteristic curves. Biometrics 44, 837-845.
Obuchowski, N. A. (1997). Nonparametric analysis of clustered ROC curve data. Biometrics 53,
    567-578.
Qin, G., Hotilovac, L. (2008). Comparison of non-parametric confidence intervals for the area under
    the ROC curve of a continuous-scale diagnostic test. Statistical Methods in Medical Research 17,
    207-221.
Sun, X., Xu, W. (2014). Fast implementation of DeLong's algorithm for comparing the areas under
    correlated receiver operating characteristic curves. IEEE Signal Processing Letters 21,
    1389-1393.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from classify.analysis.resampling import Units, wilson

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.intp]
LEVEL = 0.95


@dataclass(frozen=True, eq=False)
class BinaryRows:
    """Rows of two classes, both of them there, with what a head says of each."""

    truth: npt.NDArray[np.bool_]  # (n_rows,), whether a row is of the positive class
    # (n_rows,), finite: the logarithm of the positive class's probability less the other's
    log_odds: Floats
    units: Units | None = None  # what is resampled; None where rows are independent and alike

    @cached_property
    def weights(self) -> Floats:
        """Return the weight of each row."""
        return np.ones(len(self.truth)) if self.units is None else self.units.weights

    @cached_property
    def scores(self) -> Floats:
        """Return the distinct log-odds, the largest first, (n_scores,)."""
        return np.unique(self.log_odds)[::-1]

    @cached_property
    def codes(self) -> Integers:
        """Return which of `scores` each row has, (n_rows,)."""
        n = len(self.scores)
        return (n - 1 - np.searchsorted(self.scores[::-1], self.log_odds)).astype(np.intp)

    def sums(self, rows: npt.NDArray[np.bool_]) -> Floats:
        """Add up the weights of rows by their score, (n_scores,)."""
        mass = np.bincount(self.codes, self.weights * rows, len(self.scores))
        return mass.astype(np.float64)

    @cached_property
    def hits(self) -> Floats:
        """Return the weight of positive rows among those of the first scores, from 0 on."""
        return np.concatenate([[0.0], np.cumsum(self.sums(self.truth))])

    @cached_property
    def alarms(self) -> Floats:
        """Return the weight of negative rows among those of the first scores, from 0 on."""
        return np.concatenate([[0.0], np.cumsum(self.sums(~self.truth))])

    def n_flagged(self, log_odds: float) -> int:
        """Count the scores above a threshold: a place in `hits` and `alarms`."""
        return int(np.count_nonzero(self.scores > log_odds))

    def observations(self, rows: npt.NDArray[np.bool_]) -> float:
        """Count rows as independent and equal ones (Kish): units that weigh alike."""
        if self.units is None:
            return float(np.count_nonzero(rows))
        totals = self.units.sums(rows)
        return float(totals.sum() ** 2 / np.sum(totals**2)) if totals.any() else 0.0


def area(rows: BinaryRows) -> float:
    """Return the area under the ROC curve; equal scores count by half."""
    hits, alarms = rows.hits / rows.hits[-1], rows.alarms / rows.alarms[-1]
    return float((np.diff(alarms) * (hits[1:] + hits[:-1])).sum() / 2)


def average_precision(rows: BinaryRows) -> float:
    """Return the mean precision over the recalls at which positive rows are found."""
    return float(precision_sum(rows.hits[None], rows.alarms[None])[0])


def precision_sum(hits: Floats, alarms: Floats) -> Floats:
    """Return the average precision of each row of cumulative sums (n, n_scores + 1)."""
    flagged = hits[:, 1:] + alarms[:, 1:]
    precision = np.divide(hits[:, 1:], flagged, out=np.zeros(flagged.shape), where=flagged > 0)
    return np.asarray((np.diff(hits, axis=1) * precision).sum(axis=1) / hits[:, -1])


def area_error(rows: BinaryRows) -> float | None:
    """Return the standard error of the area; None where a class has no two independent rows."""
    auc, truth = area(rows), rows.truth
    positive, negative = np.diff(rows.hits), np.diff(rows.alarms)
    n_positive, n_negative = rows.hits[-1], rows.alarms[-1]
    # Of each score the share of the other class's rows that it is on the right side of.
    above_negative = 1 - (rows.alarms[1:] - negative / 2) / n_negative
    below_positive = (rows.hits[1:] - positive / 2) / n_positive
    parts = np.where(truth, above_negative[rows.codes], below_positive[rows.codes]) - auc
    unit = np.arange(len(truth)) if rows.units is None else rows.units.of_rows
    n_units = int(unit.max()) + 1
    moved = [np.bincount(unit, rows.weights * parts * mine, n_units) for mine in (truth, ~truth)]
    n_of = [
        np.count_nonzero(np.bincount(unit, rows.weights * mine, n_units))
        for mine in (truth, ~truth)
    ]
    if min(n_of) < 2:
        return None
    spread = [
        n / (n - 1) * float(found @ found) / total**2
        for found, n, total in zip(moved, n_of, (n_positive, n_negative), strict=True)
    ]
    common = n_units / (n_units - 1) * float(moved[0] @ moved[1]) / (n_positive * n_negative)
    return math.sqrt(max(0.0, sum(spread) + 2 * common))


def area_interval(rows: BinaryRows, level: float = LEVEL) -> tuple[float, float] | None:
    """Return the area's interval; None where its error cannot be estimated.

    Where all rows are ranked alike, perfectly as a rule, no error shows; there it is Wilson's
    interval of as many observations as the smaller class has.
    """
    from scipy.special import expit, logit, ndtri

    auc, error = area(rows), area_error(rows)
    if error is None:
        return None
    if error == 0 or not 0 < auc < 1:
        n = min(rows.observations(rows.truth), rows.observations(~rows.truth))
        return wilson(auc, n, level)
    half = float(ndtri(0.5 + level / 2)) * error / (auc * (1 - auc))
    return float(expit(logit(auc) - half)), float(expit(logit(auc) + half))
