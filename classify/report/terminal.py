"""The same results on a terminal: an aligned table, coloured only where colours are wanted."""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from classify.report.figures.style import shorten
from classify.report.pages import NOTHING, general, number, percent, seconds, span
from classify.wording import display_name, setting_of, setting_words

BOLD, RESET = "\x1b[1m", "\x1b[0m"


def wants_colour(stream: TextIO) -> bool:
    """Tell whether escape codes are welcome: a terminal, and no NO_COLOR (https://no-color.org)."""
    return (
        stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "") != "dumb"
    )


def printable(text: str) -> str:
    """Replace control characters, so that a name cannot steer the terminal."""
    kinds = ((letter, unicodedata.category(letter)[0]) for letter in text)
    return "".join(
        " " if kind == "Z" else "\N{REPLACEMENT CHARACTER}" if kind == "C" else letter
        for letter, kind in kinds
    )


def width(text: str) -> int:
    """Columns that a text takes on a terminal; East Asian wide letters take two."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


def table(
    heads: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1, colour: bool = False
) -> str:
    """Align a table for a terminal."""
    cells = [[printable(cell) for cell in row] for row in (heads, *rows)]
    widths = [max(width(row[i]) for row in cells) for i in range(len(heads))]
    lines = []
    for row in cells:
        padded = []
        for i, cell in enumerate(row):
            space = " " * (widths[i] - width(cell))
            padded.append(cell + space if i < left else space + cell)
        lines.append("  ".join(padded).rstrip())
    if colour:
        lines[0] = f"{BOLD}{lines[0]}{RESET}"
    return "\n".join(lines)


def results_table(results: Mapping[str, Any], *, colour: bool | None = None) -> str:
    """Show the strategies of a run."""
    if colour is None:
        colour = wants_colour(sys.stderr)
    other = any(entry["C"] is None for entry in results["strategies"].values())
    names = ("head", "setting") if other else ("strategy", "C")
    heads = (*names, "accuracy %", "95 % interval", "macro-F1 %", "log-loss", "fit")
    rows = [
        (
            display_name(name) + ("" if entry["converged"] else " (not converged)"),
            setting_words(setting_of(entry)) if other else general(entry["C"]),
            percent(entry["test"]["accuracy"]),
            span(entry["test"]["accuracy_ci95"]),
            percent(entry["test"]["macro_f1"]),
            number(entry["test"]["log_loss"]),
            seconds(entry["fit_seconds"]),
        )
        for name, entry in results["strategies"].items()
    ]
    if always := results.get("majority"):
        name, score = f"always {shorten(always['class'])}", percent(always["test_accuracy"])
        rows.append((name, "", score, NOTHING, NOTHING, NOTHING, NOTHING))
    return table(heads, rows, left=2 if other else 1, colour=colour)


def emphasise(text: str) -> str:
    """Make a sentence bold where stderr is a terminal."""
    return f"{BOLD}{text}{RESET}" if wants_colour(sys.stderr) else text
