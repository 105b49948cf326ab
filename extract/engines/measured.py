"""What was measured of engines and batch sizes, kept in the user's cache folder."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data.common.cache_folder import cache_folder
from data.common.cli import say
from data.common.files import write_json
from data.common.memory import free_memory
from data.format.spec import spec_key
from extract.engines import build as engines
from extract.engines.activations import activation_bytes
from extract.engines.device import default_batch_size
from extract.engines.embed import Embedder, Images
from extract.model.backbone import Backbone

if TYPE_CHECKING:
    import torch

# Raise it when a change of the code makes old measurements wrong.
VERSION = 2


@dataclass(frozen=True)
class Measurement:
    """How fast one engine is at one batch size.

    Attributes
    ----------
    engine : str
        One of `extract.options.ENGINES`.
    batch_size : int
        Images in a batch.
    rate : float
        Images a second: resize, normalisation and network.
    build_seconds : float
        What it takes to prepare the engine, which every run pays.
    """

    engine: str
    batch_size: int
    rate: float
    build_seconds: float

    def seconds(self, n_images: int) -> float:
        """Estimate what so many images take."""
        return self.build_seconds + n_images / self.rate


@dataclass
class Measurements:
    """What is known of the engines for one network on one machine.

    Attributes
    ----------
    trials : list of Measurement
        In the order in which they were made.
    failed : dict of str to str
        Engines that cannot be used, and why.
    seconds : float
        What measuring took.
    """

    trials: list[Measurement] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    def best(self, n_images: int, compiled: bool = False) -> Measurement:
        """Choose what embeds so many images soonest.

        Parameters
        ----------
        n_images : int
            Of the run.
        compiled : bool
            Whether this process has compiled the network already, so that it costs nothing more.
        """

        def seconds(trial: Measurement) -> float:
            paid = compiled and trial.engine == "compiled"
            return trial.seconds(n_images) - (trial.build_seconds if paid else 0.0)

        return min(self.trials, key=seconds)

    def knows(self, engine: str) -> bool:
        """Tell whether an engine has been tried."""
        return engine in self.failed or any(trial.engine == engine for trial in self.trials)

    def best_of_each(self) -> list[Measurement]:
        """Return every engine's fastest trial, the fastest of all first."""
        best: dict[str, Measurement] = {}
        for trial in sorted(self.trials, key=lambda trial: trial.rate):
            best[trial.engine] = trial
        return sorted(best.values(), key=lambda trial: -trial.rate)

    def summary(self) -> str:
        """Say in one line how fast each engine is at its best batch size."""
        ranked = self.best_of_each()
        shown = ", ".join(
            f"{trial.engine} {trial.rate:.3g} (batches of {trial.batch_size})" for trial in ranked
        )
        return f"images/s, measured in {self.seconds:.1f} s: {shown}"


def read(subject: Subject, names: Sequence[str]) -> Measurements | None:
    """Read what an earlier run measured.

    Parameters
    ----------
    subject : Subject
        The network, the precision, the batch size that the user insists on.
    names : sequence of str
        The engines to choose from.

    Returns
    -------
    Measurements or None
        None where nobody measured this on this machine with these libraries.
    """
    try:
        content = json.loads(_path(subject, names).read_text(encoding="utf-8"))
        trials = [Measurement(**trial) for trial in content["trials"]]
        found = Measurements(trials, dict(content["failed"]), float(content["seconds"]))
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return found if trials and all(trial.rate > 0 for trial in trials) else None


def write(subject: Subject, names: Sequence[str], measurements: Measurements) -> None:
    """Keep measurements; a cache that cannot be kept is no error.

    Parameters
    ----------
    subject, names
        As for `read`.
    measurements : Measurements
        What was found.
    """
    path = _path(subject, names)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, asdict(measurements))
    except OSError as error:
        say(f"the measurement is not kept: {error}")


def _path(subject: Subject, names: Sequence[str]) -> Path:
    """Name the file by all that decides speeds, and whether an engine gives torch's vectors."""
    import torch

    from extract.engines.device import device_name, openvino_version

    backbone = subject.backbone
    settings = {
        "version": VERSION,
        "model": backbone.model_spec(),
        "pool": backbone.pool,
        "image_size": backbone.preprocessing.to_spec()["image_size"],
        # Small images are resized in batches, which takes time, too.
        "image": list(subject.images[0].shape),
        "precision": subject.precision,
        "engines": list(names),
        "batch_size": subject.batch_size,
        "device": device_name(subject.device),
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "libraries": [torch.__version__, version("timm"), openvino_version()],
    }
    root = cache_folder(subject.features_dir)
    return root / "icebox" / "engines" / f"{spec_key(settings)[:32]}.json"


def _processor() -> str:
    """Name the processor, as nearly as the system tells."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            names = [line.partition(":")[2].strip() for line in lines if "model name" in line]
    except OSError:
        names = []
    return names[0] if names else platform.processor()


# A host that runs out of memory kills the process: no batch may take more of what is free.
MEMORY_SHARE = 0.5


@dataclass(frozen=True)
class Subject:
    """What is to be measured, and what the user insists on.

    Attributes
    ----------
    backbone : Backbone
        The network.
    device : torch.device
        Where it runs.
    precision : {'fp32', 'bf16', 'fp16'}
        Of its products.
    images : ndarray of uint8, shape (n, height, width, 3), or sequence of such images
        Some of the dataset, at least one.
    engine : str
        ``auto``, or an engine that can run here.
    batch_size : int or None
        None to measure it.
    may_compile : bool
        Whether ``auto`` may choose a compiled network.
    features_dir : Path or None
        Where what is measured is kept if the user has no cache folder.
    """

    backbone: Backbone
    device: torch.device
    precision: str
    images: Images
    engine: str = "auto"
    batch_size: int | None = None
    may_compile: bool = True
    features_dir: Path | None = None

    def names(self) -> list[str]:
        """List the engines to choose from, the default one first."""
        if self.engine != "auto":
            return [self.engine]
        return engines.candidates(self.backbone, self.device, self.precision)

    def batch(self, rows: int) -> Images:
        """Give so many images; they repeat where there are fewer."""
        picked = [row % len(self.images) for row in range(rows)]
        if isinstance(self.images, np.ndarray):
            return self.images[picked]
        return [self.images[row] for row in picked]

    def fits(self, batch_size: int) -> bool:
        """Tell whether the host has the memory for a batch; a GPU says so itself."""
        if self.device.type != "cpu":
            return True
        return batch_size * activation_bytes(self.backbone) < MEMORY_SHARE * free_memory()

    def first_batch_size(self) -> int:
        """Give the size that the user insists on, or else one to begin with."""
        if self.batch_size is not None:
            return self.batch_size
        size = default_batch_size(self.device)
        while size > 1 and not self.fits(size):
            size //= 2
        return size

    def embedder(self, engine: str, batch_size: int) -> Embedder:
        """Prepare an engine."""
        return Embedder(self.backbone, self.device, self.precision, engine, batch_size)
