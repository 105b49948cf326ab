"""All that a report says of a head that tells two classes apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from classify.analysis.binary import costs as costs_of
from classify.analysis.binary.bootstrap import resample
from classify.analysis.binary.costs import Costs
from classify.analysis.binary.curves import precision_interval, precision_recall, roc
from classify.analysis.binary.ranking import (
    BinaryRows,
    area,
    area_error,
    area_interval,
    average_precision,
)
from classify.analysis.binary.thresholds import Threshold, chosen_thresholds, odds_of, table
from classify.analysis.resampling import Units, units_of
from classify.codings.decisions import logarithms

if TYPE_CHECKING:
    from classify.records import FitInputs, Fitted, HeldAnswers

Floats = npt.NDArray[np.float64]


def binary_rows(
    truth: npt.NDArray[np.bool_],
    log_probabilities: Floats,
    temperature: float | None,
    units: Units | None,
) -> BinaryRows | None:
    """Make the rows of two classes; None where one of them has none that weighs anything.

    Shapes: truth (n_rows,); log_probabilities (n_rows, 2), the positive class's last.
    """
    log_odds = (log_probabilities[:, 1] - log_probabilities[:, 0]) / (temperature or 1.0)
    some = np.ones(len(truth), dtype=bool) if units is None else units.weights > 0
    if units is not None and not some.all():
        units = Units(units.of_rows[some], units.weights[some], units.n, units.n_groups)
    truth, log_odds = truth[some], log_odds[some]
    if not truth.any() or truth.all():
        return None
    return BinaryRows(truth, log_odds, units)


def judge_fit(
    inputs: FitInputs, fit: Fitted, held: HeldAnswers | None, temperature: float | None
) -> dict[str, Any] | None:
    """Judge a fitted head by its calibrated probabilities; None where there are not two classes."""
    known, test = np.asarray(fit.estimator.classes_), inputs.features.test
    if len(known) != 2 or not np.isin(test.labels, known).all():
        return None
    logs = logarithms(fit.probabilities[:, known])
    rows = binary_rows(test.labels == known[1], logs, temperature, inputs.units)
    if rows is None:
        return None
    validation = None
    if held is not None:
        units = units_of(None, held.weights, len(held.rows))
        validation = binary_rows(held.labels == 1, held.log_probabilities, temperature, units)
    costs = None if inputs.options.cost is None else Costs(*inputs.options.cost)
    return {
        "negative": int(known[0]),
        "positive": int(known[1]),
        "temperature": temperature,
        "n_validation": 0 if validation is None or held is None else len(held.rows),
        **judge_binary(rows, validation, costs),
    }


def judge_binary(
    rows: BinaryRows, held: BinaryRows | None, costs: Costs | None = None
) -> dict[str, Any]:
    """Judge a head on test rows; thresholds are chosen on held-out rows, where there are some."""
    thresholds = chosen_thresholds(held)
    cheapest = None if costs is None else costs_of.cheapest(held, costs)
    if cheapest is not None:
        thresholds.append(cheapest)
    wanted = [rows.n_flagged(threshold.log_odds) for threshold in thresholds]
    if costs is not None:
        wanted.append(rows.n_flagged(Threshold("cost", costs.threshold).log_odds))
    resampled = resample(rows, wanted)
    entries = table(rows, thresholds, resampled)
    judged = None
    if costs is not None and cheapest is not None:
        judged = costs_of.judge(rows, held, costs, cheapest, resampled)
        for entry in entries:
            entry["cost"] = costs_of.mean_cost(rows, costs, odds_of(entry["threshold"]))
    return {
        "n_positive": int(np.count_nonzero(rows.truth)),
        "n_negative": int(np.count_nonzero(~rows.truth)),
        "positive_share": float(rows.hits[-1] / (rows.hits[-1] + rows.alarms[-1])),
        "auc": area(rows),
        "auc_error": area_error(rows),
        "auc_ci95": area_interval(rows),
        "average_precision": average_precision(rows),
        "average_precision_ci95": precision_interval(rows, resampled),
        "roc": roc(rows, resampled),
        "precision_recall": precision_recall(rows, resampled),
        "thresholds": entries,
        "cost": judged,
    }
