"""How much memory there is to take, and how much has been taken."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path


def free_memory(root: Path = Path("/")) -> int:
    """Say how much memory a process may still take.

    Parameters
    ----------
    root : Path
        Where ``proc`` and ``sys`` are; another folder for tests.

    Returns
    -------
    int
        Bytes: what Linux calls available (Linux alone says that; elsewhere all memory that is
        there), or less where a control group of this process, of version 1 or 2, allows less.
    """
    free = _available(root / "proc/meminfo")
    if free is None:
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(0, min([free, *_groups(root)]))


def peak_memory_mb() -> float | None:
    """Say how much memory this process has held at its peak.

    Returns
    -------
    float or None
        In units of 10^6 bytes; None where the system does not say.
    """
    try:
        import resource
    except ImportError:  # not a POSIX system
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB, on macOS bytes
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e6


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""


def _available(path: Path) -> int | None:
    found = re.search(r"^MemAvailable:\s*(\d+) kB", _text(path), re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def _groups(root: Path) -> list[int]:
    """List what the control groups leave, from that of the process up to the root."""
    left = []
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        kinds, _, group = rest.partition(":")
        if number == "0" and not kinds:
            top, limit, used, cache = "sys/fs/cgroup", "max", "current", "inactive_file"
        elif "memory" in kinds.split(","):
            top, limit, used, cache = (
                "sys/fs/cgroup/memory", "limit_in_bytes", "usage_in_bytes", "total_inactive_file",
            )  # fmt: skip
        else:
            continue
        # In a container the path may be the host's, of which only the root is to be seen.
        parts = [part for part in group.split("/") if part not in ("", "..")]
        for depth in range(len(parts), -1, -1):
            folder = root.joinpath(top, *parts[:depth])
            most, now = _text(folder / f"memory.{limit}"), _text(folder / f"memory.{used}")
            if most.strip().isdecimal() and now.strip().isdecimal():
                # The page cache is given back when it is asked for.
                held = re.search(rf"^{cache} (\d+)", _text(folder / "memory.stat"), re.MULTILINE)
                left.append(int(most) - int(now) + (int(held[1]) if held else 0))
    return left
