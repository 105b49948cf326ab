"""How a store is cut into shards, and what of an interrupted run can be kept."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data.cli import say
from data.files import write_json
from data.records import FeatureArray
from data.store import read_shard

SHARD_ROWS = 1024
# Of a network that a CPU needs a quarter of a second for, so that Ctrl-C costs a minute at most.
SLOW_SHARD_ROWS = 256
PLAN_NAME = "plan.json"


@dataclass(frozen=True)
class Plan:
    """What a run chose for itself: kept with its shards, so that a resumed run does the same.

    None of it is in the store's key, but all of it can change last bits.

    Attributes
    ----------
    batch_size : int
        Rows in every forward pass.
    memory_format : str
        ``channels_last`` or ``contiguous``.
    device : str
        Its name.
    threads : int
        torch's threads on the CPU.
    torch : str
        Its version.
    shard_rows : int
        Rows of a shard, a multiple of the batch size.
    """

    batch_size: int
    memory_format: str
    device: str
    threads: int
    torch: str
    shard_rows: int = SHARD_ROWS

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


def cut(folder: Path, sizes: Mapping[str, int], rows: int) -> list[Shard]:
    """Cut splits into shards.

    Parameters
    ----------
    folder : Path
        The work folder of the key.
    sizes : mapping of str to int
        Rows of each split.
    rows : int
        Rows of a shard.

    Returns
    -------
    list of Shard
        In the order of the rows.
    """
    return [
        Shard(split, start, min(start + rows, size), folder / f"shard-{split}-{start:09d}.h5")
        for split, size in sizes.items()
        for start in range(0, size, rows)
    ]


def resume_plan(folder: Path, chosen: Plan, batch_size: int | None) -> Plan:
    """Go on with the plan of an interrupted run, or start over with a new one.

    Parameters
    ----------
    folder : Path
        The work folder of the key; created, and emptied where its shards cannot be continued.
    chosen : Plan
        What this run would choose by itself.
    batch_size : int or None
        What the user insists on.

    Returns
    -------
    Plan
        The one to follow, as now written in the folder.
    """
    kept = read_plan(folder)
    started = any(folder.glob("shard-*.h5"))
    if kept is None:
        if started:
            say(f"starting over: {folder / PLAN_NAME} is missing or cannot be read")
    else:
        # On the same machine the old batch size is followed even if an automatic choice differs.
        same_machine = (kept.device, kept.torch) == (chosen.device, chosen.torch)
        if same_machine and batch_size in (None, kept.batch_size):
            return kept
        if started:
            say(f"starting over: the interrupted run {_difference(kept, chosen, batch_size)}")
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


def _difference(kept: Plan, chosen: Plan, batch_size: int | None) -> str:
    if kept.device != chosen.device:
        return f"was on {kept.device}, this one is on {chosen.device}"
    if kept.torch != chosen.torch:
        return f"had torch {kept.torch}, this one has {chosen.torch}"
    return f"had batches of {kept.batch_size}, --batch-size asks for {batch_size}"
