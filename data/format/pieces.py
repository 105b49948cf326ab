"""Bytes of a dataset that lie in several files, read as if they were one run."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data.common.raw_io import read_at
from data.format.records import StoreError


@dataclass(frozen=True)
class Piece:
    """A run of a dataset's bytes in a file of its own.

    Attributes
    ----------
    path : pathlib.Path
        The file.
    stamp : tuple of int
        Its inode, size and time of change when it was verified.
    offset : int
        Where in the file the run begins, in bytes.
    first : int
        Where in the dataset it begins.
    nbytes : int
        Its length.
    """

    path: Path
    stamp: tuple[int, int, int]
    offset: int
    first: int
    nbytes: int


def stamp_of(descriptor: int) -> tuple[int, int, int]:
    """Fingerprint an open file by what the file system knows of it."""
    found = os.fstat(descriptor)
    return found.st_ino, found.st_size, found.st_mtime_ns


def read_pieces(pieces: Sequence[Piece], position: int, buffer: memoryview) -> None:
    """Fill a buffer from a position in a dataset.

    Parameters
    ----------
    pieces : sequence of Piece
        In order, without gaps.
    position : int
        Where to start in the dataset, in bytes.
    buffer : memoryview of bytes
        What to fill.

    Raises
    ------
    StoreError
        If a file is gone, or is not the one that was verified.
    EOFError
        If the dataset ends before the buffer is full.
    """
    done = 0
    index = bisect_right(pieces, position, key=lambda piece: piece.first) - 1
    while done < len(buffer):
        if not 0 <= index < len(pieces):
            raise EOFError(f"the shards end at byte {position + done:,}")
        piece = pieces[index]
        skip = position + done - piece.first
        length = min(piece.nbytes - skip, len(buffer) - done)
        _read(piece, skip, buffer[done : done + length])
        done += length
        index += 1


def _read(piece: Piece, skip: int, buffer: memoryview) -> None:
    try:
        descriptor = os.open(piece.path, os.O_RDONLY)
    except OSError as error:
        raise StoreError(
            f"the shard {piece.path} cannot be read any more: {error.strerror}. The store needs "
            "the folder of its shards beside it"
        ) from error
    try:
        if stamp_of(descriptor) != piece.stamp:
            raise StoreError(
                f"the shard {piece.path} has changed since it was verified; open the store again"
            )
        read_at(descriptor, piece.offset + skip, buffer)
    finally:
        os.close(descriptor)
