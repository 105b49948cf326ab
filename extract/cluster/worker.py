"""What a worker of a cluster does: one shard, from paths and settings to a file and its receipt.

A task may run twice, and on another worker the second time: the same rows come out, and the file
appears whole or not at all. Nothing large travels: images are read and embeddings are written by
the worker, on a disk that all machines share. What cannot succeed elsewhere either, such as an
image that cannot be decoded, is part of the answer; anything raised is worth another try.
"""

from __future__ import annotations

import functools
import json
import os
import platform
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from data.common.errors import UserError
from data.dataset import load_dataset
from data.images.arrays import ArrayImages, EncodedImages
from data.images.decode import BadImageError
from data.shards import write_shard
from extract.cluster.messages import Outcome, RunSettings, ShardTask, Target
from extract.engines.place import Device, find_device
from extract.engines.plan import Plan
from extract.model.features.choice import choices_of
from extract.shards.fill import as_stored
from extract.shards.plan import PLAN_NAME, kept_plan, read_plan

if TYPE_CHECKING:
    from extract.engines.embed import Embedder, Images
    from extract.model.backbone import Backbone
    from extract.model.preprocessing import Preprocessing

# Engines whose rows do not depend on torch's threads, but for the rule in `threads_for`.
_INDIFFERENT = ("torch", "channels-last", "folded", "openvino")
# ATen: with one thread, 1x1 convolutions of fewer images take another kernel.
_ONE_THREAD_BATCH = 16
_PREFETCH = 2  # batches that are decoded ahead


# A worker may run several tasks in threads, and a process has one set of torch's threads.
_one_at_a_time = threading.Lock()


def look(option: str, precision: str, engine: str) -> Device | str:
    """Say where this worker would run a network; or what is wrong."""
    with _one_at_a_time:
        try:
            found = find_device(option, precision, engine)
        except UserError as error:
            return f"{error} (on the worker {worker_name()})"
        return replace(found, threads=_threads_of_worker())


def choose_here(
    settings: RunSettings,
    first: EncodedImages | int,
    engine: str,
    may_compile: bool,
    batch_size: int | None,
    n_images: int,
) -> Plan | str:
    """Choose engine and batch size by measuring on this worker: `extract.engines.tuning.choose`."""
    from extract.engines.device import OutOfMemoryError, choose_device
    from extract.engines.measured import Subject
    from extract.engines.torch_settings import using_threads
    from extract.engines.tuning import choose
    from extract.shards.job import no_memory

    with _one_at_a_time:
        try:
            backbone = _backbone(settings)
            backbone = backbone.giving(
                [one for target in settings.targets for one in choices_of(target.feature)]
            )
            device = choose_device(settings.device)
            images = _first_images(settings, first, backbone.preprocessing)
            precision = json.loads(settings.spec)["precision"]
            subject = Subject(
                backbone,
                device,
                precision,
                images,
                engine,
                batch_size,
                may_compile=may_compile,
                features_dir=Path(settings.folder).parent.parent,  # FEATURES_DIR/.work/KEY
            )
            with using_threads(_threads_of_worker()):
                return choose(subject, n_images)
        except OutOfMemoryError:
            return str(no_memory(batch_size or 1, f"the worker {worker_name()}"))
        except UserError as error:
            return f"{error} (on the worker {worker_name()})"


def embed_shard(task: ShardTask) -> Outcome:
    """Compute one shard and write it, unless it is there already."""
    from extract.engines.device import OutOfMemoryError, choose_device, device_name

    with _one_at_a_time:
        device = ""
        try:
            device = device_name(choose_device(task.settings.device))
            return _embed_shard(task, device)
        except OutOfMemoryError as error:
            return Outcome(worker_name(), device, problem=str(error), out_of_memory=True)
        except UserError as error:
            return Outcome(worker_name(), device, problem=str(error))


def worker_name() -> str:
    """Name this process for messages."""
    return f"{platform.node()}:{os.getpid()}"


