"""Workers of Ray's."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any

from extract.crews import RETRIES, Crew, WorkersDied, reach, unreachable

PROBE_SECONDS = 30.0
# Nothing large travels.
OBJECT_STORE_BYTES = 80 << 20
# Ray ends the whole process where it does not find a cluster, so another one asks first.
_PROBE = """
import logging, sys, ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level=logging.CRITICAL)
"""


class RayCrew(Crew):
    """Workers of a Ray cluster: a task takes one GPU where the cluster has any, or else one CPU."""

    kind = "ray"

    def __init__(self, address: str | None) -> None:
        super().__init__(address)
        self._started = False
        self._functions: dict[Any, Any] = {}

    def start(self, workers: int, devices: int) -> None:
        """Start Ray on this machine."""
        if not self._started:
            self._init(
                num_cpus=devices or workers,
                num_gpus=devices,
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
            )

    def connect(self) -> None:
        """Connect to the cluster at the address."""
        assert self.address is not None
        if self.address not in ("auto", "local"):
            reach("--address", self.address)
        try:
            subprocess.run(  # noqa: S603 - this very Python, and a fixed program
                [sys.executable, "-c", _PROBE, self.address],
                check=True,
                timeout=PROBE_SECONDS,
                capture_output=True,
            )
        except subprocess.TimeoutExpired as error:
            reason = f"Ray does not answer within {PROBE_SECONDS:.0f} s"
            raise unreachable("--address", self.address, reason) from error
        except subprocess.CalledProcessError as error:
            lines = error.stderr.decode(errors="replace").strip().splitlines() or ["Ray failed"]
            raise unreachable("--address", self.address, lines[-1][:200]) from error
        self._init(address=self.address)

    def _init(self, **options: Any) -> None:
        import ray

        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
        self._started = True

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
            raise WorkersDied(f"every worker that tried it died ({reason})") from error

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
