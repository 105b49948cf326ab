"""Image files, decoded by worker processes ahead of their use, in order, within bounded memory.

The workers do not wait for the network: they start as soon as it is known what size it takes, and
while it is built and converted they fill a store of decoded images. On small sets that is the time
in which most of the decoding is done.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from data.common.errors import UserError
from data.common.memory import free_memory
from data.images.arrays import EncodedImages
from data.images.decode import DecodedImage
from data.images.reduced import scale_for
from extract.engines.constants import AHEAD_BYTES, AHEAD_SHARE, DECODED_TOGETHER
from extract.model.preprocess import Prepared, prepared, wanted_of
from extract.model.preprocessing import Preprocessing
from extract.model.silence import silenced

Decoded: TypeAlias = "Prepared | UserError"
# Of each split, which rows are wanted, in their order.
Wanted: TypeAlias = "Mapping[str, Sequence[range]]"


class Decoder:
    """Decodes the image at an index and prepares it; what cannot be decoded is the error."""

    def __init__(
        self,
        images: EncodedImages,
        settings: Preprocessing,
        others: Sequence[Preprocessing] = (),
    ) -> None:
        self.images = images
        self.settings = settings
        self.others = tuple(others)  # further sizes that `sizes` makes of each image
        self.unread_rotations: set[int] = set()  # indices of images taken as they are stored

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Decoded:
        return self.sizes(index)[0]

    def sizes(self, index: int) -> list[Decoded]:
        """Decode an image once, and prepare it for each network input."""
        found: list[Decoded] = []
        image: DecodedImage | None = None
        for settings in (self.settings, *self.others):
            try:
                if image is None or not _is_read_alike(image, settings):
                    image = self.images.decode_file(index, wanted_of(settings))
            except UserError as error:
                # Raised here, it would reach the parent wrapped in a traceback.
                return [error] * (1 + len(self.others))
            if image.unread_rotation is not None:
                self.unread_rotations.add(index)
            # Only what is no larger than the network input crosses between the processes.
            found.append(prepared(settings, image.picture, image.reduction))
        return found


def _is_read_alike(image: DecodedImage, settings: Preprocessing) -> bool:
    """Tell whether an image is decoded at the scale that it would be for another network input."""
    wanted = wanted_of(settings)
    if wanted is None:
        return image.reduction is None
    pixels = image.picture
    raw = pixels.shape[:2] if isinstance(pixels, np.ndarray) else (pixels.height, pixels.width)
    if image.reduction is None:  # in full
        return scale_for((raw[0], raw[1]), wanted(raw[0], raw[1])) == 1
    height, width = image.reduction.size
    scale = scale_for(image.reduction.size, wanted(height, width))
    return raw == (-(-height // scale), -(-width // scale))


class Row(NamedTuple):
    """One image as it comes from a worker."""

    image: Decoded
    unread_rotation: bool  # taken as it is stored
    others: tuple[Decoded, ...] = ()  # the same for the other network inputs

    def at(self, number: int) -> Decoded:
        """Give the image as it is for one of the network inputs."""
        return self.others[number - 1] if number else self.image


class _Splits:
    """The images of all splits as a dataset of torch, of which an index is a split and a row."""

    def __init__(
        self, images: Mapping[str, EncodedImages], settings: Sequence[Preprocessing]
    ) -> None:
        first, *others = settings
        self._several = bool(others)
        self._decoders = {
            name: Decoder(part, first, others) if others else Decoder(part, first)
            for name, part in images.items()
        }

    def __getitem__(self, index: tuple[str, int]) -> Row:
        split, row = index
        decoder = self._decoders[split]
        decoder.unread_rotations.clear()
        image, *others = decoder.sizes(row) if self._several else [decoder[row]]
        return Row(image, row in decoder.unread_rotations, tuple(others))


def _as_list(rows: list[Row]) -> list[Row]:
    """Leave a batch a list: images may differ in size, and need no shared memory."""
    return rows


class DecodedImages(AbstractContextManager["DecodedImages"]):
    """The images of rows, in order, taken in portions of any size."""

    def __init__(
        self,
        images: Mapping[str, EncodedImages],
        settings: Preprocessing | Sequence[Preprocessing],
        wanted: Wanted,
        jobs: int,
    ) -> None:
        from torch.utils.data import DataLoader

        # Of each network input that images are prepared for.
        self.settings = (settings,) if isinstance(settings, Preprocessing) else tuple(settings)
        self.wanted = {split: list(rows) for split, rows in wanted.items() if rows}
        self.used = False  # whether rows have been taken, which then are gone
        self._ready: deque[Row] = deque()
        self._batches: Any = None
        rows = [(split, row) for split in wanted for span in wanted[split] for row in span]
        if not rows:
            return
        chunks = [rows[i : i + DECODED_TOGETHER] for i in range(0, len(rows), DECODED_TOGETHER)]
        workers = min(jobs, len(chunks))
        loader: DataLoader[Any] = DataLoader(
            _Splits(images, self.settings),  # type: ignore[arg-type]
            batch_sampler=chunks,
            num_workers=workers,
            collate_fn=_as_list,
            prefetch_factor=_chunks_ahead(self.settings, workers),
            # Started anew, each worker would import torch for seconds. No thread runs yet.
            multiprocessing_context="fork" if sys.platform == "linux" else None,
        )
        # Silenced: more workers than processors are the user's own --jobs.
        with death_as_user_error(), silenced():
            self._batches = iter(loader)

    def take(self, count: int) -> list[Row]:
        """Give the next images, once they are decoded."""
        self.used = True
        self._fetch(count)
        return [self._ready.popleft() for _ in range(count)]

    def peek(self, count: int) -> list[Row]:
        """Give the first of the images that `take` will give next."""
        self._fetch(count)
        return [self._ready[row] for row in range(min(count, len(self._ready)))]

    def _fetch(self, count: int) -> None:
        with death_as_user_error():
            while len(self._ready) < count:
                batch = None if self._batches is None else next(self._batches, None)
                if batch is None:
                    return
                self._ready.extend(batch)

    def close(self) -> None:
        """End the workers, also in the middle."""
        # The iterator is part of a cycle. Left to the garbage collector, which may take its queues
        # first, it waits five seconds for each process that nobody told to end.
        batches, self._batches = self._batches, None
        if batches is not None:
            batches._shutdown_workers()

    def __exit__(self, *exc: object) -> None:
        self.close()


class SharedRows:
    """The decoded rows of a split, for several readers, each in its own order of spans.

    A row is kept until every reader that wants it has taken it, so readers should keep abreast.
    """

    def __init__(self, decoded: DecodedImages, readers: Sequence[Sequence[range]]) -> None:
        self._decoded = decoded
        self._readers_left = _readers_of(readers)
        self._order = np.flatnonzero(self._readers_left)
        self._next = 0
        self._kept: dict[int, Row] = {}

    def take(self, span: range) -> list[Row]:
        """Give the rows of one reader's next span."""
        end = int(np.searchsorted(self._order, span.stop))
        if end > self._next:
            numbers = self._order[self._next : end].tolist()
            self._kept.update(zip(numbers, self._decoded.take(len(numbers)), strict=True))
            self._next = end
        found = [self._kept[row] for row in span]
        self._readers_left[span.start : span.stop] -= 1
        for row in span:
            if not self._readers_left[row]:
                del self._kept[row]
        return found


