"""Completion of command lines in shells, by argcomplete."""

from __future__ import annotations

import argparse
import os

from icebox.commands import load, names, parser_of


def complete() -> None:
    """Answer a shell that asks for completions, and end the process; else do nothing."""
    if "_ARGCOMPLETE" not in os.environ:
        return
    import argcomplete

    top = argparse.ArgumentParser(prog="icebox", allow_abbrev=False)
    top.add_argument("--version", action="store_true")
    commands = top.add_subparsers()
    for name in names():
        command = load(name)
        commands._name_parser_map[name] = parser_of(name, command)
    argcomplete.autocomplete(top)
