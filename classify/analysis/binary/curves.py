"""ROC and precision-recall curves, read off at a grid, with pointwise intervals; and a mean.

At each abscissa the interval is the bootstrap's (see `classify.analysis.binary.bootstrap`), as
pROC's ``ci.se`` does (Robin et al. 2011), and no narrower than Wilson's interval of the share that
stands there: at the ends of a curve all resamples may agree. With groups or weights it is Wilson's,
of as many observations as groups, only where they do.

The interval of the average precision is symmetric in the logarithm of the odds, with the
bootstrap's standard error: near 1 it holds more often than percentiles do. Boyd, Eng and Page
(2013) compare such intervals.

References
----------
Boyd, K., Eng, K. H., Page, C. D. (2013). Area under the precision-recall curve: point estimates and
    confidence intervals. ECML PKDD.
Robin, X. et al. (2011). pROC: an open-source package for R and S+ to analyze and compare ROC
    curves. BMC Bioinformatics 12, 77.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from classify.analysis.binary.bootstrap import Resampled
from classify.analysis.binary.ranking import (
    LEVEL,
    BinaryRows,
    Floats,
    average_precision,
    precision_sum,
)
from classify.analysis.resampling import wilson

# Abscissae of both curves; a ROC curve has most of its bend on the left.
FALSE_ALARMS = np.unique(np.concatenate([[0.0, 0.001, 0.002, 0.005], np.linspace(0, 1, 101)]))
RECALLS = np.linspace(0.01, 1, 100)


def roc(rows: BinaryRows, resampled: Resampled) -> dict[str, Any]:
    """Read off the largest true positive rate that comes with so few false positives."""
    found = _rates(rows.hits[None], rows.alarms[None])[0]
    low, high = resampled.interval(_rates(resampled.hits, resampled.alarms))
    n = rows.observations(rows.truth)
    low, high = _no_narrower(rows, found, low, high, np.full(len(found), n))
    low[-1] = high[-1] = 1.0  # where all are flagged
    return {
        "false_positive_rate": FALSE_ALARMS,
        "true_positive_rate": found,
        "low": low,
        "high": high,
    }


def precision_recall(rows: BinaryRows, resampled: Resampled) -> dict[str, Any]:
    """Read off the precision at the highest threshold that finds a share of the positives."""
    found, place = _precisions(rows.hits[None], rows.alarms[None])
    low, high = resampled.interval(_precisions(resampled.hits, resampled.alarms)[0])
    share = rows.observations(np.ones(len(rows.truth), dtype=bool)) / rows.weights.sum()
    flagged = (rows.hits + rows.alarms)[place[0]] * share
    low, high = _no_narrower(rows, found[0], low, high, flagged)
    return {"recall": RECALLS, "precision": found[0], "low": low, "high": high}


def precision_interval(rows: BinaryRows, resampled: Resampled) -> tuple[float, float]:
    """Return the interval of the average precision; Wilson's where no resample differs."""
    from scipy.special import expit, logit, ndtri

    found = average_precision(rows)
    error = float(precision_sum(resampled.hits, resampled.alarms).std())
    if not 0 < found < 1 or error < 1e-12:
        return wilson(found, rows.observations(rows.truth), LEVEL)
    half = -float(ndtri(resampled.tail)) * error / (found * (1 - found))
    return float(expit(logit(found) - half)), float(expit(logit(found) + half))


def _rates(hits: Floats, alarms: Floats) -> Floats:
    """Return true positive rates (n, n_grid) at `FALSE_ALARMS`, of sums (n, n_places)."""
    rates, found = alarms / alarms[:, -1:], hits / hits[:, -1:]
    place = np.stack(
        [np.searchsorted(row, FALSE_ALARMS + 1e-12, side="right") - 1 for row in rates]
    )
    return np.take_along_axis(found, place, axis=1)


def _precisions(hits: Floats, alarms: Floats) -> tuple[Floats, Any]:
    """Return precisions (n, n_grid) at `RECALLS`, and the places that they are read off at."""
    recalls = hits / hits[:, -1:]
    place = np.stack([np.searchsorted(row, RECALLS - 1e-12) for row in recalls])
    hit, alarm = (np.take_along_axis(sums, place, axis=1) for sums in (hits, alarms))
    return hit / (hit + alarm), place


def _no_narrower(
    rows: BinaryRows, found: Floats, low: Floats, high: Floats, observations: Floats
) -> tuple[Floats, Floats]:
    # Rows of a group are more than one observation as a rule; where no resample differs, none shows
    some = np.ones(len(found), bool) if rows.units is None else high - low < 1e-12
    ends = np.array([wilson(s, n, LEVEL) for s, n in zip(found, observations, strict=True)])
    wider = np.minimum(low, ends[:, 0]), np.maximum(high, ends[:, 1])
    return np.where(some, wider[0], low), np.where(some, wider[1], high)
