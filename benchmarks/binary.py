"""Part ``binary``: do the intervals of two classes hold the truth as often as they say.

    make bench PARTS=binary        # or: python -m benchmarks.binary

The scores of negative images are normal, those of positive ones normal and higher, so the true
curves, areas, rates and costs are known. Of groups, a part of each score is its group's. Thresholds
are chosen on validation images that are drawn as the test images are, a quarter as many.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy.special import ndtr, ndtri

from benchmarks.record import Record, Table
from benchmarks.settings import Settings
from classify.analysis.binary.costs import Costs
from classify.analysis.binary.judge import judge_binary
from classify.analysis.binary.ranking import BinaryRows
from classify.analysis.resampling import units_of

COSTS = Costs(1, 5)
# Where the curves are looked at.
ALARMS, RECALL = 0.1, 0.8
COLUMNS = ("auc", "average_precision", "roc", "precision_recall", "rates", "cost", "saving")


class Case(NamedTuple):
    """Positive and negative images, how far apart their scores are, and the groups' part."""

    positive: int
    negative: int
    distance: float
    group_size: int = 1
    correlation: float = 0.0


CASES = (
    Case(20, 20, 1.5),
    Case(50, 50, 2.0),
    Case(50, 500, 2.0),
    Case(200, 200, 1.5),
    Case(200, 200, 3.0),
    Case(1000, 1000, 2.0),
    Case(200, 200, 1.5, group_size=8, correlation=0.3),
    Case(800, 800, 1.5, group_size=8, correlation=0.3),
)


class Truth(NamedTuple):
    """What is known of a case."""

    auc: float
    average_precision: float
    detected: float  # true positive rate at `ALARMS`
    precision: float  # at `RECALL`


def truth_of(case: Case) -> Truth:
    """Work out areas and curves of two normal distributions."""
    share = case.positive / (case.positive + case.negative)
    cuts = np.linspace(-9, 9 + case.distance, 200_001)
    hits, alarms = ndtr(case.distance - cuts), ndtr(-cuts)
    precision = share * hits / (share * hits + (1 - share) * alarms)
    middle = (precision[1:] + precision[:-1]) / 2
    at = case.distance - ndtri(RECALL)
    flagged = share * RECALL + (1 - share) * ndtr(-at)
    return Truth(
        float(ndtr(case.distance / np.sqrt(2))),
        float(-(np.diff(hits) * middle).sum()),
        float(ndtr(case.distance + ndtri(ALARMS))),
        float(share * RECALL / flagged),
    )


def draw(case: Case, rng: np.random.Generator, divided_by: int = 1) -> BinaryRows:
    """Draw images; of groups each holds images of both classes."""
    n = [count // divided_by for count in (case.positive, case.negative)]
    truth = rng.permutation(np.repeat([True, False], n))
    codes = np.arange(len(truth)) // case.group_size
    common = rng.normal(size=codes[-1] + 1)[codes]
    own = rng.normal(size=len(truth))
    score = case.correlation**0.5 * common + (1 - case.correlation) ** 0.5 * own
    score += case.distance * truth
    # Calibrated: the logarithm of the odds of a normal score.
    odds = case.distance * (score - case.distance / 2) + np.log(case.positive / case.negative)
    units = units_of(codes, None, len(truth)) if case.group_size > 1 else None
    return BinaryRows(truth, odds, units)


def rates_above(case: Case, log_odds: float) -> tuple[float, float]:
    """Return the true and the false positive rate of a threshold."""
    score = (log_odds - np.log(case.positive / case.negative)) / case.distance + case.distance / 2
    return float(ndtr(case.distance - score)), float(ndtr(-score))


def cost_above(case: Case, log_odds: float) -> float:
    """Return what an image costs at a threshold."""
    hits, alarms = rates_above(case, log_odds)
    share = case.positive / (case.positive + case.negative)
    return COSTS.false_negative * share * (1 - hits) + COSTS.false_positive * (1 - share) * alarms


def judge_case(case: Case, draws: int) -> dict[str, Any]:
    """Count, over data sets drawn anew, how often intervals hold the truth."""
    rng, known = (
        np.random.default_rng([case.positive, case.negative, case.group_size]),
        truth_of(case),
    )
    counts, judged = dict.fromkeys(COLUMNS, 0.0), dict.fromkeys(COLUMNS, 0)

    def note(name: str, ends: Any, truth: float) -> None:
        judged[name] += 1
        counts[name] += ends is not None and ends[0] <= truth <= ends[1]

    for _ in range(draws):
        found = judge_binary(draw(case, rng), draw(case, rng, 4), COSTS)
        note("auc", found["auc_ci95"], known.auc)
        note("average_precision", found["average_precision_ci95"], known.average_precision)
        for name, x, at, truth in (
            ("roc", "false_positive_rate", ALARMS, known.detected),
            ("precision_recall", "recall", RECALL, known.precision),
        ):
            i = int(np.abs(np.asarray(found[name][x]) - at).argmin())
            note(name, (found[name]["low"][i], found[name]["high"][i]), truth)
        for row in found["thresholds"]:
            if 0 < row["threshold"] < 1:
                odds = float(np.log(row["threshold"]) - np.log1p(-row["threshold"]))
                hits, alarms = rates_above(case, odds)
                note("rates", row["true_positive_rate"]["ci95"], hits)
                note("rates", row["false_positive_rate"]["ci95"], alarms)
        cost, threshold = found["cost"], found["cost"]["threshold"]
        if 0 < threshold < 1:
            mine = cost_above(case, float(np.log(threshold) - np.log1p(-threshold)))
            note("cost", cost["cost_ci95"], mine)
            note("saving", cost["against"]["half"]["difference_ci95"], mine - cost_above(case, 0.0))
    return {
        **case._asdict(), **{name: counts[name] / max(1, judged[name]) for name in COLUMNS}
    }  # fmt: skip


def run(settings: Settings) -> Record:
    """Simulate every case, and print how often intervals hold."""
    record = Record(settings.results, "binary", settings.record())
    draws = max(10, settings.paired_draws // 20)
    record.add({"draws": draws})
    record.remark(
        f"{draws:,} data sets a row: how often intervals at 95 % hold the truth, in %. ROC at "
        f"{100 * ALARMS:g} % false positives, precision at {100 * RECALL:g} % recall, rates of all "
        "thresholds of a page, costs of the chosen threshold, and what it saves against 0.5."
    )
    heads = [("positive", 8), ("negative", 8), ("distance", 8), ("groups of", 9), ("AUC", 5)]
    heads += [("average precision", 17), ("ROC", 5), ("precision", 9), ("rates", 5)]
    heads += [("cost", 5), ("saving", 6)]
    table = Table(heads)
    for case in CASES:
        found = judge_case(case, draws)
        record.add(found)
        told = [f"{100 * found[name]:.1f}" for name in COLUMNS]
        table.row(case.positive, case.negative, case.distance, case.group_size, *told)
    record.finish()
    return record


if __name__ == "__main__":
    run(Settings())
