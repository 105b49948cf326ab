"""Workers of Dask's."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any

from data.common.cli import log
from data.common.clusters import close_dask, connect_dask, start_dask
from extract.cluster.crew import RETRIES, Crew, WorkersDiedError

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
        if self._client is None:
            self._client, self._cluster = start_dask(workers, devices)

    def connect(self) -> None:
        """Connect to the scheduler."""
        assert self.address is not None
        self._client = connect_dask(self.address)

    def width(self) -> int:
        """Count the workers' threads."""
        return sum(self._client.nthreads().values())

    def submit(self, function: Callable[..., Any], *args: Any, on_gpu: bool = False) -> Any:
        """Give the scheduler a task; each Dask worker is one device already."""
        return self._client.submit(function, *args, pure=False, retries=RETRIES)

    def wait(self, handles: Collection[Any]) -> list[Any]:
        """Wait for the first to be done; say so where there are no workers left."""
        from distributed import TimeoutError as DaskTimeout
        from distributed import wait

        while True:
            with suppress(TimeoutError, DaskTimeout), self._client.as_current():
                done, _ = wait(list(handles), timeout=_WAIT_SECONDS, return_when="FIRST_COMPLETED")
                return list(done)
            if not self._client.nthreads() and not self._said:
                self._said = True
                log("all workers are gone; waiting for others (Ctrl-C keeps what is done)")

    def result(self, handle: Any) -> Any:
        """Return the result."""
        from distributed import KilledWorker

        try:
            return handle.result()
        except KilledWorker as error:
            raise WorkersDiedError(
                f"every worker that tried it died ({error.last_worker})"
            ) from error

    def close(self, handles: Collection[Any] = ()) -> None:
        """Cancel what has not begun; end local workers."""
        if self._client is None:
            return
        with suppress(Exception):  # a scheduler that is gone is no reason not to end
            self._client.cancel(list(handles), force=True)
        close_dask(self._client, self._cluster)
        self._client = self._cluster = None
