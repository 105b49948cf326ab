"""How a store is cut into shards, and what of an interrupted run can be kept."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data.common.cli import say
from data.common.files import write_json
from data.format.records import FeatureArray, ShardReceipt
from data.shards import check_shard, read_shard

SHARD_ROWS = 1024
# Of a network that a CPU needs a quarter of a second for, so that Ctrl-C costs a minute at most.
SLOW_SHARD_ROWS = 256
PLAN_NAME = "plan.json"


@dataclass(frozen=True)
class Plan:
    """What a run chose for itself: kept with its shards, so that a resumed run does the same.

    None of it is in the store's key, but all of it can change last bits.
    """

    batch_size: int  # rows in every forward pass
    engine: str  # what runs the network: one of `extract.options.ENGINES`
    device: str  # its name
    threads: int  # torch's threads on the CPU
    torch: str  # its version
    openvino: str | None = None  # its version, where it is the engine
    instead_of: str | None = None  # the engine that was asked for and failed
    shard_rows: int = SHARD_ROWS  # rows of a shard, a multiple of the batch size

    def halved(self) -> Plan:
        """Give the same plan with half the batch size, for a device that is short of memory."""
        half = self.batch_size // 2
        return replace(self, batch_size=half, shard_rows=whole_batches(self.shard_rows, half))


def whole_batches(rows: int, batch_size: int) -> int:
    """Round a number of rows down to full batches, at least one."""
    return max(rows // batch_size, 1) * batch_size


@dataclass(frozen=True)
class Shard:
    """A run of rows of one split, and the file that holds their embeddings."""

    split: str
    start: int
    stop: int
    path: Path

    @staticmethod
    def of(folder: Path, split: str, start: int, stop: int) -> Shard:
        """Name the file of these rows."""
        return Shard(split, start, stop, folder / f"shard-{split}-{start:09d}.h5")

    def read(self, key: str) -> tuple[FeatureArray, npt.NDArray[np.bool_]] | None:
        """Read a finished shard; None where it is missing, or damaged and to be computed again."""
        return read_shard(
            self.path,
            key=key,
            split=self.split,
            start=self.start,
            stop=self.stop,
            on_damage=lambda reason: say(f"computed again: {reason}"),
        )

    def check(self, key: str) -> tuple[ShardReceipt, npt.NDArray[np.bool_]] | None:
        """Read a finished shard for its receipt, and for which rows it has; None as in `read`."""
        return check_shard(self.path, key=key, split=self.split, start=self.start, stop=self.stop)


def cut(folder: Path, sizes: Mapping[str, int], rows: int) -> list[Shard]:
    """Cut splits into shards."""
    return [
        Shard.of(folder, split, start, min(start + rows, size))
        for split, size in sizes.items()
        for start in range(0, size, rows)
    ]


@dataclass(frozen=True)
class Here:
    """What a plan must agree with: the machine, the libraries, and what the user insists on."""

    device: str
    torch: str
    openvino: str | None  # its version, or None where it is not installed
    engine: str  # ``auto``, or what the user insists on
    compile: str  # whether a compiled network may be used
    batch_size: int | None  # what the user insists on


def resume_plan(folder: Path, here: Here, choose: Callable[[], Plan]) -> Plan:
    """Go on with the plan of an interrupted run, or start over with a new one."""
    kept = read_plan(folder)
    started = any(folder.glob("shard-*.h5"))
    if kept is None:
        if started:
            say(f"starting over: {folder / PLAN_NAME} is missing or cannot be read")
    else:
        # Automatic choices are those of the interrupted run, even if they would differ now.
        differing = _difference(kept, here)
        if differing is None:
            return kept
        if started:
            say(f"starting over: the interrupted run {differing}")
    chosen = choose()
    start_over(folder, chosen)
    return chosen


def start_over(folder: Path, plan: Plan) -> None:
    """Empty the work folder and write a new plan into it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / PLAN_NAME, asdict(plan))


def read_plan(folder: Path) -> Plan | None:
    """Read the plan of an earlier run; None where there is none that this version understands."""
    try:
        return Plan(**json.loads((folder / PLAN_NAME).read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def _difference(kept: Plan, here: Here) -> str | None:
    """Say why shards of a plan cannot be continued here; None where they can."""
    if kept.device != here.device:
        return f"was on {kept.device}, this one is on {here.device}"
    if kept.torch != here.torch:
        return f"had torch {kept.torch}, this one has {here.torch}"
    if kept.openvino not in (None, here.openvino):
        return f"had openvino {kept.openvino}, this one has {here.openvino or 'none'}"
    if here.engine not in ("auto", kept.engine, kept.instead_of):
        return f"ran on {kept.engine}, --engine asks for {here.engine}"
    if kept.engine == "compiled" and here.compile == "off":
        return "ran on a compiled network, --compile off asks for another engine"
    if here.batch_size not in (None, kept.batch_size):
        return f"had batches of {kept.batch_size}, --batch-size asks for {here.batch_size}"
    return None
