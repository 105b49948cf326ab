"""One report over many runs: OvR against OvO, and backbone against backbone on shared images."""

from __future__ import annotations

import csv
import io
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from classify.analysis.significance import method_of
from classify.report.backbone_tests import (
    backbone_pairs,
    best_two,
    count_tests,
    group_by_test_set,
    headline,
    judge_question,
    one_problem,
)
from classify.report.best_rows import (
    difference_text,
    interval_text,
    may_be_best,
    p_words,
    rows_against_best,
)
from classify.report.figures.tradeoffs import backbones as draw_backbones
from classify.report.figures.tradeoffs import draw_tradeoffs, known_costs, numbered
from classify.report.heads import calibrated
from classify.report.pages import percent, render_html, render_markdown, seconds, span, write_pages
from classify.report.runs import Answers, Run, find_runs, read_answers
from classify.report.split_words import interval_words
from classify.report.terminal import printable, table, wants_colour
from classify.results.file import FILE_NAME, SCHEMA_VERSION, json_ready, load_json
from classify.results.names import has_random_weights
from classify.wording import display_name, procedure, setting_of, setting_words
from data.common.cli import log
from data.common.errors import UserError
from data.common.files import (
    check_writable,
    put_folder,
    temporary_folder,
    write_json,
    write_text,
)

OUTPUT = "comparison"
METRICS = (
    "accuracy",
    "balanced_accuracy",
    "macro_f1",
    "top2_accuracy",
    "log_loss",
    "brier",
    "ece",
)


def compare(given: Sequence[Path], reports_dir: Path) -> tuple[Path, dict[str, Any], str]:
    """Compare runs and write REPORTS_DIR/comparison/; give its page, results and leaderboard."""
    notes: list[str] = []
    runs = find_runs(given, reports_dir, notes.append)
    check_writable(reports_dir)
    target = reports_dir / OUTPUT
    _check_ours(target)
    comparison = json_ready(summarise(runs, notes, target))
    for note in comparison["notes"]:
        log(printable(note))
    _write(target, comparison)
    return target / "report.html", comparison, terminal_leaderboard(comparison)


def summarise(runs: Sequence[Run], notes: list[str], target: Path) -> dict[str, Any]:
    """Collect what the comparison says."""
    answers: dict[str, Answers] = {}
    for run in runs:
        try:
            answers[run.label] = read_answers(run)
        except UserError as error:
            notes.append(f"not tested against others: {error}")
    test_sets = group_by_test_set(runs, answers)
    n_tests = count_tests(runs, answers, test_sets)
    rows = sorted(
        (row for run in runs for row in _rows(run)),
        key=lambda row: (row["dataset"], -row["accuracy"]),
    )
    pairs = [
        pair
        for group in test_sets
        for pair in backbone_pairs(group, runs, answers, best_two(rows, group), n_tests)
    ]
    if len(test_sets) > 1:
        told = "; ".join(
            f"{group['n']} images of {group['dataset']} ({', '.join(group['runs'])})"
            for group in test_sets
        )
        weighted = any(found.weights is not None for found in answers.values())
        what = "images, or with different weights of them," if weighted else "images"
        notes.append(
            f"runs on different test {what} are not tested against each other. The sets: {told}"
        )
    question = judge_question(runs, n_tests, answers, test_sets)
    alike = [run.label for run in runs if one_problem(run.results)]
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "comparison",
        "verdict": headline(rows, question, pairs, test_sets, alike),
        "runs": [_run_row(run, target) for run in runs],
        "leaderboard": rows,
        "against_best": rows_against_best(runs, answers, test_sets, rows),
        "comparison_method": method_of([*question, *pairs]),
        "n_tests": n_tests,
        "ovr_ovo": question,
        "one_problem": alike,
        "test_sets": test_sets,
        "backbones": pairs,
        "notes": notes,
    }


def _run_row(run: Run, target: Path) -> dict[str, Any]:
    provenance = run.results["store"]["provenance"]
    speed = provenance.get("images_per_second")
    return {
        "label": run.label,
        "dataset": run.dataset,
        "folder": str(run.folder),
        "report": quote(Path(os.path.relpath(run.folder / "report.html", target)).as_posix()),
        "store_key": run.results["store"]["key"],
        "n_features": run.results["n_features"],
        "n_train": run.results["n_train"],
        "n_test": run.results["n_test"],
        "random_weights": has_random_weights(run.results["store"]["spec"]),
        "extraction_seconds_per_1000": 1000 / speed if speed else None,
    }


