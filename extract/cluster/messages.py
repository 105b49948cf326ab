"""What the coordinator of a cluster and its workers tell each other: paths and settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from data.images.arrays import EncodedImages
from extract.engines.plan import Plan
from extract.shards.plan import Shard


@dataclass(frozen=True)
class Archive:
    """A dataset that a worker reads as a whole: the arguments of `data.dataset.load_dataset`."""

    dataset: str
    data_dir: str
    limit: int | None
    data_url: str | None
    data_sha256: str | None
    class_names_file: str | None = None
    merge_classes: tuple[str, ...] = ()
    drop_class: tuple[str, ...] = ()


@dataclass(frozen=True)
class Target:
    """A store that a task writes a shard of."""

    folder: str  # the work folder, with the plan; absolute, on a disk that every worker sees
    key: str  # of the store
    feature: str  # which of the network's vectors are its rows, as `FeatureChoice.word` writes it
    taken: str | None = None  # of its plan: which rows a finished store gives

    def shard(self, split: str, start: int, stop: int) -> Shard:
        """Name the file to write."""
        return Shard.of(Path(self.folder), split, start, stop)


@dataclass(frozen=True)
class RunSettings:
    """What all tasks of a run share."""

    folder: str  # the work folder, with the plan; absolute, on a disk that every worker sees
    key: str  # of the store
    spec: str  # JSON: everything that decides the numbers
    weights: str | None  # the weights file, where they come from one; absolute
    device: str  # ``cpu`` or ``cuda``
    skip_bad_images: bool  # whether images that cannot be decoded are left out
    archive: Archive | None  # None for images in files, whose names are in the tasks
    # The folder of the code of a network of the user's own, which must be on Python's path.
    code: str | None = None
    feature: str = "default"  # the store's own
    taken: str | None = None  # of its plan: which rows a finished store gives
    others: tuple[Target, ...] = ()  # further stores of the same network and images

    @property
    def targets(self) -> tuple[Target, ...]:
        """All stores of the run."""
        return Target(self.folder, self.key, self.feature, self.taken), *self.others


@dataclass(frozen=True)
class ShardTask:
    """One shard to compute."""

    settings: RunSettings
    plan: Plan  # of the run, as it is in the work folder
    split: str  # ``train`` or ``test``
    start: int
    stop: int
    threads: int | None  # for the worker to use; None leaves it to the worker
    # The names of these rows' files, and their digests; None for an archive.
    images: EncodedImages | None = None
    stores: tuple[int, ...] = (0,)  # which of the run's stores lack the shard

    @property
    def targets(self) -> list[Target]:
        """The stores that lack the shard."""
        return [self.settings.targets[number] for number in self.stores]

    @property
    def shards(self) -> list[Shard]:
        """The files to write, one a store."""
        return [target.shard(self.split, self.start, self.stop) for target in self.targets]


@dataclass(frozen=True)
class Outcome:
    """What became of a task."""

    worker: str  # machine and process id
    device: str  # the device's name
    # The receipts' digests of the rows, of each store that lacked them; none where there are none
    sha256: tuple[str, ...] = ()
    computed: int = 0  # images that were embedded: none where the shard was there already
    problem: str | None = None  # why there are no rows, and why there would be none elsewhere
    out_of_memory: bool = False  # whether the problem is that a batch did not fit
