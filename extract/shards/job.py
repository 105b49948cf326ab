"""What a run is about, once the dataset is read and the backbone is loaded."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data.common.cli import log
from data.common.errors import UserError
from data.dataset import load_dataset
from data.format.spec import crop_marker, spec_key, store_path, work_dir
from data.images.arrays import ArrayImages, EncodedImages, ImageDataset, Split
from data.images.decode import decoder
from extract.engines.place import Device, find_device
from extract.engines.plan import Plan, whole_batches
from extract.model.pixels import PIXELS
from extract.options import Options
from extract.request import Request, decode_of, pixel_limit, source_of
from extract.shards import plan as shards
from extract.shards.taken import Taken, likely, take_over

if TYPE_CHECKING:
    from extract.engines.embed import Images
    from extract.model.backbone import Backbone, BackboneRequest
    from extract.model.preprocessing import Preprocessing
    from extract.shards.loading import DecodedImages, Wanted

# A transformer of the "small" size has 22 million.
SLOW_PARAMETERS = 30_000_000
# Images that engines are measured with.
N_FIRST = 16


def read_dataset(options: Options) -> ImageDataset:
    """Load the dataset that the options name."""
    dataset = load_dataset(options.dataset, limit=options.limit, **source_of(options))
    return dataset.limited_to(options.max_pixels)


def decode_ahead(
    splits: Mapping[str, Split], settings: Preprocessing, wanted: Wanted, jobs: int
) -> DecodedImages | None:
    """Have workers decode these rows; None for images in memory, which need none."""
    from extract.shards.loading import DecodedImages

    images = {
        name: split.images
        for name, split in splits.items()
        if isinstance(split.images, EncodedImages)
    }
    return DecodedImages(images, settings, wanted, jobs) if images else None


@dataclass
class Job:
    """All that is settled once the dataset is read and the backbone is loaded."""

    options: Options
    asked: Request
    dataset: ImageDataset
    backbone: Backbone
    device: Device
    spec: dict[str, Any]
    key: str
    path: Path
    folder: Path
    skipped: list[str] = field(default_factory=list)
    # The images of all splits, which workers decode already; None for images in memory
    ahead: DecodedImages | None = None
    # Rows that a finished store gives; None where all are to be computed
    taken: Taken | None = None

    @functools.cached_property
    def splits(self) -> dict[str, Split]:
        """What is to be embedded of each split, in the order in which that is done."""
        return self.dataset.splits if self.taken is None else self.taken.new(self.dataset)

    def decoded(self, wanted: Wanted) -> DecodedImages | None:
        """Give the images of these rows, decoded ahead; None for images in memory."""
        ahead, self.ahead = self.ahead, None
        wanted = {split: list(rows) for split, rows in wanted.items() if rows}
        if ahead is not None and ahead.wanted == wanted and self.taken is None:
            return ahead
        if ahead is not None:
            ahead.close()
        return decode_ahead(self.splits, self.backbone.preprocessing, wanted, self.options.jobs)

    def close(self) -> None:
        """End the processes that decode for nobody."""
        if self.ahead is not None:
            self.ahead.close()
            self.ahead = None

    @property
    def sizes(self) -> dict[str, int]:
        """Rows of each split that are to be embedded."""
        return {name: len(split.ids) for name, split in self.splits.items()}


def prepare(
    options: Options, asked: Request, dataset: ImageDataset, device: Device | None = None
) -> Job:
    """Load the backbone and settle the ``spec``, and with it the key and the path."""
    from data.common.memory import keep_pages
    from extract.model.backbone import describe, load_backbone

    here = device is None
    device = device or find_device(options.device, options.precision, options.engine)
    if device.kind == "cpu":
        keep_pages()
    log(f"loading {options.model}")
    request = backbone_request(options, native_size(dataset))
    described = describe(request)
    settings = replace(described.preprocessing, decode=decode_of(options))
    described = described._replace(preprocessing=settings)
    ahead = None
    if here and not options.dry_run and not likely(options, asked.options):
        every = {name: [range(len(part.ids))] for name, part in dataset.splits.items()}
        ahead = decode_ahead(dataset.splits, settings, every, options.jobs)
    try:
        backbone = load_backbone(request, described)
    except BaseException:
        if ahead is not None:
            ahead.close()
        raise
    asked.read = backbone.read
    preprocessing = backbone.preprocessing.to_spec()
    rows = {"name": dataset.name, "digest": dataset.digest, "limit": dataset.limit}
    spec = {
        "dataset": rows | pixel_limit(options),
        "model": backbone.model_spec(),
        "preprocessing": preprocessing | crop_marker(dataset.name, preprocessing),
        "pool": backbone.pool,
        "precision": device.precision,
        "store_dtype": options.store_dtype,
        "seed": backbone.seed,
    }
    key = spec_key(spec)
    taken = None
    if here or isinstance(dataset.train.images, EncodedImages):  # else workers read the archive
        taken, why = take_over(options, spec, dataset, device)
        if why:
            log(why)
    return Job(
        options=options,
        asked=asked,
        dataset=dataset,
        backbone=backbone,
        device=device,
        spec=spec,
        key=key,
        path=store_path(options.features_dir, spec),
        folder=work_dir(options.features_dir, key),
        ahead=ahead,
        taken=taken,
    )


def native_size(dataset: ImageDataset) -> tuple[int, int] | None:
    """Give the height and width of images that all have one; None of files."""
    images = dataset.train.images
    if not isinstance(images, ArrayImages):
        return None
    _, height, width, _ = images.array.shape
    return height, width


def backbone_request(options: Options, native: tuple[int, int] | None = None) -> BackboneRequest:
    """Pick the options that describe the backbone; `native` is the size of raw pixels."""
    from extract.model.backbone import BackboneRequest

    return BackboneRequest(
        model=options.model,
        weights=options.weights,
        model_args=options.model_args,
        image_size=options.image_size or (native if options.model == PIXELS else None),
        pool=options.pool,
        seed=options.seed,
        crop_pct=options.crop_pct,
        interpolation=options.interpolation,
        mean=options.mean,
        std=options.std,
        trusted=True,
    )


def choose_plan(job: Job, *, measured: bool = True) -> Plan:
    """Choose what the settings leave open: engine, batch size, size of the shards."""
    from extract.engines.device import OutOfMemoryError
    from extract.engines.measured import Subject
    from extract.engines.tuning import choose, choose_quickly

    if job.taken is not None:
        return cut_for(job, replace(job.taken.plan, taken=job.taken.digest))
    subject = Subject(
        job.backbone,
        job.device.torch_device,
        job.device.precision,
        first_images(job),
        job.options.engine,
        job.options.batch_size,
        may_compile=job.options.compile != "off",
        features_dir=job.options.features_dir,
    )
    try:
        plan = (choose if measured else choose_quickly)(subject, sum(job.sizes.values()))
    except OutOfMemoryError as error:
        raise no_memory(job.options.batch_size or 1, job.device.name) from error
    return cut_for(job, plan)


def cut_for(job: Job, plan: Plan) -> Plan:
    """Settle what depends on the images: the decoder, and the size of the shards.

    They are smaller of a network that a CPU takes long for.
    """
    slow = job.device.kind == "cpu" and job.backbone.n_parameters > SLOW_PARAMETERS
    rows = shards.SLOW_SHARD_ROWS if slow else shards.SHARD_ROWS
    in_files = isinstance(job.dataset.train.images, EncodedImages)
    return replace(
        plan,
        shard_rows=whole_batches(rows, plan.batch_size),
        decoder=decoder() if in_files else None,
    )


def no_memory(batch_size: int, device: str) -> UserError:
    """Say that a batch does not fit."""
    return UserError(
        f"batches of {batch_size} do not fit into the memory of {device}; "
        "give a smaller --batch-size, --image-size or --model"
    )


def first_images(job: Job) -> Images:
    """Give some of the dataset's images, to measure with; a blank one where none is readable.

    Shapes: returns uint8 (n, height, width, 3).
    """
    from extract.model.preprocess import NetworkInput, prepared_array
    from extract.shards.loading import Decoder

    split, settings = job.dataset.train, job.backbone.preprocessing
    n = min(N_FIRST, len(split.ids))
    if isinstance(split.images, ArrayImages):
        return prepared_array(settings, split.images.rows(0, n))
    if job.ahead is not None:
        items = [row.image for row in job.ahead.peek(n)]
    else:
        decoder = Decoder(split.images, settings)
        items = [decoder[row] for row in range(n)]
    # A bad one is met again by the run itself, which says so.
    found = [item for item in items if not isinstance(item, UserError)]
    return found or [NetworkInput(np.zeros((*settings.size, 3), dtype=np.uint8))]
