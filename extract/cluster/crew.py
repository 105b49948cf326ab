"""The workers of a cluster, behind one small interface: Dask's or Ray's, local or elsewhere."""

from __future__ import annotations

import abc
from collections.abc import Callable, Collection
from typing import Any

from data.common.errors import UserError

# A task is tried on three workers before the run gives up.
RETRIES = 2


class WorkersDiedError(UserError):
    """Every worker that tried a task died."""


class Crew(abc.ABC):
    """Workers that run functions of `extract.cluster.worker`."""

    kind = ""

    def __init__(self, address: str | None) -> None:
        self.address = address

    @property
    def local(self) -> bool:
        """Whether the workers are on this machine, and end with the run."""
        return self.address is None

    @abc.abstractmethod
    def start(self, workers: int, devices: int) -> None:
        """Start workers on this machine: one for each GPU, or so many on the CPU."""

    @abc.abstractmethod
    def connect(self) -> None:
        """Connect to the cluster at `address`, and wait for a worker."""

    @abc.abstractmethod
    def width(self) -> int:
        """Count the tasks that can run at the same time."""

    def has_gpus(self) -> bool:
        """Say whether a task must ask for a GPU to get one."""
        return False

    @abc.abstractmethod
    def submit(self, function: Callable[..., Any], *args: Any, on_gpu: bool = False) -> Any:
        """Give a worker something to do; return a handle."""

    @abc.abstractmethod
    def wait(self, handles: Collection[Any]) -> list[Any]:
        """Wait until some are done; return those."""

    @abc.abstractmethod
    def result(self, handle: Any) -> Any:
        """Return what the function returned, or raise what it raised (`WorkersDiedError`)."""

    @abc.abstractmethod
    def close(self, handles: Collection[Any] = ()) -> None:
        """Withdraw what has not begun, and let the workers go."""

    def call(self, function: Callable[..., Any], *args: Any, on_gpu: bool = False) -> Any:
        """Have a worker do something, and wait for the answer."""
        handle = self.submit(function, *args, on_gpu=on_gpu)
        self.wait([handle])
        return self.result(handle)
