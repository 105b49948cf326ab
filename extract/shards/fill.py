"""The heart of a run: every shard that is not there yet is computed and written."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from data.common.cli import log, progress
from data.common.errors import UserError
from data.format.records import FeatureArray
from data.images.arrays import ArrayImages
from data.images.decode import BadImageError
from data.shards import write_shard
from extract.engines.device import OutOfMemoryError
from extract.engines.plan import Plan
from extract.model.names import FAST_MODEL
from extract.request import bad_images_error
from extract.shards.job import Job, decode_ahead
from extract.shards.loading import DecodedImages, SharedRows, wanted_together
from extract.shards.plan import Missing, cut
from extract.shards.stream import Batch, embed_batches, resident
from extract.shards.writer import Writer

if TYPE_CHECKING:
    from extract.engines.embed import Embedder

# When the time that a run will take is said, and which one is long.
ESTIMATE_AFTER_SECONDS = 3.0
ESTIMATE_WORTH_SECONDS = 60.0
SLOW_SECONDS = 600.0
SLOW_BATCH_SECONDS = 20.0


class Pass(NamedTuple):
    """One network's way over the images."""

    job: Job
    plan: Plan
    embedder: Embedder


@dataclass
class Progress:
    """How far all passes of a run are."""

    kept: int  # images of which every store has its row on the disk, counted once a pass
    watch: Watch
    bar: Any = None


def fill(job: Job, plan: Plan, embedder: Embedder) -> tuple[int, float]:
    """Compute every shard that is not there yet: how many images, and in how many seconds."""
    return fill_together([Pass(job, plan, embedder)])


def fill_together(passes: Sequence[Pass]) -> tuple[int, float]:
    """Do the same for several networks' inputs at once, for which each image is decoded once."""
    first = passes[0].job
    found = [unfinished(one.job, one.plan) for one in passes]
    total, kept = sum(sum(one.job.sizes.values()) for one in passes), sum(k for _, k in found)
    watch = Watch(total, kept, first.device.kind, first.options.model)
    todo = [missing for missing, _ in found]
    done = Progress(kept, watch)
    try:
        with (
            _decoded(passes, todo) as images,
            progress(total, "embedding", "img", initial=kept) as bar,
            Writer() as writer,
        ):
            done.bar = bar
            for split in first.splits:
                _fill_split(passes, todo, split, images, writer, done)
    except KeyboardInterrupt as error:
        raise interrupted([one.job for one in passes], done.kept, total) from error
    return watch.computed, watch.seconds


def _fill_split(
    passes: Sequence[Pass],
    todo: Sequence[list[Missing]],
    split: str,
    images: DecodedImages | None,
    writer: Writer,
    done: Progress,
) -> None:
    """Compute one split, each pass batch by batch, and none far ahead of the others."""
    parts = [[part for part in missing if part.split == split] for missing in todo]
    shared = None
    if images is not None:
        shared = SharedRows(images, [[range(p.start, p.stop) for p in some] for some in parts])
    running = []
    for one, some in zip(passes, parts, strict=True):
        unread: set[int] = set()
        batches = partial(_batches, one.job, images, shared, unread)
        running.append((one, unread, _embed_shards(one.job, some, one.embedder, batches, done)))
    places = dict.fromkeys(range(len(running)), 0)
    while places:
        number = min(places, key=places.__getitem__)
        one, unread, steps = running[number]
        try:
            step = next(steps, None)
        except OutOfMemoryError as error:
            error.job = one.job  # whose batches are to be smaller
            raise
        if step is None:
            del places[number]
            continue
        places[number], finished = step
        if finished is not None:
            missing, features, ok = finished
            rows = [row for row in unread if missing.start <= row < missing.stop]
            writer.put(partial(_write, one.job, missing, features, ok, rows, done))
            note_skipped(one.job, missing, ok)


