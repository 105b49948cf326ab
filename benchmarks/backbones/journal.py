"""What is known of each architecture: one line of JSON each, so that a run goes on where it was."""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from importlib.metadata import version
from pathlib import Path
from typing import Any

NAME = "backbones.jsonl"
LIBRARIES = ("timm", "torch")


class Journal:
    """The lines of this timm and this torch; those of others are dropped."""

    def __init__(self, folder: Path, forget: Collection[str] = ()) -> None:
        self.path = folder / NAME
        self._made_by = {name: version(name) for name in LIBRARIES}
        self.weights: dict[str, int] = {}  # bytes of each architecture
        self.outcomes: dict[str, dict[str, Any]] = {}
        folder.mkdir(parents=True, exist_ok=True)
        self._read()
        for name in forget:
            self.outcomes.pop(name, None)
        kept = [{"name": name, "weights": size} for name, size in self.weights.items()]
        self._write([*kept, *self.outcomes.values()])

    def add(self, name: str, **facts: Any) -> None:
        """Keep what was found out of an architecture, before anything else is done."""
        line = {"name": name, **facts}
        self._take(line)
        with open(self.path, "a", encoding="utf-8") as stream:
            stream.write(self._text(line))

    def _take(self, line: dict[str, Any]) -> None:
        if "weights" in line:
            self.weights[line["name"]] = int(line["weights"])
        else:
            self.outcomes[line["name"]] = line

    def _read(self) -> None:
        try:
            lines = self.path.read_text(encoding="utf-8").splitlines()
        except OSError:
            return
        for text in lines:
            try:
                line = json.loads(text)
                if all(line.pop(key) == value for key, value in self._made_by.items()):
                    self._take(line)
            except (ValueError, KeyError, TypeError, AttributeError):
                continue  # the last line of a run that was killed

    def _write(self, lines: list[dict[str, Any]]) -> None:
        partial = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        partial.write_text("".join(map(self._text, lines)), encoding="utf-8")
        partial.replace(self.path)

    def _text(self, line: dict[str, Any]) -> str:
        return json.dumps({**line, **self._made_by}) + "\n"
