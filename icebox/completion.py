"""``icebox completion``: what turns the completion of ``icebox`` on in a shell."""

from __future__ import annotations

from argparse import Namespace

from data.common.cli import Parser, print_result

SHELLS = ("bash", "zsh", "fish")
HELP = "print what completes `icebox` in a shell when Tab is pressed"
EXAMPLE = 'eval "$(icebox completion bash)"'
NOTE = """To have it in every new shell, add the line to a file that the shell reads:

  bash  eval "$(icebox completion bash)"        in ~/.bashrc
  zsh   eval "$(icebox completion zsh)"         in ~/.zshrc, after compinit
  fish  icebox completion fish | source         in ~/.config/fish/config.fish"""


def add_options(parser: Parser) -> None:
    """Add the argument."""
    parser.add_argument("shell", choices=SHELLS, help="the shell to print it for")


def run(options: Namespace) -> None:
    """Print the shell's code on stdout."""
    import argcomplete

    print_result(argcomplete.shellcode(["icebox"], True, options.shell).strip())
