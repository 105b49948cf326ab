"""The command ``icebox``."""

# PYTHON_ARGCOMPLETE_OK
from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from data.common.cli import Parser, run_process
from data.common.errors import UserError, nearest
from data.common.own_packages import put_current_folder_last
from data.common.packages import package_version
from icebox.commands import load, names, parser_of
from icebox.completion import complete

_EPILOG = """example:
  icebox doctor

Exit codes: 0 done, 2 something in the input is wrong, 130 interrupted, 1 a bug."""


def top_parser() -> Parser:
    """Build the parser of ``icebox`` itself, whose help lists the commands."""
    commands = names()
    width = max(map(len, commands), default=0)
    lines = [f"  {name:{width}}  {load(name).HELP}" for name in commands]
    parser = Parser(
        prog="icebox",
        usage="icebox [-h] [--version] COMMAND ...",
        description="Freeze a backbone, embed a dataset once, then train and compare classifiers.",
        epilog="\n".join(["commands:", *lines, "", _EPILOG]),
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    return parser


def main(argv: Sequence[str]) -> None:
    """Run one command.

    Parameters
    ----------
    argv : sequence of str
        The arguments after ``icebox``.
    """
    if argv and not argv[0].startswith("-"):
        known = names()
        if argv[0] not in known:
            raise UserError(
                f"icebox {argv[0]}: no such command; {nearest(argv[0], known)}\n"
                f"There are {', '.join(known)}"
            )
        command = load(argv[0])
        command.run(parser_of(argv[0], command).parse_intermixed_args(list(argv[1:])))
        return
    parser = top_parser()
    if parser.parse_args(list(argv)).version:
        print(f"icebox {package_version('icebox')}")
    else:
        parser.error("a command is missing")


def console() -> NoReturn:
    """Run ``icebox`` as a process of its own: the console script."""
    put_current_folder_last()  # for `--model package.module:factory`
    complete()
    run_process(main)


if __name__ == "__main__":
    console()
