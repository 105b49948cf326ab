"""What a part reports: rows of the table, and the facts behind them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from benchmarks.check_cuda.sizes import Sizes

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    found: str
    goal: str = ""
    ok: bool | None = None  # None where there is nothing to reach
    must: bool = True  # whether it is a fault not to reach it, or a speed that was hoped for
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """``ok``, ``missed`` (a speed), ``FAILED``, or nothing."""
        if self.ok is None:
            return ""
        return "ok" if self.ok else "FAILED" if self.must else "missed"


@dataclass(frozen=True)
class Context:
    """Where a part runs, and with how much."""

    device: torch.device
    sizes: Sizes
    folder: Path  # of its own, for files
    threads: int  # that it may use of the host's

    @property
    def on_cuda(self) -> bool:
        """Whether this is the real thing, and not a rehearsal."""
        return self.device.type == "cuda"

    @property
    def solver_device(self) -> str:
        """The estimators' name of the device."""
        from classify.solver.backend import TORCH_ON_CPU

        return str(self.device) if self.on_cuda else TORCH_ON_CPU


# A part: from the context and an argument, such as a network's name, to rows as they are found.
Work: TypeAlias = "Callable[[Context, str], Iterator[Row]]"


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(device: torch.device, work: Callable[[], Any]) -> tuple[float, Any]:
    """Do something, and wait for the device: seconds and result."""
    import time

    synchronize(device)
    start = time.perf_counter()
    result = work()
    synchronize(device)
    return time.perf_counter() - start, result


def seconds_text(seconds: float) -> str:
    """Write seconds for the table."""
    return f"{1e3 * seconds:.0f} ms" if seconds < 0.1 else f"{seconds:.2f} s"
