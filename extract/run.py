"""Stage one: options in, a finished store out. Shards, resume, join.

The order of a run: is there a finished store for this request (`request.find`, no torch)? Can
the features folder be written? Is the dataset sound? Then the backbone is loaded and the full
``spec`` resolved; under the key's lock the missing shards are computed and joined.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from errno import ENOENT
from pathlib import Path
from typing import Any

from data.common.cli import log
from data.common.errors import UserError
from data.common.files import check_writable, clean_leftovers, lock
from data.common.memory import peak_memory_mb
from data.format.records import SplitSource
from data.format.spec import work_dir
from data.images.arrays import EncodedImages
from data.images.decode import decoder
from data.reading import read_header
from data.shards import unread_rotations
from data.writing import Block, join
from extract import request as requests
from extract.cluster.coordinator import open_crew
from extract.cluster.crew import Crew
from extract.engines.plan import Plan
from extract.model.bundled import CHOICE
from extract.model.providers.registry import check_name, versions_of
from extract.options import Options
from extract.shards.job import Job, choose_plan, no_memory, prepare, read_dataset
from extract.shards.loading import death_as_user_error
from extract.shards.plan import Shard, cut, read_plan, resume_plan, start_over

BYTES = {"float32": 4, "float16": 2}
# How often the work of a run may be swept away by others before it gives up.
LOST_RACES = 5
# Of the images whose rotation could not be read.
IMAGES_NAMED = 20


def extract(options: Options) -> Path | None:
    """Embed a dataset with a frozen backbone, or find that it has been done.

    Parameters
    ----------
    options : Options
        As given on the command line.

    Returns
    -------
    Path or None
        The finished store; None for a dry run that found none.

    Raises
    ------
    UserError
        For whatever is wrong with the options, the data, the weights or the disk.
    KeyboardInterrupt
        On Ctrl-C, with a message of how much is kept.
    """
    asked = requests.Request(options)
    found = None if options.force else requests.find(options, asked)
    if found is not None:
        requests.announce(found, options)
        if not options.dry_run:
            _tidy(options, found.key)
        return found.path
    if not options.dry_run:
        clean_leftovers(check_writable(options.features_dir))
    # A name that is mistyped should not cost a download of the dataset.
    check_name(options.model, options.weights)
    with open_crew(options) as crew:
        return _extract(options, asked, crew)


def _extract(options: Options, before: requests.Request, crew: Crew | None) -> Path | None:
    """Do what `extract` does where no store was found without a model."""
    device = None
    if crew is not None:
        from extract.cluster.coordinator import find_workers_device

        device = find_workers_device(options, crew)
    dataset = read_dataset(options)
    # Again, because the dataset may have been downloaded just now.
    asked = requests.Request(options)
    asked.check_unchanged("dataset", before)
    asked.know("dataset", dataset.origin.get("sha256"))
    # From here on workers decode, and torch tells of one that dies wherever this process is.
    with death_as_user_error():
        job = prepare(options, asked, dataset, device)
        try:
            return _made(job, crew)
        finally:
            job.close()


def _made(job: Job, crew: Crew | None) -> Path | None:
    """Find the store under its key, or compute it."""
    options, asked = job.options, job.asked
    asked.sha256("weights")  # now, and not when the run has ended
    asked.check_unchanged("weights", requests.Request(options))
    if job.path.exists() and not options.force:
        return _found(job, options)
    if options.dry_run:
        _log_dry_run(job)
        return None
    with lock(job.folder.with_suffix(".lock"), on_wait=lambda: _say_waiting(job)):
        # Somebody else may have finished it while this process waited.
        if job.path.exists() and not options.force:
            return _found(job, options)
        # Beside the folder, since starting over with another plan empties that.
        forced = job.folder.with_suffix(".forced")
        if options.force and not forced.exists():
            shutil.rmtree(job.folder, ignore_errors=True)
            job.folder.mkdir(parents=True)
            forced.touch()
        path = _compute_among_others(job, crew)
        forced.unlink(missing_ok=True)
        return path


def _tidy(options: Options, key: str) -> None:
    """Remove what a run that was killed after it had finished the store could not."""
    folder = work_dir(options.features_dir, key)
    forced = folder.with_suffix(".forced")  # an interrupted --force: its shards are wanted
    locked = folder.with_suffix(".lock")
    if (folder.exists() or locked.exists()) and not forced.exists():

        def leave() -> None:
            raise _InUseError

        with contextlib.suppress(_InUseError), lock(locked, on_wait=leave):
            if not forced.exists():
                shutil.rmtree(folder, ignore_errors=True)


class _InUseError(Exception):
    """Somebody else is at work."""


def _compute_among_others(job: Job, crew: Crew | None) -> Path:
    """Compute, also where a lock is granted to everyone, as some network file systems do.

    Then another process may finish the same store first, or empty the work folder to start over.
    Every file is whole all the same; what is left to do is to notice, and to go on.
    """
    before = _identity(job.path)
    for _ in range(LOST_RACES):
        try:
            return _compute(job, crew)
        except (UserError, FileNotFoundError) as error:
            if _identity(job.path) not in (None, before):
                log(f"another process has finished {job.path}")
                # It has swept this folder, but not what was written here in the meantime.
                shutil.rmtree(job.folder, ignore_errors=True)
                return _found(job, job.options)
            missing = error if isinstance(error, FileNotFoundError) else error.__cause__
            if not isinstance(missing, FileNotFoundError):
                raise
            if job.folder not in Path(missing.filename or "").parents:
                raise
            log(f"another process has emptied {job.folder}; going on with what is there")
    raise UserError(f"other processes keep emptying {job.folder}; run one of them at a time")


def _identity(path: Path) -> tuple[int, int] | None:
    """Tell a file from another of the same name; None where there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


