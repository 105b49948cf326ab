"""What was measured of engines and batch sizes, kept in the user's cache folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data.common.cache_folder import cache_folder
from data.common.cli import log
from data.common.files import write_json
from data.common.memory import free_memory
from data.common.processors import processor_name
from data.format.spec import spec_key
from extract.engines import build as engines
from extract.engines.constants import MEMORY_SHARE
from extract.engines.device import default_batch_size, device_name, openvino_version
from extract.engines.embed import Embedder, Images
from extract.engines.plan import Plan
from extract.model.backbone import Backbone, embed_normalised

if TYPE_CHECKING:
    import torch

# Raise it when a change of the code makes old measurements wrong.
VERSION = 2


@dataclass(frozen=True)
class Measurement:
    """How fast one engine is at one batch size."""

    engine: str  # one of `extract.options.ENGINES`
    batch_size: int  # images in a batch
    rate: float  # images a second: resize, normalisation and network
    build_seconds: float  # what it takes to prepare the engine, which every run pays

    def seconds(self, n_images: int) -> float:
        """Estimate what so many images take."""
        return self.build_seconds + n_images / self.rate


@dataclass
class Measurements:
    """What is known of the engines for one network on one machine."""

    trials: list[Measurement] = field(default_factory=list)  # in the order in which they were made
    failed: dict[str, str] = field(default_factory=dict)  # engines that cannot be used, and why
    seconds: float = 0.0  # what measuring took

    def best(self, n_images: int, compiled: bool = False) -> Measurement:
        """Choose what embeds so many images soonest."""

        def seconds(trial: Measurement) -> float:
            paid = compiled and trial.engine == "compiled"
            return trial.seconds(n_images) - (trial.build_seconds if paid else 0.0)

        return min(self.trials, key=seconds)

    def knows(self, engine: str) -> bool:
        """Tell whether an engine has been tried."""
        return engine in self.failed or any(trial.engine == engine for trial in self.trials)

    def drop(self, engine: str) -> None:
        """Forget what was measured of an engine."""
        self.trials = [trial for trial in self.trials if trial.engine != engine]

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
    """Read what an earlier run measured."""
    try:
        content = json.loads(_path(subject, names).read_text(encoding="utf-8"))
        trials = [Measurement(**trial) for trial in content["trials"]]
        found = Measurements(trials, dict(content["failed"]), float(content["seconds"]))
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return found if trials and all(trial.rate > 0 for trial in trials) else None


def write(subject: Subject, names: Sequence[str], measurements: Measurements) -> None:
    """Keep measurements; a cache that cannot be kept is no error."""
    path = _path(subject, names)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, asdict(measurements))
    except OSError as error:
        log(f"the measurement is not kept: {error}")


def _path(subject: Subject, names: Sequence[str]) -> Path:
    """Name the file by all that decides speeds, and whether an engine gives torch's vectors."""
    import torch

    backbone = subject.backbone
    settings = {
        "version": VERSION,
        "model": backbone.model_spec(),
        "pool": backbone.features,
        "image_size": backbone.preprocessing.to_spec()["image_size"],
        # Small images are resized in batches, which takes time, too.
        "image": list(subject.images[0].shape),
        "precision": subject.precision,
        "engines": list(names),
        "batch_size": subject.batch_size,
        "device": device_name(subject.device),
        "processor": processor_name(),
        "threads": torch.get_num_threads(),
        "libraries": [torch.__version__, version("timm"), openvino_version()],
    }
    root = cache_folder(subject.features_dir)
    return root / "icebox" / "engines" / f"{spec_key(settings)[:32]}.json"


def activation_bytes(backbone: Backbone) -> int:
    """Estimate the memory that an image takes on its way through the network, in float32.

    Four times the largest output of a layer: a layer holds its input and its output, perhaps
    another branch's, and a copy in another order.
    """
    import torch

    if "activation bytes" in backbone.prepared:
        return int(backbone.prepared["activation bytes"])
    largest = 0

    def note(_: Any, inputs: Any, output: Any) -> None:
        nonlocal largest
        if isinstance(output, torch.Tensor):
            largest = max(largest, output.numel() * 4)

    hooks = [part.register_forward_hook(note) for part in backbone.module.modules()]
    try:
        size = backbone.preprocessing.size
        weight = next(backbone.module.parameters(), None)
        device = torch.device("cpu") if weight is None else weight.device
        with torch.inference_mode():
            embed_normalised(backbone.module, torch.zeros(1, 3, *size, device=device))
    finally:
        for hook in hooks:
            hook.remove()
    backbone.prepared["activation bytes"] = 4 * largest
    return 4 * largest


@dataclass(frozen=True)
class Subject:
    """What is to be measured, and what the user insists on."""

    backbone: Backbone
    device: torch.device
    precision: str  # fp32, bf16 or fp16
    images: Images  # some of the dataset, at least one
    engine: str = "auto"  # ``auto``, or an engine that can run here
    batch_size: int | None = None  # None to measure it
    may_compile: bool = True  # whether ``auto`` may choose a compiled network
    # Where what is measured is kept if the user has no cache folder.
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

    def plan(self, engine: str, batch_size: int, instead_of: str | None = None) -> Plan:
        """Write down a choice, with what else decides last bits in this process."""
        import torch

        return Plan(
            batch_size=batch_size,
            engine=engine,
            device=device_name(self.device),
            threads=torch.get_num_threads(),
            torch=torch.__version__,
            openvino=openvino_version() if engine == "openvino" else None,
            instead_of=instead_of,
        )
