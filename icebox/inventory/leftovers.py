"""What lies below FEATURES_DIR beside stores: unfinished work, and what killed processes left."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from data.common.files import TEMPORARY_START, is_locked
from data.format.spec import work_dir
from icebox.inventory.sizes import size_of
from icebox.inventory.stores import SHARDS
from icebox.inventory.words import count_words

WORK = "unfinished work"
ORPHANS = "shards without their store"
TEMPORARY = "temporary, of a process that has ended"
BEING_WRITTEN = "temporary, being written"


@dataclass(frozen=True)
class Leftover:
    """A folder or file that is not a store."""

    path: Path
    name: str  # below FEATURES_DIR
    kind: str
    bytes: int
    made: float
    note: str = ""
    key: str = ""  # of the store that it belongs to, where that is known
    in_use: bool = False


def find_leftovers(features_dir: Path) -> list[Leftover]:
    """Find unfinished work, shards whose store is gone, and temporary files; largest first."""
    found = [*_work(features_dir), *_beside_stores(features_dir)]
    return sorted(found, key=lambda one: -one.bytes)


def _work(features_dir: Path) -> list[Leftover]:
    found = []
    for entry in _listed(work_dir(features_dir, "")):
        if entry.name.startswith(TEMPORARY_START):
            found.append(_temporary(features_dir, Path(entry.path)))
        elif entry.is_dir(follow_symlinks=False):
            path = Path(entry.path)
            shards = sum(1 for _ in path.glob("shard-*.h5"))
            locked = is_locked(path.with_suffix(".lock"))
            note = f"{count_words(shards, 'shard')}{_plan_words(path)}"
            found.append(_entry(features_dir, path, WORK, note, key=entry.name, in_use=locked))
    return found


def _plan_words(folder: Path) -> str:
    """Say how it was computed, where the plan can be read."""
    try:
        plan = json.loads((folder / "plan.json").read_text("utf-8"))
        return f", {plan['engine']} on {plan['device']}"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ""


def _beside_stores(features_dir: Path) -> list[Leftover]:
    found = []
    for entry in _listed(features_dir):
        if entry.name.startswith(TEMPORARY_START):
            found.append(_temporary(features_dir, Path(entry.path)))
        elif entry.name[0] != "." and entry.is_dir():
            for below in _listed(Path(entry.path)):
                path = Path(below.path)
                if below.name.startswith(TEMPORARY_START):
                    found.append(_temporary(features_dir, path))
                    continue
                named = SHARDS.fullmatch(below.name)
                if named and below.is_dir(follow_symlinks=False):
                    store = path.with_name(f"{named['store']}.h5")
                    if not os.path.lexists(store):
                        found.append(_orphans(features_dir, path))
    return found


def _orphans(features_dir: Path, path: Path) -> Leftover:
    key = key_of_shards(path)
    locked = bool(key) and is_locked(work_dir(features_dir, key).with_suffix(".lock"))
    return _entry(features_dir, path, ORPHANS, key=key, in_use=locked)


def key_of_shards(folder: Path) -> str:
    """Read of which store shards are; empty where none can be read."""
    from data.format.records import StoreError
    from data.store import opened

    for path in sorted(folder.glob("shard-*.h5"))[:1]:
        try:
            with opened(path) as shard:
                return shard.text("key")
        except StoreError:
            break
    return ""


def _temporary(features_dir: Path, path: Path) -> Leftover:
    from data.common.files import is_leftover

    gone = is_leftover(path)
    return _entry(features_dir, path, TEMPORARY if gone else BEING_WRITTEN, in_use=not gone)


def _entry(
    features_dir: Path, path: Path, kind: str, note: str = "", *, key: str = "", in_use: bool
) -> Leftover:
    try:
        made = path.lstat().st_mtime
    except OSError:
        made = 0.0
    name = path.relative_to(features_dir).as_posix()
    return Leftover(path, name, kind, size_of(path).bytes, made, note, key, in_use)


def _listed(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: entry.name)
    except OSError:
        return []
