"""How much memory a fit may take: as typed, or by default half of what is free."""

from __future__ import annotations

import math
import re

from data.common.errors import UserError
from data.common.free_memory import free_memory

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY = {"k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


def parse_memory(text: str) -> int:
    """Parse a size into bytes: a number, or one with a unit (``2GB``, ``1.5 GB``, ``2GiB``)."""
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
    """Return the bytes that a fit may take where none were given: half of what is free."""
    return free_memory() // 2
