"""Folders where downloads and caches lie: Icebox's own, and those that libraries share."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data.common.cache_folder import cache_folder
from icebox.inventory.sizes import Size, size_of
from icebox.inventory.stores import StoreFile

# The names under which `huggingface_hub` keeps a model's repository: models--OWNER--NAME.
_MODELS = "models--"


@dataclass(frozen=True)
class Cache:
    """A folder of cached files, and who keeps it."""

    name: str
    path: Path
    whose: str  # in words, of a table


@dataclass(frozen=True)
class Download:
    """A file or folder that was fetched, and its use."""

    path: Path
    size: Size
    note: str = ""


def caches(features_dir: Path | None, environment: Mapping[str, str] = os.environ) -> list[Cache]:
    """List the folders, whether they are there or not; nothing heavy is imported."""
    user = cache_folder(features_dir)
    found = [Cache("icebox", user / "icebox", "measured speeds of engines, widths of networks")]
    hub = hub_folder()
    if hub is not None:
        found.append(Cache("hub", hub, "weights of the Hugging Face hub"))
    home = environment.get("TORCH_HOME") or os.fspath(user / "torch")
    found.append(Cache("torch", Path(home, "hub", "checkpoints"), "weights of other servers"))
    return found


def hub_folder() -> Path | None:
    """Return the folder of the hub's cache, as its own library settles it; None without it."""
    try:
        from huggingface_hub import constants
    except ImportError:
        return None
    return Path(constants.HF_HUB_CACHE)


def hub_models(
    folder: Path, stores: Sequence[StoreFile], seconds: float
) -> tuple[list[Download], int]:
    """List the models of the hub's cache that stores were made with; count the other entries."""
    users: dict[str, int] = {}
    for store in stores:
        origin = str(store.facts.get("origin") or "").partition("@")[0]
        if "/" in origin and "://" not in origin:
            name = _MODELS + origin.replace("/", "--")
            users[name] = users.get(name, 0) + 1
    found, others = [], 0
    for path in _entries(folder):
        if path.name in users:
            count = users[path.name]
            note = f"of {count} {'store' if count == 1 else 'stores'}"
            found.append(Download(path, size_of(path, seconds), note))
        elif "--" in path.name:
            others += 1
    return sorted(found, key=lambda one: -one.size.bytes), others


def downloads(data_dir: Path, seconds: float) -> list[Download]:
    """List what lies in DATA_DIR, largest first."""
    found = [
        Download(
            path,
            size_of(path, seconds),
            f"a link to {os.readlink(path)}" if path.is_symlink() else "",
        )
        for path in _entries(data_dir)
    ]
    return sorted(found, key=lambda one: -one.size.bytes)


def _entries(folder: Path) -> Iterator[Path]:
    try:
        with os.scandir(folder) as found:
            names = sorted(entry.name for entry in found if not entry.name.endswith(".lock"))
    except OSError:
        return
    for name in names:
        yield folder / name
