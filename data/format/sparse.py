"""A file in memory of which most was never written: what HDF5 writes its metadata to.

A store is mostly arrays, which go to the disk directly. All that HDF5 itself writes, a few
kilobytes around them, is caught here first, so that the library never meets a full disk (at
which it can fail as late as at interpreter exit).
"""

from __future__ import annotations

import io
import os
from typing import Any

_PAGE = 1 << 16


class SparseFile(io.RawIOBase):
    """A binary file whose unwritten pages read as zeros and take no memory."""

    def __init__(self) -> None:
        self._pages: dict[int, bytearray] = {}
        self._position = 0
        self._size = 0

    @property
    def size(self) -> int:
        """Bytes of the file, those never written included."""
        return self._size

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def writable(self) -> bool:
        """Say that it can be written."""
        return True

    def seekable(self) -> bool:
        """Say that it has a position."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Set the position, in bytes from the start, the position or the end."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = base + offset
        return self._position

    def truncate(self, size: int | None = None) -> int:
        """Set the size; pages behind it are forgotten."""
        self._size = self._position if size is None else size
        last, used = divmod(self._size, _PAGE)
        self._pages = {n: page for n, page in self._pages.items() if n * _PAGE < self._size}
        if last in self._pages:  # what comes after a cut and a growth is zero
            self._pages[last][used:] = bytes(_PAGE - used)
        return self._size

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer from the position on; what lies behind the end stays as it is."""
        view = memoryview(buffer).cast("B")
        count = max(0, min(len(view), self._size - self._position))
        done = 0
        while done < count:
            number, start = divmod(self._position, _PAGE)
            length = min(_PAGE - start, count - done)
            page = self._pages.get(number)
            content = bytes(length) if page is None else page[start : start + length]
            view[done : done + length] = content
            done += length
            self._position += length
        return count

    def write(self, content: Any) -> int:
        """Write bytes at the position."""
        view = memoryview(content).cast("B")
        done = 0
        while done < len(view):
            number, start = divmod(self._position, _PAGE)
            length = min(_PAGE - start, len(view) - done)
            page = self._pages.setdefault(number, bytearray(_PAGE))
            page[start : start + length] = view[done : done + length]
            done += length
            self._position += length
        self._size = max(self._size, self._position)
        return done
