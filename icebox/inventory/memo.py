"""What was read of files before, so that a thousand unchanged headers are not read again.

One JSON file in the user's cache folder. A file is known again by its path, size, times of change
and inode. A memo that is damaged, of another version or cannot be written is no error: then files
are read again.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from data.common.cache_folder import cache_folder
from data.common.files import write_json

VERSION = 1
KEPT = 20_000  # files


class Memo:
    """Facts by file."""

    def __init__(self, kind: str, features_dir: Path | None = None) -> None:
        self.path: Path | None = None
        self._changed = False
        self._known: dict[str, Any] = {}
        try:
            self.path = cache_folder(features_dir) / "icebox" / f"{kind}-{VERSION}.json"
            content = json.loads(self.path.read_text("utf-8"))
        except (OSError, ValueError, RecursionError):
            return
        if isinstance(content, dict):
            self._known = content

    def find(self, path: Path, stat: os.stat_result) -> dict[str, Any] | None:
        """Return what is known of a file; None where it is new or has changed."""
        entry = self._known.get(os.path.abspath(path))
        if not isinstance(entry, dict) or entry.get("stamp") != _stamp(stat):
            return None
        facts = entry.get("facts")
        return facts if isinstance(facts, dict) else None

    def keep(self, path: Path, stat: os.stat_result, facts: dict[str, Any]) -> None:
        """Remember what was read."""
        self._known[os.path.abspath(path)] = {"stamp": _stamp(stat), "facts": facts}
        self._changed = True

    def save(self) -> None:
        """Write what is known, the newest last."""
        if not self._changed or self.path is None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_json(self.path, dict(list(self._known.items())[-KEPT:]))
        except (OSError, ValueError):
            return
        self._changed = False


def _stamp(stat: os.stat_result) -> list[int]:
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
