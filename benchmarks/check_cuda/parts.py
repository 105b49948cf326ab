"""The parts: what each needs of the device, and how long it is planned to take."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from benchmarks.check_cuda.sizes import Sizes

if TYPE_CHECKING:
    from benchmarks.check_cuda.rows import Work

# Seconds of the whole: the plans of all parts are less, and what one saves the next ones may take.
WHOLE = 470.0


@dataclass(frozen=True)
class Part:
    """One of the parts; it is loaded where it runs, in a process of its own."""

    name: str
    about: str
    work: str  # module and function
    planned: float  # seconds
    limit: float  # seconds, for each of its jobs
    memory: float  # bytes of the device
    alone: bool = True  # what is timed has the device for itself
    arguments: tuple[str, ...] = ("",)  # one job for each

    def load(self) -> Work:
        """Import what does it."""
        module, _, function = self.work.partition(":")
        work: Work = getattr(import_module(f"benchmarks.check_cuda.{module}"), function)
        return work


def all_parts(sizes: Sizes) -> tuple[Part, ...]:
    """List the parts in their order: what must be right first, side by side, and then speeds."""
    networks = tuple(network.name for network in sizes.networks)
    return (
        Part("tests", "all tests marked gpu", "gpu_tests:tests", 100, 150, 2e9, alone=False),
        Part("rows", "stage one: rows against the CPU's, small batches against large ones",
             "stage_one:rows", 130, 180, 4e9, alone=False, arguments=networks),
        Part("faults", "too large a batch, too little memory, a run that is killed",
             "faults:faults", 60, 100, 2e9, alone=False, arguments=sizes.faults),
        Part("heads", "stage two: three strategies at one value of C", "stage_two:heads",
             30, 90, 4e9),
        Part("many", "stage two: a certified multinomial of ImageNet's shape", "stage_two:many",
             45, 120, 4e9),
        Part("path", "stage two: the whole path of C", "stage_two:path", 30, 90, 4e9),
        Part("rates", "stage one: images a second, writing included", "stage_one:rates",
             35, 90, 4e9, arguments=networks),
        Part("jpegs", "JPEG decoding on the device", "stage_one:jpegs", 15, 45, 1e9),
        Part("peers", "scikit-learn on the same tensors", "stage_two:peers", 40, 120, 4e9),
    )  # fmt: skip


def planned(parts: tuple[Part, ...]) -> float:
    """Add up the plans: parts side by side take as long as the longest."""
    together = max((part.planned for part in parts if not part.alone), default=0.0)
    return together + sum(part.planned * len(part.arguments) for part in parts if part.alone)
