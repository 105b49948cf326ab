"""Part ``path``: the choice of C, refit and evaluation, next to a loop over scikit-learn.

Icebox's side is one command, `python -m classify fit STORE --c auto`, measured from outside.
scikit-learn's side is an estimate, and says so: a few values of C are timed on the rows that the
path fits, and the seconds at the values that the path visited are read off a line between them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.processes import TooLong, measured, scratch, trial
from benchmarks.record import Record, Table, amount, duration
from benchmarks.rows import Rows, from_store
from benchmarks.settings import Settings
from classify.selection import validation_split

# scikit-learn's default: what a loop would use. Icebox's own path is about as exact (`PATH_TOL`).
TOL = 1e-4
GOAL, GOAL_SECONDS = 20.0, 60.0
# What a loop over scikit-learn's estimators has, too.
STEPS = ("select", "fit", "evaluate")


def interpolate(at: Sequence[float], points: dict[float, float]) -> list[float]:
    """Estimate seconds at values of C from those that were measured.

    Parameters
    ----------
    at : sequence of float
        Values of C.
    points : dict of float to float
        Seconds by C.

    Returns
    -------
    list of float
        On lines in ``log C``; beyond the outermost points, theirs.
    """
    known = sorted(points)
    return [
        float(s) for s in np.interp(np.log(at), np.log(known), [points[value] for value in known])
    ]


def command_of(store: Path, reports: Path, *more: str) -> list[str]:
    """Return the command that fits a store, without ``python -m``."""
    return ["classify", "fit", str(store.resolve()), "--reports-dir", str(reports), *more]


def results_in(reports: Path) -> dict[str, Any]:
    """Read the only results.json below a folder."""
    (found,) = reports.glob("*/*/results.json")
    content: dict[str, Any] = json.loads(found.read_text(encoding="utf-8"))
    return content


def peer_points(rows: Rows, strategy: str, settings: Settings) -> tuple[dict[float, float], bool]:
    """Time scikit-learn at `settings.points`.

    Returns
    -------
    points : dict of float to float
        Seconds by C.
    whole : bool
        Whether all of them ended within the limit, which stands for those that did not.
    """
    points, whole = {}, True
    with scratch() as folder:
        saved = str(rows.save(folder))
        for C in sorted(settings.points):
            job = {"kind": "fit", "peer": "scikit-learn", "strategy": strategy, "C": C, "tol": TOL}
            try:
                points[C] = trial({**job, "rows": saved}, settings.peer_limit)["seconds"]
            except TooLong:
                points[C], whole = settings.peer_limit, False
    return points, whole


def run(settings: Settings) -> Record:
    """Run the part; see `benchmarks.one_c.run`."""
    record = Record(settings.results, "path", settings.record())
    for store in settings.stores:
        with scratch() as reports:
            strategies = [f"--strategy={name}" for name in settings.strategies]
            words = command_of(store, reports, "--c", "auto", "--no-few-shot", *strategies)
            ours = measured(words)
            results = results_in(reports)
        record.remark(
            f"{store.name}: classify fit --c auto --no-few-shot took {duration(ours['seconds'])} "
            f"and {amount(ours['peak_bytes'])}, loading and the report included (goal: "
            f"{GOAL_SECONDS:g} s)"
        )
        rows = from_store(store)
        train, _ = validation_split(rows.y, results["seed"])
        rows = Rows(rows.name, rows.X[train], rows.y[train])
        total, everything = _strategies(store, rows, results, settings, record)
        ratio = total / ours["seconds"]
        alone = sum(
            results["timings"][step][name] for step in STEPS for name in results["strategies"]
        )
        sign = "" if everything else "at least "
        record.add(
            {"store": store.name, "strategy": "all", "icebox_command": ours["seconds"]}
            | {"peak_bytes": ours["peak_bytes"], "timings": results["timings"]}
            | {"peer_estimate": total, "ratio_to_command": ratio, "whole": everything}
            | {"icebox_steps": alone, "ratio_to_steps": total / alone}
        )
        record.remark(
            f"scikit-learn, ESTIMATED for the same values of C: {sign}{duration(total)}, "
            f"{sign}{total / alone:.1f} times choice, refit and evaluation ({duration(alone)}; "
            f"goal: {GOAL:g}), {sign}{ratio:.1f} times the whole command"
        )
        shown = ", ".join(f"{C:g}" for C in sorted(settings.points))
        record.remark(
            f"the estimate: LogisticRegression(tol={TOL:g}) timed at C = {shown} on the "
            f"{len(train):,} rows that the path fits, interpolated in log C, the outermost values "
            "standing for all beyond them; the refit in proportion to its rows; no evaluation"
        )
    record.finish()
    return record


def _strategies(
    store: Path, rows: Rows, results: dict[str, Any], settings: Settings, record: Record
) -> tuple[float, bool]:
    """Estimate every strategy's loop; return the sum, and whether no fit was given up."""
    titles = ("strategy", "chosen C", "tried", "choice", "refit", "evaluation", "peer, estimated")
    table = Table(tuple(zip(titles, (12, 9, 6, 10, 10, 10, 15), strict=True)))
    total, everything = 0.0, True
    for name, entry in results["strategies"].items():
        points, whole = peer_points(rows, name, settings)
        visited = [step["C"] for step in entry["validation"]]
        loop = sum(interpolate(visited, points))
        refit = interpolate([entry["C"]], points)[0] * results["n_train"] / len(rows.y)
        steps = {step: results["timings"][step][name] for step in STEPS}
        table.row(
            *(name, f"{entry['C']:.3g}", len(visited), *map(duration, steps.values())),
            ("" if whole else "> ") + duration(loop + refit),
        )
        record.add(
            {"store": store.name, "strategy": name, "C": entry["C"], "visited": visited}
            | {"icebox": steps, "peer_loop": loop, "peer_refit": refit, "peer_tol": TOL}
            | {"peer_points": {f"{C:g}": s for C, s in points.items()}, "whole": whole}
        )
        total, everything = total + loop + refit, everything and whole
    return total, everything
