"""The same results on a terminal: an aligned table, coloured only where colours are wanted."""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from classify.report.figures.style import shorten
from classify.report.pages import NOTHING, general, number, percent, seconds, span
from classify.wording import display_name

BOLD, RESET = "\x1b[1m", "\x1b[0m"


def wants_colour(stream: TextIO) -> bool:
    """Tell whether escape codes are welcome: a terminal, and no NO_COLOR (https://no-color.org).

    Parameters
    ----------
    stream : text stream
        Where the text goes.

    Returns
    -------
    bool
        False for files, pipes and dumb terminals.
    """
    return (
        stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "") != "dumb"
    )


def printable(text: str) -> str:
    """Replace control characters, so that a name cannot steer the terminal.

    Parameters
    ----------
    text : str
        Any text, such as a class or file name.

    Returns
    -------
    str
        The text on one line.
    """
    kinds = ((letter, unicodedata.category(letter)[0]) for letter in text)
    return "".join(
        " " if kind == "Z" else "\N{REPLACEMENT CHARACTER}" if kind == "C" else letter
        for letter, kind in kinds
    )


def width(text: str) -> int:
    """Columns that a text takes on a terminal; East Asian wide letters take two.

    Parameters
    ----------
    text : str
        Printable text.

    Returns
    -------
    int
        The number of columns.
    """
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


def table(
    heads: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1, colour: bool = False
) -> str:
    """Align a table for a terminal.

    Parameters
    ----------
    heads : sequence of str
        Column heads.
    rows : sequence of sequence of str
        Cells.
    left : int
        How many of the first columns are aligned to the left; the others to the right.
    colour : bool
        Whether to make the heads bold.

    Returns
    -------
    str
        Lines joined by line feeds, none ending with a space.
    """
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
    """Show the strategies of a run.

    Parameters
    ----------
    results : mapping
        A results.json.
    colour : bool, optional
        Whether to use escape codes; decided by stderr by default.

    Returns
    -------
    str
        One line for each strategy under a line of heads, and one for what always answering the
        most frequent class scores.
    """
    if colour is None:
        colour = wants_colour(sys.stderr)
    heads = ("strategy", "C", "accuracy %", "95 % interval", "macro-F1 %", "log-loss", "fit")
    rows = [
        (
            display_name(name) + ("" if entry["converged"] else " (not converged)"),
            general(entry["C"]),
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
    return table(heads, rows, colour=colour)


def emphasise(text: str) -> str:
    """Make a sentence bold where stderr is a terminal.

    Parameters
    ----------
    text : str
        The sentence.

    Returns
    -------
    str
        With escape codes, or as it was.
    """
    return f"{BOLD}{text}{RESET}" if wants_colour(sys.stderr) else text
