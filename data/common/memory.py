"""Memory: how much there is to take, and how much has been taken, and what is kept once freed.

What is kept: glibc hands large blocks back to the kernel as soon as they are freed, and the kernel
clears fresh pages for the next one.

- Stage one, activations of every size (`keep_pages`). Measured with MobileNetV2 at 128 pixels on
  two cores, 512 images in batches of 64: 2.7 million page faults and 6.3 s of system time without
  this (1.1 million and 1.9 s in channels-last), none with it, and half the CPU time per image.
- Stage two's command line, copies of the features that every fit makes (`keep_pages`): on a virtual
  machine whose host takes freed memory back, fresh pages take longer than what is written to them.
- Stage two as a library, temporary arrays of some hundred kilobytes (`keep_small_blocks`), whose
  page faults would take longer than what is computed in them. Larger blocks go back to the kernel.
"""

from __future__ import annotations

import ctypes
import math
import os
import platform
import re
import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from data.common.errors import UserError

# From malloc.h of glibc.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_MMAP_MAX = -4

# numpy asks for huge pages from here on.
SMALL_BLOCK = 4 << 20


# What users set glibc's allocator with. (Dask sets MALLOC_TRIM_THRESHOLD_ for everyone.)
SETTINGS = ("MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_")

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY = {"k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


def free_memory(root: Path = Path("/")) -> int:
    """Say how many bytes a process may still take.

    That is what Linux calls available (elsewhere all memory that is there), or less where a control
    group of this process, of version 1 or 2, allows less; ``root`` is another folder in tests.
    """
    free = _available(root / "proc/meminfo")
    if free is None:
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(0, min([free, *_groups(root)]))


def peak_memory_mb() -> float | None:
    """Give this process's peak memory in units of 10^6 bytes; None where no system call tells."""
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


def parse_memory(text: str) -> int:
    """Turn ``2GB``, ``1.5 GB``, ``500MB``, ``2GiB`` or a number of bytes into bytes."""
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
    """Return the bytes a fit may take when nothing was said: half of what is free."""
    return free_memory() // 2


def _mallopt() -> Callable[[int, int], int] | None:
    """Find glibc's `mallopt`; other C libraries, and what a user has set, are left alone."""
    if platform.libc_ver()[0] != "glibc" or any(name in os.environ for name in SETTINGS):
        return None
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return None
    mallopt.argtypes = (ctypes.c_int, ctypes.c_int)
    mallopt.restype = ctypes.c_int
    return mallopt


_kept: list[str] = []  # filled once all pages stay


def keep_pages() -> bool:
    """Tell glibc's allocator to keep all its pages for the rest of this process.

    False, and nothing changed, with another C library or where the user has set glibc's allocator.
    """
    mallopt = _mallopt()
    if mallopt is None:
        return False
    kept = mallopt(_M_MMAP_MAX, 0) == 1
    kept = mallopt(_M_TRIM_THRESHOLD, 2**31 - 1) == 1 and kept
    _kept.extend(["all"] if kept else [])
    return kept


@lru_cache(maxsize=1)
def keep_small_blocks() -> bool:
    """Tell glibc's allocator to keep the pages of blocks up to `SMALL_BLOCK` bytes."""
    if _kept:
        return True
    mallopt = _mallopt()
    if mallopt is None:
        return False
    kept = mallopt(_M_MMAP_THRESHOLD, SMALL_BLOCK) == 1
    return mallopt(_M_TRIM_THRESHOLD, 64 * SMALL_BLOCK) == 1 and kept
