"""Workers of Ray's."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Collection
from contextlib import redirect_stdout, suppress
from typing import Any

from data.common.clusters import connect_ray, start_ray
from extract.cluster.crew import RETRIES, Crew, WorkersDiedError


class RayCrew(Crew):
    """Workers of a Ray cluster: a task takes one GPU where the cluster has any, or else one CPU."""

    kind = "ray"

    def __init__(self, address: str | None) -> None:
        super().__init__(address)
        self._started = False
        # Ray tells on stdout of workers that died, where our result goes.
        self._quiet = redirect_stdout(sys.stderr)
        self._functions: dict[Any, Any] = {}

    def start(self, workers: int, devices: int) -> None:
        """Start Ray on this machine."""
        if not self._started:
            start_ray(workers, devices)
            self._begin()

    def connect(self) -> None:
        """Connect to the cluster at the address."""
        assert self.address is not None
        connect_ray(self.address)
        self._begin()

    def _begin(self) -> None:
        self._started = True
        self._quiet.__enter__()

    def width(self) -> int:
        """Count what the cluster has of GPUs, or else of CPUs."""
        import ray

        found = ray.cluster_resources()
        return int(found.get("GPU", 0) or found.get("CPU", 0)) or 1

    def has_gpus(self) -> bool:
        """Say whether the cluster has any."""
        import ray

        return bool(ray.cluster_resources().get("GPU", 0))

    def submit(self, function: Callable[..., Any], *args: Any, on_gpu: bool = False) -> Any:
        """Give Ray a task."""
        import ray

        key = (function, on_gpu)
        if key not in self._functions:
            self._functions[key] = ray.remote(
                max_retries=RETRIES,
                retry_exceptions=True,
                num_cpus=1,
                num_gpus=1 if on_gpu else 0,
            )(function)
        return self._functions[key].remote(*args)

    def wait(self, handles: Collection[Any]) -> list[Any]:
        """Wait for the first to be done."""
        import ray

        done, _ = ray.wait(list(handles), num_returns=1)
        return list(done)

    def result(self, handle: Any) -> Any:
        """Return the result."""
        import ray
        from ray.exceptions import OutOfMemoryError, WorkerCrashedError

        try:
            return ray.get(handle)
        except (OutOfMemoryError, WorkerCrashedError) as error:
            reason = re.split(r"[.\n]", str(error))[0]
            raise WorkersDiedError(f"every worker that tried it died ({reason})") from error

    def close(self, handles: Collection[Any] = ()) -> None:
        """End this job, and Ray itself where it was started here."""
        if not self._started:
            return
        import ray

        # Tasks end with the job. To cancel them one by one can end this process: Ray 2.60 checks
        # that a task whose answer comes late was not cancelled.
        with suppress(Exception):  # a cluster that is gone is no reason not to end
            ray.shutdown()
        self._started = False
        self._quiet.__exit__(None, None, None)
