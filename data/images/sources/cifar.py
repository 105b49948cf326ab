"""CIFAR-10 and CIFAR-100 from their official binary archives (Krizhevsky, 2009).

Found in the data folder or downloaded, verified, and read. A record is one label byte (CIFAR-100:
coarse label, then fine label) and 3,072 bytes of pixels: 1,024 red, 1,024 green, 1,024 blue, each
32 x 32 in row-major order. Nothing is unpacked to the disk: members with the expected name and size
are read from the stream, everything else in the archive is passed over. The archives in Python's
pickle format are never opened.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import re
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

from data.common.cli import log
from data.common.errors import UserError
from data.common.files import sha256_file, stat_stamp
from data.images.arrays import ArrayImages, RawDataset, Split
from data.images.decode import looks_like_html
from data.images.download import download
from data.images.sources.registry import SourceRequest

SIDE = 32
PIXELS = 3 * SIDE * SIDE
BLOCK = 2000  # records turned from planes into pixels at a time: 6 MB
NAMES_BYTES = 64 << 10  # a list of class names is far below this
# An archive may hold this much beyond the members that are read, and no more is inflated.
SLACK_BYTES = 64 << 20


@dataclass(frozen=True)
class CifarArchive:
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


ARCHIVES = {
    "cifar10": CifarArchive(
        name="cifar10",
        archive="cifar-10-binary.tar.gz",
        folder="cifar-10-batches-bin",
        url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        n_bytes=170_052_171,
        train=tuple((f"data_batch_{batch}.bin", 10_000) for batch in range(1, 6)),
        test=(("test_batch.bin", 10_000),),
        names="batches.meta.txt",
        n_labels=(10,),
    ),
    "cifar100": CifarArchive(
        name="cifar100",
        archive="cifar-100-binary.tar.gz",
        folder="cifar-100-binary",
        url="https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
        sha256="58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
        n_bytes=168_513_733,
        train=(("train.bin", 50_000),),
        test=(("test.bin", 10_000),),
        names="fine_label_names.txt",
        n_labels=(20, 100),
    ),
}


@dataclass(frozen=True)
class ArchiveLocation:
    """Where a dataset lies: its archive, or its unpacked folder, and what vouches for it."""

    path: Path  # the archive or the folder; an archive that is not there yet must be downloaded
    kind: str  # ``"archive"`` or ``"folder"``
    exists: bool
    sha256: str  # what the archive's digest must be
    url: str  # where the archive can be had


def locate(
    cifar: CifarArchive, data_dir: Path, data_url: str | None, data_sha256: str | None
) -> ArchiveLocation:
    """Find what ``data_dir`` holds of a dataset, without reading it.

    An archive comes before an unpacked folder, since it can be verified.
    """
    if data_sha256 is not None:
        data_sha256 = data_sha256.strip().lower().removeprefix("sha256:")
        if not re.fullmatch(r"[0-9a-f]{64}", data_sha256):
            raise UserError(
                f"--data-sha256 {data_sha256} is not a SHA-256: 64 hexadecimal digits are "
                "expected, as `sha256sum FILE` prints them"
            )
    if data_url is not None and data_sha256 is None:
        raise UserError(
            "--data-url needs --data-sha256 with it: the SHA-256 of the mirror's archive, "
            "without which it could not be verified"
        )
    archive, folder = data_dir / cifar.archive, data_dir / cifar.folder
    sha256, url = data_sha256 or cifar.sha256, data_url or cifar.url
    if archive.is_file():
        return ArchiveLocation(archive, "archive", True, sha256, url)
    if os.path.lexists(archive):
        raise UserError(f"{archive} is not a file (a folder or a broken link?); move it away")
    if data_sha256 is not None and data_url is None:
        raise UserError(
            f"--data-sha256 alone verifies an archive that is already there, but there is no "
            f"{archive}; put it there, or give --data-url with it"
        )
    if folder.is_dir():
        return ArchiveLocation(folder, "folder", True, sha256, url)
    return ArchiveLocation(archive, "archive", False, sha256, url)


def fingerprint(asked: SourceRequest) -> dict[str, str] | None:
    """Tell which archive or folder lies there now; None before it is downloaded."""
    archive, location = _located(asked)
    if not location.exists:
        return None
    members = archive.members if location.kind == "folder" else None
    return {"path": os.path.abspath(location.path), "stat": stat_stamp(location.path, members)}


def source_sha256(asked: SourceRequest) -> str:
    """Digest what lies there."""
    return cifar_sha256(*_located(asked))


def _located(asked: SourceRequest) -> tuple[CifarArchive, ArchiveLocation]:
    archive = ARCHIVES[asked.dataset]
    return archive, locate(archive, Path(asked.data_dir), asked.data_url, asked.data_sha256)


def read(asked: SourceRequest) -> RawDataset:
    """Read CIFAR-10 or CIFAR-100, downloading the archive if ``data_dir`` holds nothing of it."""
    cifar, location = _located(asked)
    data_dir = Path(asked.data_dir)
    if not location.exists:
        official = location.sha256 == cifar.sha256
        n_bytes = cifar.n_bytes if official else None
        download(location.url, location.path, sha256=location.sha256, n_bytes=n_bytes)
    reader = CifarReader(cifar)
    origin: dict[str, Any] = {
        "kind": "archive" if location.kind == "archive" else "unpacked",
        "path": os.path.abspath(location.path),
    }
    if location.kind == "archive":
        _verify(cifar, location)
        reader.read_archive(location.path)
        origin |= {"sha256": location.sha256, "verified": True}
        if not location.exists:
            origin["url"] = location.url
    else:
        log(
            f"warning: {location.path} is used as it is: an unpacked folder cannot be verified "
            f"against a checksum (put {cifar.archive} in {data_dir} to have it verified)"
        )
        origin |= {"sha256": reader.read_folder(location.path), "verified": False}
    return reader.source(origin)


def cifar_sha256(cifar: CifarArchive, location: ArchiveLocation) -> str:
    """Digest what lies on the disk, whether it is the right thing or not."""
    if location.kind == "folder":
        try:
            digests = {name: sha256_file(location.path / name) for name in cifar.members}
        except (FileNotFoundError, IsADirectoryError) as error:
            raise incomplete(cifar, location.path, Path(error.filename).name) from error
        return combined_sha256(digests)
    return sha256_file(location.path) if location.exists else location.sha256


def _verify(cifar: CifarArchive, location: ArchiveLocation) -> None:
    with location.path.open("rb") as stream:
        if looks_like_html(stream.read(512)):
            raise UserError(
                f"{location.path} is an HTML page, not an archive: a login or error page was saved "
                "under its name\ndelete it to have it downloaded again"
            )
    found = sha256_file(location.path)
    if found == location.sha256:
        return
    size = location.path.stat().st_size
    official = location.sha256 == cifar.sha256
    expected = f"{cifar.n_bytes:,} bytes and " if official else ""
    cut = ", so it may be cut off" if official and size < cifar.n_bytes else ""
    raise UserError(
        f"wrong checksum: {location.path} has {size:,} bytes and SHA-256 {found}\n"
        f"expected: {expected}SHA-256 {location.sha256}{cut}\n"
        "delete the file to have it downloaded again, or, if it is a mirror's that you trust, "
        "give its own checksum with --data-sha256"
    )


class CifarReader:
    """The arrays of one dataset, filled member by member in whatever order they come."""

    def __init__(self, cifar: CifarArchive, only: Collection[str] | None = None) -> None:
        self.cifar = cifar
        self.members = cifar.members if only is None else tuple(only)
        self.images: dict[str, npt.NDArray[np.uint8]] = {}
        self.labels: dict[str, npt.NDArray[np.int64]] = {}
        self.class_names: tuple[str, ...] = ()
        self.arrays: list[npt.NDArray[np.uint8]] = []
        for members in (cifar.train, cifar.test):
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
        # `lookup` reads archives that no digest has proved, where a store came from a folder.
        cifar = self.cifar
        missing = {f"{cifar.folder}/{name}": name for name in self.members}
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
            f"{cifar.name} ({cifar.url})?"
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
                raise incomplete(self.cifar, folder, name) from error
        return combined_sha256(digests)

    def source(self, origin: dict[str, Any]) -> RawDataset:
        """Hand over what was read."""
        train, test = (
            Split(
                ArrayImages(array),
                np.concatenate([self.labels[name] for name, _ in split]),
                tuple(f"{name}:{row}" for name, count in split for row in range(count)),
            )
            for array, split in zip(self.arrays, (self.cifar.train, self.cifar.test), strict=True)
        )
        return RawDataset(self.cifar.name, self.class_names, train, test, origin)

    def _most_bytes(self) -> int:
        records = sum(self.cifar.records.values())
        return records * self.cifar.record_bytes + NAMES_BYTES + SLACK_BYTES

    def _check_size(self, where: str, name: str, size: int) -> None:
        """Compare the size that is claimed with the expected one, before anything is read."""
        if name == self.cifar.names:
            if size > NAMES_BYTES:
                raise UserError(f"{where} has {size:,} bytes, too many for a list of class names")
            return
        records = self.cifar.records[name]
        if size != records * self.cifar.record_bytes:
            raise UserError(
                f"{where} has {size:,} bytes; {records * self.cifar.record_bytes:,} were expected "
                f"({records:,} records of {self.cifar.record_bytes:,} bytes)"
            )

    def _read_member(self, where: str, name: str, stream: IO[bytes] | _Hashed) -> None:
        if name == self.cifar.names:
            self.class_names = _parse_names(
                where, stream.read(NAMES_BYTES), self.cifar.n_labels[-1]
            )
            return
        n_labels, width = self.cifar.n_labels, self.cifar.record_bytes
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

    def __init__(self, stream: gzip.GzipFile, limit: int, path: Path) -> None:
        self.stream, self.left, self.path = stream, limit, path

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


def incomplete(cifar: CifarArchive, folder: Path, name: str) -> UserError:
    """Say that a member of an unpacked folder is missing."""
    return UserError(
        f"{folder} is not whole: there is no file {name}\ncomplete the folder, or move it away "
        f"and put {cifar.archive} beside it"
    )
