"""How large a folder is, in bounded time."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icebox.inventory.words import count_words, size_words


@dataclass
class Size:
    """What was counted below a folder."""

    bytes: int = 0
    files: int = 0
    whole: bool = True  # False where the time was out before all was counted
    unread: int = 0  # folders that cannot be listed

    def words(self) -> str:
        """Say it in a few words."""
        more = "" if self.whole else "more than "
        unread = f", {count_words(self.unread, 'folder')} not readable" if self.unread else ""
        return f"{more}{size_words(self.bytes)} in {count_words(self.files, 'file')}{unread}"

    def to_json(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {"bytes": self.bytes, "files": self.files, "complete": self.whole}


def size_of(path: Path, seconds: float = 3600.0) -> Size:
    """Add up the files at and below a path; links are not followed, files of two names count once.

    A folder that is removed meanwhile has no size.
    """
    found, until = Size(), time.monotonic() + seconds
    seen: set[tuple[int, int]] = set()
    waiting = [os.fspath(path)]
    try:
        if not path.is_dir() or path.is_symlink():
            return Size(path.lstat().st_size, 1)
    except OSError:
        return found
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    _add(found, entry, waiting, seen)
        except FileNotFoundError:
            continue
        except OSError:
            found.unread += 1
        if time.monotonic() > until and waiting:
            found.whole = False
            break
    return found


def _add(
    found: Size, entry: os.DirEntry[str], waiting: list[str], seen: set[tuple[int, int]]
) -> None:
    try:
        if entry.is_dir(follow_symlinks=False):
            waiting.append(entry.path)
            return
        stat = entry.stat(follow_symlinks=False)
    except OSError:  # removed meanwhile
        return
    if stat.st_nlink > 1:
        if (stat.st_dev, stat.st_ino) in seen:
            return
        seen.add((stat.st_dev, stat.st_ino))
    found.bytes += stat.st_size
    found.files += 1
