"""Every row of a comparison against the best of the others, and which rows may be the best."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from classify.analysis.best_of_many import against_best, method_of_best, numbers_of
from classify.report.backbone_tests import classifiers
from classify.report.pages import NOTHING, interval, percent, seconds
from classify.report.runs import Answers, Run, shared_units
from classify.report.terminal import table, wants_colour
from classify.wording import display_name, listed, p_text, signed_points

# Rows that a sentence names.
NAMED = 4


def rows_against_best(
    runs: Sequence[Run],
    answers: Mapping[str, Answers],
    test_sets: Sequence[Mapping[str, Any]],
    leaderboard: Sequence[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """Judge the rows of each test set that has two or more; fits that did not converge are not."""
    by_label = {run.label: run.results for run in runs}
    found = []
    for group in test_sets:
        names = {
            (label, strategy)
            for label in group["runs"]
            for strategy in classifiers(by_label[label], answers[label])
        }
        rows = [row for row in leaderboard if (row["label"], row["strategy"]) in names]
        if len(rows) > 1:
            found.append(_judged(group, rows, answers))
    return found


def _judged(
    group: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], answers: Mapping[str, Answers]
) -> dict[str, Any]:
    units = shared_units([answers[label] for label in group["runs"]])
    judged = [row for row in rows if row["converged"]]
    told: dict[int, dict[str, Any]] = {}
    if len(judged) > 1:
        rights = np.stack([_right(row, answers[row["label"]]) for row in judged])
        for row, entry in zip(judged, against_best(rights, units), strict=True):
            beaten = None if entry.beaten_by is None else _name_of(judged[entry.beaten_by])
            told[id(row)] = {**numbers_of(entry, len(judged) - 1), "beaten_by": beaten}
    entries = [{**_facts(row), **told.get(id(row), _UNJUDGED)} for row in rows]
    return {
        "dataset": group["dataset"],
        "n": group["n"],
        "runs": list(group["runs"]),
        "method": method_of_best(units),
        "rows": entries,
        "sentence": _sentence(group, entries),
    }


_UNJUDGED: dict[str, Any] = {
    "accuracy_difference": None,
    "difference_ci95": None,
    "p": None,
    "p_adjusted": None,
    "n_tests": None,
    "may_be_best": None,
    "beaten_by": None,
}


def _right(row: Mapping[str, Any], answers: Answers) -> Any:
    return answers.predictions[row["strategy"]] == answers.labels


def _name_of(row: Mapping[str, Any]) -> dict[str, str]:
    return {"label": row["label"], "strategy": row["strategy"]}


def _facts(row: Mapping[str, Any]) -> dict[str, Any]:
    kept = ("label", "strategy", "accuracy", "converged", "fit_seconds", "predict_seconds")
    return {name: row[name] for name in kept}


def _sentence(group: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """Say which rows may be the best, and how many are not."""
    where = f"On {group['dataset']} ({group['n']:,} test images)"
    judged = [row for row in rows if row["may_be_best"] is not None]
    if not judged:
        return f"{where} fewer than two fits converged, so none is compared with the best."
    able = [
        f"{row['label']} with {display_name(row['strategy'])}"
        for row in judged
        if row["may_be_best"]
    ]
    if len(able) == 1:
        return f"{where} {able[0]} is better than each of the other {len(judged) - 1:,} rows."
    named = able if len(able) <= NAMED + 1 else [*able[:NAMED], f"{len(able) - NAMED:,} others"]
    if len(able) == len(judged):
        return f"{where} each of the {len(judged):,} rows may be the best: {listed(named)}."
    return f"{where} {len(able):,} of {len(judged):,} rows may be the best: {listed(named)}."


def may_be_best(row: Mapping[str, Any]) -> str:
    """Write whether a row may be the best."""
    if row["may_be_best"] is None:
        return "no verdict"
    return "yes" if row["may_be_best"] else "no"


def difference_text(row: Mapping[str, Any]) -> str:
    """Write the difference of a row to the best other, in points."""
    found = row["accuracy_difference"]
    return NOTHING if found is None else signed_points(found)


def interval_text(row: Mapping[str, Any]) -> str:
    """Write the interval of that difference."""
    ends = row["difference_ci95"]
    return NOTHING if ends is None else interval(ends)


def p_words(row: Mapping[str, Any]) -> str:
    """Write the adjusted p of a row."""
    return NOTHING if row["p_adjusted"] is None else p_text(row["p_adjusted"])


def terminal_best(comparison: Mapping[str, Any]) -> str:
    """Write the tables for a terminal, each under a line that says what it shows."""
    heads = (
        "backbone", "strategy", "accuracy %", "to the best other", "95 % interval",
        "adjusted p", "fit", "predict", "may be best",
    )  # fmt: skip
    found = []
    for group in comparison["against_best"]:
        rows = [
            (
                row["label"],
                display_name(row["strategy"]) + ("" if row["converged"] else " (not converged)"),
                percent(row["accuracy"]),
                difference_text(row),
                interval_text(row),
                p_words(row),
                seconds(row["fit_seconds"]),
                seconds(row["predict_seconds"]),
                may_be_best(row),
            )
            for row in group["rows"]
        ]
        title = f"every row against the best, {group['dataset']} ({group['n']:,} test images)"
        shown = table(heads, rows, left=2, colour=wants_colour(sys.stderr))
        found.append(f"{title}\n{shown}\n{group['sentence']}")
    return "\n".join(found)
