"""Sizes, ages and counts in the words of a listing."""

from __future__ import annotations

import unicodedata
from datetime import datetime, timezone
from urllib.parse import urlsplit, urlunsplit

_AGES = (
    (365 * 86400, "year"), (30 * 86400, "month"), (7 * 86400, "week"), (86400, "day"),
    (3600, "hour"), (60, "minute"),
)  # fmt: skip


def size_words(count: float) -> str:
    """Write a number of bytes in at most three digits and a unit."""
    for unit, size in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= 0.9995 * size:
            return (
                f"{count / size:.3g} {unit}"
                if count < 999.5 * size
                else f"{count / size:.0f} {unit}"
            )
    return f"{max(0, int(count))} B"


def age_words(seconds: float) -> str:
    """Write an age in its largest unit; what lies in the future is new."""
    for size, unit in _AGES:
        if seconds >= size:
            return count_words(int(seconds // size), unit)
    return "a moment"


def count_words(count: int, what: str) -> str:
    """Write a number with its noun."""
    plural = f"{what[:-1]}ies" if what.endswith("ry") else f"{what}s"
    return f"{count:,} {what if count == 1 else plural}"


def printable(text: str) -> str:
    """Replace control characters, so that a name cannot steer the terminal."""
    return "".join(
        "\N{REPLACEMENT CHARACTER}" if unicodedata.category(letter)[0] == "C" else letter
        for letter in text
    )


def without_password(url: str, mark: str = "***@") -> str:
    """Leave the name and password out of a web address: what is shown goes into bug reports."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "an address that cannot be read"
    if "@" not in parts.netloc:
        return url
    return urlunsplit(parts._replace(netloc=f"{mark}{parts.netloc.rpartition('@')[2]}"))


def iso(when: float | None) -> str | None:
    """Write a time for programs."""
    if when is None:
        return None
    return datetime.fromtimestamp(when, timezone.utc).isoformat(timespec="seconds")
