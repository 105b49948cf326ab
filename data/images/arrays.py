"""Images in memory, in files or in containers; splits, datasets."""

from __future__ import annotations

import functools
import io
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from data.images.decode import (
    MAX_PIXELS,
    DecodedImage,
    decode_content,
    decode_file,
    decoded_picture,
    picture_sha256,
)
from data.images.file_digests import DIGEST_BYTES, hash_files, hash_rows, sha256_bytes
from data.images.reduced import Wanted

if TYPE_CHECKING:
    from PIL import Image

Content: TypeAlias = "bytes | Image.Image | npt.NDArray[np.uint8]"
# Images in memory that are digested at a time.
_DIGEST_ROWS = 1024
# The names of splits, in the order in which they are embedded and stored.
SPLITS = ("train", "test", "validation", "unlabelled")


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
class EncodedImages(ABC):
    """Images that are decoded one by one when asked for; sizes may differ."""

    # SHA-256 of each image, 32 bytes, one after another; empty where they are not known. An image
    # that has changed since is refused
    digests: bytes = field(default=b"", repr=False, kw_only=True)
    max_pixels: int = field(default=MAX_PIXELS, kw_only=True)  # images with more are refused

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def name(self, i: int) -> str:
        """Name an image in messages."""

    @abstractmethod
    def decode_file(self, i: int, wanted: Wanted | None = None) -> DecodedImage:
        """Decode one image, at a reduced scale where `wanted` allows it."""

    @abstractmethod
    def take(self, rows: npt.NDArray[np.int64]) -> EncodedImages:
        """Choose images."""

    @abstractmethod
    def with_digests(self) -> EncodedImages:
        """Digest the images, so that only these very bytes are decoded later on."""

    def to_send(self) -> EncodedImages:
        """Leave out what other rows need, before the images go to another machine."""
        return self

    def short_names(self) -> list[str]:
        """Name all images, as short as is clear within the dataset."""
        return [self.name(i) for i in range(len(self))]

    def open(self, i: int) -> str | io.BytesIO | None:
        """Give what Pillow opens to decode an image; None where somebody else has decoded it."""
        return self.name(i)

    def decode(self, i: int) -> npt.NDArray[np.uint8]:
        """Decode one image.

        Shape: (height, width, 3).
        """
        return self.decode_file(i).pixels

    def digest(self, i: int) -> bytes | None:
        """Give the digest of an image, where it is known."""
        return self.digests[DIGEST_BYTES * i : DIGEST_BYTES * (i + 1)] or None

    def _digests_of(self, rows: npt.NDArray[np.int64]) -> bytes:
        known = np.frombuffer(self.digests, np.uint8).reshape(-1, DIGEST_BYTES)
        return known[rows].tobytes() if len(known) else b""


@dataclass(frozen=True)
class FileImages(EncodedImages):
    """Images in files. Cheap to send to a process."""

    root: Path  # the folder that the names count from; absolute
    names: tuple[str, ...]  # relative POSIX paths

    def __len__(self) -> int:
        return len(self.names)

    def path(self, i: int) -> Path:
        """Name the file of an image."""
        return self.root / self.names[i]

    def name(self, i: int) -> str:
        """Name the file of an image as text."""
        return str(self.path(i))

    def short_names(self) -> list[str]:
        """Name the files from their folder."""
        return list(self.names)

    def decode_file(self, i: int, wanted: Wanted | None = None) -> DecodedImage:
        """Decode one file."""
        return decode_file(self.path(i), self.digest(i), max_pixels=self.max_pixels, wanted=wanted)

    def take(self, rows: npt.NDArray[np.int64]) -> FileImages:
        """Choose files."""
        names = tuple(self.names[row] for row in rows)
        return replace(self, names=names, digests=self._digests_of(rows))

    def with_digests(self) -> FileImages:
        """Read and digest the files."""
        if self.digests:
            return self
        return replace(self, digests=hash_files(self.root, self.names))


class Records(Protocol):
    """A container of images, which can be sent to a process: a file of rows, an archive, ..."""

    def read(self, row: int) -> Content:
        """Read the image at a position: its file's bytes, or decoded, RGB or grey."""

    def name(self, row: int) -> str:
        """Name the image at a position in messages."""