def _write(
    job: Job,
    missing: Missing,
    features: npt.NDArray[np.float32],
    ok: npt.NDArray[np.bool_],
    unread_rotations: list[int],
    done: Progress,
) -> None:
    """Write the rows of each store that lacks them."""
    for number, shard in missing.shards:
        output = job.outputs[number]
        own = features[:, job.backbone.columns(output.choice)]
        write_shard(
            shard.path,
            as_stored(own, output.options.store_dtype),
            ok,
            key=output.key,
            split=shard.split,
            start=shard.start,
            ids=job.splits[shard.split].ids[shard.start : shard.stop],
            unread_rotations=unread_rotations,
        )
    done.kept += missing.stop - missing.start


def unfinished(job: Job, plan: Plan) -> tuple[list[Missing], int]:
    """Find the shards that are not there yet, and how many rows every store has."""
    missing = []
    job.skipped.clear()
    kept = 0
    every = [cut(output.folder, job.sizes, plan.shard_rows) for output in job.outputs]
    for shards in zip(*every, strict=True):
        lacking, ok = [], None
        for number, (output, shard) in enumerate(zip(job.outputs, shards, strict=True)):
            read = shard.read(output.key)
            if read is None:
                lacking.append((number, shard))
            else:
                ok = read[1]
        part = Missing(shards[0].split, shards[0].start, shards[0].stop, tuple(lacking))
        if lacking:
            missing.append(part)
        elif ok is not None:
            kept += part.stop - part.start
            note_skipped(job, part, ok)
    if kept:
        log(f"going on: {kept:,} of {sum(job.sizes.values()):,} images are done")
    return missing, kept


def interrupted(jobs: Sequence[Job], kept: int, total: int) -> KeyboardInterrupt:
    """Say how much is kept, and how to go on."""
    folders = {output.folder for job in jobs for output in job.outputs}
    where = jobs[0].folder if len(folders) == 1 else jobs[0].folder.parent
    return KeyboardInterrupt(
        f"{kept:,} of {total:,} images are kept in {where}; "
        "run the same command again to go on there"
    )


def as_stored(features: npt.NDArray[np.float32], dtype: str) -> FeatureArray:
    """Convert to the stored type; what overflows becomes infinite, which `write_shard` refuses."""
    with np.errstate(over="ignore"):
        return features if dtype == "float32" else features.astype(np.float16)


def _decoded(
    passes: Sequence[Pass], todo: Sequence[list[Missing]]
) -> AbstractContextManager[DecodedImages] | AbstractContextManager[None]:
    """Have workers decode the images of the missing shards; None for images in memory."""
    first = passes[0].job
    wanted: dict[str, list[range]] = {}
    for split in first.splits:
        readers = [[range(p.start, p.stop) for p in some if p.split == split] for some in todo]
        wanted[split] = wanted_together(readers)
    settings = tuple(dict.fromkeys(one.job.backbone.preprocessing for one in passes))
    wanted = {split: rows for split, rows in wanted.items() if rows}
    ahead = first.ahead
    if ahead is not None:
        fresh = not ahead.used and first.taken is None
        if fresh and (ahead.wanted, ahead.settings) == (wanted, settings):
            return ahead
        ahead.close()
    return decode_ahead(first.splits, settings, wanted, first.options.jobs) or nullcontext()


Finished: TypeAlias = "tuple[Missing, npt.NDArray[np.float32], npt.NDArray[np.bool_]]"


def _embed_shards(
    job: Job,
    missing: list[Missing],
    embedder: Embedder,
    batches_of: Callable[[str, list[range]], Iterator[tuple[npt.NDArray[np.bool_], Batch]]],
    done: Progress,
) -> Iterator[tuple[int, Finished | None]]:
    """Embed the missing rows of one split; say after each batch up to where, and what is done."""
    if not missing:
        return
    size = embedder.batch_size
    spans = [
        [range(start, min(start + size, part.stop)) for start in range(part.start, part.stop, size)]
        for part in missing
    ]
    images = batches_of(missing[0].split, [span for group in spans for span in group])
    batches = embed_batches(embedder, images)
    for part, group in zip(missing, spans, strict=True):
        features = np.zeros((part.stop - part.start, embedder.backbone.width), dtype=np.float32)
        ok = np.zeros(part.stop - part.start, dtype=np.bool_)
        for span in group:
            good, embedded = next(batches)
            rows = np.flatnonzero(good) + (span.start - part.start)
            features[rows] = embedded
            ok[rows] = True
            done.bar.update(len(span))
            for line in done.watch.update(len(span)):
                done.bar.write(line, file=sys.stderr)
            yield span.stop, (part, features, ok) if span.stop == part.stop else None


