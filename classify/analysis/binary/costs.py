"""What errors cost, and the threshold at which they cost least.

The threshold is chosen on the validation rows. Of thresholds that cost the same there it is the one
nearest to FP / (FP + FN), which is the best if probabilities are what they say (Elkan 2001). What
it costs is that of the test rows, which had no part in the choice; so its interval, the bootstrap's
and no narrower than what Wilson's intervals of the two rates of errors give (Zou and Donner 2008),
is that of a threshold given beforehand.

References
----------
Elkan, C. (2001). The foundations of cost-sensitive learning. IJCAI.
Zou, G. Y., Donner, A. (2008). Construction of confidence limits about effect measures: a general
    approach. Statistics in Medicine 27, 1693-1702.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from classify.analysis.binary.bootstrap import Resampled
from classify.analysis.binary.ranking import LEVEL, BinaryRows, Floats
from classify.analysis.binary.thresholds import Threshold, between, odds_of, probability_of
from classify.analysis.resampling import wilson

# Thresholds at which the curve of costs is drawn.
GRID = np.concatenate([[0.0, 0.005], np.linspace(0.01, 0.99, 99), [0.995, 1.0]])


class Costs(NamedTuple):
    """What an error costs: a negative row that is flagged, and a positive row that is not."""

    false_positive: float
    false_negative: float

    def per_row(self, hits: Any, alarms: Any, n_positive: Any, n_negative: Any) -> Any:
        """Return the mean cost of a row where so many are flagged."""
        missed = n_positive - hits
        total = self.false_positive * alarms + self.false_negative * missed
        return total / (n_positive + n_negative)

    @property
    def threshold(self) -> float:
        """Return the threshold that is best for probabilities that are what they say."""
        return self.false_positive / (self.false_positive + self.false_negative)


def cheapest(held: BinaryRows | None, costs: Costs) -> Threshold:
    """Choose the threshold with the least cost on the validation rows, where there are some."""
    if held is None:
        return Threshold("cost", costs.threshold)
    every = costs.per_row(held.hits, held.alarms, held.hits[-1], held.alarms[-1])
    least = np.flatnonzero(every <= every.min() * (1 + 1e-12))
    best, log_odds = odds_of(costs.threshold), np.inf
    ends = np.concatenate([[np.inf], held.scores, [-np.inf]])
    for place in least.tolist():
        # All thresholds from the next score up to the last one that is flagged answer alike.
        low, high = float(ends[place + 1]), float(ends[place])
        mine = best if low <= best < high else between(held, place)
        if math.isinf(log_odds) or abs(mine - best) < abs(log_odds - best):
            log_odds = mine
    return Threshold("cost", probability_of(log_odds), chosen=True)


def judge(
    rows: BinaryRows, held: BinaryRows | None, costs: Costs, chosen: Threshold, resampled: Resampled
) -> dict[str, Any]:
    """Say what the chosen threshold costs on the test rows, and what 0.5 and one answer cost."""
    others = {
        "half": Threshold("fixed", 0.5),
        "probabilities": Threshold("cost", costs.threshold),
        "always_negative": Threshold("fixed", 1.0),
        "always_positive": Threshold("fixed", 0.0),
    }
    mine = _resampled_costs(rows, costs, chosen, resampled)
    return {
        "false_positive": costs.false_positive,
        "false_negative": costs.false_negative,
        "threshold": chosen.value,
        "chosen_on": "validation" if chosen.chosen else None,
        "validation_cost": None if held is None else mean_cost(held, costs, chosen.log_odds),
        **_judged(rows, costs, chosen, resampled),
        "against": {
            name: {
                "threshold": other.value,
                **_judged(rows, costs, other, resampled),
                **_difference(rows, costs, chosen, other, mine, resampled),
            }
            for name, other in others.items()
        },
        "curve": {
            "threshold": GRID,
            "test": [mean_cost(rows, costs, odds_of(value)) for value in GRID],
            "validation": None
            if held is None
            else [mean_cost(held, costs, odds_of(value)) for value in GRID],
        },
    }


def mean_cost(rows: BinaryRows, costs: Costs, log_odds: float) -> float:
    """Return what a row costs on average where those above some log-odds are flagged."""
    place = rows.n_flagged(log_odds)
    return float(
        costs.per_row(rows.hits[place], rows.alarms[place], rows.hits[-1], rows.alarms[-1])
    )


def _resampled_costs(
    rows: BinaryRows, costs: Costs, threshold: Threshold, resampled: Resampled
) -> Floats:
    hits, alarms = resampled.at(rows.n_flagged(threshold.log_odds))
    found: Floats = costs.per_row(hits, alarms, resampled.hits[:, -1], resampled.alarms[:, -1])
    return found


def _judged(
    rows: BinaryRows, costs: Costs, threshold: Threshold, resampled: Resampled
) -> dict[str, Any]:
    low, high = resampled.ends(_resampled_costs(rows, costs, threshold, resampled))
    cost, place = mean_cost(rows, costs, threshold.log_odds), rows.n_flagged(threshold.log_odds)
    if 0 < threshold.value < 1 and (rows.units is None or high - low < 1e-12):
        missed = rows.hits[-1] - rows.hits[place]
        below, above = _of_shares(rows, costs, rows.alarms[place], missed, same_sign=True)
        low, high = min(low, cost - below), max(high, cost + above)
    return {"cost": cost, "cost_ci95": [low, high]}


def _of_shares(
    rows: BinaryRows, costs: Costs, alarms: float, missed: float, *, same_sign: bool
) -> tuple[float, float]:
    """Return how far Wilson's intervals of two shares reach below and above what they cost.

    The shares are of the negative and of the positive rows. Their costs are added, or that of the
    second is subtracted.
    """
    total, below, above = rows.hits[-1] + rows.alarms[-1], 0.0, 0.0
    for each, found, of, mine, added in (
        (costs.false_positive, alarms, rows.alarms[-1], ~rows.truth, True),
        (costs.false_negative, missed, rows.hits[-1], rows.truth, same_sign),
    ):
        low, high = wilson(found / of, rows.observations(mine), LEVEL)
        down, up = each / total * (found - low * of), each / total * (high * of - found)
        below += (down if added else up) ** 2
        above += (up if added else down) ** 2
    return math.sqrt(below), math.sqrt(above)


def _difference(
    rows: BinaryRows,
    costs: Costs,
    chosen: Threshold,
    other: Threshold,
    mine: Floats,
    resampled: Resampled,
) -> dict[str, Any]:
    """Compare two thresholds on the same rows: the cost of the chosen one less the other's."""
    difference = mean_cost(rows, costs, chosen.log_odds) - mean_cost(rows, costs, other.log_odds)
    low, high = resampled.ends(mine - _resampled_costs(rows, costs, other, resampled))
    if chosen.value != other.value and (rows.units is None or high - low < 1e-12):
        # It is the rows between the two thresholds that cost something else.
        places = sorted(rows.n_flagged(threshold.log_odds) for threshold in (chosen, other))
        alarms, hits = (sums[places[1]] - sums[places[0]] for sums in (rows.alarms, rows.hits))
        below, above = _of_shares(rows, costs, alarms, hits, same_sign=False)
        if chosen.value > other.value:  # it flags fewer
            below, above = above, below
        low, high = min(low, difference - below), max(high, difference + above)
    return {"difference": difference, "difference_ci95": [low, high]}
