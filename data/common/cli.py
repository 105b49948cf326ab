"""What both command lines share: parsing, messages, progress and exit codes.

Exit codes: 0 done, 2 the user's input is at fault, 130 interrupted, 1 a bug (with its
traceback, because a bug should be reported with one).
"""

from __future__ import annotations

import argparse
import errno
import gc
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from data.common.cache_folder import expand_user
from data.common.errors import UserError, nearest

if TYPE_CHECKING:
    from tqdm import tqdm

EXIT_USER = 2
EXIT_INTERRUPTED = 130
EXIT_CODES = "Exit codes: 0 done, 2 something in the input is wrong, 130 interrupted, 1 a bug."


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Python 3.13's way of listing an option: all its names, and its value once."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        value = self._format_args(action, self._get_default_metavar_for_optional(action))
        return f"{', '.join(action.option_strings)} {value}"


class Parser(argparse.ArgumentParser):
    """An argument parser that raises `UserError`, with the nearest names, instead of exiting."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("allow_abbrev", False)
        kwargs.setdefault("formatter_class", HelpFormatter)
        super().__init__(*args, **kwargs)

    def format_help(self) -> str:
        """Return the help, naming commands as they were typed."""
        return _reword(super().format_help())

    def error(self, message: str) -> NoReturn:
        """Raise the message as a `UserError`, adding the names that look like what was typed."""
        hint = ""
        unknown = re.search(r"unrecognized arguments: (--?[\w-]+)", message)
        if unknown:
            hint = nearest(unknown.group(1), self._option_string_actions)
        choice = re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message)
        if choice:
            hint = nearest(choice.group(1), re.findall(r"[\w.-]+", choice.group(2)))
        advice = " ".join(part for part in (hint, f"See: {self.prog} --help") if part)
        raise UserError(f"{self.prog}: {message}\n{advice}")


def folder_path(text: str) -> Path:
    """Turn an option into a path, with ``~`` for the home folder also where no shell saw it."""
    return expand_user(text)


class Command(NamedTuple):
    """A command of a program: what it is for, its options, and what runs it."""

    help: str
    add_options: Callable[[Parser], None]
    run: Callable[[argparse.Namespace], None]


def program_parsers(
    prog: str, description: str | None, commands: Mapping[str, Command]
) -> tuple[Parser, dict[str, Parser]]:
    """Build the parser of a program and those of its commands, by name."""
    top = Parser(prog=prog, description=description, epilog=EXIT_CODES)
    below = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    found = {}
    for name, command in commands.items():
        found[name] = below.add_parser(name, help=command.help, description=command.help)
        command.add_options(found[name])
    return top, found


def parse_command(
    top: Parser, commands: Mapping[str, Parser], argv: Sequence[str]
) -> tuple[str, argparse.Namespace]:
    """Parse a command and its options."""
    if argv and argv[0] in commands:
        return argv[0], parse_words(commands[argv[0]], argv[1:])
    top.parse_args(argv)  # prints the help, or raises
    raise AssertionError("a command that is not in the list was parsed")


def parse_words(parser: Parser, words: Sequence[str]) -> argparse.Namespace:
    """Parse what follows a command; options and files may be mixed.

    ``typed`` is the whole command line, as it can be typed again.
    """
    try:
        options = parser.parse_intermixed_args(list(words))
    except UserError as error:
        if "are required: " in str(error):
            parser.parse_args(list(words))  # whose message names files that are missing as well
        raise
    options.typed = shlex.join([*parser.prog.split(), *words])
    return options


def seed(text: str) -> int:
    """Parse a seed that every random generator in use takes."""
    try:
        value = int(text)
    except ValueError:
        value = -1
    if not 0 <= value < 2**63:
        raise argparse.ArgumentTypeError(
            f"'{text}' is not possible; give a whole number from 0 to 2^63 - 1"
        )
    return value


_reword: Callable[[str], str] = str


@contextmanager
def rewording(change: Callable[[str], str]) -> Iterator[None]:
    """Change what messages and helps say meanwhile: commands are named as they were typed."""
    global _reword
    before, _reword = _reword, change
    try:
        yield
    finally:
        _reword = before


def log(*text: object) -> None:
    """Print a line for a person: to stderr, since stdout carries the result alone."""
    print(_reword(" ".join(map(str, text))), file=sys.stderr, flush=True)


def print_result(path: object) -> None:
    """Print what was written, as the last line on stdout."""
    print(path, flush=True)


_hidden = False


@contextmanager
def without_progress() -> Iterator[None]:
    """Draw no progress bars meanwhile: for processes side by side, whose bars would mix."""
    global _hidden
    before, _hidden = _hidden, True
    try:
        yield
    finally:
        _hidden = before


def progress(total: int, desc: str, unit: str, initial: int = 0) -> tqdm[NoReturn]:
    """Open a progress bar on stderr; what was done ``initial``-ly does not count for the rate."""
    from tqdm import tqdm

    # A log file gets a line now and then, not ten a second.
    return tqdm(
        total=total,
        desc=desc,
        unit=unit,
        initial=initial,
        file=sys.stderr,
        disable=_hidden,
        mininterval=0.2 if sys.stderr.isatty() else 10.0,
        dynamic_ncols=True,
        smoothing=0.1,
    )


def _is_memory(error: Exception) -> bool:
    """Tell what torch, the threads of Python and the loader of libraries say without memory."""
    signs = (
        "can't allocate memory",
        "cannot allocate memory",
        "out of memory",
        "bad_alloc",
        "can't start new thread",
        "failed to map segment",
    )
    return any(sign in str(error).lower() for sign in signs)


def run_process(main: Callable[[Sequence[str]], None]) -> NoReturn:
    """Run a command line as a process of its own, and end it.

    Threads of OpenMP, which torch computes in, wait asleep for their next share. By default they
    wait in a loop, for up to a millisecond at each layer: beside the processes that decode images,
    or other programs, a network then takes 8 times the processor's time. Importing torch makes a
    million objects that stay: to look through them for garbage again and again, and once more at
    the end, takes a second.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    gc.set_threshold(200_000, 20, 20)
    code = run(main)
    gc.freeze()
    sys.exit(code)


def run(main: Callable[[Sequence[str]], None], argv: Sequence[str] | None = None) -> int:
    """Run a command line and turn what it raises into an exit code and one message.

    ``main`` raises `UserError` for bad input, and ``KeyboardInterrupt`` (whose argument, if any,
    says how to go on) on Ctrl-C.
    """
    try:
        main(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
    except UserError as error:
        log(f"error: {error}")
        return EXIT_USER
    except KeyboardInterrupt as stop:
        advice = str(stop) or "run the same command again to go on where it stopped"
        log(f"\ninterrupted: {advice}")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader (`| head`) has seen enough; keep the interpreter from saying so at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except PermissionError as error:
        if error.filename is None:
            raise
        log(f"error: {error.filename}: {error.strerror}; change its permissions or name another")
        return EXIT_USER
    except (MemoryError, RuntimeError, ImportError) as error:
        if not isinstance(error, MemoryError) and not _is_memory(error):
            raise
        reason = (str(error).strip() or "out of memory").splitlines()[0][:300]
        log(
            f"error: the memory that is free does not suffice: {reason}\n"
            "close other programs or take a larger machine, or let it do with less: a smaller "
            "--batch-size or --jobs in stage one, --memory in stage two; nothing is lost"
        )
        return EXIT_USER
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG):
            raise
        where = f" while writing {error.filename}" if error.filename else ""
        log(f"error: {error.strerror}{where}; free some space and run the same command again")
        return EXIT_USER
    return 0