def _batches(
    job: Job,
    decoded: DecodedImages | None,
    shared: SharedRows | None,
    unread: set[int],
    split: str,
    spans: list[range],
) -> Iterator[tuple[npt.NDArray[np.bool_], Batch]]:
    """Give which rows of each batch could be decoded, and the images of those.

    Rows whose rotation could not be read are added to `unread`.
    """
    from extract.model.preprocess import keeps_shape, prepared_array

    images, settings = job.splits[split].images, job.backbone.preprocessing
    if isinstance(images, ArrayImages):
        raw = keeps_shape(settings, *images.array.shape[1:3])
        there = (
            resident(images.array, job.device.torch_device)
            if raw and job.device.kind == "cuda"
            else None
        )
        for span in spans:
            rows = slice(span.start, span.stop)
            if there is None:  # not of the mapped file, which torch may not write to
                batch: Batch = prepared_array(settings, images.rows(rows.start, rows.stop))
            else:
                batch = there[rows]
            yield np.ones(len(span), dtype=np.bool_), batch
        return
    assert decoded is not None and shared is not None  # images in files are decoded by workers
    number = decoded.settings.index(settings)
    for span in spans:
        items = shared.take(span)
        found = [item.at(number) for item in items]
        for row, item, image in zip(span, items, found, strict=True):
            # A file that cannot be read for another reason says nothing about the image.
            if isinstance(image, UserError) and not (
                isinstance(image, BadImageError) and job.options.skip_bad_images
            ):
                raise image
            if item.unread_rotation:
                unread.add(row)
        arrays = [image for image in found if not isinstance(image, UserError)]
        yield np.array([not isinstance(image, UserError) for image in found]), arrays


def note_skipped(job: Job, shard: Missing, ok: npt.NDArray[np.bool_]) -> None:
    """Remember the images that a shard lacks; refuse those of an earlier, more lenient run."""
    ids = job.splits[shard.split].ids
    skipped = [ids[shard.start + row] for row in np.flatnonzero(~ok)]
    if skipped and not job.options.skip_bad_images:
        raise bad_images_error(skipped, "an earlier run left them out", job.options.max_pixels)
    job.skipped.extend(skipped)


class Watch:
    """Measures the rate, and says once, after the first batches, how long the run will take."""

    def __init__(self, total: int, done: int, device: str, model: str) -> None:
        self.computed = 0
        self.seconds = 0.0
        self._left = total - done
        self._device = device
        self._model = model
        self._steady: tuple[float, int] | None = None
        self._said = False
        self._start = time.perf_counter()

    def update(self, rows: int) -> list[str]:
        """Count a finished batch."""
        self._left -= rows
        self.computed += rows
        now = time.perf_counter()
        self.seconds = now - self._start
        if self._steady is None:
            self._steady = (now, self.computed)
            # The first batch also warms up; where it took long, that hardly counts.
            if self.seconds < SLOW_BATCH_SECONDS:
                return []
            self._said = True
            return self._estimate(rows / self.seconds)
        elapsed = now - self._steady[0]
        if self._said or elapsed < ESTIMATE_AFTER_SECONDS:
            return []
        self._said = True
        return self._estimate((self.computed - self._steady[1]) / elapsed)

    def _estimate(self, rate: float) -> list[str]:
        seconds = self._left / rate
        if seconds < ESTIMATE_WORTH_SECONDS:
            return []
        lines = [
            f"about {duration(seconds)} for the {self._left:,} images left, at {rate:.3g} images/s "
            f"on this {self._device.upper()}; Ctrl-C keeps what is done"
        ]
        if self._device == "cpu" and seconds > SLOW_SECONDS and "mobilenet" not in self._model:
            lines.append(
                "on a CPU a small network is many times faster, if somewhat less accurate: "
                f"--model {FAST_MODEL}"
            )
        return lines


def duration(seconds: float) -> str:
    """Write a time span as a person would say it: '40 s', '12 min', '3.5 h'."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
