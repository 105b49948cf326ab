"""How much memory there is to take: what the system and its control groups have free."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path

from data.errors import UserError

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY = {"k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


def parse_memory(text: str) -> int:
    """Parse the size of a memory.

    Parameters
    ----------
    text : str
        A number of bytes, or a number with a unit: ``2GB``, ``1.5 GB``, ``500MB``, ``2GiB``.

    Returns
    -------
    int
        Bytes.

    Raises
    ------
    UserError
        For anything else.
    """
    number = r"\s*(\d+(?:\.\d*)?(?:e\d+)?)\s*([kmgt]?)(i?)b?\s*"
    found = re.fullmatch(number, text.lower(), re.ASCII)
    count = math.nan
    if found and (found[2] or not found[3]):
        count = float(found[1]) * (_BINARY if found[3] else _UNITS)[found[2]]
    if not (math.isfinite(count) and count >= 1):
        raise UserError(
            f"--memory is {text!r}, expected a size above 0, such as 2GB, 500MB or 1000000000"
        )
    return int(count)


def default_memory() -> int:
    """Return what a fit may take when nothing was said: half of what is free.

    Returns
    -------
    int
        Bytes.
    """
    return free_memory() // 2


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
