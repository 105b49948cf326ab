"""Errors whose cause is the user's input: they are shown as one message, never as a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """The input, an option or the environment is at fault; the message says what to do.

    A message names the file or the option, what was found, what was expected and
    what to do next. Command lines turn it into exit code 2.
    """


def nearest(name: str, options: Iterable[str], n: int = 3) -> str:
    """Suggest the known names most like an unknown one: ``"did you mean a, b?"``, or ``""``."""
    known = list(options)
    # The dashes of options would make any two of them alike.
    lowered = {option.lower().lstrip("-"): option for option in known}
    name = name.lower().lstrip("-")
    close = difflib.get_close_matches(name, lowered, n=n, cutoff=0.5)
    if not close and name:
        close = [low for low in lowered if name in low][:n]
    return f"did you mean {', '.join(lowered[low] for low in close)}?" if close else ""
