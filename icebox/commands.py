"""The commands of ``icebox``: where each is, loaded when it is asked for."""

from __future__ import annotations

import importlib
import importlib.util
from argparse import Namespace
from typing import Protocol, cast

from data.common.cli import Parser

# In the order of the help: a command, and the module that has it.
MODULES = {
    "demo": "icebox.demo",
    #
    "doctor": "icebox.doctor",
    #
    "cache": "icebox.cache",
}


class Command(Protocol):
    """What the module of a command has."""

    HELP: str
    EXAMPLE: str

    def add_options(self, parser: Parser) -> None:
        """Add the command's arguments and options."""

    def run(self, options: Namespace) -> None:
        """Run it; the path of what was written is the last line on stdout."""


def names() -> list[str]:
    """Return the names of the commands that are there."""
    return [name for name, module in MODULES.items() if importlib.util.find_spec(module)]


def load(name: str) -> Command:
    """Import the module of a command."""
    return cast(Command, importlib.import_module(MODULES[name]))


def parser_of(name: str, command: Command) -> Parser:
    """Build the parser of a command, whose help ends with its example."""
    parser = Parser(
        prog=f"icebox {name}",
        description=f"{command.HELP[0].upper()}{command.HELP[1:]}.",
        epilog=f"example:\n  {command.EXAMPLE}",
    )
    command.add_options(parser)
    return parser
