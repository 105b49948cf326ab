"""The coordinator of a run on a cluster: it hands out shards, and reads every finished shard again.

The shards, the plan and the work folder are those of a run in one process, so either can go on
where the other stopped, and on a CPU both write the same bits. Workers read images and write
shards themselves, on a disk that all machines share; the coordinator sends them paths, verifies
each shard that they report, and alone joins the store.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from data.common.cli import log, progress
from data.common.clusters import check_installed
from data.common.errors import UserError
from data.format.spec import canonical_json
from data.images.arrays import EncodedImages
from extract.cluster.crew import Crew, WorkersDiedError
from extract.cluster.messages import Archive, Outcome, RunSettings, ShardTask, Target
from extract.cluster.worker import choose_here, embed_shard, look
from extract.engines.device import OutOfMemoryError
from extract.engines.place import Device, find_device
from extract.engines.plan import Plan
from extract.model.providers.registry import code_folder
from extract.options import Options
from extract.shards.fill import Watch, interrupted, note_skipped, unfinished
from extract.shards.job import N_FIRST, Job, cut_for
from extract.shards.plan import Missing

# Tasks that wait at each worker, so that none is idle between two.
AHEAD = 2
# How often a shard is handed out again whose file is not what its receipt says.
LOST = 2
# Network file systems may show a new file late.
APPEAR_SECONDS = 5.0


@dataclass
class Done:
    """What a run on a cluster did."""

    computed: int = 0  # images that were embedded now
    seconds: float = 0.0
    workers: set[str] = field(default_factory=set)
    devices: set[str] = field(default_factory=set)


def find_workers_device(options: Options, crew: Crew) -> Device:
    """Find out where the network will run."""
    asked = (options.device, options.precision, options.engine)
    if crew.local:
        return find_device(*asked)
    try:
        found = crew.call(look, *asked, on_gpu=_wants_gpu(options, crew))
    except ImportError as error:
        raise UserError(
            f"the workers at {crew.address} cannot run Icebox ({error}); install this project "
            "there, or start them in its folder"
        ) from error
    if isinstance(found, str):
        raise UserError(found)
    return found


def _wants_gpu(options: Options, crew: Crew) -> bool:
    return options.device == "cuda" or (options.device == "auto" and crew.has_gpus())


def choose_on_worker(job: Job, crew: Crew) -> Plan:
    """Choose engine and batch size by measuring on a worker that is not on this machine."""
    log("a worker chooses the engine and the batch size")
    images, count = job.dataset.train.images, min(N_FIRST, job.sizes["train"])
    found = crew.call(
        choose_here,
        settings_of(job),
        images.take(np.arange(count)).to_send() if isinstance(images, EncodedImages) else count,
        job.options.engine,
        job.options.compile != "off",
        job.options.batch_size,
        sum(job.sizes.values()),
        on_gpu=job.device.kind == "cuda",
    )
    if isinstance(found, str):
        raise UserError(found)
    device = job.device  # the run is on all workers that are like this one
    return cut_for(
        job, replace(found, device=device.name, threads=device.threads, torch=device.torch)
    )


def settings_of(job: Job) -> RunSettings:
    """Put together what all tasks share."""
    options, source = job.options, job.backbone.source
    in_files = isinstance(job.dataset.train.images, EncodedImages)
    return RunSettings(
        folder=str(job.folder.resolve()),
        key=job.key,
        spec=canonical_json(job.spec),
        weights=str(source.path) if source.source == "file" else None,
        device=job.device.kind,
        skip_bad_images=options.skip_bad_images,
        feature=job.outputs[0].choice.word,
        taken=job.outputs[0].taken_digest,
        others=tuple(
            Target(str(o.folder.resolve()), o.key, o.choice.word, o.taken_digest)
            for o in job.outputs[1:]
        ),
        archive=None
        if in_files
        else Archive(
            options.dataset,
            str(options.data_dir.resolve()),
            options.limit,
            options.data_url,
            options.data_sha256,
            None if options.class_names_file is None else str(options.class_names_file.resolve()),
            options.merge_classes,
            options.drop_class,
        ),
        code=code_folder(options.model),
    )


def fill(job: Job, plan: Plan, crew: Crew) -> Done:
    """Have every shard computed that is not there yet."""
    missing, kept = unfinished(job, plan)
    if not missing:
        return Done()
    filling = _Filling(job, plan, crew, missing, kept)
    try:
        return filling.run()
    except KeyboardInterrupt as error:
        total = sum(job.sizes.values())
        raise interrupted([job], kept + filling.done.computed, total) from error


class _Filling:
    """The state of `fill`."""

    def __init__(self, job: Job, plan: Plan, crew: Crew, missing: list[Missing], kept: int) -> None:
        self.job, self.plan, self.crew = job, plan, crew
        self.done = Done()
        self.settings = settings_of(job)
        self.queue = deque(missing)
        self.running: dict[Any, Missing] = {}
        self.lost: dict[Missing, int] = {}
        self.kept = kept
        self.too_large: OutOfMemoryError | None = None

    def run(self) -> Done:
        job, crew = self.job, self.crew
        threads = None
        if crew.local:
            workers = min(job.options.jobs, len(self.queue))
            threads = max(1, job.device.threads // max(1, job.device.count or workers))
            crew.start(workers, min(job.device.count, len(self.queue)))
        total = sum(job.sizes.values())
        watch = Watch(total, self.kept, job.device.kind, job.options.model)
        try:
            with progress(total, "embedding", "img", initial=self.kept) as bar:
                while self.running or (self.queue and self.too_large is None):
                    self._hand_out(threads)
                    for handle in crew.wait(self.running):
                        shard = self.running.pop(handle)
                        if not self._take(shard, handle):
                            continue
                        bar.update(shard.stop - shard.start)
                        for line in watch.update(shard.stop - shard.start):
                            bar.write(line, file=sys.stderr)
        except BaseException:
            crew.close(self.running)
            raise
        if self.too_large is not None:
            raise self.too_large
        self.done.seconds = watch.seconds
        if len(self.done.devices) > 1:
            log(
                f"the workers are not alike ({', '.join(sorted(self.done.devices))}): rows agree "
                "to rounding only"
            )
        return self.done

    def _hand_out(self, threads: int | None) -> None:
        window = AHEAD * self.crew.width()
        on_gpu = self.job.device.kind == "cuda"
        while self.queue and self.too_large is None and len(self.running) < window:
            shard = self.queue.popleft()
            task = _task(self.job, self.settings, self.plan, shard, threads)
            self.running[self.crew.submit(embed_shard, task, on_gpu=on_gpu)] = shard

    def _take(self, shard: Missing, handle: Any) -> bool:
        """Take a result; False where there is none yet, or a batch was too large."""
        try:
            outcome: Outcome = self.crew.result(handle)
        except WorkersDiedError as error:
            raise UserError(
                f"rows {shard.start} to {shard.stop} of {shard.split}: {error}; if memory is "
                "short, give a smaller --batch-size or fewer --jobs. What is finished is kept: "
                "run the same command again"
            ) from error
        if outcome.out_of_memory:
            # No shard of this plan may be written any more when the next one begins, so the run
            # ends only after what is running has ended.
            self.too_large = OutOfMemoryError(outcome.problem)
            return False
        if outcome.problem is not None:
            raise UserError(outcome.problem)
        ok = self._verified(shard, outcome)
        if ok is None:
            self._lose(shard, outcome)
            return False
        note_skipped(self.job, shard, ok)
        self.done.computed += outcome.computed
        self.done.workers.add(outcome.worker)
        self.done.devices.add(outcome.device)
        return True

    def _lose(self, shard: Missing, outcome: Outcome) -> None:
        """Hand a shard out again whose file is not what its receipt says."""
        self.lost[shard] = self.lost.get(shard, 0) + 1
        if self.lost[shard] > LOST:
            raise UserError(
                f"{shard.shards[0][1].path}: the worker {outcome.worker} says that it wrote it, "
                "and it is not there or not whole; --features-dir must be a folder that this "
                "machine and every worker see under the same name"
            )
        self.queue.append(shard)

    def _verified(self, shard: Missing, outcome: Outcome) -> npt.NDArray[np.bool_] | None:
        """Read the shards from the first byte to the last, and compare them with their receipts."""
        patience = time.monotonic() + APPEAR_SECONDS
        ok = None
        for (number, one), sha256 in zip(shard.shards, outcome.sha256, strict=True):
            while not one.path.exists() and time.monotonic() < patience:
                time.sleep(0.2)
            found = one.check(self.job.outputs[number].key)
            if found is None or found[0].sha256 != sha256:
                return None
            ok = found[1]
        return ok


def _task(
    job: Job, settings: RunSettings, plan: Plan, shard: Missing, threads: int | None
) -> ShardTask:
    images = job.splits[shard.split].images
    stores = tuple(number for number, _ in shard.shards)
    task = ShardTask(settings, plan, shard.split, shard.start, shard.stop, threads, stores=stores)
    if isinstance(images, EncodedImages):
        return replace(task, images=images.take(np.arange(shard.start, shard.stop)).to_send())
    return task


@contextmanager
def open_crew(options: Options) -> Iterator[Crew | None]:
    """Connect to the cluster that the options name, or prepare for one on this machine."""
    if options.cluster == "none":
        yield None
        return
    check_installed(options.cluster)
    crew: Crew
    if options.cluster == "dask":
        from extract.cluster.dask import DaskCrew

        crew = DaskCrew(options.scheduler)
    else:
        from extract.cluster.ray import RayCrew

        crew = RayCrew(options.address)
    try:
        if not crew.local:
            log(f"connecting to {crew.address}")
            crew.connect()
        yield crew
    finally:
        crew.close()
