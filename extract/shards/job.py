"""What a run is about, once the dataset is read and the backbone is loaded."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data.common.cli import log
from data.common.errors import UserError
from data.dataset import load_dataset
from data.format.spec import LAYER, crop_marker, spec_key, store_path, work_dir
from data.images.arrays import ArrayImages, EncodedImages, ImageDataset, Split
from data.images.decode import decoder
from extract.engines.place import Device, find_device
from extract.engines.plan import Plan, whole_batches
from extract.model.features.choice import FeatureChoice
from extract.model.pixels import PIXELS
from extract.options import Options
from extract.request import Request, decode_of, pixel_limit, source_of
from extract.shards import plan as shards
from extract.shards.taken import Taken, likely, take_over

if TYPE_CHECKING:
    from extract.engines.embed import Images
    from extract.model.backbone import Backbone, BackboneRequest, Described
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
    splits: Mapping[str, Split],
    settings: Preprocessing | Sequence[Preprocessing],
    wanted: Wanted,
    jobs: int,
) -> DecodedImages | None:
    """Have workers decode these rows; None for images in memory, which need none."""
    from extract.shards.loading import DecodedImages

    images = {
        name: split.images
        for name, split in splits.items()
        if isinstance(split.images, EncodedImages)
    }
    return DecodedImages(images, settings, wanted, jobs) if images else None


@dataclass(frozen=True)
class Output:
    """A store that a run writes: one feature of the images."""

    options: Options  # which ask for this feature alone
    asked: Request
    choice: FeatureChoice
    spec: dict[str, Any]
    key: str
    path: Path
    folder: Path
    # Rows that a finished store gives; None where all are to be computed
    taken: Taken | None = None

    @property
    def taken_digest(self) -> str | None:
        """Say in a plan which rows are taken over, and from where."""
        return None if self.taken is None else self.taken.digest


@dataclass
class Job:
    """All that is settled once the dataset is read and the backbone is loaded.

    Its stores have one network input; those that one forward pass gives are one job in the end.
    """

    outputs: tuple[Output, ...]
    dataset: ImageDataset
    backbone: Backbone
    device: Device
    skipped: list[str] = field(default_factory=list)
    # The images of all splits, which workers decode already; None for images in memory
    ahead: DecodedImages | None = None

    @property
    def options(self) -> Options:
        """What was asked for: of its stores, only pooling and layer differ."""
        return self.outputs[0].options

    @property
    def asked(self) -> Request:
        """The request for its first store."""
        return self.outputs[0].asked

    @property
    def spec(self) -> dict[str, Any]:
        """The spec of its first store."""
        return self.outputs[0].spec

    @property
    def key(self) -> str:
        """The key of its first store."""
        return self.outputs[0].key

    @property
    def path(self) -> Path:
        """The file of its first store."""
        return self.outputs[0].path

    @property
    def folder(self) -> Path:
        """The work folder of its first store."""
        return self.outputs[0].folder

    @property
    def taken(self) -> Taken | None:
        """Rows that finished stores give: of each of its stores the same."""
        return self.outputs[0].taken

    def only(self, outputs: Sequence[Output], backbone: Backbone | None = None) -> Job:
        """Give a job of some of its stores."""
        return replace(self, outputs=tuple(outputs), backbone=backbone or self.backbone, skipped=[])

    @functools.cached_property
    def splits(self) -> dict[str, Split]:
        """What is to be embedded of each split, in the order in which that is done."""
        return self.dataset.splits if self.taken is None else self.taken.new(self.dataset)

    def close(self) -> None:
        """End the processes that decode for nobody."""
        if self.ahead is not None:
            self.ahead.close()
            self.ahead = None

    @property
    def sizes(self) -> dict[str, int]:
        """Rows of each split that are to be embedded."""
        return {name: len(split.ids) for name, split in self.splits.items()}


def settle_backbone(options: Options, dataset: ImageDataset) -> tuple[BackboneRequest, Described]:
    """Find the model and its preprocessing, which takes no weights."""
    from extract.model.backbone import describe

    request = backbone_request(options, native_size(dataset))
    described = describe(request)
    settings = replace(described.preprocessing, decode=decode_of(options))
    return request, described._replace(preprocessing=settings)


def begin_decoding(
    options: Options, asked: Request, dataset: ImageDataset, settings: Sequence[Preprocessing]
) -> DecodedImages | None:
    """Have workers decode all images while the network is loaded, where all are to be embedded."""
    if options.dry_run or likely(options, asked.options):
        return None
    every = {name: [range(len(part.ids))] for name, part in dataset.splits.items()}
    return decode_ahead(dataset.splits, settings, every, options.jobs)


def prepare(
    options: Options,
    asked: Request,
    dataset: ImageDataset,
    device: Device | None = None,
    *,
    more: Sequence[Options] = (),
    ahead: DecodedImages | None = None,
) -> Job:
    """Load the backbone and settle the ``spec``, and with it the key and the path.

    `more` are the options of other stores with the same network input; `ahead` are images that are
    decoded already.
    """
    from data.common.memory import keep_pages
    from extract.model.backbone import load_backbone

    here = device is None
    device = device or find_device(options.device, options.precision, options.engine)
    if device.kind == "cpu":
        keep_pages()
    log(f"loading {options.model}")
    request, described = settle_backbone(options, dataset)
    if here and ahead is None:
        ahead = begin_decoding(options, asked, dataset, [described.preprocessing])
    try:
        backbone = load_backbone(request, described)
        asked.read = backbone.read
        outputs = [_output(options, asked, dataset, backbone, device)]
        outputs += [_another(other, outputs[0], backbone) for other in more]
        backbone = backbone.giving([output.choice for output in outputs])
        if here or isinstance(dataset.train.images, EncodedImages):  # else workers read the archive
            outputs = [_with_taken(output, dataset, device) for output in outputs]
    except BaseException:
        if ahead is not None:
            ahead.close()
        raise
    return Job(tuple(outputs), dataset, backbone, device, ahead=ahead)


def _output(
    options: Options, asked: Request, dataset: ImageDataset, backbone: Backbone, device: Device
) -> Output:
    """Settle the spec of a store, and with it the key and the path."""
    preprocessing = backbone.preprocessing.to_spec()
    rows = {"name": dataset.name, "digest": dataset.digest, "limit": dataset.limit}
    [choice] = backbone.choices
    spec = {
        "dataset": rows | pixel_limit(options),
        "model": backbone.model_spec(),
        "preprocessing": preprocessing | crop_marker(dataset.name, preprocessing),
        **_spec_of(choice),
        "precision": device.precision,
        "store_dtype": options.store_dtype,
        "seed": backbone.seed,
    }
    return _placed(options, asked, choice, spec)


def _another(options: Options, first: Output, backbone: Backbone) -> Output:
    """Settle the same for another feature of the same network and images."""
    choice = backbone.settled(FeatureChoice(options.pool, options.layer))
    spec = {name: value for name, value in first.spec.items() if name not in ("pool", LAYER)}
    return _placed(options, first.asked.of(options), choice, spec | _spec_of(choice))


def _spec_of(choice: FeatureChoice) -> dict[str, str]:
    """Say which feature it is; of a layer nothing where none is named, as before there were any."""
    return {"pool": choice.pool} | ({} if choice.layer is None else {LAYER: choice.layer})


def _placed(
    options: Options, asked: Request, choice: FeatureChoice, spec: dict[str, Any]
) -> Output:
    key = spec_key(spec)
    path, folder = store_path(options.features_dir, spec), work_dir(options.features_dir, key)
    return Output(options, asked, choice, spec, key, path, folder)


def _with_taken(output: Output, dataset: ImageDataset, device: Device) -> Output:
    """Look for rows that a finished store gives."""
    taken, why = take_over(output.options, output.spec, dataset, device)
    if why:
        log(why)
    return replace(output, taken=taken)


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
        layer=options.layer,
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
    if job.ahead is not None and settings in job.ahead.settings:
        number = job.ahead.settings.index(settings)
        items = [row.at(number) for row in job.ahead.peek(n)]
    else:
        decoder = Decoder(split.images, settings)
        items = [decoder[row] for row in range(n)]
    # A bad one is met again by the run itself, which says so.
    found = [item for item in items if not isinstance(item, UserError)]
    return found or [NetworkInput(np.zeros((*settings.size, 3), dtype=np.uint8))]
