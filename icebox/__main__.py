"""The command ``icebox``."""

# PYTHON_ARGCOMPLETE_OK
from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from data.common.cli import EXIT_CODES, Parser, parse_words, rewording, run_process
from data.common.errors import UserError, nearest
from data.common.own_packages import put_current_folder_last
from data.common.packages import package_version
from icebox.commands import load, names, parser_of, wrapped
from icebox.complete import complete
from icebox.wording import as_icebox

_EPILOG = f"""example:
  icebox features --dataset my-images --weights bundled
  icebox classify features/my-images/*.h5
  icebox compare

Each command has a help with an example: icebox classify --help
Completion in your shell when Tab is pressed: icebox completion --help

{EXIT_CODES}"""


def top_parser() -> Parser:
    """Build the parser of ``icebox`` itself, whose help lists the commands."""
    commands = names()
    width = max(map(len, commands))
    lines = [wrapped(f"  {name:{width}}  {load(name).HELP}", width + 4) for name in commands]
    parser = Parser(
        prog="icebox",
        usage="icebox [-h] [--version] COMMAND ...",
        description=wrapped(
            "Freeze a backbone, embed a dataset once, then train and compare classifiers on the "
            "cached features."
        ),
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
            near = nearest(argv[0], known)
            raise UserError(
                f"icebox {argv[0]}: no such command{'; ' if near else ''}{near}\n"
                f"There are {', '.join(known)}. See: icebox --help"
            )
        command = load(argv[0])
        command.run(parse_words(parser_of(argv[0], command), argv[1:]))
        return
    parser = top_parser()
    if parser.parse_args(list(argv)).version:
        print(f"icebox {package_version('icebox') or 'of a checkout that is not installed'}")
    else:
        parser.error("a command is missing")


def console() -> NoReturn:
    """Run ``icebox`` as a process of its own: the console script."""
    put_current_folder_last()  # for `--model package.module:factory`
    complete()
    with rewording(as_icebox):
        run_process(main)


if __name__ == "__main__":
    console()
