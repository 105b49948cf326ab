"""What the coordinator of a cluster and its workers tell each other: paths and settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from data.images.arrays import FileImages
from extract.shards.plan import Plan, Shard


@dataclass(frozen=True)
class Archive:
    """A dataset that a worker reads as a whole: the arguments of `data.dataset.load_dataset`."""

    dataset: str
    data_dir: str
    limit: int | None
    data_url: str | None
    data_sha256: str | None


@dataclass(frozen=True)
class Settings:
    """What all tasks of a run share.

    Attributes
    ----------
    folder : str
        The work folder, with the plan; absolute, on a disk that every worker sees.
    key : str
        Of the store.
    spec : str
        JSON: everything that decides the numbers.
    weights : str or None
        The weights file, where they come from one; absolute.
    device : str
        ``cpu`` or ``cuda``.
    skip_bad_images : bool
        Whether images that cannot be decoded are left out.
    archive : Archive or None
        None for images in files, whose names are in the tasks.
    """

    folder: str
    key: str
    spec: str
    weights: str | None
    device: str
    skip_bad_images: bool
    archive: Archive | None


@dataclass(frozen=True)
class Task:
    """One shard to compute.

    Attributes
    ----------
    settings : Settings
        Of the run.
    plan : Plan
        Of the run, as it is in the work folder.
    split : str
        ``train`` or ``test``.
    start, stop : int
        Its rows.
    threads : int or None
        For the worker to use; None leaves it to the worker.
    images : FileImages or None
        The names of these rows' files, and their digests; None for an archive.
    """

    settings: Settings
    plan: Plan
    split: str
    start: int
    stop: int
    threads: int | None
    images: FileImages | None = None

    @property
    def shard(self) -> Shard:
        """The file to write."""
        return Shard.of(Path(self.settings.folder), self.split, self.start, self.stop)


@dataclass(frozen=True)
class Outcome:
    """What became of a task.

    Attributes
    ----------
    worker : str
        Machine and process.
    device : str
        The device's name.
    sha256 : str or None
        The receipt's digest of the rows; None where there are none.
    computed : int
        Images that were embedded: none where the shard was there already.
    problem : str or None
        Why there are no rows, and why there would be none elsewhere.
    out_of_memory : bool
        Whether the problem is that a batch did not fit.
    """

    worker: str
    device: str
    sha256: str | None = None
    computed: int = 0
    problem: str | None = None
    out_of_memory: bool = False
