"""What `results.json` holds of a head that tells two classes apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_NUMBER = (int, float)
_MAYBE = (int, float, None)
_ENDS = ([_NUMBER], None)
_RATE = {"share": _MAYBE, "ci95": _ENDS}
_COST = {"cost": _NUMBER, "cost_ci95": [_NUMBER]}
BINARY = {
    "negative": int,
    "positive": int,
    "temperature": _MAYBE,
    "n_validation": int,
    "n_positive": int,
    "n_negative": int,
    "positive_share": _NUMBER,
    "auc": _NUMBER,
    "auc_error": _MAYBE,
    "auc_ci95": _ENDS,
    "average_precision": _NUMBER,
    "average_precision_ci95": [_NUMBER],
    "roc": {
        "false_positive_rate": [_NUMBER],
        "true_positive_rate": [_NUMBER],
        "low": [_NUMBER],
        "high": [_NUMBER],
    },
    "precision_recall": {
        "recall": [_NUMBER],
        "precision": [_NUMBER],
        "low": [_NUMBER],
        "high": [_NUMBER],
    },
    "thresholds": [
        {
            "kind": str,
            "target": _MAYBE,
            "chosen_on": (str, None),
            "threshold": _NUMBER,
            "true_positives": int,
            "false_positives": int,
            "true_positive_rate": _RATE,
            "false_positive_rate": _RATE,
            "precision": _RATE,
            "flagged": _RATE,
            "f1": _NUMBER,
            "cost?": _NUMBER,
        }
    ],
    "cost": (
        {
            "false_positive": _NUMBER,
            "false_negative": _NUMBER,
            "threshold": _NUMBER,
            "chosen_on": (str, None),
            "validation_cost": _MAYBE,
            **_COST,
            "against": {
                "*": {
                    "threshold": _NUMBER,
                    **_COST,
                    "difference": _NUMBER,
                    "difference_ci95": [_NUMBER],
                }
            },
            "curve": {
                "threshold": [_NUMBER],
                "test": [_NUMBER],
                "validation": ([_NUMBER], None),
            },
        },
        None,
    ),
}
# What the chosen threshold is compared with.
AGAINST = ("half", "probabilities", "always_negative", "always_positive")


def binary_contradiction(entry: Mapping[str, Any]) -> str:
    """Name the first contradiction between parts that each have the right shape."""
    for name in ("roc", "precision_recall"):
        if len({len(column) for column in entry[name].values()}) > 1:
            return f"{name} has columns of different lengths"
    ends = [entry["auc_ci95"], entry["average_precision_ci95"]]
    for row in entry["thresholds"]:
        rates = ("true_positive_rate", "false_positive_rate", "precision", "flagged")
        ends += [row[name]["ci95"] for name in rates]
    if cost := entry["cost"]:
        if set(cost["against"]) != set(AGAINST):
            return f"cost.against does not name {', '.join(AGAINST)}"
        if len({len(c) for c in cost["curve"].values() if c is not None}) > 1:
            return "cost.curve has columns of different lengths"
        ends += [cost["cost_ci95"]]
        for other in cost["against"].values():
            ends += [other["cost_ci95"], other["difference_ci95"]]
    if any(pair is not None and len(pair) != 2 for pair in ends):
        return "an interval is not a pair"
    return ""
