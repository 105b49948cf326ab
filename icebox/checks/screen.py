"""Findings on one screen of 80 columns."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Sequence
from typing import TextIO

from icebox.checks.finding import FAILURE, NOTE, OK, WARNING, Finding
from icebox.inventory.words import count_words, printable

COLUMNS = 80
MARKS = {OK: "ok", NOTE: "-", WARNING: "!", FAILURE: "FAIL"}
_COLOURS = {WARNING: "\x1b[33m", FAILURE: "\x1b[1;31m"}
_RESET = "\x1b[0m"
_INDENT, _ADVICE = 16, 6


def show(findings: Sequence[Finding], colour: bool) -> str:
    """Write the lines; what is to be typed is never broken."""
    lines, before = [], ""
    said: set[str] = set()
    for one in findings:
        mark, name = f"{MARKS[one.level]:<5}", "" if one.name == before else one.name
        before = one.name
        text = textwrap.wrap(
            printable(one.text),
            COLUMNS - _INDENT,
            break_long_words=False,
            break_on_hyphens=False,
        ) or [""]
        if colour and one.level in _COLOURS:
            mark = f"{_COLOURS[one.level]}{mark}{_RESET}"
        lines.append(f"{mark}{name:<{_INDENT - 5}}{text[0]}")
        lines += [" " * _INDENT + line for line in text[1:]]
        # What to type is often the same for several.
        lines += [" " * _ADVICE + printable(line) for line in one.advice if line not in said]
        said |= set(one.advice)
    return "\n".join([*lines, "", verdict(findings)])


def verdict(findings: Sequence[Finding]) -> str:
    """Say in a sentence whether commands can run."""
    failures = [one for one in findings if one.level == FAILURE]
    warnings = sum(one.level == WARNING for one in findings)
    marked = (
        f"{count_words(warnings, 'line')} marked ! {'wants' if warnings == 1 else 'want'} a look"
    )
    if failures:
        names = ", ".join(dict.fromkeys(one.name for one in failures))
        return f"Commands will fail here: see {names}" + (f"; {marked}." if warnings else ".")
    return f"Icebox can run here{f'; {marked}' if warnings else ''}."


def wants_colour(stream: TextIO | None = None) -> bool:
    """Tell whether escape codes are welcome: a terminal, and no NO_COLOR (https://no-color.org)."""
    stream = sys.stdout if stream is None else stream
    return (
        stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "") != "dumb"
    )
