"""Names of image files in a table, and which of them are there: one listing a folder."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Sequence
from pathlib import Path

from data.common.errors import UserError
from data.images.decode import SUFFIXES
from data.images.tables.records import NAMED


class ImageFolder:
    """The files below the folder that the names of a table count from; listed when asked for."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._listed: dict[str, frozenset[str]] = {}
        self._stems: dict[str, dict[str, str]] = {}

    def resolve(self, names: Sequence[str]) -> tuple[list[str], list[int]]:
        """Give each name as it is on the disk, relative where it can be; and the rows missing."""
        found, missing = [], []
        prefix = f"{self.root.as_posix()}/"
        for row, name in enumerate(names):
            if "./" in name or "//" in name:
                name = posixpath.normpath(name)
            if name.startswith(prefix):
                name = name[len(prefix) :]
            folder, _, base = name.rpartition("/")
            there = self._listed.get(folder)
            if there is None:
                there = self._list(folder, name)
            if base not in there:
                other = self._other(name)
                if other is None:
                    missing.append(row)
                else:
                    name = other
            found.append(name)
        return found, missing

    def _list(self, folder: str, name: str) -> frozenset[str]:
        # "/a.png" lies in the root of the file system, and "a.png" in ours.
        place = "/" if not folder and name.startswith("/") else self.root / folder
        try:
            with os.scandir(place) as listing:
                there = frozenset(entry.name for entry in listing)
        except OSError:
            there = frozenset()
        if place != "/":
            self._listed[folder] = there
        return there

    def _other(self, name: str) -> str | None:
        """Find a file that is written otherwise: with backslashes, spaces, no suffix."""
        if not name or name.endswith("/"):
            return None
        plain = name.replace("\\", "/").strip()
        if plain != name:
            (found,), missing = self.resolve([plain])
            return None if missing else found
        if name.lower().endswith(SUFFIXES):
            return None
        folder, slash, base = name.rpartition("/")
        stems = self._stems.get(folder)
        if stems is None:
            stems = {}
            for entry in sorted(self._list(folder, name)):
                stem, suffix = os.path.splitext(entry)
                if suffix.lower() in SUFFIXES:
                    # Two files of one name are nobody's: "" is in no folder.
                    stems[stem] = "" if stem in stems else entry
            self._stems[folder] = stems
        entry = stems.get(base, "")
        return f"{folder}{slash}{entry}" if entry else None


def missing_files(
    table: Path, column: str, root: Path, names: Sequence[str], rows: Sequence[int]
) -> UserError:
    """Say how many images are not there, which are the first, and where they may be."""
    first = [f"row {row + 1}: {names[row]!r}" for row in rows[:NAMED]]
    more = ", ..." if len(rows) > NAMED else ""
    name = names[rows[0]]
    if "://" in name:
        advice = "they are addresses; fetch the images, and write the names of their files"
    elif name.startswith("/") or (len(name) > 1 and name[1] == ":"):
        advice = "write names that count from the folder of the images, and give --image-root DIR"
    else:
        advice = "names count from the folder of the table; give another with --image-root DIR"
        nearby = _nearby(root, name)
        if nearby is not None:
            advice += f": {nearby} has the first"
    return UserError(
        f"{table}: {len(rows):,} of {len(names):,} images of the column {column} are not in {root} "
        f"({', '.join(first)}{more})\n{advice}"
    )


def _nearby(root: Path, name: str) -> Path | None:
    """Look for an image in the folders below and above the one that was expected."""
    places = [root.parent]
    try:
        with os.scandir(root) as listing:
            places += sorted(root / entry.name for entry in listing if entry.is_dir())
    except OSError:
        return None
    for place in places:
        if not ImageFolder(place).resolve([name])[1]:
            return place
    return None
