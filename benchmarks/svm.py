"""Part ``svm``: support vector machines and a code book, against the logistic heads like them.

The same path of C with its choice, and the fit to all rows from where it ended, as
``python -m classify fit`` makes them. What is compared is done in turns, so that another load of
the machine meets both; the processor's own seconds are beside those of the clock.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

from benchmarks.record import Record, Table, duration
from benchmarks.rows import Rows
from benchmarks.settings import Settings
from classify.estimator_base import LinearHeads
from classify.estimators import (
    ErrorCorrectingLogistic,
    OneVsOneLogistic,
    OneVsOneSVM,
    OneVsRestLogistic,
    OneVsRestSVM,
    fit_without_warning,
)
from classify.selection import select_C

# Each head beside the one that its seconds are divided by.
AGAINST = {"ovr": "ovr", "svm-ovr": "ovr", "ovo": "ovo", "svm-ovo": "ovo", "ecoc": "ovo"}
ESTIMATORS: dict[str, type[LinearHeads]] = {
    "ovr": OneVsRestLogistic,
    "svm-ovr": OneVsRestSVM,
    "ovo": OneVsOneLogistic,
    "svm-ovo": OneVsOneSVM,
    "ecoc": ErrorCorrectingLogistic,
}


def timed(name: str, rows: Rows) -> dict[str, Any]:
    """Choose C for a head and fit it, and say what that took."""
    clock, cpu = time.perf_counter(), time.process_time()
    chosen = select_C(name, rows.X, rows.y, standardize=False)
    between, between_cpu = time.perf_counter(), time.process_time()
    estimator = ESTIMATORS[name](chosen.C)
    solution = fit_without_warning(estimator, rows.X, rows.y, chosen.start)
    return {
        "head": name,
        "C": chosen.C,
        "steps": len(chosen.path),
        "accuracy": max(step["accuracy"] for step in chosen.path),
        "converged": solution.converged and all(step["converged"] for step in chosen.path),
        "relative_gap": estimator.certificate_["relative_gap"],
        "path": between - clock,
        "path_cpu": between_cpu - cpu,
        "fit": time.perf_counter() - between,
        "fit_cpu": time.process_time() - between_cpu,
    }


def run(settings: Settings) -> Record:
    """Run the part; see `benchmarks.one_c.run`."""
    record = Record(settings.results, "svm", settings.record())
    for rows in settings.data():
        record.remark(f"{rows.describe()}; medians of {settings.repeats}; ratio of CPU seconds")
        titles = ("head", "C", "steps", "held %", "path", "CPU", "ratio", "fit", "CPU", "ratio")
        widths = (8, 9, 6, 8, 10, 10, 6, 10, 10, 6)
        table = Table(tuple(zip(titles, widths, strict=True)))
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in AGAINST}
        for _ in range(settings.repeats):
            for name, found in runs.items():
                found.append(timed(name, rows))
        median = {
            name: {
                key: statistics.median(one[key] for one in found)
                for key in ("path", "path_cpu", "fit", "fit_cpu")
            }
            for name, found in runs.items()
        }
        for name, found in runs.items():
            mine, other, one = median[name], median[AGAINST[name]], found[0]
            ratios = {key: mine[f"{key}_cpu"] / other[f"{key}_cpu"] for key in ("path", "fit")}
            table.row(
                name, f"{one['C']:.3g}", one["steps"], f"{100 * one['accuracy']:.2f}",
                duration(mine["path"]), duration(mine["path_cpu"]), f"{ratios['path']:.2f}",
                duration(mine["fit"]), duration(mine["fit_cpu"]), f"{ratios['fit']:.2f}",
            )  # fmt: skip
            record.add({"rows": rows.name, **one, **mine, "ratios": ratios, "runs": found})
    record.finish()
    return record
