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

from data.common.errors import UserError
from data.common.memory import free_memory
from data.images.arrays import EncodedImages
from extract.engines.constants import AHEAD_BYTES, AHEAD_SHARE, DECODED_TOGETHER
from extract.model.preprocess import Prepared, prepared, wanted_of
from extract.model.preprocessing import Preprocessing
from extract.model.silence import silenced

Decoded: TypeAlias = "Prepared | UserError"
# Of each split, which rows are wanted, in their order.
Wanted: TypeAlias = "Mapping[str, Sequence[range]]"


class Decoder:
    """Decodes the image at an index and prepares it; what cannot be decoded is the error."""

    def __init__(self, images: EncodedImages, settings: Preprocessing) -> None:
        self.images = images
        self.settings = settings
        self.unread_rotations: set[int] = set()  # indices of images taken as they are stored

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Decoded:
        try:
            image = self.images.decode_file(index, wanted_of(self.settings))
        except UserError as error:
            return error  # raised here, it would reach the parent wrapped in a traceback
        if image.unread_rotation is not None:
            self.unread_rotations.add(index)
        # Only what is no larger than the network input crosses between the processes.
        return prepared(self.settings, image.picture, image.reduction)


class Row(NamedTuple):
    """One image as it comes from a worker."""

    image: Decoded
    unread_rotation: bool  # taken as it is stored


class _Splits:
    """The images of all splits as a dataset of torch, of which an index is a split and a row."""

    def __init__(self, images: Mapping[str, EncodedImages], settings: Preprocessing) -> None:
        self._decoders = {name: Decoder(part, settings) for name, part in images.items()}

    def __getitem__(self, index: tuple[str, int]) -> Row:
        split, row = index
        decoder = self._decoders[split]
        decoder.unread_rotations.clear()
        image = decoder[row]
        return Row(image, row in decoder.unread_rotations)


def _as_list(rows: list[Row]) -> list[Row]:
    """Leave a batch a list: images may differ in size, and need no shared memory."""
    return rows


class DecodedImages(AbstractContextManager["DecodedImages"]):
    """The images of rows, in order, taken in portions of any size."""

    def __init__(
        self,
        images: Mapping[str, EncodedImages],
        settings: Preprocessing,
        wanted: Wanted,
        jobs: int,
    ) -> None:
        from torch.utils.data import DataLoader

        self.wanted = {split: list(rows) for split, rows in wanted.items() if rows}
        self._ready: deque[Row] = deque()
        self._batches: Any = None
        rows = [(split, row) for split in wanted for span in wanted[split] for row in span]
        if not rows:
            return
        chunks = [rows[i : i + DECODED_TOGETHER] for i in range(0, len(rows), DECODED_TOGETHER)]
        workers = min(jobs, len(chunks))
        loader: DataLoader[Any] = DataLoader(
            _Splits(images, settings),  # type: ignore[arg-type]
            batch_sampler=chunks,
            num_workers=workers,
            collate_fn=_as_list,
            prefetch_factor=_chunks_ahead(settings, workers),
            # Started anew, each worker would import torch for seconds. No thread runs yet.
            multiprocessing_context="fork" if sys.platform == "linux" else None,
        )
        # Silenced: more workers than processors are the user's own --jobs.
        with death_as_user_error(), silenced():
            self._batches = iter(loader)

    def take(self, count: int) -> list[Row]:
        """Give the next images, once they are decoded."""
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


def _chunks_ahead(settings: Preprocessing, workers: int) -> int:
    """Say how many batches each worker may have ready, of the memory for all of them."""
    room = min(AHEAD_BYTES, int(AHEAD_SHARE * free_memory()))
    chunk = DECODED_TOGETHER * 3 * int(np.prod(settings.size))
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
