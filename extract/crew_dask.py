"""Workers of Dask's."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any

from data.cli import say
from extract.crews import (
    CONNECT_SECONDS,
    RETRIES,
    WORKERS_SECONDS,
    Crew,
    WorkersDied,
    reach,
    unreachable,
)

_WAIT_SECONDS = 30.0


class DaskCrew(Crew):
    """Workers of a Dask cluster: one process for each GPU, as ``dask worker --nthreads 1``."""

    kind = "dask"

    def __init__(self, address: str | None) -> None:
        super().__init__(address)
        self._cluster: Any = None
        self._client: Any = None
        self._said = False

    def start(self, workers: int, devices: int) -> None:
        """Start processes; each sees one GPU."""
        from distributed import Client, Nanny, Scheduler, SpecCluster

        if self._client is not None:
            return
        options: dict[str, Any] = {
            "nthreads": 1,
            "memory_limit": 0,
            "dashboard_address": None,
            # Ctrl-C in a terminal reaches all its processes; this one decides what it means.
            "preload": [__name__],
            "silence_logs": logging.ERROR,
        }
        self._cluster = SpecCluster(
            scheduler={
                "cls": Scheduler,
                "options": {"dashboard": False, "dashboard_address": None, "host": "127.0.0.1"},
            },
            workers={
                n: {
                    "cls": Nanny,
                    "options": {
                        **options,
                        "env": {"CUDA_VISIBLE_DEVICES": str(n)} if devices else {},
                    },
                }
                for n in range(devices or workers)
            },
            silence_logs=logging.ERROR,
        )
        self._client = Client(self._cluster, set_as_default=False)

    def connect(self) -> None:
        """Connect to the scheduler."""
        from distributed import Client

        assert self.address is not None
        reach("--scheduler", self.address)
        try:
            asyncio.run(asyncio.wait_for(_greet(self.address), CONNECT_SECONDS))
            self._client = Client(self.address, timeout=CONNECT_SECONDS, set_as_default=False)
        except (OSError, ValueError, TimeoutError) as error:
            reason = str(error).split("\n")[0] or f"no answer within {CONNECT_SECONDS:.0f} s"
            raise unreachable("--scheduler", self.address, reason) from error
        try:
            self._client.wait_for_workers(1, timeout=WORKERS_SECONDS)
        except TimeoutError as error:
            reason = f"the scheduler has had no worker for {WORKERS_SECONDS:.0f} s"
            raise unreachable("--scheduler", self.address, reason) from error

    def width(self) -> int:
        """Count the workers' threads."""
        return sum(self._client.nthreads().values())

    def submit(self, function: Callable[..., Any], *args: Any, on_gpu: bool = False) -> Any:
        """Give the scheduler a task; each Dask worker is one device already."""
        return self._client.submit(function, *args, pure=False, retries=RETRIES)

    def wait(self, handles: Collection[Any]) -> list[Any]:
        """Wait for the first to be done; say so where there are no workers left."""
        from distributed import wait

        while True:
            with suppress(TimeoutError), self._client.as_current():
                done, _ = wait(list(handles), timeout=_WAIT_SECONDS, return_when="FIRST_COMPLETED")
                return list(done)
            if not self._client.nthreads() and not self._said:
                self._said = True
                say("all workers are gone; waiting for others (Ctrl-C keeps what is done)")

    def result(self, handle: Any) -> Any:
        """Return the result."""
        from distributed import KilledWorker

        try:
            return handle.result()
        except KilledWorker as error:
            raise WorkersDied(f"every worker that tried it died ({error.last_worker})") from error

    def close(self, handles: Collection[Any] = ()) -> None:
        """Cancel what has not begun; end local workers."""
        if self._client is None:
            return
        with suppress(Exception):  # a scheduler that is gone is no reason not to end
            self._client.cancel(list(handles), force=True)
        with suppress(Exception):
            self._client.close(timeout=5)
        if self._cluster is not None:
            with suppress(Exception):
                self._cluster.close(timeout=5)
        self._client = self._cluster = None


async def _greet(address: str) -> None:
    """Exchange greetings: `Client` itself waits forever for one who listens and says nothing."""
    from distributed.comm import connect

    comm = await connect(address if "://" in address else f"tcp://{address}")
    await comm.close()


def dask_setup(worker: object) -> None:
    """Leave Ctrl-C to the coordinator: Dask calls this in each local worker when it starts."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
