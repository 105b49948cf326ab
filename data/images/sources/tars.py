"""Tar files whose members are read where they lie, by offset; nothing is unpacked."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from data.common.errors import UserError

_END = bytes(512)  # tar ends with blocks of zeros
_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


class Place(NamedTuple):
    """Where a member lies in its shard."""

    member: str
    offset: int
    size: int


@dataclass(frozen=True)
class Shards:
    """The images of all shards, by their place: what workers get."""

    paths: tuple[str, ...]
    shard: npt.NDArray[np.int32]  # (n,), index into the paths
    offset: npt.NDArray[np.int64]  # (n,)
    size: npt.NDArray[np.int64]  # (n,)
    members: tuple[str, ...]

    def read(self, row: int) -> bytes:
        """Read the file of an image."""
        path = self.paths[self.shard[row]]
        offset, size = int(self.offset[row]), int(self.size[row])
        try:
            with open(path, "rb", buffering=0) as stream:
                content = read_at_place(stream.fileno(), offset, size)
        except OSError as error:
            raise UserError(
                f"cannot read {path}: {error.strerror}; repair it, then run the same command again"
            ) from error
        if len(content) < size:
            raise UserError(f"{path} is cut off in {self.members[row]}; get the shard again")
        return content

    def only(self, rows: npt.NDArray[np.int64]) -> Shards:
        """Leave these images alone, in this order."""
        used, shard = np.unique(self.shard[rows], return_inverse=True)
        return Shards(
            tuple(self.paths[number] for number in used),
            shard.astype(np.int32),
            self.offset[rows],
            self.size[rows],
            tuple(self.members[row] for row in rows),
        )

    def name(self, row: int) -> str:
        """Name an image by its shard and member."""
        return f"{self.paths[self.shard[row]]}: {self.members[row]}"


class Index:
    """The images of all shards, as they are found."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.places: list[Place] = []
        self.counts: list[int] = []  # of images of each shard

    def begin(self, path: Path) -> None:
        """Begin with a shard."""
        self.paths.append(str(path))
        self.counts.append(0)

    def add(self, place: Place) -> int:
        """Add an image of that shard; returns its row."""
        self.places.append(place)
        self.counts[-1] += 1
        return len(self.places) - 1

    def finished(self) -> Shards:
        """Give the images that were found."""
        return Shards(
            tuple(self.paths),
            np.repeat(np.arange(len(self.paths), dtype=np.int32), self.counts),
            np.array([place.offset for place in self.places], dtype=np.int64),
            np.array([place.size for place in self.places], dtype=np.int64),
            tuple(place.member for place in self.places),
        )


def read_at_place(descriptor: int, offset: int, size: int) -> bytes:
    """Read bytes of an open file, as many as there are."""
    content = os.pread(descriptor, size, offset)
    while len(content) < size:  # the system gives at most 2 GB at once
        more = os.pread(descriptor, size - len(content), offset + len(content))
        if not more:
            break
        content += more
    return content


def members_of(path: Path) -> Iterator[dict[str, Any]]:
    """Give name and place of each file in a shard, in the form that webdataset groups."""
    with open(path, "rb") as stream:
        head = stream.read(6)
        packed = next((name for magic, name in _MAGIC.items() if head.startswith(magic)), None)
        if packed:
            raise UserError(
                f"{path} is compressed as a whole ({packed}), so that no image of it can be read "
                f"alone; unpack the compression: {'gunzip' if packed == 'gzip' else packed + ' -d'}"
                f" {path.name} (images are compressed already)"
            )
        stream.seek(0)
        with tarfile.open(fileobj=stream, mode="r:") as archive:
            while (member := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # or a million would pile up here
                if not member.isreg() or member.sparse is not None:
                    continue
                if os.path.basename(member.name).startswith((".", "__")):  # ._ of macOS, __meta__
                    continue
                place = Place(member.name, member.offset_data, member.size)
                yield {"fname": member.name, "data": place, "__url__": str(path)}
            stream.seek(archive.offset)
            if stream.read(len(_END)).strip(b"\0"):
                raise broken_tar(path, f"no header of a member at byte {archive.offset:,}")
            if archive.offset > os.fstat(stream.fileno()).st_size:
                raise broken_tar(path, "it is cut off in its last member")


def broken_tar(path: Path, reason: str) -> UserError:
    """Say that a shard cannot be read."""
    return UserError(
        f"the shard {path} is cut off or damaged, or is not a tar file: {reason}\n"
        "get it again, or leave it out of the pattern"
    )
