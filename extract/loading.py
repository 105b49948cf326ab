"""Image files, decoded in batches by worker processes, in order, within bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

from data.dataset import FileImages
from data.errors import UserError
from extract.preprocess import Prepared, Preprocessing, prepared

Decoded: TypeAlias = "Prepared | UserError"
# Batches that each worker may have ready: enough to hide an uneven one, little enough to hold.
_PREFETCH = 2


class Decoder:
    """Decodes the image at an index and prepares it; what cannot be decoded is the error."""

    def __init__(self, images: FileImages, settings: Preprocessing) -> None:
        self.images = images
        self.settings = settings

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Decoded:
        try:
            image = self.images.decode(index)
        except UserError as error:
            return error  # raised here, it would reach the parent wrapped in a traceback
        # Only what is no larger than the network input crosses between the processes.
        return prepared(self.settings, image)


def _as_list(items: list[Decoded]) -> list[Decoded]:
    """Leave a batch a list: images may differ in size, and need no shared memory."""
    return items


def decode_batches(
    images: FileImages,
    settings: Preprocessing,
    batches: Sequence[range],
    jobs: int,
) -> Iterator[list[Decoded]]:
    """Decode batches of image files ahead of their use.

    Parameters
    ----------
    images : FileImages
        The files.
    settings : Preprocessing
        What the network takes.
    batches : sequence of range
        The indices of each batch, in the order wanted.
    jobs : int
        Worker processes.

    Yields
    ------
    list of (ndarray of uint8, NetworkInput or UserError)
        One batch as `prepared`; a `BadImage` in place of what cannot be decoded.

    Raises
    ------
    UserError
        If a worker process died.
    """
    from torch.utils.data import DataLoader

    if not batches:
        return
    workers = min(jobs, len(batches))
    loader: DataLoader[list[Decoded]] = DataLoader(
        Decoder(images, settings),  # type: ignore[arg-type]
        batch_sampler=[list(batch) for batch in batches],
        num_workers=workers,
        collate_fn=_as_list,
        prefetch_factor=_PREFETCH,
    )
    try:
        yield from loader
    except RuntimeError as error:
        if "worker" not in str(error).lower():
            raise
        raise UserError(
            f"a process that decodes images died ({str(error).splitlines()[0]}); if memory is "
            "short, give fewer with --jobs 1. What is finished is kept: run the same command again"
        ) from error
