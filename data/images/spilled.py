"""Images of one size in a file without a name, where they would fill the memory."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from data.common.raw_io import BLOCK_BYTES, raw_bytes, read_at, write_at
from data.images.arrays import ArrayImages, Split

# Fewer are not worth a file.
SPILL_BYTES = 16 << 20


@dataclass(frozen=True, eq=False)
class SpilledImages(ArrayImages):
    """Images of one size in a file without a name, which ends with the object."""

    stream: IO[bytes]  # the same file, for `rows`

    def rows(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        """Read the images ``start`` to ``stop - 1``.

        Shape: (stop - start, height, width, 3).
        """
        start, stop, _ = slice(start, stop).indices(len(self))
        shape = self.array.shape[1:]
        found = np.empty((max(0, stop - start), *shape), dtype=np.uint8)
        read_at(self.stream.fileno(), start * int(np.prod(shape)), raw_bytes(found))
        return found


def spill(split: Split, folder: Path) -> Split:
    """Move the images of a split out of memory, where that is worth it and there is a place."""
    images = split.images
    if not isinstance(images, ArrayImages) or images.array.nbytes < SPILL_BYTES:
        return split
    for place in (folder, Path(tempfile.gettempdir())):
        with suppress(OSError):
            return replace(split, images=_write_nameless(images.array, place))
    return split


def _write_nameless(array: npt.NDArray[np.uint8], folder: Path) -> SpilledImages:
    stream = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - the images keep it
    step = max(1, BLOCK_BYTES // int(np.prod(array.shape[1:])))
    try:
        os.posix_fallocate(stream.fileno(), 0, array.nbytes)  # a full disk shows here
        for start in range(0, len(array), step):
            block = np.ascontiguousarray(array[start : start + step])
            write_at(stream.fileno(), start * block[0].nbytes, raw_bytes(block))
    except BaseException:
        stream.close()
        raise
    return SpilledImages(np.memmap(stream, np.uint8, "r", shape=array.shape), stream)
