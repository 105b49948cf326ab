"""The members of CIFAR's binary archives, from bytes to arrays.

A record is one label byte (CIFAR-100: coarse label, then fine label) and 3,072 bytes of pixels:
1,024 red, 1,024 green, 1,024 blue, each 32 x 32 in row-major order. Nothing is unpacked to the
disk: members with the expected name and size are read from the stream, everything else in the
archive is passed over.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import stat
import tarfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from data.common.errors import UserError
from data.images.arrays import ArrayImages, Source, Split

SIDE = 32
PIXELS = 3 * SIDE * SIDE
BLOCK = 2000  # records turned from planes into pixels at a time: 6 MB
NAMES_BYTES = 64 << 10  # a list of class names is far below this
# An archive may hold this much beyond the members that are read, and no more is inflated.
SLACK_BYTES = 64 << 20


@dataclass(frozen=True)
class CifarLayout:
    """What an official archive is called and holds."""

    name: str
    archive: str  # its file name
    folder: str  # in the archive: it holds the members
    url: str
    sha256: str
    n_bytes: int
    # Names of the members with the images, and the number of records in each
    train: tuple[tuple[str, int], ...]
    test: tuple[tuple[str, int], ...]
    names: str  # the member with the class names, one a line
    # How many values each label byte of a record may take; the last byte is the label used
    n_labels: tuple[int, ...]

    @property
    def record_bytes(self) -> int:
        """Bytes of one record."""
        return len(self.n_labels) + PIXELS

    @property
    def records(self) -> dict[str, int]:
        """Number of records of each member with images."""
        return dict(self.train + self.test)

    @property
    def members(self) -> tuple[str, ...]:
        """Names of all the members that are read."""
        return (*self.records, self.names)


class CifarReader:
    """The arrays of one dataset, filled member by member in whatever order they come."""

    def __init__(self, layout: CifarLayout, only: Collection[str] | None = None) -> None:
        self.layout = layout
        self.members = layout.members if only is None else tuple(only)
        self.images: dict[str, npt.NDArray[np.uint8]] = {}
        self.labels: dict[str, npt.NDArray[np.int64]] = {}
        self.class_names: tuple[str, ...] = ()
        self.arrays: list[npt.NDArray[np.uint8]] = []
        for members in (layout.train, layout.test):
            split = [(name, count) for name, count in members if name in self.members]
            # One array a split, and each member a window of it: the images exist once.
            whole = np.empty((sum(count for _, count in split), SIDE, SIDE, 3), np.uint8)
            self.arrays.append(whole)
            start = 0
            for name, count in split:
                self.images[name] = whole[start : start + count]
                self.labels[name] = np.empty(count, np.int64)
                start += count

    def read_archive(self, path: Path) -> None:
        """Read the members from a gzipped tar stream, in one pass."""
        layout = self.layout
        missing = {f"{layout.folder}/{name}": name for name in self.members}
        with _damage(path), gzip.open(path) as inflated:
            bounded = _Bounded(inflated, self._most_bytes(), path)
            with tarfile.open(fileobj=bounded, mode="r|", bufsize=1 << 18) as archive:  # type: ignore[call-overload]
                while (member := archive.next()) is not None:
                    archive.members = []  # or a million empty members would pile up here
                    name = missing.get(member.name)
                    # A link, device or sparse file of an expected name is not the member.
                    if name is None or member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
                        continue
                    if member.sparse is not None:
                        continue
                    self._check_size(f"{path}: {member.name}", name, member.size)
                    stream = archive.extractfile(member)
                    assert stream is not None  # it is a regular file
                    self._read_member(f"{path}: {member.name}", name, stream)
                    del missing[member.name]
                    if not missing:
                        return
        raise UserError(
            f"{path} does not hold {', '.join(sorted(missing))}; is it the binary version of "
            f"{layout.name} ({layout.url})?"
        )

    def read_folder(self, folder: Path) -> str:
        """Read the members of an unpacked folder; returns the digest over all of them."""
        digests = {}
        for name in self.members:
            path = folder / name
            try:
                with path.open("rb") as stream:
                    found = os.fstat(stream.fileno())
                    if not stat.S_ISREG(found.st_mode):
                        raise UserError(f"{path} is not a regular file")
                    self._check_size(str(path), name, found.st_size)
                    hashed = _Hashed(stream)
                    self._read_member(str(path), name, hashed)
                    digests[name] = hashed.digest.hexdigest()
            except (FileNotFoundError, IsADirectoryError) as error:
                raise incomplete(self.layout, folder, name) from error
        return combined_sha256(digests)

    def source(self, origin: dict[str, Any]) -> Source:
        """Hand over what was read."""
        train, test = (
            Split(
                ArrayImages(array),
                np.concatenate([self.labels[name] for name, _ in split]),
                tuple(f"{name}:{row}" for name, count in split for row in range(count)),
            )
            for array, split in zip(self.arrays, (self.layout.train, self.layout.test), strict=True)
        )
        return Source(self.layout.name, self.class_names, train, test, origin)

    def _most_bytes(self) -> int:
        records = sum(self.layout.records.values())
        return records * self.layout.record_bytes + NAMES_BYTES + SLACK_BYTES

    def _check_size(self, where: str, name: str, size: int) -> None:
        """Compare the size that is claimed with the expected one, before anything is read."""
        if name == self.layout.names:
            if size > NAMES_BYTES:
                raise UserError(f"{where} has {size:,} bytes, too many for a list of class names")
            return
        records = self.layout.records[name]
        if size != records * self.layout.record_bytes:
            raise UserError(
                f"{where} has {size:,} bytes; {records * self.layout.record_bytes:,} were expected "
                f"({records:,} records of {self.layout.record_bytes:,} bytes)"
            )

    def _read_member(self, where: str, name: str, stream: IO[bytes] | _Hashed) -> None:
        if name == self.layout.names:
            self.class_names = _parse_names(
                where, stream.read(NAMES_BYTES), self.layout.n_labels[-1]
            )
            return
        n_labels, width = self.layout.n_labels, self.layout.record_bytes
        images, labels = self.images[name], self.labels[name]
        for start in range(0, len(labels), BLOCK):
            stop = min(start + BLOCK, len(labels))
            raw = stream.read((stop - start) * width)
            if len(raw) != (stop - start) * width:
                raise UserError(f"{where} is cut off in record {start + len(raw) // width}")
            records = np.frombuffer(raw, np.uint8).reshape(-1, width)
            for column, count in enumerate(n_labels):
                wrong = np.flatnonzero(records[:, column] >= count)
                if wrong.size:
                    raise UserError(
                        f"{where}: record {start + wrong[0]} has the label "
                        f"{records[wrong[0], column]}; 0 to {count - 1} were expected, so the "
                        "file is damaged or is not what its name says"
                    )
            labels[start:stop] = records[:, len(n_labels) - 1]
            planes = records[:, len(n_labels) :].reshape(-1, 3, SIDE, SIDE)
            images[start:stop] = planes.transpose(0, 2, 3, 1)


def _parse_names(where: str, raw: bytes, n_classes: int) -> tuple[str, ...]:
    try:
        names = tuple(line.strip() for line in raw.decode("utf-8").splitlines() if line.strip())
    except UnicodeDecodeError as error:
        raise UserError(f"{where} is not a text of class names: {error}") from error
    if len(names) != n_classes or len(set(names)) != n_classes:
        raise UserError(
            f"{where} holds {len(set(names))} different class names in {len(names)} lines; "
            f"{n_classes} were expected"
        )
    return names


class _Hashed:
    """A stream that digests what is read from it."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream = stream
        self.digest = hashlib.sha256()

    def read(self, size: int) -> bytes:
        block = self.stream.read(size)
        self.digest.update(block)
        return block