def threads_for(plan: Plan, share: int) -> int:
    """Choose torch's threads of a worker so that its rows are those of the plan.

    On the CPU, rows in float32 do not depend on the number of threads, with one exception: with
    one thread, ATen takes another kernel for 1x1 convolutions of fewer than 16 images
    (``use_mkldnn`` in aten/src/ATen/native/Convolution.cpp).
    """
    if plan.engine not in _INDIFFERENT:
        return plan.threads
    if plan.batch_size >= _ONE_THREAD_BATCH:
        return share
    return 1 if plan.threads == 1 else max(share, 2)


def _threads_of_worker() -> int:
    """Count the CPUs that are this worker's by the cluster's own account."""
    import torch

    try:
        from distributed import get_worker

        return int(get_worker().state.nthreads)
    except (ImportError, ValueError):  # not a worker of Dask's; Ray sets OMP_NUM_THREADS
        return torch.get_num_threads()


def _embed_shard(task: ShardTask, device: str) -> Outcome:
    from extract.engines.torch_settings import using_threads

    settings = task.settings
    shards = task.shards
    for target, shard in zip(task.targets, shards, strict=True):
        if not _follows(task, target):
            raise UserError(
                f"the worker {worker_name()} does not find this run's "
                f"{shard.path.parent / PLAN_NAME}; "
                "--features-dir must be a folder that every worker sees under the same name"
            )
    pairs = zip(task.targets, shards, strict=True)
    found = [shard.check(target.key) for target, shard in pairs]
    digests = [one[0].sha256 for one in found if one is not None]
    if len(digests) == len(shards):
        return Outcome(worker_name(), device, tuple(digests))
    unread: set[int] = set()
    embedder = _embedder(settings, task.plan)
    with using_threads(threads_for(task.plan, task.threads or _threads_of_worker())):
        features, ok, ids = _rows(task, embedder, unread)
    dtype = json.loads(settings.spec)["store_dtype"]
    digests = []
    for target, shard in zip(task.targets, shards, strict=True):
        if not _follows(task, target):  # the run has started over meanwhile
            raise UserError(f"{shard.path} belongs to a plan that is no longer followed")
        [choice] = choices_of(target.feature)
        receipt = write_shard(
            shard.path,
            as_stored(features[:, embedder.backbone.columns(choice)], dtype),
            ok,
            key=target.key,
            split=task.split,
            start=task.start,
            ids=ids,
            unread_rotations=[task.start + row for row in unread],
        )
        digests.append(receipt.sha256)
    return Outcome(worker_name(), device, tuple(digests), computed=len(ok))


def _follows(task: ShardTask, target: Target) -> bool:
    """Tell whether a store's work folder is there, and has the plan of the task."""
    plan = kept_plan(task.plan, target.feature, target.taken)
    return read_plan(Path(target.folder)) == plan


def _rows(
    task: ShardTask, embedder: Embedder, unread: set[int]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_], Sequence[str]]:
    """Embed the rows of a shard, batch by batch."""
    from extract.model.preprocess import prepared_array
    from extract.shards.stream import embed_batches

    count = task.stop - task.start
    features = np.zeros((count, embedder.backbone.width), dtype=np.float32)
    ok = np.zeros(count, dtype=np.bool_)
    spans = [
        range(start, min(start + embedder.batch_size, count))
        for start in range(0, count, embedder.batch_size)
    ]
    if task.images is not None:
        ids: Sequence[str] = task.images.short_names()
        batches = _decoded(task, task.images, spans, embedder.backbone.preprocessing, unread)
    else:
        images, names = _archive(task.settings)[task.split]
        ids = names[task.start : task.stop]
        array, settings = images.rows(task.start, task.stop), embedder.backbone.preprocessing
        batches = (
            (np.ones(len(s), np.bool_), prepared_array(settings, array[s.start : s.stop]))
            for s in spans
        )
    for span, (good, rows) in zip(spans, embed_batches(embedder, batches), strict=True):
        at = span.start + np.flatnonzero(good)
        features[at] = rows
        ok[at] = True
    return features, ok, ids