def _found(job: Job, options: Options) -> Path:
    header = read_header(job.path)
    if header.key != job.key:
        raise UserError(
            f"{job.path} has the right name but other settings (key {header.key[:12]}..., "
            f"expected {job.key[:12]}...); move it away"
        )
    requests.announce(header, options)
    return job.path


def _say_waiting(job: Job) -> None:
    log(f"another process is computing {job.path}; waiting for it")


def _log_dry_run(job: Job) -> None:
    """Say what a run would do: ``--dry-run``."""
    plan = read_plan(job.folder) or choose_plan(job, measured=False)
    shards = cut(job.folder, job.sizes, plan.shard_rows)
    done = sum(shard.read(job.key) is not None for shard in shards)
    sizes = {name: len(split) for name, split in job.dataset.splits.items()}
    rows, width = sum(sizes.values()), job.backbone.width
    size = rows * width * BYTES[job.options.store_dtype]
    log(json.dumps(job.spec, indent=2))
    log(f"key    {job.key}")
    log(f"path   {job.path}")
    log(
        f"rows   {', '.join(f'{n:,} {name}' for name, n in sizes.items())}; {width} wide, "
        f"{job.options.store_dtype}: {size / 1e6:,.1f} MB of features"
    )
    if job.taken is not None:
        log(f"taken  {job.taken.count:,} of these rows from {job.taken.store.path}")
    log(f"shards {done} of {len(shards)} done, in {job.folder}")
    log(f"run    {plan.device}, {plan.engine}, batches of {plan.batch_size}")


def _compute(job: Job, crew: Crew | None) -> Path:
    """Compute the missing shards, restarting with smaller batches when memory runs out."""
    from extract.engines.device import OutOfMemoryError

    started = datetime.now(timezone.utc)
    clock = time.perf_counter()
    taken = None if job.taken is None else job.taken.digest
    plan = resume_plan(job.folder, job.device, job.options, lambda: _new_plan(job, crew), taken)
    computed, seconds, by = 0, 0.0, dict[str, Any]()
    while sum(job.sizes.values()):  # unless another store has all the images
        try:
            computed, seconds, by = _fill(job, plan, crew)
            break
        except OutOfMemoryError as error:
            fixed = job.options.batch_size is not None or job.taken is not None
            if fixed or plan.batch_size == 1:
                raise no_memory(plan.batch_size, plan.device) from error
            # Last bits depend on the batch size, so shards of two sizes are not mixed.
            plan = plan.halved()
            log(f"out of memory; starting over with batches of {plan.batch_size}")
            start_over(job.folder, plan)
    finished = datetime.now(timezone.utc)
    provenance = _provenance(job, plan, started, finished, time.perf_counter() - clock) | by
    provenance["images_per_second"] = round(computed / seconds, 2) if computed else None
    _join(job, plan, provenance)
    shutil.rmtree(job.folder, ignore_errors=True)
    _summarise(job, provenance)
    return job.path


def _new_plan(job: Job, crew: Crew | None) -> Plan:
    """Choose where the workers are."""
    if crew is None or crew.local or job.taken is not None:
        return choose_plan(job)
    from extract.cluster.coordinator import choose_on_worker

    return choose_on_worker(job, crew)


def _fill(job: Job, plan: Plan, crew: Crew | None) -> tuple[int, float, dict[str, Any]]:
    """Compute the missing shards, here or on a cluster; return what the provenance says of it."""
    if crew is None:
        from extract.engines.torch_settings import using_threads

        with using_threads(plan.threads):
            return *_fill_here(job, plan), {}
    from extract.cluster import coordinator as cluster

    done = cluster.fill(job, plan, crew)
    by = {"kind": crew.kind, "workers": len(done.workers), "devices": sorted(done.devices)}
    return done.computed, done.seconds, {"cluster": by}


