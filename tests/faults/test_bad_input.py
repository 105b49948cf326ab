"""Whatever a user does wrong ends in exit code 2, a few lines that help, and untouched files."""

from __future__ import annotations

import os

import pytest
from bad_input import EXTRACT, FIT, TABLE, words_of
from fault_world import call, call_process, digests

# In processes of their own the whole table takes minutes; `make faults` runs it so.
LONG = bool(os.environ.get("ICEBOX_FAULTS"))
# One of each command, which are run as the user runs them in any case.
AS_PROCESSES = [
    "extract lst",
    "extract why --force",
    "extract verify {flipped_h5}",
    "classify fti",
    "classify compare {runs}/odd",
    "classify report {runs}/part",
    "data export {own_store}",
]
MOST_LINES = 5


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def name_of(row):
    return row[0].replace(EXTRACT, "extract").replace(FIT, "fit").replace("{", "").replace("}", "")


@pytest.mark.parametrize("row", TABLE, ids=name_of)
def test_what_a_user_is_told(row, world, capfd, warm_stage_one):
    command, *said = row
    has_device = "--device cuda" in command and cuda_is_there()
    if has_device:
        pytest.skip("there is a CUDA device")
    words = words_of(command, world)
    before = kept(world["root"])
    if LONG or command in AS_PROCESSES:
        done = call_process(words)
    else:
        capfd.readouterr()
        done = call(words)
        out, err = capfd.readouterr()  # what a process of its own wrote, such as predict's
        done.out, done.err = done.out + out, done.err + err
    assert done.code == 2, done.err
    assert done.out == ""
    assert "Traceback" not in done.err
    # A progress bar is redrawn on one line.
    lines = [line for line in done.err.split("\n") if line.strip()]
    assert len(lines) <= MOST_LINES, done.err
    for piece in said:
        assert piece.format(**world) in done.err
    assert kept(world["root"]) == before


def kept(root):
    """Digest all but what may stay: finished shards of a run that can go on."""
    return {n: digest for n, digest in digests(root).items() if "/.work/" not in f"/{n}"}


def cuda_is_there():
    import torch

    return torch.cuda.is_available()


def test_every_command_and_option_has_its_line():
    """A new option of a kind that can be wrong needs a line in the table."""
    from data.common.cli import Parser
    from extract.options import add_options

    parser = Parser(prog="extract")
    add_options(parser, run=True)
    text = " ".join(row[0] for row in TABLE)
    harmless = {"--help", "--skip-bad-images", "--dry-run", "--force"}
    for action in parser._actions:
        names = set(action.option_strings)
        assert names & harmless or any(f"{name} " in text for name in names), names
    import classify.__main__
    import data.__main__

    commands = [("classify", *item) for item in classify.__main__.parsers()[1].items()]
    commands += [("data", *item) for item in data.__main__.parsers()[1].items()]
    for program, command, parsed in commands:
        assert f"{program} {command}" in text
        for action in parsed._actions:
            names = set(action.option_strings)
            checked = names and not names & {"--help", "--weights"}
            assert not checked or any(name in text for name in names), names