def _rows(run: Run) -> list[dict[str, Any]]:
    speed = run.results["store"]["provenance"].get("images_per_second")
    return [
        {
            "label": run.label,
            "dataset": run.dataset,
            "strategy": name,
            **{metric: entry["test"][metric] for metric in METRICS},
            **{f"calibrated_{key}": calibrated(entry)[key] for key in ("log_loss", "ece")},
            "accuracy_ci95": entry["test"]["accuracy_ci95"],
            "interval_method": run.results.get("interval_method", "Wilson"),
            "majority_accuracy": (run.results.get("majority") or {}).get("test_accuracy"),
            "never_answered": len(entry["never_answered"]) if "never_answered" in entry else None,
            "C": entry["C"],
            "setting": setting_words(setting_of(entry)),
            "n_problems": entry["n_problems"],
            "fit_seconds": entry["fit_seconds"],
            "predict_seconds": entry.get("predict_seconds"),
            "extraction_seconds_per_1000": 1000 / speed if speed else None,
            "converged": entry["converged"],
            "n_features": run.results["n_features"],
            "n_train": run.results["n_train"],
            "n_test": run.results["n_test"],
        }
        for name, entry in run.results["strategies"].items()
    ]


def terminal_leaderboard(comparison: Mapping[str, Any]) -> str:
    """Write the leaderboard for a terminal; "majority" is always the most frequent class."""
    heads = ("backbone", "dataset", "strategy", "accuracy %", "95 % interval", "majority %", "fit")
    rows = [
        (
            row["label"],
            row["dataset"],
            display_name(row["strategy"]) + ("" if row["converged"] else " (not converged)"),
            percent(row["accuracy"]),
            span(row["accuracy_ci95"]),
            percent(row["majority_accuracy"]),
            seconds(row["fit_seconds"]),
        )
        for row in comparison["leaderboard"]
    ]
    return table(heads, rows, left=3, colour=wants_colour(sys.stderr))


def metrics_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Write the leaderboard as CSV, one line for each run and strategy."""
    flat = [
        {
            **{key: value for key, value in row.items() if key != "accuracy_ci95"},
            "accuracy_low": row["accuracy_ci95"][0],
            "accuracy_high": row["accuracy_ci95"][1],
        }
        for row in rows
    ]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, fieldnames=list(flat[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return stream.getvalue()


def _check_ours(target: Path) -> None:
    """Refuse to replace a folder that an earlier comparison did not write."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    with suppress(UserError):
        if load_json(target / FILE_NAME).get("kind") == "comparison":
            return
    raise UserError(
        f"{target} is in the way: no comparison wrote it; move it, or give another --reports-dir"
    )


def _write(target: Path, comparison: dict[str, Any]) -> None:
    """Fill a hidden folder and put it in the place of the comparison before."""
    groups, figures = _figure_groups(comparison), {}
    for i, group in enumerate(groups, start=1):
        rows = [row for row in comparison["leaderboard"] if row["label"] in group["labels"]]
        figures[f"accuracy-{i}"] = draw_backbones(rows, f"accuracy-{i}")
        group["numbered"] = numbered(rows) if len(group["labels"]) > 1 else []
        group["costs"] = list(known_costs(rows).values())
        methods = dict.fromkeys(interval_words(row["interval_method"]) for row in rows)
        group["intervals"] = " or ".join(methods)
        if group["numbered"]:  # one backbone alone trades nothing off
            figures[f"cost-{i}"] = draw_tradeoffs(rows, f"cost-{i}")
    tests = [*comparison["ovr_ovo"], *comparison["backbones"]]
    context = {
        "comparison": comparison,
        "groups": groups,
        "procedure": procedure(tests),
        "best": _best_tables(comparison),
    }
    with temporary_folder(target.parent) as fresh, temporary_folder(target.parent) as aside:
        write_json(fresh / FILE_NAME, comparison)
        write_text(fresh / "metrics.csv", metrics_csv(comparison["leaderboard"]))
        write_pages(
            fresh,
            render_html("comparison.html.j2", figures, **context),
            render_markdown("comparison.md.j2", figures, **context),
            figures,
        )
        put_folder(fresh, target, aside / target.name)


def _best_tables(comparison: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Write the cells of the tables of every row against the best."""
    return [
        {
            **group,
            "n_tests": max((row["n_tests"] or 0 for row in group["rows"]), default=0),
            "rows": [
                {
                    **row,
                    "difference": difference_text(row),
                    "interval": interval_text(row),
                    "p_text": p_words(row),
                    "may": may_be_best(row),
                }
                for row in group["rows"]
            ],
        }
        for group in comparison["against_best"]
    ]


def _figure_groups(comparison: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One figure for each dataset: accuracies on different images share no axis."""
    datasets: dict[str, list[str]] = {}
    for run in comparison["runs"]:
        datasets.setdefault(run["dataset"], []).append(run["label"])
    return [{"dataset": name, "labels": labels} for name, labels in datasets.items()]
