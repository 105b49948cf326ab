"""Parts ``memory`` and ``out-of-core``: peak memory, measured from outside the process."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from benchmarks.path import command_of, results_in
from benchmarks.processes import measured, scratch
from benchmarks.record import Record, Table, amount, duration, tiny
from benchmarks.rows import store_bytes
from benchmarks.settings import Settings
from classify.fit.memory_budget import kept_bytes, shortages
from data.format.records import Header
from data.reading import read_header

FACTOR = 1.3
ALLOWANCE = 500e6


def fit_memory(job: dict[str, Any]) -> dict[str, Any]:
    """Measure one fit of Icebox in a process of its own.

    Parameters
    ----------
    job : dict
        See `benchmarks.trial.perform`; its ``kind`` is ``memory``.

    Returns
    -------
    dict
        ``seconds`` of the whole process and ``peak_bytes``.
    """
    with scratch() as folder:
        (folder / "job.json").write_text(json.dumps({**job, "kind": "memory"}), encoding="utf-8")
        return measured(["benchmarks.trial", str(folder)])


def run(settings: Settings) -> Record:
    """Run the part ``memory``; see `benchmarks.one_c.run`."""
    record = Record(settings.results, "memory", settings.record())
    for store in settings.stores:
        size = store_bytes(store)
        limit = FACTOR * size + ALLOWANCE
        record.remark(
            f"{store.name}: {amount(size)} of features, both splits; one process loads the store "
            f"and fits; limit {FACTOR:g} x + {amount(ALLOWANCE)} = {amount(limit)}"
        )
        titles = ("strategy", "C", "peak", "x features", "limit", "within", "whole process")
        table = Table(tuple(zip(titles, (12, 7, 10, 10, 10, 6, 13), strict=True)))
        for C in settings.C:
            for strategy in settings.strategies:
                job = {"strategy": strategy, "C": C, "store": str(store.resolve())}
                found = fit_memory(job)
                peak = found["peak_bytes"]
                shown = "yes" if peak <= limit else "NO"
                table.row(
                    *(strategy, f"{C:g}", amount(peak), f"{peak / size:.2f}", amount(limit)),
                    *(shown, duration(found["seconds"])),
                )
                record.add(
                    {"store": store.name, "strategy": strategy, "C": C, "features_bytes": size}
                    | {"limit_bytes": limit, "within": peak <= limit, "peak_bytes": peak}
                    | {"seconds": found["seconds"]}
                )
    record.finish()
    return record


def option_exists() -> bool:
    """Say whether ``python -m classify fit`` can be told how much memory to use."""
    return "--memory" in measured(["classify", "fit", "--help"])["stdout"]


def least_memory(header: Header, strategies: tuple[str, ...], jobs: int | None) -> int:
    """Return how many bytes a run with the features left on the disk can do with."""
    short = shortages(header, strategies, 0, jobs).values()
    return max(error.needed for error in short) + kept_bytes(header, len(strategies))


def out_of_core(settings: Settings) -> Record:
    """Run the part ``out-of-core``; see `benchmarks.one_c.run`."""
    record = Record(settings.results, "out-of-core", settings.record())
    if not option_exists():
        record.remark("python -m classify fit has no option --memory in this version: not measured")
        record.finish()
        return record
    for store in settings.stores:
        size = store_bytes(store)
        least = least_memory(read_header(store), settings.strategies, None)
        given = f"{math.ceil(max(size / 4, least) / 1e6)}MB"
        why = "a quarter of that" if size / 4 >= least else "the least that the fits can do with"
        record.remark(f"{store.name}: {amount(size)} of features, both splits; {given} is {why}")
        titles = ("memory", "C", "peak", "x features", "seconds", "ratio", "objectives differ by")
        table = Table(tuple(zip(titles, (10, 7, 10, 10, 10, 6, 20), strict=True)))
        for C in settings.C:
            parts = _fit(store, C, settings, "--memory", given)
            if not parts["out_of_core"]:
                record.remark(f"{store.name} is too small: {given} hold its features; not measured")
                break
            whole = _fit(store, C, settings)
            differ = {
                name: abs(parts["objectives"][name] / value - 1)
                for name, value in whole["objectives"].items()
            }
            slower = parts["seconds"] / whole["seconds"]
            for name, found, more in (
                ("all", whole, ("1.0", "")),
                (given, parts, (f"{slower:.1f}", tiny(max(differ.values())))),
            ):
                peak = found["peak_bytes"]
                table.row(
                    *(name, f"{C:g}", amount(peak), f"{peak / size:.2f}"),
                    *(duration(found["seconds"]), *more),
                )
            record.add(
                {"store": store.name, "C": C, "features_bytes": size, "memory": given}
                | {"in_memory": whole, "out_of_core": parts, "slower": slower, "differ": differ}
            )
    record.finish()
    return record


def _fit(store: Path, C: float, settings: Settings, *more: str) -> dict[str, Any]:
    """Fit a store by the command line; return what was measured, and the objectives."""
    strategies = [f"--strategy={name}" for name in settings.strategies]
    with scratch() as reports:
        options = ("--c", f"{C!r}", "--no-few-shot", *strategies, *more)
        found = measured(command_of(store, reports, *options))
        results = results_in(reports)
    return {
        "seconds": found["seconds"],
        "peak_bytes": found["peak_bytes"],
        "objectives": {
            name: entry["certificate"]["objective"] for name, entry in results["strategies"].items()
        },
        "timings": results["timings"],
        "out_of_core": results["settings"]["out_of_core"],
    }
