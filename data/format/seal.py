"""The seal: a checksum over every byte of an HDF5 file that no dataset's digest covers.

HDF5 trusts its input. One changed byte in the part of a file that holds text of variable length
has sent the library (2.0) into an endless loop, and other bytes are not checked at all. So each
file that Icebox writes ends, after HDF5's own end of file, in one line of text ::

    {"icebox_seal":1,"outside":[[OFFSET,LENGTH],...],"sha256":"HEX"}

between two newlines, where ``sha256`` covers all bytes before the line except the extents listed
in ``outside`` (large datasets, each under its own ``sha256`` attribute), followed by the canonical
JSON of ``outside``. It is checked before the HDF5 library sees the file. Other programs take no
notice of the line, and an HDF5 library that opens the file for writing removes it: then the file
is whole but not sealed, and its datasets' own digests are what remains.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from typing import Any

from data.common.raw_io import BLOCK_BYTES, read_at
from data.format.spec import canonical_json

SIGNATURE = b"\x89HDF\r\n\x1a\n"
SEAL_VERSION = 1
SEAL_LIMIT = 4096

Extent = tuple[int, int]


class BrokenSealError(Exception):
    """The bytes of a file are not those that were sealed; the message says what was found."""


def hdf5_end(descriptor: int) -> int | None:
    """Read from the superblock where the HDF5 part of a file ends, in bytes.

    None for superblocks older than version 2, which Icebox never writes.
    """
    head = os.pread(descriptor, 48, 0)
    if len(head) < 48 or head[8] not in (2, 3) or head[9] != 8:
        return None
    return int.from_bytes(head[28:36], "little")


def is_being_written(descriptor: int) -> bool:
    """Tell whether another program has an HDF5 file open for writing, or ended without closing it.

    HDF5 marks such files in the superblock's consistency flags (version 3), and holds an exclusive
    lock on them where the file system has locks.
    """
    head = os.pread(descriptor, 12, 0)
    if head[8:11] == b"\x03\x08\x08" and head[11:] in (b"\x01", b"\x05"):
        return True
    try:
        import fcntl
    except ImportError:  # not a POSIX system
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no locks here
        return False
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return False


def append_seal(descriptor: int, end: int, outside: Sequence[Extent]) -> None:
    """Seal a finished file, whose HDF5 part stops at ``end``; ``outside`` is in ascending order."""
    listed = [list(extent) for extent in outside]
    line = {
        "icebox_seal": SEAL_VERSION,
        "outside": listed,
        "sha256": _digest(descriptor, end, listed),
    }
    text = f"\n{canonical_json(line)}\n".encode("ascii")
    os.ftruncate(descriptor, end)
    if os.pwrite(descriptor, text, end) != len(text):
        raise OSError("the last line of the file could not be written whole")


def check_seal(descriptor: int) -> int | None:
    """Compare a file with its seal, and return the seal's version; None where there is no seal.

    A version other than `SEAL_VERSION` is not compared: it is good only in a file whose schema is
    newer, too. A `BrokenSealError` says that a byte under the seal was changed, or is missing.
    """
    size = os.fstat(descriptor).st_size
    end = hdf5_end(descriptor)
    if end is None or size == end:
        return None
    if size < end:
        raise BrokenSealError(f"truncated: it holds {size:,} of {end:,} bytes")
    seal = _parse(os.pread(descriptor, SEAL_LIMIT + 1, end))
    if seal["icebox_seal"] != SEAL_VERSION:
        return int(seal["icebox_seal"])
    outside = seal["outside"]
    if _digest(descriptor, end, outside) != seal["sha256"]:
        raise BrokenSealError("bytes outside its datasets have changed")
    return SEAL_VERSION


def _parse(text: bytes) -> dict[str, Any]:
    """Read the line strictly: any text but the one that `append_seal` writes is damage."""
    broken = BrokenSealError("truncated or changed: its last line is not a whole seal")
    try:
        seal = json.loads(text)
        if len(text) > SEAL_LIMIT or text != f"\n{canonical_json(seal)}\n".encode("ascii"):
            raise broken
    except (ValueError, TypeError, RecursionError) as error:
        raise broken from error
    if not isinstance(seal, dict) or not isinstance(seal.get("icebox_seal"), int):
        raise broken
    if seal["icebox_seal"] == SEAL_VERSION:
        shape = isinstance(seal.get("outside"), list) and all(
            isinstance(extent, list) and len(extent) == 2 and all(type(n) is int for n in extent)
            for extent in seal["outside"]
        )
        if not shape or not isinstance(seal.get("sha256"), str):
            raise broken
    return seal


def _digest(descriptor: int, end: int, outside: Sequence[Sequence[int]]) -> str:
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(min(end, BLOCK_BYTES)))
    position = 0
    for offset, length in [*outside, (end, 0)]:
        if not position <= offset <= offset + length <= end:
            raise BrokenSealError("its seal lists extents that overlap or lie outside the file")
        while position < offset:
            part = buffer[: min(len(buffer), offset - position)]
            read_at(descriptor, position, part)
            digest.update(part)
            position += len(part)
        position = offset + length
    digest.update(canonical_json([list(extent) for extent in outside]).encode("ascii"))
    return digest.hexdigest()
