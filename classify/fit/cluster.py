"""Stage two's independent fits side by side: in processes, or on a cluster of Dask or Ray.

All of it goes through joblib, which has backends for each. On a cluster, stores are shared out
where there are several, the draws of the few-shot curves where there is one. Every task is a path
and a few numbers: a worker opens the store itself, and writes the report where the coordinator
would.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from functools import partial
from typing import Any, TextIO, TypeAlias, cast

import joblib

from classify.solver.threads import thread_count
from data.common.cli import log
from data.common.clusters import (
    check_installed,
    close_dask,
    connect_dask,
    connect_ray,
    start_dask,
    start_ray,
)

Spread: TypeAlias = Callable[[], AbstractContextManager[object]]


@contextmanager
def on_cluster(
    cluster: str, scheduler: str | None, address: str | None, jobs: int | None
) -> Iterator[Spread]:
    """Start or reach a cluster for `joblib.Parallel`, and give a context in which joblib uses it.

    Outside that context joblib uses this process's threads; for ``none`` nothing happens. Without
    `scheduler` (Dask) or `address` (Ray) a cluster of `jobs` processes is started on this machine.
    """
    if cluster == "none":
        yield nullcontext
        return
    check_installed(cluster)
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
        log(f"connecting to {address}")
        connect_ray(address)
    # Ray tells on stdout, where the paths of reports go, of workers that ended, also of those that
    # were ended on purpose: a thread of its does, at any moment, and this one while it shuts down.
    with redirect_stdout(cast(TextIO, _OneThreads())):
        try:
            register_ray()
            yield partial(joblib.parallel_config, backend="ray")
        finally:
            with redirect_stdout(sys.stderr):
                ray.shutdown()


class _OneThreads:
    """Standard output of the thread that makes it, and standard error of all others."""

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        self._out, self._others = sys.stdout, sys.stderr

    def __getattr__(self, name: str) -> Any:
        mine = threading.get_ident() == self._thread
        return getattr(self._out if mine else self._others, name)


def _dask(scheduler: str | None, jobs: int | None) -> tuple[Any, Any]:
    if scheduler is None:
        return start_dask(thread_count(jobs))
    log(f"connecting to {scheduler}")
    return connect_dask(scheduler), None
