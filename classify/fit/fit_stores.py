"""Fitting many stores: one after the other, side by side, or on a cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import joblib

from classify.fit.cluster import Spread
from classify.fit.fit_store import fit_store
from classify.parallel import run_tasks
from classify.solver.threads import thread_count
from data.common.cli import without_progress
from data.format.sums import absolute_store

if TYPE_CHECKING:
    from classify.records import FitOptions


def side_by_side(n_stores: int, jobs: int | None) -> tuple[int, int]:
    """Return how many stores are fitted at once on this machine, and the threads of each."""
    threads = thread_count(jobs)
    processes = max(1, min(n_stores, threads))
    return processes, threads // processes


def fit_stores(
    stores: Sequence[Path], options: FitOptions, spread: Spread | None = None
) -> list[tuple[Path, dict[str, Any]]]:
    """Fit several stores side by side, each in a process, which writes its report itself.

    `spread` comes from `classify.fit.cluster.on_cluster`; by default processes of this machine
    share its threads and the memory. Returns what `fit_store` returned for each, in order.
    """
    reports_dir = options.reports_dir.absolute()
    if spread is None:
        n_jobs, threads = side_by_side(len(stores), options.jobs)
        each = replace(options, jobs=threads, share=n_jobs, reports_dir=reports_dir)
        spread = partial(
            joblib.parallel_config, backend="loky", n_jobs=n_jobs, inner_max_num_threads=threads
        )
    else:
        each = replace(options, jobs=None, reports_dir=reports_dir)
    tasks = [(absolute_store(store), each) for store in stores]
    try:
        with spread():
            return run_tasks(fit_alone, tasks, desc="fit", unit="store")
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"the reports that are finished are in {options.reports_dir}; run the same command "
            "again to fit all stores"
        ) from None


def fit_alone(task: tuple[Path, FitOptions]) -> tuple[Path, dict[str, Any]]:
    """Fit a store in a worker, with that worker's threads and no other worker."""
    with without_progress(), joblib.parallel_config(backend="threading", n_jobs=1):
        return fit_store(*task)