@dataclass(frozen=True, eq=False)
class RecordImages(EncodedImages):
    """Images in a container."""

    records: Records
    rows: npt.NDArray[np.int64]  # (n,): positions in the container

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, i: int) -> str:
        """Name an image by its container's word for it."""
        return self.records.name(int(self.rows[i]))

    def open(self, i: int) -> io.BytesIO | None:
        """Read the bytes of one image."""
        content = self.records.read(int(self.rows[i]))
        return io.BytesIO(content) if isinstance(content, bytes) else None

    def decode_file(self, i: int, wanted: Wanted | None = None) -> DecodedImage:
        """Read one image, and decode it where it is not."""
        content, name = self.records.read(int(self.rows[i])), self.name(i)
        if not isinstance(content, bytes):
            return decoded_picture(content, name, self.digest(i), max_pixels=self.max_pixels)
        return decode_content(
            content, name, self.digest(i), max_pixels=self.max_pixels, wanted=wanted
        )

    def take(self, rows: npt.NDArray[np.int64]) -> RecordImages:
        """Choose images."""
        return replace(self, rows=self.rows[rows], digests=self._digests_of(rows))

    def to_send(self) -> RecordImages:
        """Leave out what the container says of other rows, where that is much."""
        only = getattr(self.records, "only", None)
        if only is None:
            return self
        return replace(self, records=only(self.rows), rows=np.arange(len(self), dtype=np.int64))

    def with_digests(self) -> RecordImages:
        """Read and digest the images in their order, one after another."""
        if self.digests:
            return self

        def one(i: int) -> bytes:
            content = self.records.read(int(self.rows[i]))
            if isinstance(content, bytes):
                return sha256_bytes(content)
            return picture_sha256(content, self.name(i))

        return replace(self, digests=hash_rows(one, len(self)))


@dataclass(frozen=True, eq=False)
class Split:
    """A part of a dataset: its training rows, its test rows, ..."""

    images: ArrayImages | EncodedImages
    labels: npt.NDArray[np.int64]  # (n,), indices into the dataset's class names; -1: none
    ids: tuple[str, ...]  # which image a row is; unique within the split
    # (n,), indices into the dataset's group names: rows of one group are not independent
    groups: npt.NDArray[np.int64] | None = None
    weights: npt.NDArray[np.float64] | None = None  # (n,), of the rows in fits and metrics

    def __post_init__(self) -> None:
        if not len(self.images) == len(self.labels) == len(self.ids):
            raise ValueError(
                f"{len(self.images)} images, {len(self.labels)} labels and {len(self.ids)} ids"
            )
        for column in (self.groups, self.weights):
            if column is not None and len(column) != len(self.ids):
                raise ValueError(f"{len(column)} groups or weights and {len(self.ids)} ids")

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: npt.NDArray[np.int64]) -> Split:
        """Choose rows."""
        return Split(
            self.images.take(rows),
            self.labels[rows],
            tuple(self.ids[row] for row in rows),
            None if self.groups is None else self.groups[rows],
            None if self.weights is None else self.weights[rows],
        )

    @functools.cached_property
    def image_sha256(self) -> npt.NDArray[np.uint8]:
        """The SHA-256 of each image (n, 32): of its file, or of its pixels with their shape.

        Of pixels in memory it is worked out when it is first asked for.
        """
        images = self.images
        if isinstance(images, ArrayImages):
            starts = range(0, len(self), _DIGEST_ROWS)
            blocks = (images.rows(start, start + _DIGEST_ROWS) for start in starts)
            digests = b"".join(picture_sha256(pixels, "") for block in blocks for pixels in block)
        else:
            digests = images.digests
        return np.frombuffer(digests, np.uint8).reshape(-1, DIGEST_BYTES)

    def with_digests(self) -> Split:
        """Digest images that are decoded later, so that only these very bytes are."""
        if isinstance(self.images, ArrayImages):
            return self
        return replace(self, images=self.images.with_digests())


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
    # A validation split beside the test split, where the source has one
    validation: Split | None = field(default=None, kw_only=True)
    # Images without labels: embedded, and left out of fits
    unlabelled: Split | None = field(default=None, kw_only=True)
    group_names: tuple[str, ...] = field(default=(), kw_only=True)  # what the groups index

    @property
    def splits(self) -> dict[str, Split]:
        """The parts that there are by name, in the order in which they are embedded."""
        found = {name: getattr(self, name) for name in SPLITS}
        return {name: split for name, split in found.items() if split is not None}


@dataclass(frozen=True, eq=False)
class ImageDataset(RawDataset):
    """A dataset ready to be embedded."""

    # SHA-256 over the class names and, for each split, ids, labels and pixels (of images in
    # files: the bytes of the files), of the rows in use
    digest: str
    limit: int | None  # the number of training rows asked for; None if all are in use

    def limited_to(self, max_pixels: int) -> ImageDataset:
        """Refuse images with more pixels when they are decoded."""

        def limited(split: Split) -> Split:
            if isinstance(split.images, ArrayImages):
                return split
            return replace(split, images=replace(split.images, max_pixels=max_pixels))

        splits: dict[str, Any] = {name: limited(split) for name, split in self.splits.items()}
        return replace(self, **splits)
