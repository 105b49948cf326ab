"""Commands that messages advise, as somebody who types ``icebox`` would type them."""

from __future__ import annotations

import re

from icebox.commands import COMMANDS
from icebox.passed_on import PassedOn

# Commands of stage one that other commands start: `icebox` does not have them.
_INNER = ("images", "tensors", "program", "answers")
_NEW = {
    where.words: f"icebox {name}" for name, where in COMMANDS.items() if isinstance(where, PassedOn)
} | {
    "python -m classify export": "icebox export",
    "python -m data export": "icebox export",
    "python -m classify": "icebox",
    "python -m data": "icebox",
}
_OLD = re.compile(
    rf"(?!python -m extract (?:{'|'.join(_INNER)})\b)"
    rf"(?:{'|'.join(sorted(_NEW, key=len, reverse=True))})\b"
)


def as_icebox(text: str) -> str:
    """Put ``icebox classify`` in place of ``python -m classify fit``, and so on."""
    return _OLD.sub(lambda found: _NEW[found[0]], text)
