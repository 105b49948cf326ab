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

from data.common.control_groups import group_folders, text_of
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
    return max(0, min([free, *(left for _, left in _groups(root))]))


def peak_memory_mb() -> float | None:
    """Give this process's peak memory in units of 10^6 bytes; None where no system call tells."""
    try:
        import resource
    except ImportError:  # not a POSIX system
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB, on macOS bytes
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e6


def total_memory(root: Path = Path("/")) -> int:
    """Say how many bytes of memory the machine has."""
    found = re.search(r"^MemTotal:\s*(\d+) kB", text_of(root / "proc/meminfo"), re.MULTILINE)
    if found:
        return int(found[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def memory_limit(root: Path = Path("/")) -> int | None:
    """Say how many bytes the control groups allow this process; None where they set no limit."""
    return min((limit for limit, _ in _groups(root)), default=None)


def _available(path: Path) -> int | None:
    found = re.search(r"^MemAvailable:\s*(\d+) kB", text_of(path), re.MULTILINE)
    return int(found[1]) * 1024 if found else None


# By the version of control groups: limit, use, and the page cache in it.
_FILES = {
    1: ("limit_in_bytes", "usage_in_bytes", "total_inactive_file"),
    2: ("max", "current", "inactive_file"),
}


def _groups(root: Path) -> list[tuple[int, int]]:
    """List limits of control groups, and what each leaves, from that of the process upwards."""
    found = []
    for version, folder in group_folders("memory", root):
        limit, used, cache = _FILES[version]
        most, now = (text_of(folder / f"memory.{name}").strip() for name in (limit, used))
        if most.isdecimal() and now.isdecimal():
            # The page cache is given back when it is asked for.
            held = re.search(rf"^{cache} (\d+)", text_of(folder / "memory.stat"), re.MULTILINE)
            found.append((int(most), int(most) - int(now) + (int(held[1]) if held else 0)))
    return found


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
