"""What a run is about, once the dataset is read and the backbone is loaded."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.cli import say
from data.dataset import ImageDataset, Split, load_dataset
from data.store import spec_key, store_path, work_dir
from extract import shards
from extract.options import Options
from extract.request import Request
from extract.shards import Plan

if TYPE_CHECKING:
    from extract.backbone import Backbone, BackboneRequest

# A transformer of the "small" size has 22 million.
SLOW_PARAMETERS = 30_000_000


def read_dataset(options: Options) -> ImageDataset:
    """Load the dataset that the options name."""
    return load_dataset(
        options.dataset,
        data_dir=options.data_dir,
        limit=options.limit,
        data_url=options.data_url,
        data_sha256=options.data_sha256,
        test_fraction=options.test_fraction,
        seed=options.seed,
    )


@dataclass
class Job:
    """All that is settled once the dataset is read and the backbone is loaded."""

    options: Options
    asked: Request
    dataset: ImageDataset
    backbone: Backbone
    device: Any
    precision: str
    spec: dict[str, Any]
    key: str
    path: Path
    folder: Path
    skipped: list[str] = field(default_factory=list)

    @property
    def splits(self) -> dict[str, Split]:
        """The parts of the dataset by name, in the order in which they are embedded."""
        return {"train": self.dataset.train, "test": self.dataset.test}

    @property
    def sizes(self) -> dict[str, int]:
        """Rows of each split."""
        return {name: len(split.ids) for name, split in self.splits.items()}


def prepare(options: Options, asked: Request, dataset: ImageDataset) -> Job:
    """Load the backbone and settle the ``spec``, and with it the key and the path."""
    from extract.allocator import keep_pages
    from extract.backbone import load_backbone
    from extract.embed import choose_device, choose_precision

    device = choose_device(options.device)
    precision = choose_precision(options.precision, device)
    if device.type == "cpu":
        keep_pages()
    say(f"loading {options.model}")
    backbone = load_backbone(backbone_request(options))
    spec = {
        "dataset": {"name": dataset.name, "digest": dataset.digest, "limit": dataset.limit},
        "model": backbone.model_spec(),
        "preprocessing": backbone.preprocessing.to_spec(),
        "pool": backbone.pool,
        "precision": precision,
        "store_dtype": options.store_dtype,
        "seed": backbone.seed,
    }
    key = spec_key(spec)
    return Job(
        options=options,
        asked=asked,
        dataset=dataset,
        backbone=backbone,
        device=device,
        precision=precision,
        spec=spec,
        key=key,
        path=store_path(options.features_dir, spec),
        folder=work_dir(options.features_dir, key),
    )


def backbone_request(options: Options) -> BackboneRequest:
    """Pick the options that describe the backbone."""
    from extract.backbone import BackboneRequest

    return BackboneRequest(
        model=options.model,
        weights=options.weights,
        model_args=options.model_args,
        image_size=options.image_size,
        pool=options.pool,
        seed=options.seed,
        crop_pct=options.crop_pct,
        interpolation=options.interpolation,
        mean=options.mean,
        std=options.std,
    )


def choose_plan(job: Job) -> Plan:
    """Choose what the settings leave open: batch size, memory format, size of the shards."""
    import torch

    from extract.embed import default_batch_size, default_memory_format, device_name

    batch_size = job.options.batch_size or default_batch_size(job.device)
    slow = job.device.type == "cpu" and job.backbone.n_parameters > SLOW_PARAMETERS
    rows = shards.SLOW_SHARD_ROWS if slow else shards.SHARD_ROWS
    return Plan(
        batch_size=batch_size,
        memory_format=default_memory_format(job.backbone),
        device=device_name(job.device),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        shard_rows=shards.whole_batches(rows, batch_size),
    )
