"""A line of ``icebox doctor``; whatever goes wrong while it is made is its text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

# How much a finding matters. A failure is what commands cannot run with.
OK, NOTE, WARNING, FAILURE = "ok", "note", "warning", "failure"


@dataclass(frozen=True)
class Finding:
    """What was found of one subject."""

    name: str
    level: str
    text: str
    advice: tuple[str, ...] = ()  # lines below it: what to type, or what to do
    values: dict[str, Any] = field(default_factory=dict)  # for programs

    def to_json(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "name": self.name,
            "level": self.level,
            "text": self.text,
            "advice": list(self.advice),
            "values": self.values,
        }


Check = Callable[[], Sequence[Finding]]


def found_by(name: str, check: Check) -> list[Finding]:
    """Run a check; an error of its own, of any kind, is its finding."""
    try:
        return list(check())
    except (Exception, SystemExit) as error:  # what a broken installation raises is of every kind
        return [Finding(name, WARNING, f"could not be looked at: {plainly(error)}")]


def plainly(error: BaseException) -> str:
    """Say an error in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else ""
    kind = type(error).__name__
    return f"{kind}: {text}"[:300] if text else kind
