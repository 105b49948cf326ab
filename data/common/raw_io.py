"""Bytes at positions of a file, without buffers in between."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

BLOCK_BYTES = 4 << 20
# What the system says when the disk, the quota or the process's limit on files is used up.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def raw_bytes(array: npt.NDArray[Any]) -> memoryview:
    """View a C-contiguous array as its bytes, in the same memory."""
    return array.reshape(-1).view(np.uint8).data


def write_at(descriptor: int, offset: int, content: memoryview) -> None:
    """Write all bytes at a position of a file."""
    done = 0
    while done < len(content):
        done += os.pwrite(descriptor, content[done : done + BLOCK_BYTES], offset + done)


def disk_trouble(path: Path, error: OSError, needed: int | None) -> str:
    """Say in one sentence why a file could not be written."""
    if error.errno not in NO_ROOM:
        return f"cannot write {path}: {error.strerror or error}"
    limit = {
        errno.ENOSPC: "the disk is full",
        errno.EDQUOT: "the disk quota is used up",
        errno.EFBIG: "files of this size are not allowed here (see ulimit -f)",
    }[error.errno]
    free = shutil.disk_usage(path if path.is_dir() else path.parent).free
    need = "" if needed is None else f"it needs {needed / 2**20:,.1f} MiB, "
    return (
        f"cannot write {path}: {limit}: {need}the disk has "
        f"{free / 2**20:,.1f} MiB free. Make room, or choose another folder; nothing that "
        "was there before has changed"
    )


def read_at(descriptor: int, offset: int, buffer: memoryview) -> None:
    """Fill a buffer from a position in a file, without moving the file's own position.

    An `EOFError` says that the file ends before the buffer is full.
    """
    done = 0
    while done < len(buffer):
        count = os.preadv(descriptor, [buffer[done : done + BLOCK_BYTES]], offset + done)
        if count == 0:
            raise EOFError(f"the file ends at byte {offset + done:,}")
        done += count
