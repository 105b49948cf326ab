"""The stores of a run that are missing: passes over the images, shards, stores joined of them."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from errno import ENOENT
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.common.cli import log
from data.common.errors import UserError
from data.common.memory import peak_memory_mb
from data.format.records import SplitSource
from data.images.arrays import EncodedImages
from data.images.decode import decoder
from data.reading import read_header
from data.writing import Block, join
from extract import request as requests
from extract.cluster.crew import Crew
from extract.engines.plan import Plan
from extract.model.bundled import CHOICE
from extract.model.providers.registry import versions_of
from extract.shards.job import (
    Job,
    Output,
    choose_plan,
    no_memory,
)
from extract.shards.plan import cut
from extract.shards.telling import summarise, taken_over, unread_of
from extract.shards.together import begin, passes_of, side_by_side

if TYPE_CHECKING:
    from extract.engines.embed import Embedder

# How often the work of a run may be swept away by others before it gives up.
LOST_RACES = 5


def compute_among_others(jobs: Sequence[Job], crew: Crew | None) -> None:
    """Compute, also where a lock is granted to everyone, as some network file systems do.

    Then another process may finish the same store first, or empty the work folder to start over.
    Every file is whole all the same; what is left to do is to notice, and to go on.
    """
    before = {output.key: _identity(output.path) for job in jobs for output in job.outputs}
    done: set[str] = set()  # keys of the stores that this process has made
    for _ in range(LOST_RACES):
        try:
            _compute(jobs, crew, done)
            return
        except (UserError, FileNotFoundError) as error:
            left, finished = [], False
            for job in jobs:
                mine = [output for output in job.outputs if output.key not in done]
                theirs = [o for o in mine if _identity(o.path) not in (None, before[o.key])]
                for output in theirs:
                    log(f"another process has finished {output.path}")
                    # It has swept this folder, but not what was written here in the meantime.
                    shutil.rmtree(output.folder, ignore_errors=True)
                    announce_found(output)
                    finished = True
                mine = [output for output in mine if output not in theirs]
                left += [job.only(mine)] if mine else []
            jobs = left
            if not jobs:
                return
            if not finished:
                _check_emptied(jobs, error)
    raise UserError(f"other processes keep emptying {jobs[0].folder}; run one of them at a time")


def _check_emptied(jobs: Sequence[Job], error: Exception) -> None:
    """Raise an error that is not of another process that has emptied a work folder."""
    missing = error if isinstance(error, FileNotFoundError) else error.__cause__
    if not isinstance(missing, FileNotFoundError):
        raise error
    parents = Path(missing.filename or "").parents
    emptied = [o.folder for job in jobs for o in job.outputs if o.folder in parents]
    if not emptied:
        raise error
    log(f"another process has emptied {emptied[0]}; going on with what is there")


def _identity(path: Path) -> tuple[int, int] | None:
    """Tell a file from another of the same name; None where there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


@dataclass
class Cost:
    """What a pass took: images that were computed now, in how many seconds, and by whom."""

    computed: float = 0.0
    seconds: float = 0.0
    by: dict[str, Any] = field(default_factory=dict)


def _compute(jobs: Sequence[Job], crew: Crew | None, done: set[str]) -> None:
    """Compute the missing shards, restarting with smaller batches when memory runs out."""
    from extract.engines.device import OutOfMemoryError

    started = datetime.now(timezone.utc)
    clock = time.perf_counter()
    passes = [one for job in jobs for one in passes_of(job, lambda part: _new_plan(part, crew))]
    costs = [Cost() for _ in passes]
    while True:
        try:
            _fill(passes, crew, costs)
            break
        except OutOfMemoryError as error:
            number = next((i for i, (job, _) in enumerate(passes) if job is error.job), 0)
            job, plan = passes[number]
            fixed = job.options.batch_size is not None or job.taken is not None
            if fixed or plan.batch_size == 1:
                raise no_memory(plan.batch_size, plan.device) from error
            # Last bits depend on the batch size, so shards of two sizes are not mixed.
            plan = plan.halved()
            log(f"out of memory; starting over with batches of {plan.batch_size}")
            begin(job.outputs, plan)
            passes[number] = job, plan
    finished = datetime.now(timezone.utc)
    seconds = time.perf_counter() - clock
    for (job, plan), cost in zip(passes, costs, strict=True):
        provenance = _provenance(job, plan, started, finished, seconds) | cost.by
        rate = round(cost.computed / cost.seconds, 2) if cost.computed else None
        for output in job.outputs:
            own = provenance | {"images_per_second": rate} | taken_over(output)
            _join(job, output, plan, own)
            shutil.rmtree(output.folder, ignore_errors=True)
            done.add(output.key)
            summarise(job, output, own)


def _new_plan(job: Job, crew: Crew | None) -> Plan:
    """Choose where the workers are."""
    if crew is None or crew.local:
        return choose_plan(job)
    from extract.cluster.coordinator import choose_on_worker

    return choose_on_worker(job, crew)


