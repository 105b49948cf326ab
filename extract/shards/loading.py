"""Image files, decoded in batches by worker processes, in order, within bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

from data.common.errors import UserError
from data.images.arrays import FileImages
from extract.model.preprocess import Prepared, prepared, wanted_of
from extract.model.preprocessing import Preprocessing

Decoded: TypeAlias = "Prepared | UserError"
# Batches that each worker may have ready: enough to hide an uneven one, little enough to hold.
_PREFETCH = 2


class Decoder:
    """Decodes the image at an index and prepares it; what cannot be decoded is the error."""

    def __init__(self, images: FileImages, settings: Preprocessing) -> None:
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
        return prepared(self.settings, image.pixels, image.reduction)


def _as_list(items: list[Decoded]) -> tuple[list[Decoded], set[int]]:
    """Leave a batch a list: images may differ in size, and need no shared memory.

    With it go the indices that this worker's decoder has noted since its last batch.
    """
    from torch.utils.data import get_worker_info

    worker = get_worker_info()
    assert worker is not None  # batches are made in workers alone
    decoder: Any = worker.dataset
    noted, decoder.unread_rotations = decoder.unread_rotations, set()
    return items, noted


def decode_batches(
    images: FileImages,
    settings: Preprocessing,
    batches: Sequence[range],
    jobs: int,
    unread_rotations: set[int] | None = None,
) -> Iterator[list[Decoded]]:
    """Decode batches of image files ahead of their use."""
    from torch.utils.data import DataLoader

    if not batches:
        return
    workers = min(jobs, len(batches))
    loader: DataLoader[Any] = DataLoader(
        Decoder(images, settings),  # type: ignore[arg-type]
        batch_sampler=[list(batch) for batch in batches],
        num_workers=workers,
        collate_fn=_as_list,
        prefetch_factor=_PREFETCH,
    )
    iterator: Any = None
    try:
        iterator = iter(loader)
        for items, noted in iterator:
            if unread_rotations is not None:
                unread_rotations |= noted
            yield items
    except RuntimeError as error:
        if "worker" not in str(error).lower():
            raise
        raise UserError(
            f"a process that decodes images died ({str(error).splitlines()[0]}); if memory is "
            "short, give fewer with --jobs 1. What is finished is kept: run the same command again"
        ) from error
    finally:
        # It is part of a cycle. Left to the garbage collector, which may take its queues first, it
        # waits five seconds for each process that nobody told to end.
        if iterator is not None:
            iterator._shutdown_workers()
