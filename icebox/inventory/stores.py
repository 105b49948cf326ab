"""The stores below FEATURES_DIR, by their headers, and what only looks like one."""

from __future__ import annotations

import os
import re
import stat as modes
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from icebox.inventory.memo import Memo
from icebox.inventory.sizes import size_of

# A folder of shards, as `data.virtual` names it: that of the store, and a digest.
SHARDS = re.compile(r"(?P<store>.+)\.shards-[0-9a-f]{16}")


@dataclass(frozen=True)
class StoreFile:
    """A file ``FEATURES_DIR/DATASET/NAME.h5``: a store, or not (`problem` says why)."""

    path: Path
    name: str  # DATASET/NAME.h5
    bytes: int  # with its shards
    made: float | None  # when it was finished, in seconds of the epoch
    shards: tuple[Path, ...] = ()  # folders with its features, where they are not in the file
    link: str = ""  # where the file leads, if it is a link
    problem: str = ""  # why it cannot be read as a store
    # Of a store: its key and what its header says in a few words. Empty of other files.
    key: str = ""
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def features(self) -> str:
        """Model, size and pooling in words."""
        return str(self.facts.get("features", ""))

    @property
    def rows(self) -> int:
        """Rows of all splits."""
        return sum(self.facts.get("rows", {}).values())


def store_files(features_dir: Path, problems: list[str]) -> Iterator[tuple[Path, tuple[Path, ...]]]:
    """Yield what has the name of a store, with the folders of its shards.

    ``OSError`` if FEATURES_DIR cannot be listed; of a folder in it, that is added to `problems`.
    """
    with os.scandir(features_dir) as found:
        folders = sorted(e.path for e in found if e.name[0] != "." and e.is_dir())
    for folder in folders:
        try:
            with os.scandir(folder) as found:
                entries = sorted((e.name, e.is_dir()) for e in found if e.name[0] != ".")
        except OSError as error:
            problems.append(f"{folder} cannot be listed: {error.strerror or error}")
            continue
        shards: dict[str, list[Path]] = {}
        for name, is_folder in entries:
            named = SHARDS.fullmatch(name) if is_folder else None
            if named:
                shards.setdefault(named["store"], []).append(Path(folder, name))
        for name, is_folder in entries:
            if name.endswith(".h5") and not is_folder:
                yield Path(folder, name), tuple(shards.get(name.removesuffix(".h5"), ()))


def read_stores(
    features_dir: Path,
    memo: Memo,
    on_file: Callable[[], bool],
    problems: list[str],
) -> list[StoreFile]:
    """Read the headers; `on_file` is asked before each new one, and False leaves it out."""
    found = []
    try:
        for path, shards in store_files(features_dir, problems):
            one = _read_store(features_dir, path, shards, memo, on_file)
            if one is not None:
                found.append(one)
    finally:
        memo.save()
    return found


def _read_store(
    features_dir: Path,
    path: Path,
    shards: tuple[Path, ...],
    memo: Memo,
    on_file: Callable[[], bool],
) -> StoreFile | None:
    """Read one; None where it has gone, or `on_file` says that there is no time."""
    name = path.relative_to(features_dir).as_posix()
    try:
        stat = path.lstat()
        link = os.readlink(path) if modes.S_ISLNK(stat.st_mode) else ""
    except FileNotFoundError:
        return None
    count = stat.st_size + sum(size_of(folder).bytes for folder in shards)
    # Shards may change without the store, so that those of a virtual store are looked at again.
    facts = None if shards or link else memo.find(path, stat)
    if facts is not None:
        problem = ""
    elif on_file():
        problem, facts = _read(path)
        if not (problem or shards or link):
            memo.keep(path, stat, facts)
    else:
        return None
    made = epoch(facts.get("finished")) or stat.st_mtime
    key = str(facts.get("key", ""))
    return StoreFile(path, name, count, made, shards, link, problem, key, facts)


def _read(path: Path) -> tuple[str, dict[str, Any]]:
    """Read a header: why it cannot be read, or what it says."""
    from classify.results.names import backbone_name
    from data.common.errors import UserError
    from data.reading import read_header

    try:
        if not modes.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for ever
            return "not a regular file", {}
        header = read_header(path)
    except (UserError, OSError) as error:
        return _reason(path, error), {}
    spec = header.spec
    return "", {
        "key": header.key,
        "dataset": str((spec.get("dataset") or {}).get("name", path.parent.name)),
        "model": str((spec.get("model") or {}).get("name", "")),
        "weights": str(((spec.get("model") or {}).get("weights") or {}).get("source", "")),
        "origin": header.provenance.get("weights_origin"),
        "image_size": (spec.get("preprocessing") or {}).get("image_size"),
        "pool": str(spec.get("pool", "default")),
        "layer": spec.get("layer"),
        "features": backbone_name(spec),
        "rows": header.sizes,
        "n_features": header.n_features,
        "n_classes": len(header.class_names),
        "dtype": header.dtype,
        "finished": header.provenance.get("finished"),
        "seconds": header.provenance.get("seconds"),
    }


def _reason(path: Path, error: Exception) -> str:
    """Take the path out of a message, and what to do, which is another matter here."""
    text = " ".join(str(error).split())
    for start in (f"{path} is ", f"{path}: ", f"{path} "):
        text = text.removeprefix(start)
    for end in (". Extract", ". Write it with", ". Give ", ". Make "):
        text = text.partition(end)[0]
    return text.removesuffix(".")


def epoch(text: Any) -> float | None:
    """Read a time of provenance."""
    try:
        found = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return (found if found.tzinfo else found.replace(tzinfo=timezone.utc)).timestamp()