class _Bounded:
    """A stream that gives no more than so many bytes: the end of a decompression bomb."""

    def __init__(self, stream: IO[bytes] | gzip.GzipFile, limit: int, path: Path) -> None:
        self.stream = stream
        self.left = limit
        self.path = path

    def read(self, size: int) -> bytes:
        block = self.stream.read(min(size, self.left + 1))
        self.left -= len(block)
        if self.left < 0:
            raise UserError(
                f"{self.path} inflates to far more than the dataset's size; it is not the "
                "official archive or a copy of it, and reading it was stopped"
            )
        return block


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Turn what the decoders of tar and gzip say of damaged bytes into one message."""
    try:
        yield
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, ValueError) as error:
        raise UserError(
            f"{path} is cut off or damaged, or is not a gzipped tar archive: {error}\n"
            "delete it to have it downloaded again"
        ) from error


def combined_sha256(digests: dict[str, str]) -> str:
    """Digest an unpacked folder by its members."""
    lines = "".join(f"{name} {digest}\n" for name, digest in sorted(digests.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def incomplete(layout: CifarLayout, folder: Path, name: str) -> UserError:
    """Say that a member of an unpacked folder is missing."""
    return UserError(
        f"{folder} is not whole: there is no file {name}\ncomplete the folder, or move it away "
        f"and put {layout.archive} beside it"
    )
