"""The heart of a run: every shard that is not there yet is computed and written."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from data.common.cli import log, progress
from data.common.errors import UserError
from data.format.records import FeatureArray
from data.images.arrays import ArrayImages
from data.images.decode import BadImageError
from data.shards import write_shard
from extract.engines.plan import Plan
from extract.model.names import FAST_MODEL
from extract.request import bad_images_error
from extract.shards.job import Job
from extract.shards.plan import Shard, cut
from extract.shards.stream import Batch, embed_batches, resident

if TYPE_CHECKING:
    from extract.engines.embed import Embedder
    from extract.shards.loading import DecodedImages

# When the time that a run will take is said, and which one is long.
ESTIMATE_AFTER_SECONDS = 3.0
ESTIMATE_WORTH_SECONDS = 60.0
SLOW_SECONDS = 600.0
SLOW_BATCH_SECONDS = 20.0


def fill(job: Job, plan: Plan, embedder: Embedder) -> tuple[int, float]:
    """Compute every shard that is not there yet."""
    missing, kept = unfinished(job, plan)
    total = sum(job.sizes.values())
    watch = Watch(total, kept, job.device.kind, job.options.model)

    unread: set[int] = set()  # rows of the split that is being embedded

    def write(
        shard: Shard,
        features: npt.NDArray[np.float32],
        ok: npt.NDArray[np.bool_],
        unread_rotations: list[int],
    ) -> None:
        nonlocal kept
        write_shard(
            shard.path,
            as_stored(features, job.options.store_dtype),
            ok,
            key=job.key,
            split=shard.split,
            start=shard.start,
            ids=job.splits[shard.split].ids[shard.start : shard.stop],
            unread_rotations=unread_rotations,
        )
        kept += shard.stop - shard.start

    try:
        with (
            _decoded(job, missing) as images,
            progress(total, "embedding", "img", initial=kept) as bar,
            Writer() as writer,
        ):
            for split in job.splits:
                todo = [shard for shard in missing if shard.split == split]
                unread.clear()
                batches = partial(_batches, job, images, unread)
                for shard, features, ok in _embed_shards(job, todo, embedder, batches, watch, bar):
                    rows = [row for row in unread if shard.start <= row < shard.stop]
                    writer.put(partial(write, shard, features, ok, rows))
                    note_skipped(job, shard, ok)
    except KeyboardInterrupt as error:
        raise interrupted(job, kept) from error
    return watch.computed, watch.seconds


def unfinished(job: Job, plan: Plan) -> tuple[list[Shard], int]:
    """Find the shards that are not there yet."""
    missing = []
    job.skipped.clear()
    kept = 0
    for shard in cut(job.folder, job.sizes, plan.shard_rows):
        read = shard.read(job.key)
        if read is None:
            missing.append(shard)
            continue
        kept += shard.stop - shard.start
        note_skipped(job, shard, read[1])
    if kept:
        log(f"going on: {kept:,} of {sum(job.sizes.values()):,} images are done")
    return missing, kept


def interrupted(job: Job, kept: int) -> KeyboardInterrupt:
    """Say how much is kept, and how to go on."""
    return KeyboardInterrupt(
        f"{kept:,} of {sum(job.sizes.values()):,} images are kept in {job.folder}; "
        "run the same command again to go on there"
    )


def as_stored(features: npt.NDArray[np.float32], dtype: str) -> FeatureArray:
    """Convert to the stored type; what overflows becomes infinite, which `write_shard` refuses."""
    with np.errstate(over="ignore"):
        return features if dtype == "float32" else features.astype(np.float16)


def _decoded(
    job: Job, missing: list[Shard]
) -> AbstractContextManager[DecodedImages] | AbstractContextManager[None]:
    """Have workers decode the images of the missing shards; None for images in memory."""
    wanted: dict[str, list[range]] = {}
    for shard in missing:
        spans = wanted.setdefault(shard.split, [])
        if spans and spans[-1].stop == shard.start:
            spans[-1] = range(spans[-1].start, shard.stop)
        else:
            spans.append(range(shard.start, shard.stop))
    return job.decoded(wanted) or nullcontext()


def _embed_shards(
    job: Job,
    shards: list[Shard],
    embedder: Embedder,
    batches_of: Callable[[str, list[range]], Iterator[tuple[npt.NDArray[np.bool_], Batch]]],
    watch: Watch,
    bar: Any,
) -> Iterator[tuple[Shard, npt.NDArray[np.float32], npt.NDArray[np.bool_]]]:
    """Embed the rows of shards of one split, batch by batch."""
    if not shards:
        return
    size = embedder.batch_size
    spans = [
        [
            range(start, min(start + size, shard.stop))
            for start in range(shard.start, shard.stop, size)
        ]
        for shard in shards
    ]
    images = batches_of(shards[0].split, [span for group in spans for span in group])
    batches = embed_batches(embedder, images)
    for shard, group in zip(shards, spans, strict=True):
        features = np.zeros((shard.stop - shard.start, job.backbone.width), dtype=np.float32)
        ok = np.zeros(shard.stop - shard.start, dtype=np.bool_)
        for span in group:
            good, embedded = next(batches)
            rows = np.flatnonzero(good) + (span.start - shard.start)
            features[rows] = embedded
            ok[rows] = True
            bar.update(len(span))
            for line in watch.update(len(span)):
                bar.write(line, file=sys.stderr)
        yield shard, features, ok


def _batches(
    job: Job, decoded: DecodedImages | None, unread: set[int], split: str, spans: list[range]
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
    assert decoded is not None  # images in files are decoded by workers
    for span in spans:
        items = decoded.take(len(span))
        for row, item in zip(span, items, strict=True):
            # A file that cannot be read for another reason says nothing about the image.
            if isinstance(item.image, UserError) and not (
                isinstance(item.image, BadImageError) and job.options.skip_bad_images
            ):
                raise item.image
            if item.unread_rotation:
                unread.add(row)
        arrays = [item.image for item in items if not isinstance(item.image, UserError)]
        yield np.array([not isinstance(item.image, UserError) for item in items]), arrays


def note_skipped(job: Job, shard: Shard, ok: npt.NDArray[np.bool_]) -> None:
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


class Writer:
    """Runs one write after another in another thread; at most one waits while one is under way.

    A write is HDF5, reading back and a sync: mostly waiting. What goes wrong in it is raised by
    the next call.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="shards")
        self._under_way: Future[None] | None = None

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # On Ctrl-C, too, the shard that is being written is finished: it counts as kept.
        try:
            self.drain()
        except Exception:
            if error is None:
                raise
        finally:
            self._thread.shutdown()

    def put(self, write: Callable[[], None]) -> None:
        """Hand over a write, once the one before it is done."""
        self.drain()
        self._under_way = self._thread.submit(write)

    def drain(self) -> None:
        """Wait until everything handed over is on the disk."""
        if self._under_way is None:
            return
        under_way, self._under_way = self._under_way, None
        try:
            under_way.result()
        except KeyboardInterrupt:
            self._under_way = under_way  # it goes on, and is waited for at the end
            raise
