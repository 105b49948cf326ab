"""Processors: what they are called, and how many of them a control group lets a process use."""

from __future__ import annotations

import platform
import re
from pathlib import Path

from data.common.control_groups import group_folders, text_of


def processor_name(root: Path = Path("/")) -> str:
    """Name the processor, as nearly as the system tells; ``root`` is another folder in tests."""
    found = re.search(r"^model name\s*:\s*(\S.*)$", text_of(root / "proc/cpuinfo"), re.MULTILINE)
    return found[1].strip() if found else platform.processor()


def cpu_quota(root: Path = Path("/")) -> float | None:
    """Say how many processors' time the control groups leave this process; None for all of it."""
    quotas = []
    for version, folder in group_folders("cpu", root):
        if version == 2:
            words = text_of(folder / "cpu.max").split()
        else:
            names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            words = [text_of(folder / name).strip() for name in names]
        if len(words) == 2 and all(map(str.isdecimal, words)) and int(words[1]):
            quotas.append(int(words[0]) / int(words[1]))  # "max" and -1 are no limit
    return min(quotas, default=None)