def wanted_together(readers: Sequence[Sequence[range]]) -> list[range]:
    """Put the rows that several readers want into runs, each row once."""
    rows = _readers_of(readers) > 0
    edges = np.flatnonzero(np.diff(rows, prepend=False, append=False))
    return [range(int(start), int(stop)) for start, stop in edges.reshape(-1, 2)]


def _readers_of(readers: Sequence[Sequence[range]]) -> npt.NDArray[np.int64]:
    """Count how many readers want each row."""
    end = max((span.stop for spans in readers for span in spans), default=0)
    counts = np.zeros(end, np.int64)
    for spans in readers:
        for span in spans:
            counts[span.start : span.stop] += 1
    return counts


def _chunks_ahead(settings: Sequence[Preprocessing], workers: int) -> int:
    """Say how many batches each worker may have ready, of the memory for all of them."""
    room = min(AHEAD_BYTES, int(AHEAD_SHARE * free_memory()))
    chunk = DECODED_TOGETHER * 3 * sum(int(np.prod(one.size)) for one in settings)
    return max(2, room // (workers * chunk))


@contextmanager
def death_as_user_error() -> Iterator[None]:
    """Turn torch's word for a worker that died into what a user can do about it.

    A signal raises it wherever the main process is, so that whoever is called there may have made
    an error of its own of it.
    """
    try:
        yield
    except Exception as error:
        death: BaseException | None = error
        while death is not None and "DataLoader worker" not in str(death):
            death = death.__cause__
        if death is None:
            raise
        raise UserError(
            f"a process that decodes images died ({str(death).splitlines()[0]}); if memory is "
            "short, give fewer with --jobs 1. What is finished is kept: run the same command again"
        ) from error
