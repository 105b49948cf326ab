"""Run a command of stage one in a process of its own, so that stage two needs no torch."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from data.common.cli import EXIT_INTERRUPTED, EXIT_USER
from data.common.own_packages import program


class StageOneRefused(SystemExit):
    """Stage one has told the user what is wrong; only the exit code is left."""


def run_stage_one(words: Sequence[str]) -> None:
    """Run ``python -m extract WORDS``; its progress and its messages reach the person who waits."""
    command = [*program("extract"), *words]
    # Ctrl-C in a terminal reaches all processes of a session: this one ends the other, and says so.
    done = subprocess.run(  # noqa: S603
        command, stdout=subprocess.DEVNULL, check=False, start_new_session=True
    )
    if done.returncode == EXIT_USER:
        raise StageOneRefused(EXIT_USER)
    if done.returncode == EXIT_INTERRUPTED:
        raise KeyboardInterrupt
    if done.returncode:
        raise RuntimeError(f"stage one ended with code {done.returncode}: {' '.join(command)}")
