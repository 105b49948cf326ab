"""Stage two's independent fits on a cluster: joblib's backends for Dask and Ray.

Stores are shared out where there are several, the draws of the few-shot curves where there is one.
Every task is a path and a few numbers: a worker opens the store itself, and writes the report where
the coordinator would.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from classify.threads import thread_count
from data.cli import say
from data.clusters import (
    check_installed,
    close_dask,
    connect_dask,
    connect_ray,
    start_dask,
    start_ray,
)

if TYPE_CHECKING:
    from classify.strategy import FitOptions

Spread: TypeAlias = Callable[[], AbstractContextManager[object]]


@contextmanager
def on_cluster(
    cluster: str, scheduler: str | None, address: str | None, jobs: int | None
) -> Iterator[Spread]:
    """Start or reach a cluster for `joblib.Parallel`.

    Parameters
    ----------
    cluster : {'none', 'dask', 'ray'}
        ``--cluster``; nothing happens for ``none``.
    scheduler, address : str or None
        Of a cluster that is there already; otherwise one is started on this machine.
    jobs : int or None
        Its processes; None for one for each CPU.

    Yields
    ------
    callable
        Gives a context in which joblib uses the cluster; elsewhere it uses this process's threads.

    Raises
    ------
    UserError
        If the library is not installed, or nobody answers at the address.
    """
    if cluster == "none":
        yield nullcontext
        return
    check_installed(cluster)
    import joblib

    if cluster == "dask":
        client, local = _dask(scheduler, jobs)
        try:
            yield partial(joblib.parallel_config, backend="dask", client=client)
        finally:
            close_dask(client, local)
        return
    import ray
    from ray.util.joblib import register_ray

    if address is None:
        start_ray(thread_count(jobs))
    else:
        say(f"connecting to {address}")
        connect_ray(address)
    try:
        register_ray()
        yield partial(joblib.parallel_config, backend="ray")
    finally:
        ray.shutdown()


def _dask(scheduler: str | None, jobs: int | None) -> tuple[Any, Any]:
    if scheduler is None:
        return start_dask(thread_count(jobs))
    say(f"connecting to {scheduler}")
    return connect_dask(scheduler), None


def fit_stores(
    stores: Sequence[Path], options: FitOptions, spread: Spread
) -> list[tuple[Path, dict[str, Any]]]:
    """Fit several stores side by side, one on each worker, which writes its report itself.

    Parameters
    ----------
    stores : sequence of Path
        Feature stores, on a disk that every worker sees.
    options : FitOptions
        Of all of them.
    spread : callable
        From `on_cluster`.

    Returns
    -------
    list of tuple
        What `classify.run.fit_store` returned for each, in order.

    Raises
    ------
    UserError
        As `classify.run.fit_store`.
    KeyboardInterrupt
        On Ctrl-C, with a message of how to go on.
    """
    import joblib

    elsewhere = replace(options, jobs=None, reports_dir=options.reports_dir.absolute())
    say(f"fitting {len(stores)} stores on the cluster")
    try:
        with spread():
            return list(
                joblib.Parallel()(
                    joblib.delayed(fit_alone)(store.absolute(), elsewhere) for store in stores
                )
            )
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"the reports that are finished are in {options.reports_dir}; run the same command "
            "again to fit all stores"
        ) from None


def fit_alone(store: Path, options: FitOptions) -> tuple[Path, dict[str, Any]]:
    """Fit a store in a worker, with that worker's threads and no other worker."""
    import joblib

    from classify.run import fit_store

    with joblib.parallel_config(backend="threading", n_jobs=1):
        return fit_store(store, options)
