"""Commands of the two stages' programs, under a name of ``icebox``."""

from __future__ import annotations

import importlib
from argparse import Namespace
from dataclasses import dataclass

from data.common import cli


@dataclass(frozen=True)
class PassedOn:
    """A command of ``python -m PROGRAM``: its options, messages and exit codes are those."""

    program: str
    command: str  # empty for what the program does without one
    EXAMPLE: str
    NOTE: str = ""

    @property
    def HELP(self) -> str:
        """Say what the command is for, as the program does."""
        return self._found.help

    def add_options(self, parser: cli.Parser) -> None:
        """Add the arguments and options that the program adds."""
        self._found.add_options(parser)

    def run(self, options: Namespace) -> None:
        """Run the command as the program does."""
        self._found.run(options)

    @property
    def words(self) -> str:
        """The command as it is typed without ``icebox``."""
        return f"python -m {self.program} {self.command}".rstrip()

    @property
    def _found(self) -> cli.Command:
        main = importlib.import_module(f"{self.program}.__main__")
        found: cli.Command = main.COMMANDS[self.command] if self.command else main.RUN
        return found