def _decoded(
    task: ShardTask,
    images: EncodedImages,
    spans: Sequence[range],
    settings: Preprocessing,
    unread: set[int],
) -> Iterator[tuple[npt.NDArray[np.bool_], Images]]:
    """Decode batches ahead of their use, in threads: workers may not have children."""
    from extract.shards.loading import Decoder

    decoder = Decoder(images, settings)
    ahead: deque[tuple[range, list[Future[Any]]]] = deque()
    todo = deque(spans)
    with ThreadPoolExecutor(task.threads or _threads_of_worker()) as pool:
        while ahead or todo:
            while todo and len(ahead) <= _PREFETCH:
                span = todo.popleft()
                ahead.append((span, [pool.submit(decoder.__getitem__, row) for row in span]))
            items = [item.result() for item in ahead.popleft()[1]]
            unread |= decoder.unread_rotations
            bad = [item for item in items if isinstance(item, UserError)]
            for item in bad:
                if not (isinstance(item, BadImageError) and task.settings.skip_bad_images):
                    pool.shutdown(cancel_futures=True)
                    raise item
            good = np.array([not isinstance(item, UserError) for item in items])
            yield good, [item for item in items if not isinstance(item, UserError)]


def _first_images(
    settings: RunSettings, first: EncodedImages | int, preprocessing: Preprocessing
) -> Images:
    from extract.model.preprocess import NetworkInput, prepared_array
    from extract.shards.loading import Decoder

    if isinstance(first, int):
        return prepared_array(preprocessing, _archive(settings)["train"][0].rows(0, first))
    decoder = Decoder(first, preprocessing)
    items = [decoder[row] for row in range(len(first))]
    found = [item for item in items if not isinstance(item, UserError)]
    return found or [NetworkInput(np.zeros((*preprocessing.size, 3), dtype=np.uint8))]


# A process keeps what the next task needs, too.
@functools.lru_cache(maxsize=1)
def _backbone(settings: RunSettings) -> Backbone:
    from data.common.memory import keep_pages
    from extract.model.from_spec import backbone_of_spec

    if settings.device == "cpu":
        keep_pages()
    if settings.code is not None and settings.code not in sys.path:
        sys.path.append(settings.code)
    # What the coordinator was told by its user, this worker is told.
    return backbone_of_spec(json.loads(settings.spec), settings.weights, trusted=True)


@functools.lru_cache(maxsize=1)
def _embedder(settings: RunSettings, plan: Plan) -> Embedder:
    from extract.engines.device import choose_device
    from extract.engines.embed import Embedder

    precision = json.loads(settings.spec)["precision"]
    device = choose_device(settings.device)
    backbone = _backbone(settings)
    if plan.features:
        backbone = backbone.giving(choices_of(plan.features))
    return Embedder(backbone, device, precision, plan.engine, plan.batch_size)


@functools.lru_cache(maxsize=1)
def _archive(settings: RunSettings) -> dict[str, tuple[ArrayImages, Sequence[str]]]:
    """Read the dataset, and make sure that it is the one that the coordinator has read."""
    archive = settings.archive
    assert archive is not None
    dataset = load_dataset(
        archive.dataset,
        data_dir=Path(archive.data_dir),
        limit=archive.limit,
        data_url=archive.data_url,
        data_sha256=archive.data_sha256,
        class_names_file=None
        if archive.class_names_file is None
        else Path(archive.class_names_file),
        merge_classes=archive.merge_classes,
        drop_class=archive.drop_class,
    )
    if dataset.digest != json.loads(settings.spec)["dataset"]["digest"]:
        raise UserError(
            f"the worker {worker_name()} has other images of {archive.dataset} in "
            f"{archive.data_dir}; --data-dir must hold the same archive on every machine"
        )
    found: dict[str, tuple[ArrayImages, Sequence[str]]] = {}
    for name, split in dataset.splits.items():
        assert isinstance(split.images, ArrayImages)
        found[name] = (split.images, split.ids)
    return found
