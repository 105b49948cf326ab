"""How a store is cut into shards, and what of an interrupted run can be kept."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data.common.cli import log
from data.common.files import write_json
from data.format.records import FeatureArray, ShardReceipt
from data.images.decode import decoder
from data.shards import check_shard, read_shard
from extract.engines.place import Device
from extract.engines.plan import Plan
from extract.options import Options

SHARD_ROWS = 1024
# Of a network that a CPU needs a quarter of a second for, so that Ctrl-C costs a minute at most.
SLOW_SHARD_ROWS = 256
PLAN_NAME = "plan.json"


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
            on_damage=lambda reason: log(f"computed again: {reason}"),
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
class Missing:
    """A run of rows of one split, and the shards that lack them."""

    split: str
    start: int
    stop: int
    shards: tuple[tuple[int, Shard], ...]  # each with the number of the store that it is of


def usable_plan(
    folder: Path, device: Device, options: Options, word: str, taken: str | None = None
) -> Plan | None:
    """Give the plan of an interrupted run, if this one can go on with it.

    `word` is the feature, `taken` the digest of the rows that a finished store gives.
    """
    kept = read_plan(folder)
    started = any(folder.glob("shard-*.h5"))
    if kept is None:
        if started:
            log(f"starting over: {folder / PLAN_NAME} is missing or cannot be read")
    else:
        # Automatic choices are those of the interrupted run, even if they would differ now.
        differing = _difference(kept, device, options)
        if kept.taken != taken:
            differing = "took other rows from a finished store"
        if kept.features and word not in kept.features.split():
            differing = "was of other features"
        if differing is None:
            return kept
        if started:
            log(f"starting over: the interrupted run {differing}")
    return None


def start_over(folder: Path, plan: Plan) -> None:
    """Empty the work folder and write a new plan into it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / PLAN_NAME, asdict(plan))


def kept_plan(plan: Plan, word: str, taken: str | None) -> Plan:
    """Give a plan as it lies in the work folder of one store, of the feature `word`.

    A feature that is alone is not named.
    """
    return replace(plan, taken=taken, features="" if plan.features == word else plan.features)


def read_plan(folder: Path) -> Plan | None:
    """Read the plan of an earlier run; None where there is none that this version understands."""
    try:
        return Plan(**json.loads((folder / PLAN_NAME).read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def _difference(kept: Plan, device: Device, options: Options) -> str | None:
    """Say why shards of a plan cannot be continued here; None where they can."""
    if kept.device != device.name:
        return f"was on {kept.device}, this one is on {device.name}"
    if kept.torch != device.torch:
        return f"had torch {kept.torch}, this one has {device.torch}"
    if kept.openvino not in (None, device.openvino):
        return f"had openvino {kept.openvino}, this one has {device.openvino or 'none'}"
    if kept.decoder not in (None, decoder()):
        return f"decoded with {kept.decoder}, this one has {decoder()}"
    if options.engine not in ("auto", kept.engine, kept.instead_of):
        return f"ran on {kept.engine}, --engine asks for {options.engine}"
    if kept.engine == "compiled" and options.compile == "off":
        return "ran on a compiled network, --compile off asks for another engine"
    if options.batch_size not in (None, kept.batch_size):
        return f"had batches of {kept.batch_size}, --batch-size asks for {options.batch_size}"
    return None
