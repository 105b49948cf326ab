"""What lies in folders of images and is not read, counted by kind."""

from __future__ import annotations

import os
import re
from typing import Any

FIRST = 5  # names that are given of each kind
HIDDEN = "hidden files"
HIDDEN_FOLDERS = "hidden folders"
NO_SUFFIX = "files without a suffix"


def kind_of(name: str) -> str:
    """Name the kind of a file: its suffix in small letters, or that it is hidden or has none."""
    if name.startswith("."):
        return HIDDEN
    return os.path.splitext(name)[1].lower() or NO_SUFFIX


class LeftOut:
    """Counts by kind, with the first names of each."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.first: dict[str, list[str]] = {}

    def __bool__(self) -> bool:
        return bool(self.counts)

    def add(self, kind: str, name: str) -> None:
        """Count one, by the name that a person can find it by."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        names = self.first.setdefault(kind, [])
        if len(names) < FIRST:
            # A name that is not UTF-8 must not end in JSON, nor stop the count.
            names.append(name.encode("utf-8", "backslashreplace").decode("utf-8"))

    def to_json(self) -> dict[str, Any]:
        """Return ``{kind: {"count": n, "first": [name, ...]}}``, the most frequent kind first."""
        ranked = sorted(self.counts, key=lambda kind: (-self.counts[kind], kind))
        return {kind: {"count": self.counts[kind], "first": self.first[kind]} for kind in ranked}

    def sentence(self, where: object) -> str:
        """Say what there is in one line."""
        parts = []
        for kind, found in self.to_json().items():
            what = kind if not kind.startswith(".") else f"{kind} files"
            if found["count"] == 1:
                what = re.sub(r"^(.*?(?:file|folder|image))s", r"\1", what, count=1)
            more = ", ..." if found["count"] > len(found["first"]) else ""
            parts.append(f"{found['count']:,} {what} ({', '.join(found['first'])}{more})")
        return f"not read in {where}: {'; '.join(parts)}"