def _fill_here(job: Job, plan: Plan) -> tuple[int, float]:
    from extract.engines.device import EngineError
    from extract.engines.embed import Embedder
    from extract.shards import fill

    try:
        embedder = Embedder(
            job.backbone,
            job.device.torch_device,
            job.device.precision,
            plan.engine,
            plan.batch_size,
        )
    except EngineError as error:  # it has run before, here or when it was measured
        raise UserError(
            f"the engine {plan.engine} does not run any more: {error}; give another, such as "
            "--engine torch, or mend what has changed since and run the same command again"
        ) from error
    return fill.fill(job, plan, embedder)


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
        **_taken_over(job),
        "skipped_images": [],
        **_decoding(job),
        # Of a package only its version is worth keeping, not where it is installed.
        "weights_file": None
        if source.path is None or source.source == CHOICE
        else str(source.path),
        "weights_origin": source.origin,
        **({} if source.license is None else {"weights_license": source.license}),
    }


def _taken_over(job: Job) -> dict[str, Any]:
    """Say how many rows another store gave, and which."""
    if job.taken is None:
        return {}
    store = job.taken.store
    return {"taken_over": {"rows": job.taken.count, "store": store.path.name, "key": store.key}}


def _decoding(job: Job) -> dict[str, Any]:
    """Say what decoded the images, and up to which size, where they are files."""
    if not isinstance(job.dataset.train.images, EncodedImages):
        return {}
    return {"decoder": decoder(), "max_pixels": job.options.max_pixels}


def _join(job: Job, plan: Plan, provenance: dict[str, Any]) -> None:
    """Put the shards together into the store, which then appears under its final name at once."""
    shards = cut(job.folder, job.sizes, plan.shard_rows)

    def blocks(name: str) -> Iterator[Block]:
        return computed(name) if job.taken is None else job.taken.mixed(name, computed(name))

    def computed(name: str) -> Iterator[Block]:
        for shard in shards:
            if shard.split != name:
                continue
            read = shard.read(job.key)
            if read is None:
                cause = None if shard.path.exists() else FileNotFoundError(ENOENT, "", shard.path)
                raise UserError(
                    f"{shard.path} was damaged or removed while the store was being joined; "
                    "run the same command again"
                ) from cause
            yield read

    provenance["skipped_images"] = list(job.skipped)
    provenance |= _unread_rotations(job, shards)
    job.path.parent.mkdir(parents=True, exist_ok=True)
    report = join(
        job.path,
        spec=job.spec,
        request=job.asked.to_json(),
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
        if job.options.join == "copy"
        else {
            name: [(one.path, one.start, one.stop) for one in shards if one.split == name]
            for name in job.splits
        },
    )
    for text in report.odd:
        log(f"warning: {text}")


def _unread_rotations(job: Job, shards: list[Shard]) -> dict[str, Any]:
    """Count and name the images whose rotation could not be read; nothing where there are none."""
    found = [
        f"{shard.split}/{job.splits[shard.split].ids[row]}"
        for shard in shards
        for row in unread_rotations(shard.path)
        if shard.start <= row < shard.stop
    ]
    if job.taken is not None:
        found += job.taken.unread_rotations(job.dataset)
    if not found:
        return {}
    return {"unread_rotations": {"count": len(found), "first": found[:IMAGES_NAMED]}}


def _summarise(job: Job, provenance: dict[str, Any]) -> None:
    """Say what was made, and at what cost."""
    taken = 0 if job.taken is None else job.taken.count
    rows = sum(job.sizes.values()) + taken - len(job.skipped)
    rate = provenance["images_per_second"]
    speed = f"{rate:,.0f} images/s, " if rate else ""
    peak = peak_memory_mb()
    memory = "" if peak is None else f", peak memory {peak:,.0f} MB"
    log(
        f"{rows:,} rows, {job.backbone.width} wide, {job.options.store_dtype}, "
        f"{job.device.precision}; {speed}{provenance['seconds']:,.1f} s{memory}, "
        f"file {job.path.stat().st_size / 1e6:,.1f} MB"
    )
    if job.taken is not None:
        log(
            f"{taken:,} of these rows were taken over from {job.taken.store.path}, which has the "
            f"same images; {rows - taken:,} were embedded"
        )
    if job.skipped:
        what = "image" if len(job.skipped) == 1 else "images"
        log(f"{len(job.skipped)} undecodable {what} left out; the provenance names them")
    unread = requests.unread_rotations_sentence(provenance)
    if unread:
        log(unread)
