"""The commands of ``icebox``: where each is, loaded when it is asked for."""

from __future__ import annotations

import importlib
import shutil
import textwrap
from argparse import Namespace
from typing import Protocol, cast

from data.common.cli import Parser
from icebox.passed_on import PassedOn

_STORE = "features/digits/pixels-8px-1a2b3c4d.h5"
# In the order of the help: a command, and the module that has it or the program that does.
COMMANDS: dict[str, str | PassedOn] = {
    "demo": "icebox.demo",
    "features": PassedOn(
        "extract", "", "icebox features --dataset my-images --model resnet50.a1_in1k"
    ),
    "list": PassedOn("extract", "list", "icebox list 'convnext*'"),
    "why": PassedOn(
        "extract", "why", "icebox why --dataset my-images --model resnet50.a1_in1k"
    ),
    "verify": PassedOn("extract", "verify", f"icebox verify {_STORE} --rows 64"),
    "classify": PassedOn(
        "classify", "fit", f"icebox classify {_STORE} --head ovr --head ovo",
        "No store is chosen for you. `icebox cache` lists those that there are.",
    ),
    "compare": PassedOn("classify", "compare", "icebox compare"),
    "report": PassedOn("classify", "report", "icebox report reports/pixels-8px-1a2b3c4d/RUN"),
    "predict": PassedOn(
        "classify", "predict", "icebox predict heads/ovr.safetensors new.jpg photos/ --top 5"
    ),
    "export": "icebox.export",
    "import": PassedOn(
        "data", "import", "icebox import train.npz test.npz --name my-set"
    ),
    "doctor": "icebox.doctor",
    "cache": "icebox.cache",
    "completion": "icebox.completion",
}  # fmt: skip


class Command(Protocol):
    """What the module of a command has."""

    @property
    def HELP(self) -> str:
        """What the command is for, in a line without a capital and a full stop."""

    @property
    def EXAMPLE(self) -> str:
        """A whole command line."""

    def add_options(self, parser: Parser) -> None:
        """Add the command's arguments and options."""

    def run(self, options: Namespace) -> None:
        """Run it; the path of what was written is the last line on stdout."""


def names() -> list[str]:
    """Return the names of the commands."""
    return list(COMMANDS)


def load(name: str) -> Command:
    """Import the module of a command."""
    where = COMMANDS[name]
    return cast(Command, importlib.import_module(where)) if isinstance(where, str) else where


def wrapped(text: str, indent: int = 0) -> str:
    """Wrap a text as argparse wraps a help, with lines after the first indented."""
    width = shutil.get_terminal_size().columns - 2
    return textwrap.fill(text, max(width, indent + 20), subsequent_indent=" " * indent)


def parser_of(name: str, command: Command) -> Parser:
    """Build the parser of a command, whose help ends with its example."""
    note = getattr(command, "NOTE", "")
    parser = Parser(
        prog=f"icebox {name}",
        description=wrapped(f"{command.HELP[0].upper()}{command.HELP[1:]}."),
        epilog="\n".join(["example:", f"  {command.EXAMPLE}", *(["", note] if note else [])]),
    )
    command.add_options(parser)
    parser.usage = _usage(parser)
    return parser


def _usage(parser: Parser) -> str:
    """Write the usage with the arguments and options that have to be given, and no others."""
    needed = [action for action in parser._actions if action.required or not action.option_strings]
    formatter = parser._get_formatter()
    formatter.add_usage(None, needed, [], prefix="")
    text = formatter.format_help().strip().replace("%", "%%")
    return text.replace(parser.prog, f"{parser.prog} [OPTION ...]", 1)
