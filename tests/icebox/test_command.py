"""The command `icebox`: its help, its commands, and what is mistyped."""

import shlex

import pytest

from data.common.cli import Parser
from data.common.errors import UserError
from icebox.__main__ import main
from icebox.commands import load, names, parser_of


@pytest.mark.parametrize("name", names())
def test_every_command_has_a_help_and_an_example_that_parses(name):
    command = load(name)
    assert command.HELP and command.HELP[0].islower() and not command.HELP.endswith(".")
    words = shlex.split(command.EXAMPLE)
    assert words[:2] == ["icebox", name]
    parser = parser_of(name, command)
    assert isinstance(parser, Parser)
    parser.parse_intermixed_args(words[2:])
    assert command.EXAMPLE in parser.format_help()


def test_an_unknown_command_is_named():
    with pytest.raises(UserError, match="icebox docto: no such command"):
        main(["docto"])
    with pytest.raises(UserError, match="a command is missing"):
        main([])
