"""Answers to a shell that completes a command line of ``icebox``, through argcomplete."""

from __future__ import annotations

import argparse
import os

from icebox.commands import load, names, parser_of


def complete() -> None:
    """Answer a shell that asks for completions, and end the process; else do nothing."""
    if "_ARGCOMPLETE" not in os.environ:
        return
    import argcomplete

    words = os.environ.get("COMP_LINE", "").split()
    argcomplete.autocomplete(parser_of_words(words), always_complete_options=False)


def parser_of_words(words: list[str]) -> argparse.ArgumentParser:
    """Build a parser of all commands, with the options of the one that has been typed."""
    from icebox.completers import attach

    top = argparse.ArgumentParser(prog="icebox", allow_abbrev=False)
    top.add_argument("--version", action="store_true")
    below = top.add_subparsers()
    for name in names():
        if name in words:
            parser = below._name_parser_map[name] = parser_of(name, load(name))
            attach(parser)
        else:
            below.add_parser(name)
    return top
