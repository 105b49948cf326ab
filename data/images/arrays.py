"""Images in memory, in image files or in a nameless file; splits, datasets."""

from __future__ import annotations

import hashlib
import math
import os
import struct
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from data.common.raw_io import BLOCK_BYTES, raw_bytes, read_at, write_at
from data.images.decode import MAX_PIXELS, DecodedImage, decode_file
from data.images.reduced import Wanted

DIGEST_BYTES = 32  # of SHA-256
# Images digested at a time.
_DIGEST_ROWS = 1024
# Fewer are not worth a file.
SPILL_BYTES = 16 << 20


@dataclass(frozen=True, eq=False)
class ArrayImages:
    """Images of one size, all in memory."""

    array: npt.NDArray[np.uint8]  # (n, height, width, 3): RGB

    def __post_init__(self) -> None:
        if self.array.dtype != np.uint8 or self.array.ndim != 4 or self.array.shape[3] != 3:
            raise TypeError(
                f"images must be uint8 (n, h, w, 3), not {self.array.dtype} {self.array.shape}"
            )

    def __len__(self) -> int:
        return len(self.array)

    def rows(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        """Give the images ``start`` to ``stop - 1``.

        Shape: (stop - start, height, width, 3).
        """
        return self.array[start:stop]

    def take(self, rows: npt.NDArray[np.int64]) -> ArrayImages:
        """Choose images."""
        return ArrayImages(self.array[rows])


@dataclass(frozen=True)
class FileImages:
    """Images in files, decoded when asked for; sizes may differ. Cheap to send to a process."""

    root: Path  # the folder that the names count from; absolute
    names: tuple[str, ...]  # relative POSIX paths
    # SHA-256 of each file, 32 bytes, one after another; empty where they are not known. A file
    # whose bytes have changed since is refused
    digests: bytes = field(default=b"", repr=False)
    max_pixels: int = MAX_PIXELS  # images with more are refused

    def __len__(self) -> int:
        return len(self.names)

    def path(self, i: int) -> Path:
        """Name the file of an image."""
        return self.root / self.names[i]

    def decode(self, i: int) -> npt.NDArray[np.uint8]:
        """Decode one image.

        Shape: (height, width, 3).
        """
        return self.decode_file(i).pixels

    def decode_file(self, i: int, wanted: Wanted | None = None) -> DecodedImage:
        """Decode one image, at a reduced scale where `wanted` allows it."""
        known = self.digests[DIGEST_BYTES * i : DIGEST_BYTES * (i + 1)]
        return decode_file(self.path(i), known or None, max_pixels=self.max_pixels, wanted=wanted)

    def take(self, rows: npt.NDArray[np.int64]) -> FileImages:
        """Choose images."""
        names = tuple(self.names[row] for row in rows)
        known = np.frombuffer(self.digests, np.uint8).reshape(-1, DIGEST_BYTES)
        digests = known[rows].tobytes() if len(known) else b""
        return replace(self, names=names, digests=digests)


@dataclass(frozen=True, eq=False)
class Split:
    """The training or the test part of a dataset."""

    images: ArrayImages | FileImages
    labels: npt.NDArray[np.int64]  # (n,), indices into the dataset's class names
    ids: tuple[str, ...]  # which image a row is; unique within the split

    def __post_init__(self) -> None:
        if not len(self.images) == len(self.labels) == len(self.ids):
            raise ValueError(
                f"{len(self.images)} images, {len(self.labels)} labels and {len(self.ids)} ids"
            )

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: npt.NDArray[np.int64]) -> Split:
        """Choose rows."""
        ids = tuple(self.ids[row] for row in rows)
        return Split(self.images.take(rows), self.labels[rows], ids)


@dataclass(frozen=True, eq=False)
class RawDataset:
    """A dataset as its source read it: all rows, not yet digested."""

    name: str  # short name, good for file names
    class_names: tuple[str, ...]
    train: Split
    test: Split
    # Where the data came from, JSON: ``kind``, ``path``, ``sha256`` (None where there is no such
    # thing), ``verified`` (whether against a checksum known beforehand), and more
    origin: dict[str, Any]
    # A validation split beside the test split, where the source has one. It is no part of the
    # digest, since nothing is made of it yet
    validation: Split | None = field(default=None, kw_only=True)


@dataclass(frozen=True, eq=False)
class ImageDataset(RawDataset):
    """A dataset ready to be embedded."""

    # SHA-256 over the class names and, for each split, ids, labels and pixels (of images in
    # files: the bytes of the files), of the rows in use
    digest: str
    limit: int | None  # the number of training rows asked for; None if all are in use

    def limited_to(self, max_pixels: int) -> ImageDataset:
        """Refuse image files with more pixels when they are decoded."""

        def limited(split: Split) -> Split:
            if not isinstance(split.images, FileImages):
                return split
            return replace(split, images=replace(split.images, max_pixels=max_pixels))

        return replace(self, train=limited(self.train), test=limited(self.test))


def digested(split: Split, hash_files: Callable[[Path, tuple[str, ...]], bytes]) -> Split:
    """Digest the files of a split, so that only these very bytes are decoded later on."""
    images = split.images
    if isinstance(images, ArrayImages):
        return split
    known = replace(images, digests=hash_files(images.root, images.names))
    return replace(split, images=known)


def digest_rows(class_names: tuple[str, ...], train: Split, test: Split) -> str:
    """Digest everything that a row can mean; each field goes in with its name and length."""
    digest = hashlib.sha256(b"icebox dataset, version 1\0")

    def begin(field: str, size: int) -> None:
        name = field.encode()
        digest.update(struct.pack("<QQ", len(name), size) + name)

    def add(field: str, content: bytes) -> None:
        begin(field, len(content))
        digest.update(content)

    add("class_names", _strings(class_names))
    for name, split in (("train", train), ("test", test)):
        add(f"{name}/ids", _strings(split.ids))
        add(f"{name}/labels", split.labels.astype("<i8").tobytes())
        if isinstance(split.images, ArrayImages):
            shape = split.images.array.shape
            add(f"{name}/shape", struct.pack("<4Q", *shape))
            # As one field, in C order, without holding all of it.
            begin(f"{name}/pixels", math.prod(shape))
            for start in range(0, len(split), _DIGEST_ROWS):
                rows = split.images.rows(start, start + _DIGEST_ROWS)
                digest.update(rows.reshape(-1).data)
        else:
            add(f"{name}/files", split.images.digests)
    return digest.hexdigest()


def _strings(strings: tuple[str, ...]) -> bytes:
    encoded = [string.encode("utf-8") for string in strings]
    return b"".join(struct.pack("<Q", len(raw)) + raw for raw in encoded)


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
            return Split(_write_nameless(images.array, place), split.labels, split.ids)
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
