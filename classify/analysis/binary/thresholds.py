"""What flagging rows above a threshold finds and misses, with an interval for each rate.

Thresholds that shall keep a rate are chosen on the validation rows, and their rates are those of
the test rows. So the rows that an interval is of had no part in the choice, and Wilson's intervals
hold; of groups and weighted rows the intervals are the bootstrap's, and Wilson's of as many
observations where no resample differs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from classify.analysis.binary.bootstrap import Resampled
from classify.analysis.binary.ranking import LEVEL, BinaryRows, Floats
from classify.analysis.resampling import wilson

FIXED = (0.1, 0.25, 0.5, 0.75, 0.9)
# Shares of negative rows that may be flagged at most, and of positive ones that must be.
FALSE_POSITIVE_RATES = (0.01, 0.05, 0.1)
TRUE_POSITIVE_RATES = (0.99, 0.95, 0.9)


class Threshold(NamedTuple):
    """A threshold of the probability, why it is looked at, and whether rows chose it."""

    kind: str  # "fixed", "false positive rate", "true positive rate", "F1" or "cost"
    value: float  # a row is flagged where its probability is above it
    target: float | None = None  # the rate that was asked for
    chosen: bool = False  # on the validation rows

    @property
    def log_odds(self) -> float:
        """Return the same on the scale of log-odds: infinite at 0 and 1."""
        return odds_of(self.value)


def odds_of(probability: float) -> float:
    """Return the logarithm of the odds of a probability."""
    if probability <= 0 or probability >= 1:
        return -math.inf if probability <= 0 else math.inf
    return math.log(probability) - math.log1p(-probability)


def probability_of(log_odds: float) -> float:
    """Return the probability of log-odds."""
    from scipy.special import expit

    return float(expit(log_odds))


def between(rows: BinaryRows, place: int) -> float:
    """Return the log-odds in the middle between a place's last score and the next one below."""
    if place == 0:
        return math.inf
    if place == len(rows.scores):
        return -math.inf
    return float(rows.scores[place - 1] + rows.scores[place]) / 2


def chosen_thresholds(held: BinaryRows | None) -> list[Threshold]:
    """List the thresholds to look at: fixed ones, and those that validation rows choose."""
    found = [Threshold("fixed", value) for value in FIXED]
    return found if held is None else [*found, *_chosen(held)]


def _chosen(held: BinaryRows) -> Iterator[Threshold]:
    hits, alarms = held.hits / held.hits[-1], held.alarms / held.alarms[-1]
    for rate in FALSE_POSITIVE_RATES:
        place = int(np.searchsorted(alarms, rate + 1e-12, side="right")) - 1
        value = probability_of(between(held, place))
        yield Threshold("false positive rate", value, rate, chosen=True)
    for rate in TRUE_POSITIVE_RATES:
        place = int(np.searchsorted(hits, rate - 1e-12))
        value = probability_of(between(held, place))
        yield Threshold("true positive rate", value, rate, chosen=True)
    f1 = 2 * held.hits / (held.hits + held.alarms + held.hits[-1])
    yield Threshold("F1", probability_of(between(held, int(f1.argmax()))), chosen=True)


def table(
    rows: BinaryRows, thresholds: list[Threshold], resampled: Resampled
) -> list[dict[str, Any]]:
    """Judge thresholds on the test rows, the lowest first; `resampled` has their places."""
    ordered = sorted(thresholds, key=lambda t: (t.value, t.kind, t.target or 0))
    return [_entry(rows, threshold, resampled) for threshold in ordered]


def _entry(rows: BinaryRows, threshold: Threshold, resampled: Resampled) -> dict[str, Any]:
    above = rows.log_odds > threshold.log_odds
    place = rows.n_flagged(threshold.log_odds)
    hit, alarm = rows.hits[place], rows.alarms[place]
    n_positive, n_negative = rows.hits[-1], rows.alarms[-1]
    every = np.ones(len(rows.truth), dtype=bool)

    def rate(share: Callable[[Any, Any], Any], of: Any) -> dict[str, Any]:
        return _share(rows, of, share(hit, alarm), lambda: share(*resampled.at(place)), resampled)

    totals = resampled.hits[:, -1], resampled.alarms[:, -1]
    return {
        "kind": threshold.kind,
        "target": threshold.target,
        "chosen_on": "validation" if threshold.chosen else None,
        "threshold": threshold.value,
        "true_positives": int(np.count_nonzero(above & rows.truth)),
        "false_positives": int(np.count_nonzero(above & ~rows.truth)),
        "true_positive_rate": _share(
            rows, rows.truth, hit / n_positive,
            lambda: resampled.at(place)[0] / totals[0], resampled,
        ),
        "false_positive_rate": _share(
            rows, ~rows.truth, alarm / n_negative,
            lambda: resampled.at(place)[1] / totals[1], resampled,
        ),
        "precision": rate(_precision, above),
        "flagged": _share(
            rows, every, (hit + alarm) / (n_positive + n_negative),
            lambda: np.add(*resampled.at(place)) / np.add(*totals), resampled,
        ),
        "f1": float(2 * hit / (hit + alarm + n_positive)),
    }  # fmt: skip


def _precision(hit: Any, alarm: Any) -> Any:
    flagged = np.asarray(hit + alarm, dtype=np.float64)
    return np.divide(hit, flagged, out=np.full(flagged.shape, np.nan), where=flagged > 0)


def _share(
    rows: BinaryRows,
    of: Any,
    share: Any,
    resampled_shares: Callable[[], Floats],
    resampled: Resampled,
) -> dict[str, Any]:
    """Give a share of some rows with its interval; null where there are no such rows."""
    n = rows.observations(of)
    if not n:
        return {"share": None, "ci95": None}
    value = float(share)
    if rows.units is not None:
        drawn = resampled_shares()
        drawn = drawn[np.isfinite(drawn)]
        if len(drawn) and np.ptp(drawn) > 1e-12:
            return {"share": value, "ci95": list(resampled.ends(drawn))}
    return {"share": value, "ci95": list(wilson(value, n, LEVEL))}
