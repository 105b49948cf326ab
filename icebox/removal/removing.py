"""Removal: whole or not at all, of nothing that is in use, and of nothing that lies elsewhere.

What is removed gets a temporary name first, in its own folder, in an order in which nothing that
is left under its name is half of something: a store before its shards. Then it is deleted. A
process that is killed in between leaves a temporary folder, which the next run of stage one, or
of this command, removes.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from data.common.errors import UserError
from data.common.files import is_locked, lock, sync_folder, temporary_folder
from data.format.spec import work_dir
from icebox.inventory.leftovers import TEMPORARY, WORK, key_of_shards
from icebox.inventory.stores import StoreFile
from icebox.removal.names import Item


class _InUseError(Exception):
    """Another process holds the lock."""


def check_removable(item: Item, features_dir: Path, *, holding: bool = False) -> None:
    """Refuse what is in use, unless its lock is held here, and what leads out of the folder."""
    root = Path(os.path.realpath(features_dir))
    for path in parts(item):
        if path.is_symlink():
            raise UserError(
                f"{path} is a link to {os.readlink(path)}, which icebox cache does not remove; "
                f"remove the link yourself: rm {path}"
            )
        real = Path(os.path.realpath(path))
        if not real.is_relative_to(root):
            raise UserError(
                f"{path} lies in {real.parent}, outside {features_dir}: a link leads there; give "
                "the real folder with --features-dir, or remove it yourself"
            )
    locked = bool(item.key) and is_locked(work_dir(features_dir, item.key).with_suffix(".lock"))
    if not holding and (locked or getattr(item, "in_use", False)):
        raise _in_use(item)
    open_in = [process for process in readers(parts(item)) if process[0] != os.getpid()]
    if open_in:
        number, name = open_in[0]
        raise UserError(
            f"{item.path} is being read by process {number} ({name}); wait until it has ended, "
            "or end it, and try again"
        )


def parts(item: Item) -> list[Path]:
    """List what belongs to an item, in the order in which it goes."""
    return [item.path, *(item.shards if isinstance(item, StoreFile) else ())]


def remove(item: Item, features_dir: Path) -> None:
    """Remove one; a `UserError` says why not, and then it is as it was."""
    key = item.key
    if not key and isinstance(item, StoreFile) and item.shards:
        key = key_of_shards(item.shards[0])  # a damaged store over whole shards
    with ExitStack() as held:
        # Where there is no such folder, nobody computes.
        if key and work_dir(features_dir, "").is_dir():
            locked = work_dir(features_dir, key).with_suffix(".lock")
            try:
                held.enter_context(lock(locked, on_wait=_stop))
            except _InUseError:
                raise _in_use(item) from None
        # Again, since somebody may have had the lock a moment ago.
        check_removable(item, features_dir, holding=True)
        _put_aside(item)


def _stop() -> None:
    raise _InUseError


def _in_use(item: Item) -> UserError:
    return UserError(
        f"{item.path} is in use: another process is computing it; wait until it has ended, or "
        "interrupt it, and try again"
    )


def _put_aside(item: Item) -> None:
    folder = item.path.parent
    try:
        if getattr(item, "kind", "") == TEMPORARY:  # it has such a name already
            _delete(item.path)
            return
        with temporary_folder(folder) as aside:
            _move(parts(item), aside)
            sync_folder(folder)
            if getattr(item, "kind", "") == WORK:
                # The mark of an interrupted --force is of this work.
                item.path.with_suffix(".forced").unlink(missing_ok=True)
            _delete(aside)
    except FileNotFoundError as error:
        raise UserError(f"{item.path} is gone: another process has removed it") from error
    except OSError as error:
        raise UserError(
            f"cannot remove {item.path}: {error.strerror or error} ({error.filename}); change the "
            "permissions, or remove it yourself"
        ) from error


def _move(paths: Sequence[Path], aside: Path) -> None:
    """Move all, or none where one cannot be moved or Ctrl-C comes in between."""
    moved: list[tuple[Path, Path]] = []
    try:
        for number, path in enumerate(paths):
            # In a folder of its own each, since names are theirs.
            place = aside / str(number) / path.name
            place.parent.mkdir()
            os.rename(path, place)
            moved.append((place, path))
    except BaseException:
        for place, path in reversed(moved):
            os.rename(place, path)
        raise


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def readers(paths: Sequence[Path]) -> Iterator[tuple[int, str]]:
    """Yield the processes that have one of the files open, where Linux lets this user see it."""
    wanted = set()
    for path in paths:
        files = [path] if not path.is_dir() else [one for one in path.rglob("*") if one.is_file()]
        for file in files:
            try:
                stat = file.stat()
            except OSError:
                continue
            wanted.add((stat.st_dev, stat.st_ino))
    try:
        numbers = [name for name in os.listdir("/proc") if name.isdecimal()]
    except OSError:  # not Linux
        return
    for number in numbers:
        try:
            descriptors = [entry.path for entry in os.scandir(f"/proc/{number}/fd")]
        except OSError:  # another user's, or gone
            continue
        for descriptor in descriptors:
            try:
                stat = os.stat(descriptor)
            except OSError:
                continue
            if (stat.st_dev, stat.st_ino) in wanted:
                yield int(number), _name(number)
                break


def _name(number: str) -> str:
    try:
        words = Path("/proc", number, "cmdline").read_bytes().split(b"\0")
    except OSError:
        return "?"
    return b" ".join(words).decode("utf-8", "replace").strip()[:80]
