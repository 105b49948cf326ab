"""SHA-256 of images as they are read, many at a time, behind a progress bar."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from data.common.cli import progress
from data.common.errors import UserError

DIGEST_BYTES = 32  # of SHA-256
READ_BYTES = 1 << 18
HASH_BLOCK = 1024  # files whose digests are asked for at once
BAR_FROM = 5_000  # images; fewer are read before anyone wonders


def hash_files(root: Path, names: tuple[str, ...]) -> bytes:
    """Digest files, several at a time."""

    def one(name: str) -> bytes:
        try:
            return _sha256(root / name)
        except OSError as error:
            raise UserError(
                f"cannot read the image {root / name}: {error.strerror}; repair or remove it"
            ) from error

    digests: list[bytes] = []
    with (
        bar_of(len(names), f"reading {root.name}") as bar,
        ThreadPoolExecutor(min(8, 2 + (os.cpu_count() or 1))) as pool,
    ):
        for start in range(0, len(names), HASH_BLOCK):
            block = names[start : start + HASH_BLOCK]
            digests += pool.map(one, block)
            if bar is not None:
                bar.update(len(block))
    return b"".join(digests)


def hash_rows(digest_of: Callable[[int], bytes], count: int) -> bytes:
    """Digest the rows of a container in their order: it may be read fast in no other."""
    digests = []
    with bar_of(count, "reading images") as bar:
        for row in range(count):
            digests.append(digest_of(row))
            if bar is not None:
                bar.update(1)
    return b"".join(digests)


def sha256_bytes(content: bytes) -> bytes:
    """Digest bytes."""
    return hashlib.sha256(content).digest()


def bar_of(count: int, what: str) -> AbstractContextManager[Any]:
    """Open a progress bar where there is enough to read; else None is what is entered."""
    return progress(count, what, "file") if count >= BAR_FROM else nullcontext()


def _sha256(path: Path) -> bytes:
    # Most images come in one read; a large fixed buffer for each (as for archives) costs more
    # than the hashing.
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as stream:
        while block := stream.read(READ_BYTES):
            digest.update(block)
    return digest.digest()
