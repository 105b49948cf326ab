"""Processors, memory and disks."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from data.common.memory import free_memory, memory_limit, total_memory
from data.common.processors import cpu_quota, processor_name
from icebox.checks.finding import FAILURE, OK, WARNING, Finding
from icebox.inventory.words import count_words, size_words

LITTLE_MEMORY = 2 * 10**9
LITTLE_DISK, NO_DISK = 2 * 10**9, 50 * 10**6


def check_processor(root: Path = Path("/")) -> Iterator[Finding]:
    """Say which processors a command may use, and how many threads it is told to."""
    name, there, quota = processor_name(root), os.cpu_count() or 1, cpu_quota(root)
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else there
    usable = min(allowed, quota) if quota is not None else float(allowed)
    text = f"{name or 'of unknown name'}, {count_words(there, 'core')}"
    if usable < there:
        why = "control group" if quota is not None and quota < allowed else "affinity"
        text += f", of which {usable:g} can be used ({why})"
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    threads = {one: os.environ[one] for one in names if os.environ.get(one)}
    if threads:
        text += f"; {', '.join(f'{one} is {value}' for one, value in threads.items())}"
    yield Finding(
        "processor",
        OK,
        text,
        values={"name": name, "cores": there, "usable": usable, "quota": quota, "threads": threads},
    )


def check_memory(root: Path = Path("/")) -> Iterator[Finding]:
    """Say how much memory there is, is free, and is allowed."""
    total, free, limit = total_memory(root), free_memory(root), memory_limit(root)
    limit = limit if limit is not None and limit < total else None
    text = f"{size_words(total)}, {size_words(free)} free"
    if limit is not None:
        text += f"; the control group allows {size_words(limit)}"
    advice: tuple[str, ...] = ()
    if free < LITTLE_MEMORY:
        advice = ("close other programs, or give a smaller --batch-size and --memory",)
    yield Finding(
        "memory",
        WARNING if advice else OK,
        text,
        advice,
        {"total": total, "free": free, "limit": limit},
    )


def check_disk(places: Mapping[str, Path]) -> Iterator[Finding]:
    """Say how much is free where commands write; folders of one file system share a line."""
    disks: dict[int, list[str]] = {}
    free: dict[int, int] = {}
    for name, path in places.items():
        there = _nearest(path)
        try:
            device = there.stat().st_dev
            left = shutil.disk_usage(there).free
        except OSError as error:
            yield Finding("disk", WARNING, f"{name}, {path}: {error.strerror or error}")
            continue
        # As a rule the same number; of quotas by folder the smaller one.
        free[device] = min(left, free.get(device, left))
        disks.setdefault(device, []).append(name)
        if not _writable(path):
            reason = "not a folder" if there.is_file() else "not writable for this user"
            yield Finding(
                "disk",
                FAILURE if name in ("features", "reports") else WARNING,
                f"{name}: {path} cannot be written ({reason})",
                (f"give another folder, or change the permissions of {there}",),
                {"folder": str(path), "writable": False},
            )
    for device, names in disks.items():
        left = free[device]
        level = FAILURE if left < NO_DISK else WARNING if left < LITTLE_DISK else OK
        yield Finding(
            "disk",
            level,
            f"{size_words(left)} free" + (f" for {', '.join(names)}" if len(disks) > 1 else ""),
            () if level == OK else ("icebox cache lists what can be removed",),
            {"free": left, "for": names},
        )


def temporary_folder() -> Path:
    """Return the system's folder for temporary files; the current one where there is none."""
    try:
        return Path(tempfile.gettempdir())
    except OSError:
        return Path.cwd()


def _nearest(path: Path) -> Path:
    """Give the path, or the nearest folder above that is there."""
    for one in (path.absolute(), *path.absolute().parents):
        if os.path.lexists(one):
            return one
    return Path("/")


def _writable(path: Path) -> bool:
    there = _nearest(path)
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)
