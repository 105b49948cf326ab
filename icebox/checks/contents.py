"""What is on the disk: stores, runs, unfinished work, downloads, caches."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from icebox.checks.finding import NOTE, OK, WARNING, Finding
from icebox.inventory.caches import caches
from icebox.inventory.leftovers import BEING_WRITTEN, WORK, find_leftovers
from icebox.inventory.memo import Memo
from icebox.inventory.runs import RunFolder, read_runs
from icebox.inventory.sizes import Size, size_of
from icebox.inventory.stores import StoreFile, read_stores
from icebox.inventory.words import age_words, count_words, size_words

# So long may headers that are not known yet, and folders, be read; then what is left is said.
SECONDS = 1.5
NAMED = 3


class _Until:
    """Lets files be read until the time is out, and counts the others."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._until, self.left_out = seconds, 0.0, 0

    def __call__(self) -> bool:
        if not self._until:
            # What reads them is imported first, which is not what takes long with many.
            import classify.results.file  # noqa: F401
            import data.reading  # noqa: F401

            self._until = time.monotonic() + self._seconds
        if time.monotonic() < self._until:
            return True
        self.left_out += 1
        return False


def check_stores(features_dir: Path, seconds: float = SECONDS) -> Iterator[Finding]:
    """Count the stores, and name those that cannot be read."""
    clock = _Until(seconds)
    problems: list[str] = []

    def read() -> list[StoreFile]:
        return read_stores(features_dir, Memo("stores", features_dir), clock, problems)

    found, missing = _read(read)
    if missing:
        yield Finding("stores", *_missing(features_dir, missing, "icebox features writes some"))
        return
    good = [one for one in found if not one.problem]
    broken = [(one.name, one.problem) for one in found if one.problem]
    total = sum(one.bytes for one in good)
    newest = max(good, key=lambda one: one.made or 0.0, default=None)
    text = f"{count_words(len(good), 'store')} in {features_dir}, {size_words(total)}"
    if newest is not None:
        text += f"; the newest, {newest.name}, is {_age(newest.made)} old"
    if clock.left_out:
        text += f"; {clock.left_out:,} more were not read yet, for want of time"
    yield Finding(
        "stores",
        OK if good else NOTE,
        text,
        values={
            "folder": str(features_dir),
            "count": len(good),
            "bytes": total,
            "newest": None if newest is None else newest.name,
            "not_read": clock.left_out,
        },
    )
    yield from _broken("stores", "not readable as a store", broken)
    for problem in problems:
        yield Finding("stores", WARNING, problem)


def check_runs(reports_dir: Path, seconds: float = SECONDS) -> Iterator[Finding]:
    """Count the runs, and name those that cannot be read."""
    clock = _Until(seconds)

    def read() -> list[RunFolder]:
        return read_runs(reports_dir, Memo("runs"), clock)

    found, missing = _read(read)
    if missing:
        yield Finding("runs", *_missing(reports_dir, missing, "icebox classify makes some"))
        return
    good = [one for one in found if not one.problem]
    names = [(str(one.folder.relative_to(reports_dir)), one.problem) for one in found]
    size = size_of(reports_dir, seconds)
    newest = max(good, key=lambda one: one.started, default=None)
    text = f"{count_words(len(good), 'run')} in {reports_dir}, {size.words().partition(' in ')[0]}"
    if newest is not None:
        name = newest.folder.relative_to(reports_dir)
        text += f"; the newest, {name}, is {_age(newest.started)} old"
    if clock.left_out:
        text += f"; {clock.left_out:,} more were not read yet, for want of time"
    yield Finding(
        "runs",
        OK if good else NOTE,
        text,
        values={
            "folder": str(reports_dir),
            "count": len(good),
            "bytes": size.bytes,
            "newest": None if newest is None else str(newest.folder.relative_to(reports_dir)),
            "not_read": clock.left_out,
        },
    )
    yield from _broken("runs", "not readable as a run", [one for one in names if one[1]])


def check_leftovers(features_dir: Path) -> Iterator[Finding]:
    """Say what interrupted runs have left; nothing where there is nothing."""
    found = [one for one in find_leftovers(features_dir) if one.kind != BEING_WRITTEN]
    idle = [one for one in found if not one.in_use]
    if not found:
        return
    busy = len(found) - len(idle)
    work = sum(one.kind == WORK for one in idle)
    total = sum(one.bytes for one in idle)
    parts = [f"{count_words(len(idle), 'leftover')} of interrupted runs, {size_words(total)}"]
    if work:
        parts.append(f"{work} of which the same command goes on with")
    if busy:
        parts.append(f"{busy} being computed now")
    yield Finding(
        "unfinished",
        NOTE,
        "; ".join(parts),
        ("icebox cache lists them",) if idle else (),
        {"count": len(idle), "bytes": total, "in_use": busy},
    )


def check_caches(features_dir: Path, data_dir: Path, seconds: float = SECONDS) -> Iterator[Finding]:
    """Say how large caches and downloads are."""
    places = [("downloads", data_dir)]
    places += [(f"{one.name} cache", one.path) for one in caches(features_dir)]
    words, values = [], {}
    until = time.monotonic() + seconds
    for name, path in places:
        there = path.is_dir()
        size = size_of(path, max(0.1, until - time.monotonic())) if there else Size()
        values[name] = {"folder": str(path), **size.to_json()}
        if size.files:
            more = "" if size.whole else "more than "
            words.append(f"{name} {more}{size_words(size.bytes)} ({path})")
    yield Finding("caches", OK, "; ".join(words) or "all empty", values=values)


def _read(read: Callable[[], Any]) -> tuple[list[Any], str]:
    """Read a folder, or say why there is nothing to be read."""
    try:
        return read(), ""
    except FileNotFoundError:
        return [], "there is none yet"
    except NotADirectoryError:
        return [], "it is not a folder"
    except OSError as error:
        return [], f"it cannot be listed ({error.strerror or error})"


def _missing(folder: Path, why: str, advice: str) -> tuple[str, str, tuple[str, ...]]:
    none = why == "there is none yet"
    text = f"none: {folder} is not there yet" if none else f"{folder}: {why}"
    return NOTE if none else WARNING, text, (advice,) if none else ()


def _broken(name: str, what: str, broken: Sequence[tuple[str, str]]) -> Iterator[Finding]:
    if not broken:
        return
    named = [f"{one}: {why}" for one, why in broken[:NAMED]]
    if len(broken) > NAMED:
        named.append(f"and {len(broken) - NAMED:,} more")
    yield Finding(
        name,
        WARNING,
        f"{count_words(len(broken), 'file')} {what}",
        tuple(named),
        {"broken": dict(broken)},
    )


def _age(when: float | None) -> str:
    return age_words(time.time() - (when or 0.0))
