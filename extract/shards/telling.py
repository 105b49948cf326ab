"""What a run says of its stores: before it computes, and when they are made."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from data.common.cli import log
from data.common.memory import peak_memory_mb
from data.shards import unread_rotations
from extract import request as requests
from extract.shards.job import Job, Output, choose_plan, cut_for
from extract.shards.plan import Shard, cut, read_plan

BYTES = {"float32": 4, "float16": 2}
# Of the images whose rotation could not be read.
IMAGES_NAMED = 20


def log_dry_run(job: Job, output: Output) -> None:
    """Say what a run would do for one of its stores: ``--dry-run``."""
    alone = job.only([output])
    plan = read_plan(output.folder)
    if plan is None and output.taken is not None:
        plan = cut_for(job, output.taken.plan)
    plan = plan or choose_plan(job, measured=False)
    shards = cut(output.folder, alone.sizes, plan.shard_rows)
    done = sum(shard.read(output.key) is not None for shard in shards)
    sizes = {name: len(split) for name, split in job.dataset.splits.items()}
    rows, width = sum(sizes.values()), width_of(job, output)
    size = rows * width * BYTES[output.options.store_dtype]
    log(json.dumps(output.spec, indent=2))
    log(f"key    {output.key}")
    log(f"path   {output.path}")
    log(
        f"rows   {', '.join(f'{n:,} {name}' for name, n in sizes.items())}; {width} wide, "
        f"{output.options.store_dtype}: {size / 1e6:,.1f} MB of features"
    )
    if output.taken is not None:
        log(f"taken  {output.taken.count:,} of these rows from {output.taken.store.path}")
    log(f"shards {done} of {len(shards)} done, in {output.folder}")
    log(f"run    {plan.device}, {plan.engine}, batches of {plan.batch_size}")


def width_of(job: Job, output: Output) -> int:
    """Say how wide the rows of a store are."""
    columns = job.backbone.columns(output.choice)
    return int(columns.stop - columns.start)


def unread_of(job: Job, output: Output, shards: Sequence[Shard]) -> dict[str, Any]:
    """Count and name the images whose rotation could not be read; nothing where there are none."""
    found = [
        f"{shard.split}/{job.splits[shard.split].ids[row]}"
        for shard in shards
        for row in unread_rotations(shard.path)
        if shard.start <= row < shard.stop
    ]
    if output.taken is not None:
        found += output.taken.unread_rotations(job.dataset)
    if not found:
        return {}
    return {"unread_rotations": {"count": len(found), "first": found[:IMAGES_NAMED]}}


def taken_over(output: Output) -> dict[str, Any]:
    """Say how many rows another store gave, and which."""
    if output.taken is None:
        return {}
    store = output.taken.store
    count = output.taken.count
    return {"taken_over": {"rows": count, "store": store.path.name, "key": store.key}}


def summarise(job: Job, output: Output, provenance: dict[str, Any]) -> None:
    """Say what was made, and at what cost."""
    taken = 0 if output.taken is None else output.taken.count
    rows = sum(job.sizes.values()) + taken - len(job.skipped)
    rate = provenance["images_per_second"]
    speed = f"{rate:,.0f} images/s, " if rate else ""
    peak = peak_memory_mb()
    memory = "" if peak is None else f", peak memory {peak:,.0f} MB"
    together = provenance.get("features", "").split()
    which = f"{output.choice.word}: " if len(together) > 1 else ""
    log(
        f"{which}{rows:,} rows, {width_of(job, output)} wide, {output.options.store_dtype}, "
        f"{job.device.precision}; {speed}{provenance['seconds']:,.1f} s{memory}, "
        f"file {output.path.stat().st_size / 1e6:,.1f} MB"
    )
    if output.taken is not None:
        log(
            f"{taken:,} of these rows were taken over from {output.taken.store.path}, which has "
            f"the same images; {rows - taken:,} were embedded"
        )
    if job.skipped:
        what = "image" if len(job.skipped) == 1 else "images"
        log(f"{len(job.skipped)} undecodable {what} left out; the provenance names them")
    unread = requests.unread_rotations_sentence(provenance)
    if unread:
        log(unread)