def _fill(passes: Sequence[tuple[Job, Plan]], crew: Crew | None, costs: Sequence[Cost]) -> None:
    """Compute the missing shards, here or on a cluster; note what it took."""
    from extract.engines.device import OutOfMemoryError

    for numbers in side_by_side(passes):
        if crew is None:
            from extract.engines.torch_settings import using_threads

            together = [passes[number] for number in numbers]
            with using_threads(together[0][1].threads):
                computed, seconds = _fill_here(together)
            for number in numbers:
                costs[number].computed += computed / len(numbers)
                costs[number].seconds += seconds
            continue
        from extract.cluster import coordinator as cluster

        for number in numbers:
            job, plan = passes[number]
            try:
                done = cluster.fill(job, plan, crew)
            except OutOfMemoryError as error:
                error.job = job
                raise
            costs[number].computed += done.computed
            costs[number].seconds += done.seconds
            by = {"kind": crew.kind, "workers": len(done.workers), "devices": sorted(done.devices)}
            costs[number].by = {"cluster": by}


def _fill_here(passes: Sequence[tuple[Job, Plan]]) -> tuple[int, float]:
    from extract.shards import fill

    [first, *others] = [fill.Pass(job, plan, _embedder(job, plan)) for job, plan in passes]
    return fill.fill_together([first, *others]) if others else fill.fill(*first)


def _embedder(job: Job, plan: Plan) -> Embedder:
    """Prepare the network of a pass."""
    from extract.engines.device import EngineError
    from extract.engines.embed import Embedder

    place = job.device
    try:
        return Embedder(
            job.backbone, place.torch_device, place.precision, plan.engine, plan.batch_size
        )
    except EngineError as error:  # it has run before, here or when it was measured
        raise UserError(
            f"the engine {plan.engine} does not run any more: {error}; give another, such as "
            "--engine torch, or mend what has changed since and run the same command again"
        ) from error


def _provenance(
    job: Job, plan: Plan, started: datetime, finished: datetime, seconds: float
) -> dict[str, Any]:
    from extract.model.backbone import library_versions

    source = job.backbone.source
    return {
        **library_versions(),
        **versions_of(job.options.model),
        "device": plan.device,
        "batch_size": plan.batch_size,
        "engine": plan.engine,
        **({} if plan.openvino is None else {"openvino": plan.openvino}),
        "threads": plan.threads,
        "started": started.isoformat(timespec="seconds"),
        "finished": finished.isoformat(timespec="seconds"),
        "seconds": round(seconds, 3),
        "peak_memory_mb": peak_memory_mb(),
        "dataset": job.dataset.origin,
        **({} if len(job.backbone.choices) == 1 else {"features": job.backbone.features}),
        "skipped_images": [],
        **_decoding(job),
        # Of a package only its version is worth keeping, not where it is installed.
        "weights_file": None
        if source.path is None or source.source == CHOICE
        else str(source.path),
        "weights_origin": source.origin,
        **({} if source.license is None else {"weights_license": source.license}),
    }


def _decoding(job: Job) -> dict[str, Any]:
    """Say what decoded the images, and up to which size, where they are files."""
    if not isinstance(job.dataset.train.images, EncodedImages):
        return {}
    return {"decoder": decoder(), "max_pixels": job.options.max_pixels}


def _join(job: Job, output: Output, plan: Plan, provenance: dict[str, Any]) -> None:
    """Put the shards together into the store, which then appears under its final name at once."""
    shards = cut(output.folder, job.sizes, plan.shard_rows)

    def blocks(name: str) -> Iterator[Block]:
        return computed(name) if output.taken is None else output.taken.mixed(name, computed(name))

    def computed(name: str) -> Iterator[Block]:
        for shard in shards:
            if shard.split != name:
                continue
            read = shard.read(output.key)
            if read is None:
                cause = None if shard.path.exists() else FileNotFoundError(ENOENT, "", shard.path)
                raise UserError(
                    f"{shard.path} was damaged or removed while the store was being joined; "
                    "run the same command again"
                ) from cause
            yield read

    provenance["skipped_images"] = list(job.skipped)
    provenance |= unread_of(job, output, shards)
    output.path.parent.mkdir(parents=True, exist_ok=True)
    report = join(
        output.path,
        spec=output.spec,
        request=output.asked.to_json(),
        provenance=provenance,
        class_names=list(job.dataset.class_names),
        splits={
            name: SplitSource(
                split.labels,
                split.ids,
                blocks(name),
                groups=split.groups,
                weights=split.weights,
                image_sha256=split.image_sha256,
            )
            for name, split in job.dataset.splits.items()
        },
        group_names=job.dataset.group_names,
        shards=None
        if output.options.join == "copy"
        else {
            name: [(one.path, one.start, one.stop) for one in shards if one.split == name]
            for name in job.splits
        },
    )
    for text in report.odd:
        log(f"warning: {text}")


def announce_found(output: Output) -> None:
    """Say that a store is there; refuse another's under its name."""
    header = read_header(output.path)
    if header.key != output.key:
        raise UserError(
            f"{output.path} has the right name but other settings (key {header.key[:12]}..., "
            f"expected {output.key[:12]}...); move it away"
        )
    requests.announce(header, output.options)
